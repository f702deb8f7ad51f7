//! What arrives, and in how many messages.

use crate::nats::{EPOCH, Nats, PATIENCE, agent_name, body, ok, request, send, soon, until};
use crate::{MIB, pattern, raw, read};
use bytes::Bytes;
use futures::{StreamExt, stream};
use reveille_bus::relay::{RelayError, RelayFault, RelayLimits, Upload};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

#[tokio::test]
async fn a_small_request_is_one_message_each_way() {
    let nats = Nats::start().await;
    let watcher = nats.connect().await;
    let mut infer = watcher.subscribe("reveille.infer.>").await.unwrap();
    let mut replies = watcher.subscribe("reveille.replies.>").await.unwrap();
    watcher.flush().await.unwrap();
    nats.serve(RelayLimits::default(), async |mut incoming| {
        assert_eq!(incoming.body.whole().as_deref(), Some(b"question".as_slice()));
        incoming
            .responder
            .stream(&ok(), body(["an", "swer"]))
            .await
            .unwrap();
    })
    .await;
    let api = nats.api(RelayLimits::default()).await;

    let exchange = send(&api, request(), Bytes::from_static(b"question"))
        .await
        .unwrap();
    let (head, mut answer) = soon("the answer", exchange.head()).await.unwrap();
    assert_eq!(head, ok());
    assert_eq!(answer.whole().as_deref(), Some(b"answer".as_slice()));
    drop(answer);

    // What the two ends publish after this would come before it.
    watcher
        .publish("reveille.infer.stop", Bytes::new())
        .await
        .unwrap();
    watcher
        .publish("reveille.replies.stop", Bytes::new())
        .await
        .unwrap();
    until("both ends are quiet", || api.in_flight() == 0).await;
    let asked = soon(
        "messages",
        infer
            .by_ref()
            .take_while(|m| std::future::ready(!m.payload.is_empty()))
            .count(),
    )
    .await;
    let answered = soon(
        "messages",
        replies
            .by_ref()
            .take_while(|m| std::future::ready(!m.payload.is_empty()))
            .count(),
    )
    .await;
    assert_eq!((asked, answered), (1, 1));
}

#[tokio::test]
async fn a_big_upload_and_a_big_answer_arrive_intact() {
    let nats = Nats::start().await;
    let answer = pattern(20 * MIB);
    let expected = Sha256::digest(&answer);
    let (seen, mut uploads) = tokio::sync::mpsc::channel(1);
    nats.serve(RelayLimits::default(), move |mut incoming| {
        let (answer, seen) = (answer.clone(), seen.clone());
        async move {
            let mut upload = Sha256::new();
            while let Some(chunk) = incoming.body.next().await {
                upload.update(chunk.unwrap());
            }
            seen.send((incoming.head.body_bytes, upload.finalize()))
                .await
                .unwrap();
            // Chunks of the sizes that HTTP clients give.
            let chunks: Vec<_> = (0..answer.len()).step_by(16_411).collect();
            let chunks = chunks
                .into_iter()
                .map(|at| Ok::<_, RelayFault>(answer.slice(at..answer.len().min(at + 16_411))));
            let sent = incoming.responder.stream(&ok(), stream::iter(chunks)).await;
            assert_eq!(sent, Ok(20 * MIB as u64));
        }
    })
    .await;
    let api = nats.api(RelayLimits::default()).await;
    let upload = pattern(5 * MIB);
    let exchange = send(&api, request(), upload.clone()).await.unwrap();
    let (bytes, hash) = soon("the upload", uploads.recv()).await.unwrap();
    assert_eq!((bytes, hash), (5 * MIB as u64, Sha256::digest(&upload)));
    let (_, body) = soon("the head", exchange.head()).await.unwrap();
    let all = soon("the answer", read(body)).await.unwrap();
    assert_eq!((all.len(), Sha256::digest(&all)), (20 * MIB, expected));
    until("all windows are back", || {
        api.free_bytes() == RelayLimits::default().pool_bytes
    })
    .await;
}

/// An agent that answers with what it was sent, and says how many bytes have come, or that no more will.
async fn echoing(nats: &Nats) -> tokio::sync::mpsc::UnboundedReceiver<Option<usize>> {
    let (come, seen) = tokio::sync::mpsc::unbounded_channel();
    nats.serve(RelayLimits::default(), move |mut incoming| {
        let come = come.clone();
        async move {
            let mut upload = Vec::new();
            while let Some(chunk) = incoming.body.next().await {
                let Ok(chunk) = chunk else {
                    come.send(None).unwrap();
                    return;
                };
                upload.extend_from_slice(&chunk);
                come.send(Some(upload.len())).unwrap();
            }
            let echo = stream::iter([Ok::<_, RelayFault>(Bytes::from(upload))]);
            incoming.responder.stream(&ok(), echo).await.unwrap();
        }
    })
    .await;
    seen
}

#[tokio::test]
async fn an_upload_is_carried_as_it_comes_and_cancelled_if_it_ends_before_its_length() {
    let nats = Nats::start().await;
    let mut seen = echoing(&nats).await;
    let api = nats.api(RelayLimits::default()).await;
    let whole = pattern(600_000);
    for ends in [false, true] {
        let (pieces, upload) = futures::channel::mpsc::unbounded();
        let piece = |range: std::ops::Range<usize>| pieces.unbounded_send(whole.slice(range)).unwrap();
        piece(0..10);
        let reserved = api.reserve(Instant::now()).await.unwrap();
        let upload = Upload::new(whole.len() as u64, upload);
        let exchange = reserved
            .send(&agent_name(), EPOCH, request(), upload)
            .await
            .unwrap();
        assert_eq!(soon("the beginning", seen.recv()).await, Some(Some(10)));
        piece(10..300_000);
        while soon("more", seen.recv()).await != Some(Some(300_000)) {}
        if ends {
            drop(pieces);
            let error = soon("the end", exchange.head()).await.unwrap_err();
            assert_eq!(error, RelayError::BodyBrokeOff);
            assert_eq!(soon("the cancellation", seen.recv()).await, Some(None));
        } else {
            piece(300_000..600_000);
            let (_, body) = soon("the head", exchange.head()).await.unwrap();
            assert!(soon("the echo", read(body)).await.unwrap() == whole);
            while soon("the rest", seen.recv()).await != Some(Some(600_000)) {}
        }
    }
}

#[tokio::test]
async fn a_request_that_was_answered_before_its_upload_broke_off_is_not_cancelled() {
    let nats = Nats::start().await;
    let watcher = nats.connect().await;
    let mut frames = watcher.subscribe("reveille.infer.>").await.unwrap();
    watcher.flush().await.unwrap();
    nats.serve(RelayLimits::default(), async |incoming| {
        incoming.responder.stream(&ok(), body(["no"])).await.unwrap();
    })
    .await;
    let api = nats.api(RelayLimits::default()).await;
    let (pieces, upload) = futures::channel::mpsc::unbounded();
    pieces.unbounded_send(Bytes::from_static(b"begun")).unwrap();
    let (open, over) = tokio::sync::oneshot::channel::<()>();
    let upload = upload.inspect(move |_| assert!(!open.is_closed()));
    let reserved = api.reserve(Instant::now()).await.unwrap();
    let sent = reserved
        .send(&agent_name(), EPOCH, request(), Upload::new(10, upload))
        .await;
    let (_, answer) = soon("the head", sent.unwrap().head()).await.unwrap();
    assert_eq!(soon("the answer", read(answer)).await.unwrap(), b"no");
    drop(pieces);
    assert!(soon("the upload's end", over).await.is_err());
    send(&api, request(), Bytes::new()).await.unwrap();
    for _ in 0..2 {
        let frame = soon("a frame", frames.next()).await.unwrap();
        assert_eq!(raw::kind(&frame.payload), raw::HEAD);
    }
}

#[tokio::test]
async fn chunks_fit_a_server_with_a_small_max_payload() {
    let nats = Nats::start_with("max_payload: 16384").await;
    nats.serve(RelayLimits::default(), async |mut incoming| {
        let mut upload = Vec::new();
        while let Some(chunk) = incoming.body.next().await {
            upload.extend_from_slice(&chunk.unwrap());
        }
        let echo = stream::iter([Ok::<_, RelayFault>(Bytes::from(upload))]);
        incoming.responder.stream(&ok(), echo).await.unwrap();
    })
    .await;
    let api = nats.api(RelayLimits::default()).await;
    let upload = pattern(MIB);
    let exchange = send(&api, request(), upload.clone()).await.unwrap();
    let (_, body) = soon("the head", exchange.head()).await.unwrap();
    assert!(soon("the echo", read(body)).await.unwrap() == upload);
}

#[tokio::test]
async fn the_head_of_a_stream_does_not_wait_for_its_body() {
    let nats = Nats::start().await;
    nats.serve(RelayLimits::default(), async |incoming| {
        let silent = stream::pending::<Result<Bytes, RelayFault>>();
        let _ = incoming.responder.stream(&ok(), silent).await;
    })
    .await;
    let api = nats.api(RelayLimits::default()).await;
    let exchange = send(&api, request(), Bytes::new()).await.unwrap();
    let (head, _body) = soon("the head", exchange.head()).await.unwrap();
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn an_announced_body_that_comes_a_moment_later_is_still_one_message() {
    let nats = Nats::start().await;
    let watcher = nats.connect().await;
    let mut replies = watcher.subscribe("reveille.replies.>").await.unwrap();
    watcher.flush().await.unwrap();
    nats.serve(RelayLimits::default(), async |incoming| {
        let mut head = ok();
        head.headers.push(("Content-Length".into(), "6".into()));
        let late = stream::once(async {
            tokio::task::yield_now().await;
            Ok::<_, RelayFault>(Bytes::from_static(b"answer"))
        });
        // A backend's connection that stays open after the announced bytes must not delay the end.
        incoming
            .responder
            .stream(&head, late.chain(stream::pending()))
            .await
            .unwrap();
    })
    .await;
    let api = nats.api(RelayLimits::default()).await;
    let exchange = send(&api, request(), Bytes::new()).await.unwrap();
    let (_, answer) = soon("the answer", exchange.head()).await.unwrap();
    assert_eq!(soon("the answer", read(answer)).await.unwrap(), b"answer");
    let first = soon("the message", replies.next()).await.unwrap();
    assert_eq!(
        (raw::kind(&first.payload), raw::is_last(&first.payload)),
        (raw::HEAD, true)
    );
}

#[tokio::test]
async fn a_long_silence_of_the_backend_is_not_death() {
    let nats = Nats::start().await;
    // Long enough for a busy machine to send a keep-alive in time.
    let limits = || RelayLimits {
        keep_alive: Duration::from_secs(1),
        ..RelayLimits::default()
    };
    nats.serve(limits(), async |incoming| {
        // Longer than three keep-alive periods.
        tokio::time::sleep(Duration::from_secs(4)).await;
        incoming.responder.stream(&ok(), body(["late"])).await.unwrap();
    })
    .await;
    let api = nats.api(limits()).await;
    let exchange = send(&api, request(), Bytes::new()).await.unwrap();
    let (_, late) = soon("the head", exchange.head()).await.unwrap();
    assert_eq!(soon("the answer", read(late)).await.unwrap(), b"late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_requests_at_once_are_all_answered() {
    const REQUESTS: usize = 2000;
    let nats = Nats::start().await;
    let (arrived, all_here) = tokio::sync::watch::channel(0);
    let arrived = Arc::new(arrived);
    nats.serve(RelayLimits::default(), move |mut incoming| {
        let (arrived, mut all_here) = (Arc::clone(&arrived), all_here.clone());
        async move {
            arrived.send_modify(|count| *count += 1);
            // Answered only once all are in flight together.
            all_here.wait_for(|count| *count == REQUESTS).await.unwrap();
            let question = incoming.body.whole().unwrap();
            let echo = stream::iter([Ok::<_, RelayFault>(question)]);
            incoming.responder.stream(&ok(), echo).await.unwrap();
        }
    })
    .await;
    let api = nats.api(RelayLimits::default()).await;
    let requests = (0..REQUESTS).map(|number| {
        let api = api.clone();
        tokio::spawn(async move {
            let question = Bytes::from(format!("question {number}"));
            let exchange = api
                .reserve(Instant::now() + PATIENCE)
                .await
                .unwrap()
                .send(&agent_name(), EPOCH, request(), question.clone())
                .await
                .unwrap();
            let (_, body) = exchange.head().await.unwrap();
            assert_eq!(read(body).await.unwrap(), question);
        })
    });
    for done in soon("all answers", futures::future::join_all(requests)).await {
        done.unwrap();
    }
    assert_eq!(api.free_bytes(), RelayLimits::default().pool_bytes);
}
