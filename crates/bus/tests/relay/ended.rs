//! How requests end otherwise than with their answer.

use crate::nats::{EPOCH, Nats, agent_name, body, brisk, ok, request, send, soon, until};
use bytes::Bytes;
use futures::{StreamExt, stream};
use reveille_bus::relay::{FaultCode, RelayError, RelayFault, RelayLimits, RespondError};
use reveille_domain::{Epoch, ReportId, ReportSeq};
use tokio::time::Instant;

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

    let exchange = send(&api, request(), Bytes::new()).await.unwrap();
    let (_, mut body) = soon("the head", exchange.head()).await.unwrap();
    soon("a chunk", body.next()).await.unwrap().unwrap();
    drop(body);
    let end = soon("the cancel", cancelled.recv()).await.unwrap();
    assert!(matches!(end, Err(RespondError::Cancelled(_))), "{end:?}");

    drop(send(&api, request(), Bytes::new()).await.unwrap());
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
        let exchange = send(&api, head, Bytes::new()).await.unwrap();
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
async fn an_agent_that_goes_ends_its_requests_at_both_ends() {
    let nats = Nats::start().await;
    let mut agent = nats.agent(RelayLimits::default()).await;
    let api = nats.api(RelayLimits::default()).await;
    let exchange = send(&api, request(), Bytes::new()).await.unwrap();
    let incoming = soon("the request", agent.next()).await.unwrap();
    drop(agent);
    soon("the cancel", incoming.cancelled.cancelled()).await;
    let gone = soon("the fault", exchange.head()).await.map(|_| ()).unwrap_err();
    assert!(!gone.never_handed_over());
}

#[tokio::test]
async fn a_request_to_another_epoch_is_dropped_by_the_agent() {
    let nats = Nats::start().await;
    let agent = nats.serve(brisk(), async |_| {}).await;
    let api = nats.api(brisk()).await;
    for epoch in [EPOCH.0 - 1, EPOCH.0 + 1] {
        drop(
            api.reserve(Instant::now())
                .await
                .unwrap()
                .send(&agent_name(), Epoch(epoch), request(), Bytes::new())
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
    let exchange = send(&api, request(), Bytes::new()).await.unwrap();
    let error = soon("the answer", exchange.head()).await.map(|_| ()).unwrap_err();
    assert_eq!(error, RelayError::NoResponders);
    assert!(error.never_handed_over());
    assert_eq!(api.in_flight(), 0);
}
