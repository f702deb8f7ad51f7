//! What stays bounded, and what is said when a bound is reached.

use crate::nats::{EPOCH, Nats, agent_name, body, ok, request, send, soon, until};
use crate::{MIB, pattern, read};
use bytes::Bytes;
use futures::{StreamExt, stream};
use reveille_bus::relay::{FaultCode, RelayError, RelayFault, RelayLimits};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

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
    let exchange = send(&api, endless, Bytes::new()).await.unwrap();
    let (_, mut stalled) = soon("the head", exchange.head()).await.unwrap();
    soon("a chunk", stalled.next()).await.unwrap().unwrap();

    // Each of these passes the stalled one; by the last it has had every chance to send.
    for _ in 0..200 {
        let exchange = send(&api, request(), Bytes::new()).await.unwrap();
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
async fn an_answer_that_nobody_reads_gives_its_window_back() {
    let nats = Nats::start().await;
    nats.serve(RelayLimits::default(), async |incoming| {
        incoming.responder.stream(&ok(), body(["unread"])).await.unwrap();
    })
    .await;
    let api = nats.api(RelayLimits::default()).await;
    let exchange = send(&api, request(), Bytes::new()).await.unwrap();
    until("it is answered", || api.in_flight() == 0).await;
    assert!(
        api.free_bytes() < RelayLimits::default().pool_bytes,
        "what waits to be read counts"
    );
    drop(exchange);
    assert_eq!(api.free_bytes(), RelayLimits::default().pool_bytes);
}

#[tokio::test]
async fn whoever_waits_for_a_full_pool_gets_room_in_turn_and_whoever_does_not_is_refused_before_it_is_sent() {
    let nats = Nats::start().await;
    let _agent = nats.agent(RelayLimits::default()).await;
    let small = RelayLimits {
        pool_bytes: 8 * 1024,
        ..RelayLimits::default()
    };
    let api = nats.api(small).await;
    let first = send(&api, request(), Bytes::new()).await.unwrap();
    let second = send(&api, request(), Bytes::new()).await.unwrap();
    let third = send(&api, request(), Bytes::new()).await.map(|_| ());
    assert_eq!(third, Err(RelayError::Overloaded));
    drop(second);
    drop(api.reserve(Instant::now()).await.unwrap());
    let _second = send(&api, request(), Bytes::new())
        .await
        .expect("a reservation that isn't used is given back");

    let waits = || {
        let api = api.clone();
        let room_by = Instant::now() + Duration::from_secs(60);
        tokio::spawn(async move {
            api.reserve(room_by)
                .await
                .unwrap()
                .send(&agent_name(), EPOCH, request(), Bytes::new())
                .await
        })
    };
    let fourth = waits();
    tokio::task::yield_now().await;
    let fifth = waits();
    let leaves = waits();
    tokio::task::yield_now().await;
    leaves.abort();
    assert_eq!(api.in_flight(), 2);
    drop(first);
    let fourth = soon("the first in the queue", fourth).await.unwrap().unwrap();
    assert!(!fifth.is_finished(), "one place, one request");
    let late = send(&api, request(), Bytes::new()).await;
    assert_eq!(
        late.map(|_| ()),
        Err(RelayError::Overloaded),
        "nobody jumps the queue"
    );
    drop(fourth);
    soon("the second", fifth).await.unwrap().unwrap();
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
        let exchange = send(&api, request(), Bytes::new()).await.unwrap();
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
async fn headers_that_fit_no_frame_are_refused_before_anything_is_sent() {
    let nats = Nats::start_with("max_payload: 16384").await;
    let _agent = nats.agent(RelayLimits::default()).await;
    let api = nats.api(RelayLimits::default()).await;
    for bytes in [20_000, 40_000] {
        let mut head = request();
        head.headers.push(("x-long".into(), "x".repeat(bytes)));
        let sent = send(&api, head, Bytes::new()).await;
        assert_eq!(sent.map(|_| ()), Err(RelayError::HeadTooLarge));
    }
    assert_eq!(
        (api.in_flight(), api.free_bytes()),
        (0, RelayLimits::default().pool_bytes)
    );
}
