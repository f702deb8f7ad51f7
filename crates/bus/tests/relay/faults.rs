//! What lost, repeated, garbled and foreign frames do, played by hand against the real ends.

use crate::nats::{EPOCH, Nats, body, brisk, ok, request, send, soon, until};
use crate::raw::{self, BODY, CANCEL, ERROR, HEAD, KEEP_ALIVE, Raw};
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use reveille_bus::relay::{FaultCode, RelayClient, RelayError, RelayFault, RelayLimits, ResponseBody};

const OK_META: &str = r#"{"status":200}"#;
const REQUEST_META: &str = r#"{"provider":"vllm","method":"POST","path":"/v1/embeddings","body_bytes":2}"#;

/// An agent played by hand, and an API that has sent it a request.
struct Played {
    _nats: Nats,
    client: Client,
    subscriber: Subscriber,
    api: RelayClient,
    head: Message,
}

impl Played {
    async fn begin(limits: RelayLimits) -> (Self, tokio::task::JoinHandle<Result<ResponseBody, RelayError>>) {
        let nats = Nats::start().await;
        let client = nats.connect().await;
        let mut subscriber = client.subscribe("reveille.infer.gpu-box").await.unwrap();
        client.flush().await.unwrap();
        let api = nats.api(limits).await;
        let exchange = send(&api, request(), Bytes::new()).await.unwrap();
        let answer = tokio::spawn(async { exchange.head().await.map(|(_, body)| body) });
        let head = soon("the request", subscriber.next()).await.unwrap();
        (
            Self {
                _nats: nats,
                client,
                subscriber,
                api,
                head,
            },
            answer,
        )
    }

    fn frame(&self, kind: u8, number: u32, content: impl Into<Vec<u8>>) -> Raw {
        Raw::new(kind, number, raw::id(&self.head.payload), content)
    }

    async fn say(&self, frame: Raw) {
        self.say_on(&self.head.reply.clone().unwrap(), frame).await;
    }

    async fn say_on(&self, subject: &str, frame: Raw) {
        self.client
            .publish(subject.to_owned(), frame.bytes())
            .await
            .unwrap();
    }

    async fn is_cancelled(&mut self) {
        let cancels = |m: &Message| raw::kind(&m.payload) == CANCEL;
        let mut frames = self
            .subscriber
            .by_ref()
            .filter(|m| std::future::ready(cancels(m)));
        soon("the cancel", frames.next()).await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_frame_fails_the_response_and_cancels_the_request() {
    let (mut agent, answer) = Played::begin(RelayLimits::default()).await;
    agent
        .say(agent.frame(HEAD, 0, raw::head(0, OK_META, b"one ")))
        .await;
    agent.say(agent.frame(BODY, 2, "three").last()).await;
    let mut body = soon("the head", answer).await.unwrap().unwrap();
    assert_eq!(soon("the prefix", body.next()).await.unwrap().unwrap(), "one ");
    assert_eq!(
        soon("the gap", body.next()).await,
        Some(Err(RelayError::Gap { expected: 1 }))
    );
    assert_eq!(soon("the end", body.next()).await, None);
    agent.is_cancelled().await;
}

#[tokio::test]
async fn a_lost_end_is_noticed_by_the_next_keep_alive() {
    let (mut agent, answer) = Played::begin(RelayLimits::default()).await;
    agent
        .say(agent.frame(HEAD, 0, raw::head(0, OK_META, b"one ")))
        .await;
    agent.say(agent.frame(KEEP_ALIVE, 2, 0u64.to_le_bytes())).await;
    let mut body = soon("the head", answer).await.unwrap().unwrap();
    assert_eq!(soon("the prefix", body.next()).await.unwrap().unwrap(), "one ");
    assert_eq!(
        soon("the gap", body.next()).await,
        Some(Err(RelayError::Gap { expected: 1 }))
    );
    agent.is_cancelled().await;
}

#[tokio::test]
async fn a_repeated_frame_changes_nothing() {
    let (agent, answer) = Played::begin(RelayLimits::default()).await;
    agent
        .say(agent.frame(HEAD, 0, raw::head(0, OK_META, b"one ")))
        .await;
    agent.say(agent.frame(BODY, 1, "two")).await;
    agent.say(agent.frame(BODY, 1, "two")).await;
    agent
        .say(agent.frame(HEAD, 0, raw::head(0, OK_META, b"one ")))
        .await;
    agent.say(agent.frame(BODY, 2, "").last()).await;
    let mut body = soon("the head", answer).await.unwrap().unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = soon("a chunk", body.next()).await {
        all.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(all, b"one two");
    assert_eq!(agent.api.dropped_frames().repeated, 2);
}

#[tokio::test]
async fn frames_of_another_epoch_or_agent_are_ignored() {
    let (agent, answer) = Played::begin(RelayLimits::default()).await;
    let forged = || agent.frame(HEAD, 0, raw::head(0, OK_META, b"forged")).last();
    agent.say(forged().epoch(EPOCH.0 + 1)).await;
    agent.say(forged().epoch(EPOCH.0 - 1)).await;
    let reply = agent.head.reply.clone().unwrap();
    agent
        .say_on(&reply.replace(".gpu-box.", ".other-box."), forged())
        .await;
    agent
        .say(agent.frame(HEAD, 0, raw::head(0, OK_META, b"true")).last())
        .await;
    let mut body = soon("the head", answer).await.unwrap().unwrap();
    assert_eq!(body.whole().as_deref(), Some(b"true".as_slice()));
    let dropped = agent.api.dropped_frames();
    assert_eq!(
        (dropped.other_epoch, dropped.other_agent, dropped.malformed),
        (2, 1, 0)
    );
}

#[tokio::test]
async fn an_agent_that_overdraws_its_credit_is_cut_off() {
    let (mut agent, answer) = Played::begin(RelayLimits::default()).await;
    agent.say(agent.frame(HEAD, 0, raw::head(0, OK_META, b""))).await;
    let body = soon("the head", answer).await.unwrap().unwrap();
    for number in 1..=8 {
        agent.say(agent.frame(BODY, number, vec![b'x'; 64 * 1024])).await;
    }
    agent.is_cancelled().await;
    let read: Vec<_> = soon("the end", body.collect::<Vec<_>>()).await;
    assert_eq!(read.last(), Some(&Err(RelayError::Overdrawn)));
    assert!(read.len() < 8, "{} chunks", read.len());
}

#[tokio::test]
async fn an_agent_that_falls_silent_fails_the_response() {
    let (mut agent, answer) = Played::begin(brisk()).await;
    let error = soon("the failure", answer).await.unwrap().unwrap_err();
    assert!(matches!(error, RelayError::Silent { .. }), "{error:?}");
    assert!(!error.never_handed_over());
    agent.is_cancelled().await;
}

#[tokio::test]
async fn garbage_is_dropped_and_counted_at_both_ends() {
    let nats = Nats::start().await;
    let agent = nats
        .serve(RelayLimits::default(), async |incoming| {
            incoming.responder.stream(&ok(), body(["fine"])).await.unwrap();
        })
        .await;
    let api = nats.api(RelayLimits::default()).await;
    let client = nats.connect().await;
    let garbage: [&[u8]; 4] = [b"", b"{}", &[0xff; 64], &[1; 31]];
    for bytes in garbage {
        for subject in ["reveille.infer.gpu-box", "reveille.replies.r1.gpu-box.1"] {
            client.publish(subject, Bytes::from_static(bytes)).await.unwrap();
        }
    }
    // A head whose answer would go to a subject that isn't its own.
    let stray = Raw::new(HEAD, 0, [1; 16], raw::head(9999, REQUEST_META, b"hi")).last();
    client
        .publish_with_reply(
            "reveille.infer.gpu-box",
            "reveille.control.other.report",
            stray.bytes(),
        )
        .await
        .unwrap();
    until("all are counted", || {
        agent.dropped_frames().malformed == 5 && api.dropped_frames().malformed == 4
    })
    .await;
    let exchange = send(&api, request(), Bytes::new()).await.unwrap();
    assert_eq!(soon("the answer", exchange.head()).await.unwrap().0.status, 200);
}

/// An API played by hand: sends frames, and reads what the agent answers.
async fn play_api(nats: &Nats, id: [u8; 16]) -> (Client, String, Subscriber) {
    let client = nats.connect().await;
    let reply = format!("reveille.replies.hand.gpu-box.{:032x}", u128::from_be_bytes(id));
    let replies = client.subscribe(reply.clone()).await.unwrap();
    client.flush().await.unwrap();
    (client, reply, replies)
}

#[tokio::test]
async fn an_agent_takes_a_request_id_at_most_once() {
    let nats = Nats::start().await;
    let mut agent = nats.agent(RelayLimits::default()).await;
    let (client, reply, _replies) = play_api(&nats, [5; 16]).await;
    let head = Raw::new(HEAD, 0, [5; 16], raw::head(9999, REQUEST_META, b"hi")).last();
    for _ in 0..3 {
        client
            .publish_with_reply("reveille.infer.gpu-box", reply.clone(), head.bytes())
            .await
            .unwrap();
    }
    let other = Raw::new(HEAD, 0, [6; 16], raw::head(9999, REQUEST_META, b"ho")).last();
    let other_reply = reply.replace("0505", "0606");
    client
        .publish_with_reply("reveille.infer.gpu-box", other_reply, other.bytes())
        .await
        .unwrap();
    let mut first = soon("the request", agent.next()).await.unwrap();
    assert_eq!(first.body.whole().as_deref(), Some(b"hi".as_slice()));
    let mut second = soon("the other request", agent.next()).await.unwrap();
    assert_eq!(second.body.whole().as_deref(), Some(b"ho".as_slice()));
    assert_eq!(agent.handle().dropped_frames().repeated, 2);
}

#[tokio::test]
async fn a_replica_that_falls_silent_has_its_requests_cancelled() {
    let nats = Nats::start().await;
    let mut agent = nats.agent(brisk()).await;
    let (client, reply, mut replies) = play_api(&nats, [5; 16]).await;
    let head = Raw::new(HEAD, 0, [5; 16], raw::head(9999, REQUEST_META, b"hi")).last();
    client
        .publish_with_reply("reveille.infer.gpu-box", reply, head.bytes())
        .await
        .unwrap();
    let incoming = soon("the request", agent.next()).await.unwrap();
    let keep_alive = soon("a keep-alive", replies.next()).await.unwrap();
    assert_eq!(raw::kind(&keep_alive.payload), KEEP_ALIVE);
    soon("the cancel", incoming.cancelled.cancelled()).await;
}

#[tokio::test]
async fn a_lost_upload_frame_refuses_the_request() {
    let nats = Nats::start().await;
    let mut agent = nats.agent(RelayLimits::default()).await;
    let (client, reply, mut replies) = play_api(&nats, [5; 16]).await;
    let meta = REQUEST_META.replace(":2}", ":6}");
    let head = Raw::new(HEAD, 0, [5; 16], raw::head(9999, &meta, b"hi"));
    client
        .publish_with_reply("reveille.infer.gpu-box", reply, head.bytes())
        .await
        .unwrap();
    let mut incoming = soon("the request", agent.next()).await.unwrap();
    let late = Raw::new(BODY, 2, [5; 16], "hi").last();
    client
        .publish("reveille.infer.gpu-box", late.bytes())
        .await
        .unwrap();
    tokio::spawn(async move { agent.next().await });
    assert_eq!(
        soon("the prefix", incoming.body.next()).await.unwrap().unwrap(),
        "hi"
    );
    let lost = soon("the failure", incoming.body.next())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(lost.code, FaultCode::BadFrame);
    soon("the cancel", incoming.cancelled.cancelled()).await;
    let is_error = |m: &Message| std::future::ready(raw::kind(&m.payload) == ERROR);
    let error = soon("the fault", replies.by_ref().filter(is_error).next())
        .await
        .unwrap();
    let fault: RelayFault = serde_json::from_slice(&error.payload[32..]).unwrap();
    assert_eq!(fault.code, FaultCode::BadFrame);
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_announced_is_refused() {
    let nats = Nats::start().await;
    let _agent = nats.serve(RelayLimits::default(), async |_| {}).await;
    for (number, body) in [(5, "x"), (6, "xyz")] {
        let (client, reply, mut replies) = play_api(&nats, [number; 16]).await;
        let head = Raw::new(
            HEAD,
            0,
            [number; 16],
            raw::head(9999, REQUEST_META, body.as_bytes()),
        )
        .last();
        client
            .publish_with_reply("reveille.infer.gpu-box", reply, head.bytes())
            .await
            .unwrap();
        let answer = soon("the answer", replies.next()).await.unwrap();
        assert_eq!(raw::kind(&answer.payload), ERROR);
        let fault: RelayFault = serde_json::from_slice(&answer.payload[32..]).unwrap();
        assert_eq!(fault.code, FaultCode::BadFrame);
    }
}

#[tokio::test]
async fn whoever_keeps_an_unknown_request_alive_is_told_that_it_is_lost() {
    let nats = Nats::start().await;
    let _agent = nats.serve(RelayLimits::default(), async |_| {}).await;
    let (client, reply, mut replies) = play_api(&nats, [5; 16]).await;
    for (epoch, why) in [
        (EPOCH.0, "its agent doesn't have the request"),
        (EPOCH.0 - 1, "its agent has restarted meanwhile"),
    ] {
        let keep_alive = Raw::new(KEEP_ALIVE, 1, [5; 16], 0u64.to_le_bytes()).epoch(epoch);
        client
            .publish_with_reply("reveille.infer.gpu-box", reply.clone(), keep_alive.bytes())
            .await
            .unwrap();
        let answer = soon("the answer", replies.next()).await.unwrap();
        assert_eq!(raw::kind(&answer.payload), ERROR);
        let fault: RelayFault = serde_json::from_slice(&answer.payload[32..]).unwrap();
        assert_eq!(fault.code, FaultCode::Lost);
        assert!(fault.message.starts_with(why), "{fault}");
        assert!(fault.message.contains("may have seen"), "{fault}");
    }
}
