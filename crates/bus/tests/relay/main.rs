//! The relay over a real nats-server: what arrives, what fails visibly, and what stays bounded.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the way to fail")]

mod faults;
mod nats;
mod raw;

use bytes::Bytes;
use futures::{StreamExt, stream};
use nats::{EPOCH, Nats, agent_name, body, brisk, ok, request, soon, until};
use reveille_bus::relay::{FaultCode, RelayError, RelayFault, RelayLimits, RespondError, ResponseBody};
use reveille_domain::{Epoch, ReportId, ReportSeq};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const MIB: usize = 1024 * 1024;

/// Bytes that differ from place to place, so that swapped or missing chunks show.
fn pattern(bytes: usize) -> Bytes {
    let word = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..bytes.div_ceil(8)).flat_map(word).take(bytes).collect()
}

async fn read(mut body: ResponseBody) -> Result<Vec<u8>, RelayError> {
    let mut all = Vec::new();
    while let Some(chunk) = body.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

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

    let exchange = api
        .send(&agent_name(), EPOCH, request(), Bytes::from_static(b"question"))
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
    let exchange = api
        .send(&agent_name(), EPOCH, request(), upload.clone())
        .await
        .unwrap();
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
    let exchange = api
        .send(&agent_name(), EPOCH, request(), upload.clone())
        .await
        .unwrap();
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
    let exchange = api
        .send(&agent_name(), EPOCH, request(), Bytes::new())
        .await
        .unwrap();
    let (head, _body) = soon("the head", exchange.head()).await.unwrap();
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn an_announced_body_that_comes_a_moment_later_is_still_one_message() {
    let nats = Nats::start().await;
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
    let exchange = api
        .send(&agent_name(), EPOCH, request(), Bytes::new())
        .await
        .unwrap();
    let (_, mut answer) = soon("the answer", exchange.head()).await.unwrap();
    assert_eq!(answer.whole().as_deref(), Some(b"answer".as_slice()));
}

#[tokio::test]
async fn a_caller_who_leaves_cancels_the_request_at_the_agent() {
    let nats = Nats::start().await;
    let (outcomes, mut cancelled) = tokio::sync::mpsc::channel(2);
    let agent = nats
        .serve(RelayLimits::default(), move |incoming| {
            let outcomes = outcomes.clone();
            async move {
                let tokens = stream::repeat_with(|| Ok::<_, RelayFault>(Bytes::from_static(b"token ")));
                let end = incoming.responder.stream(&ok(), tokens).await;
                incoming.cancelled.cancelled().await;
                outcomes.send(end).await.unwrap();
            }
        })
        .await;
    let api = nats.api(RelayLimits::default()).await;

    let exchange = api
        .send(&agent_name(), EPOCH, request(), Bytes::new())
        .await
        .unwrap();
    let (_, mut body) = soon("the head", exchange.head()).await.unwrap();
    soon("a chunk", body.next()).await.unwrap().unwrap();
    drop(body);
    let end = soon("the cancel", cancelled.recv()).await.unwrap();
    assert!(matches!(end, Err(RespondError::Cancelled(_))), "{end:?}");

    drop(
        api.send(&agent_name(), EPOCH, request(), Bytes::new())
            .await
            .unwrap(),
    );
    soon("the second cancel", cancelled.recv())
        .await
        .unwrap()
        .unwrap_err();
    until("no slot is taken", || {
        agent.in_flight() == 0 && api.in_flight() == 0
    })
    .await;
    assert_eq!(api.free_bytes(), RelayLimits::default().pool_bytes);
    until("the upload pool is whole", || {
        agent.free_bytes() == RelayLimits::default().pool_bytes
    })
    .await;
}

#[tokio::test]
async fn a_stalled_reader_bounds_what_is_sent_and_holds_up_nobody_else() {
    let nats = Nats::start().await;
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    nats.serve(RelayLimits::default(), move |incoming| {
        let counted = Arc::clone(&counted);
        async move {
            let chunk = pattern(64 * 1024);
            let endless = stream::repeat_with(move || {
                counted.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                Ok::<_, RelayFault>(chunk.clone())
            });
            if incoming.head.path == "/endless" {
                let _ = incoming.responder.stream(&ok(), endless).await;
            } else {
                incoming.responder.stream(&ok(), body(["quick"])).await.unwrap();
            }
        }
    })
    .await;
    let api = nats.api(RelayLimits::default()).await;
    let mut endless = request();
    endless.path = "/endless".into();
    let exchange = api
        .send(&agent_name(), EPOCH, endless, Bytes::new())
        .await
        .unwrap();
    let (_, mut stalled) = soon("the head", exchange.head()).await.unwrap();
    soon("a chunk", stalled.next()).await.unwrap().unwrap();

    // Each of these passes the stalled one; by the last it has had every chance to send.
    for _ in 0..200 {
        let exchange = api
            .send(&agent_name(), EPOCH, request(), Bytes::new())
            .await
            .unwrap();
        let (_, body) = soon("the head", exchange.head()).await.unwrap();
        assert_eq!(soon("the quick answer", read(body)).await.unwrap(), b"quick");
    }
    let bound = 2 * MIB as u64;
    assert!(
        sent.load(Ordering::Relaxed) < bound,
        "{} bytes for a stalled reader",
        sent.load(Ordering::Relaxed)
    );
    // It goes on when its reader does.
    let mut more = 0;
    while more < 4 * MIB {
        more += soon("another chunk", stalled.next())
            .await
            .unwrap()
            .unwrap()
            .len();
    }
}

#[tokio::test]
async fn a_full_pool_refuses_new_requests_before_they_are_sent() {
    let nats = Nats::start().await;
    let _agent = nats.agent(RelayLimits::default()).await;
    let small = RelayLimits {
        pool_bytes: 8 * 1024,
        ..RelayLimits::default()
    };
    let api = nats.api(small).await;
    let first = api
        .send(&agent_name(), EPOCH, request(), Bytes::new())
        .await
        .unwrap();
    let _second = api
        .send(&agent_name(), EPOCH, request(), Bytes::new())
        .await
        .unwrap();
    let third = api
        .send(&agent_name(), EPOCH, request(), Bytes::new())
        .await
        .map(|_| ());
    assert_eq!(third, Err(RelayError::Overloaded));
    drop(first);
    assert!(
        api.send(&agent_name(), EPOCH, request(), Bytes::new())
            .await
            .is_ok()
    );
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

#[tokio::test]
async fn a_long_silence_of_the_backend_is_not_death() {
    let nats = Nats::start().await;
    nats.serve(brisk(), async |incoming| {
        // Longer than three keep-alive periods.
        tokio::time::sleep(brisk().keep_alive * 6).await;
        incoming.responder.stream(&ok(), body(["late"])).await.unwrap();
    })
    .await;
    let api = nats.api(brisk()).await;
    let exchange = api
        .send(&agent_name(), EPOCH, request(), Bytes::new())
        .await
        .unwrap();
    let (_, late) = soon("the head", exchange.head()).await.unwrap();
    assert_eq!(soon("the answer", read(late)).await.unwrap(), b"late");
}

#[tokio::test]
async fn faults_arrive_typed_and_asleep_carries_its_report() {
    let nats = Nats::start().await;
    let report = ReportId {
        epoch: EPOCH,
        seq: ReportSeq(3),
    };
    nats.serve(RelayLimits::default(), move |incoming| async move {
        match incoming.head.path.as_str() {
            "/asleep" => incoming
                .responder
                .error(&RelayFault::asleep("vllm sleeps", report)),
            "/dropped" => drop(incoming.responder),
            _ => {
                let broken = body(["begun "]).chain(stream::iter([Err(RelayFault::new(
                    FaultCode::BackendFailed,
                    "the backend closed the connection",
                ))]));
                incoming.responder.stream(&ok(), broken).await.unwrap_err();
            }
        }
    })
    .await;
    let api = nats.api(RelayLimits::default()).await;
    let ask = async |path: &str| {
        let mut head = request();
        head.path = path.into();
        let exchange = api.send(&agent_name(), EPOCH, head, Bytes::new()).await.unwrap();
        soon("the fault", exchange.head()).await
    };
    let asleep = ask("/asleep").await.unwrap_err();
    assert!(asleep.never_handed_over());
    assert_eq!(
        asleep,
        RelayError::Fault(RelayFault::asleep("vllm sleeps", report))
    );
    let RelayError::Fault(dropped) = ask("/dropped").await.unwrap_err() else {
        panic!("no fault")
    };
    assert_eq!(dropped.code, FaultCode::BackendFailed);

    // What came before the failure is delivered, then the failure: never a silent cut.
    let (_, mut body) = ask("/broken").await.unwrap();
    assert_eq!(soon("the prefix", body.next()).await.unwrap().unwrap(), "begun ");
    let Some(Err(RelayError::Fault(fault))) = soon("the fault", body.next()).await else {
        panic!("no fault")
    };
    assert_eq!(fault.code, FaultCode::BackendFailed);
    assert!(body.next().await.is_none());
}

#[tokio::test]
async fn an_agent_at_its_limit_or_stopping_says_so() {
    let nats = Nats::start().await;
    let one = RelayLimits {
        max_in_flight: 1,
        ..RelayLimits::default()
    };
    let agent = nats
        .serve(one, async |incoming| {
            let silent = stream::pending::<Result<Bytes, RelayFault>>();
            let _ = incoming.responder.stream(&ok(), silent).await;
        })
        .await;
    let api = nats.api(RelayLimits::default()).await;
    let ask = async || {
        let exchange = api
            .send(&agent_name(), EPOCH, request(), Bytes::new())
            .await
            .unwrap();
        soon("the head", exchange.head()).await
    };
    let held = ask().await.unwrap();
    let Err(RelayError::Fault(fault)) = ask().await else {
        panic!("no fault")
    };
    assert_eq!(fault.code, FaultCode::Overloaded);
    drop(held);
    until("the slot is back", || agent.in_flight() == 0).await;
    ask().await.unwrap();
    agent.stop_accepting();
    let Err(RelayError::Fault(fault)) = ask().await else {
        panic!("no fault")
    };
    assert_eq!(fault.code, FaultCode::ShuttingDown);
}

#[tokio::test]
async fn a_request_to_another_epoch_is_dropped_by_the_agent() {
    let nats = Nats::start().await;
    let agent = nats.serve(brisk(), async |_| {}).await;
    let api = nats.api(brisk()).await;
    for epoch in [EPOCH.0 - 1, EPOCH.0 + 1] {
        drop(
            api.send(&agent_name(), Epoch(epoch), request(), Bytes::new())
                .await
                .unwrap(),
        );
    }
    until("both are dropped", || agent.dropped_frames().other_epoch == 2).await;
}

#[tokio::test]
async fn without_an_agent_nothing_is_handed_over() {
    let nats = Nats::start().await;
    let api = nats.api(RelayLimits::default()).await;
    let exchange = api
        .send(&agent_name(), EPOCH, request(), Bytes::new())
        .await
        .unwrap();
    let began = std::time::Instant::now();
    let error = soon("the answer", exchange.head()).await.map(|_| ()).unwrap_err();
    assert_eq!(error, RelayError::NoResponders);
    assert!(error.never_handed_over());
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "no keep-alive period has to pass"
    );
    assert_eq!(api.in_flight(), 0);
}
