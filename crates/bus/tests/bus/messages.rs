//! What agents, control and replicas ask of each other: the way there and back, and what is refused.

use crate::events::{PATIENCE, agent, at, provider, settled, spec};
use async_nats::Client;
use futures::{FutureExt, StreamExt, future::join};
use reveille_bus::{
    BusError, Refusals,
    control::{self, ControlAnswer, ControlError, ControlRequest, ControlRequests, Report},
    orders::{self, AddressedOrder, Order, OrderAnswer, Orders},
    wakes::{self, WakeMessage, Wakes},
};
use reveille_domain::{
    AgentName, Availability, Epoch, ProviderName, ReportId, ReportSeq, SessionId, SleepReason, Stage,
    WakeFailure, WakeFailureKind, WakeId, WakeOutcome, provider::StatusName,
};
use reveille_tests::Nats;
use std::time::Duration;
use uuid::Uuid;

async fn soon<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.expect("in time")
}

fn vllm() -> ProviderName {
    ProviderName::parse("vllm").unwrap()
}

fn report(report: Report) -> ControlRequest {
    ControlRequest::Report {
        provider: vllm(),
        id: ReportId {
            epoch: Epoch(2),
            seq: ReportSeq(7),
        },
        report,
    }
}

fn requests() -> Vec<ControlRequest> {
    let (epoch, wake_id) = (Epoch(2), WakeId(Uuid::now_v7()));
    let stages = vec![Stage {
        name: "step 1 http".to_owned(),
        started_after_ms: 1,
        took_ms: 20,
    }];
    let failure = WakeFailure::new(
        WakeFailureKind::Recipe,
        "step 1 http",
        "the controller answered 500",
    );
    let failed = WakeOutcome::Failed {
        failure,
        stages: stages.clone(),
    };
    vec![
        ControlRequest::Connect {
            session: SessionId(Uuid::now_v7()),
            version: "0.1.0".to_owned(),
        },
        ControlRequest::Register {
            epoch,
            provider: vllm(),
            seq: ReportSeq(1),
            spec: spec(),
            availability: Some(Availability::Unavailable),
        },
        report(Report::Wake {
            wake_id,
            outcome: WakeOutcome::Succeeded { stages },
        }),
        report(Report::Wake {
            wake_id,
            outcome: failed,
        }),
        report(Report::Asleep {
            reason: SleepReason::Idle,
            for_wake: None,
        }),
        report(Report::Awake),
        ControlRequest::Resume {
            provider: vllm(),
            id: ReportId {
                epoch,
                seq: ReportSeq(8),
            },
            availability: Availability::Available,
        },
        ControlRequest::Stop { epoch },
        ControlRequest::Deregister {
            epoch,
            provider: vllm(),
        },
    ]
}

fn wake() -> WakeMessage {
    WakeMessage {
        provider: provider(),
        wake_id: WakeId(Uuid::now_v7()),
        epoch: Epoch(2),
        sequence: 12,
        deadline_ms: at(75),
        now_ms: at(5),
        awaited: true,
        wanted: true,
        replica: String::new(),
    }
}

fn answers() -> Vec<ControlAnswer> {
    let refused = |refusal| ControlAnswer::Refused { refusal };
    let reason = || "why".to_owned();
    vec![
        ControlAnswer::Connected {
            epoch: Epoch(2),
            providers: vec![vllm()],
            hub: Some("00112233445566aa".parse().expect("an id")),
        },
        ControlAnswer::Connected {
            epoch: Epoch(2),
            providers: vec![],
            hub: None,
        },
        ControlAnswer::Done {
            status: Some(StatusName::Waking),
            sequence: 9,
            last_seq: ReportSeq(7),
            wake: Some(wake()),
            awaited: false,
        },
        ControlAnswer::Done {
            status: None,
            sequence: 0,
            last_seq: ReportSeq(0),
            wake: None,
            awaited: true,
        },
        ControlAnswer::Stopped,
        refused(ControlError::Superseded {
            current: Epoch(3),
            restored: false,
            revoked: false,
        }),
        refused(ControlError::RegisterFirst),
        refused(ControlError::ResumeFirst),
        refused(ControlError::Invalid { reason: reason() }),
        refused(ControlError::Unreadable { reason: reason() }),
        refused(ControlError::Unavailable { reason: reason() }),
    ]
}

#[test]
fn an_older_replica_names_no_hub_when_an_agent_connects() {
    let older = r#"{"answer":"connected","epoch":2,"providers":["vllm"]}"#;
    let connected = ControlAnswer::Connected {
        epoch: Epoch(2),
        providers: vec![vllm()],
        hub: None,
    };
    assert_eq!(serde_json::from_str::<ControlAnswer>(older).unwrap(), connected);
    assert_eq!(serde_json::to_string(&connected).unwrap(), older);
}

#[tokio::test]
async fn every_control_request_and_answer_arrives_as_it_was_sent() {
    let nats = Nats::start().await;
    let (agents, api) = (nats.connect().await, nats.connect().await);
    let mut control = ControlRequests::subscribe(&api, &Refusals::default())
        .await
        .unwrap();
    // Another replica shares the requests: each is answered by one.
    let mut other = ControlRequests::subscribe(&api, &Refusals::default())
        .await
        .unwrap();
    settled(&api).await;
    for (request, answer) in requests().into_iter().zip(answers()) {
        let serve = async {
            let asked = tokio::select! {
                asked = control.next() => asked.unwrap(),
                asked = other.next() => asked.unwrap(),
            };
            assert_eq!((&asked.agent, &asked.request), (&agent(), &request));
            asked.answer(&answer).await;
        };
        let (told, ()) = soon(join(control::ask(&agents, &agent(), &request), serve)).await;
        assert_eq!(told.unwrap(), answer);
    }
    assert!(control.next().now_or_never().is_none() && other.next().now_or_never().is_none());
}

#[tokio::test]
async fn an_illegal_control_request_is_refused_on_its_senders_inbox() {
    let nats = Nats::start().await;
    let (agents, api) = (
        nats.connect_hearing("_INBOX.agent.gpu-box").await,
        nats.connect().await,
    );
    let mut control = ControlRequests::subscribe(&api, &Refusals::default())
        .await
        .unwrap();
    settled(&api).await;
    let served = tokio::spawn(async move {
        let asked = control.next().await.unwrap();
        asked.answer(&ControlAnswer::Stopped).await;
        asked_only_once(&mut control);
    });
    let stop = r#"{"v":1,"agent":"gpu-box","verb":"stop","epoch":2}"#;
    let many: Vec<_> = (0..100_000).map(|index| format!("\"m{index}\"")).collect();
    let many = format!(
        r#"{{"v":1,"agent":"gpu-box","verb":"register","epoch":2,"provider":"vllm","spec":{{"models":[{}]}}}}"#,
        many.join(",")
    );
    let deep = format!(
        r#"{{"v":1,"agent":"gpu-box","verb":"stop","epoch":{}"#,
        "[".repeat(10_000)
    );
    let cases = [
        ("gpu-box.stop", "not JSON".to_owned(), "not a control request"),
        ("gpu-box.stop", String::new(), "not a control request"),
        ("gpu-box.stop", "[]".to_owned(), "not a control request"),
        ("gpu-box.stop", deep, "not a control request"),
        (
            "gpu-box.stop",
            stop.replace(r#""v":1"#, r#""v":2"#),
            "version 2 is not known",
        ),
        (
            "gpu-box.stop",
            stop.replace("stop", "explode"),
            "not a control request",
        ),
        (
            "gpu-box.explode",
            stop.replace("stop", "explode"),
            "not a control request",
        ),
        ("gpu-box.connect", stop.to_owned(), "another agent or verb"),
        (
            "gpu-box.stop",
            stop.replace("gpu-box", "../x"),
            "not a control request",
        ),
        ("gpu-box.stop", stop.replace('2', "-2"), "not a control request"),
        ("gpu-box.register", many, ""),
    ];
    for (subject, payload, reason) in cases {
        let subject = format!("reveille.control.{subject}");
        // More than the server takes never gets there.
        let Ok(answer) = agents.request(subject.clone(), payload.clone().into()).await else {
            assert!(payload.len() > agents.max_payload());
            continue;
        };
        match serde_json::from_slice(&answer.payload).unwrap() {
            ControlAnswer::Refused {
                refusal: ControlError::Invalid { reason: told },
            } => assert!(told.contains(reason), "{subject}: {told}"),
            other => panic!("{subject}: {other:?}"),
        }
    }
    // None of them reached control: the first that does is the legal one.
    let stop = ControlRequest::Stop { epoch: Epoch(2) };
    assert_eq!(
        soon(control::ask(&agents, &agent(), &stop)).await.unwrap(),
        ControlAnswer::Stopped
    );
    soon(served).await.unwrap();
}

fn asked_only_once(control: &mut ControlRequests) {
    assert!(control.next().now_or_never().is_none());
}

#[tokio::test]
async fn control_answers_to_inboxes_and_never_to_what_somebody_else_listens_to() {
    let nats = Nats::start().await;
    let evil = nats.connect_hearing("_INBOX.agent.gpu-box").await;
    let api = nats.connect().await;
    let mut control = ControlRequests::subscribe(&api, &Refusals::default())
        .await
        .unwrap();
    let mut everything = api.subscribe(">").await.unwrap();
    settled(&api).await;
    let served = tokio::spawn(async move {
        while let Some(asked) = control.next().await {
            asked.answer(&ControlAnswer::Stopped).await;
        }
    });
    let stop = r#"{"v":1,"agent":"gpu-box","verb":"stop","epoch":2}"#;
    for payload in [stop, "not JSON"] {
        for reply in [
            "reveille.heartbeats.other",
            "reveille.orders.other",
            "$JS.API.STREAM.DELETE.REVEILLE_EVENTS",
            "_INBOX.agent.other.x",
            "_INBOX.api.x",
        ] {
            evil.publish_with_reply("reveille.control.gpu-box.stop", reply, payload.into())
                .await
                .unwrap();
        }
    }
    // Neither does it answer whoever speaks for somebody else.
    for agent in ["other", "UPPER"] {
        let subject = format!("reveille.control.{agent}.stop");
        evil.publish_with_reply(subject, "_INBOX.agent.gpu-box.x", stop.into())
            .await
            .unwrap();
    }
    // A request that is answered comes after all of them.
    let answer = evil
        .request("reveille.control.gpu-box.stop", stop.into())
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("stopped"));
    loop {
        let message = soon(everything.next()).await.unwrap();
        let subject = message.subject.as_str();
        // The server itself says that nobody listens.
        if message.payload.is_empty() {
            continue;
        }
        assert!(
            subject.starts_with("reveille.control.") || subject.starts_with("_INBOX.agent.gpu-box."),
            "{subject}"
        );
        assert_ne!(subject, "_INBOX.agent.gpu-box.x");
        if subject.starts_with("_INBOX.") {
            break;
        }
    }
    served.abort();
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let nats = Nats::start().await;
    let client = nats.connect().await;
    let stop = ControlRequest::Stop { epoch: Epoch(2) };
    let order = AddressedOrder {
        epoch: Epoch(2),
        order: Order::Superseded,
    };
    let asked = control::ask(&client, &agent(), &stop).await;
    let woken = wakes::send(&client, &wake()).await;
    let ordered = orders::send(&client, &agent(), &order).await;
    assert!(matches!(asked, Err(BusError::Unavailable(_))), "{asked:?}");
    assert!(matches!(woken, Err(BusError::Unavailable(_))), "{woken:?}");
    assert!(matches!(ordered, Err(BusError::Unavailable(_))), "{ordered:?}");
}

async fn agents_side(nats: &Nats) -> (Client, Wakes, Orders) {
    let client = nats.connect().await;
    let wakes = Wakes::subscribe(&client, &agent()).await.unwrap();
    let orders = Orders::subscribe(&client, &agent()).await.unwrap();
    settled(&client).await;
    (client, wakes, orders)
}

#[test]
fn a_wake_message_that_names_no_replica_is_awaited_and_wanted() {
    let wake = wake();
    let json = serde_json::to_value(&wake).unwrap();
    let fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let absent = ["awaited", "wanted", "replica"].map(|field| fields.contains(&field));
    assert_eq!(absent, [false; 3], "{json}");
    assert_eq!(serde_json::from_value::<WakeMessage>(json).unwrap(), wake);
    let unwanted = WakeMessage {
        wanted: false,
        replica: "api-1".to_owned(),
        ..wake
    };
    let json = serde_json::to_value(&unwanted).unwrap();
    assert_eq!(
        (&json["wanted"], &json["replica"]),
        (&false.into(), &"api-1".into())
    );
    assert_eq!(serde_json::from_value::<WakeMessage>(json).unwrap(), unwanted);
}

#[tokio::test]
async fn a_wake_is_acknowledged_by_its_agent_and_malformed_or_strange_ones_are_not() {
    let nats = Nats::start().await;
    let (_client, mut wakes, _orders) = agents_side(&nats).await;
    let api = nats.connect().await;
    let wake = wake();
    assert_eq!(wake.time_left(), Duration::from_secs(70));
    let strange = WakeMessage {
        provider: format!("{}/vllm", AgentName::parse("other").unwrap())
            .parse()
            .unwrap(),
        ..wake.clone()
    };
    for (subject, payload) in [
        ("reveille.wakes.gpu-box.vllm", b"not JSON".to_vec()),
        (
            "reveille.wakes.gpu-box.vllm",
            serde_json::to_vec(&strange).unwrap(),
        ),
        ("reveille.wakes.gpu-box.other", serde_json::to_vec(&wake).unwrap()),
    ] {
        let inbox = api.new_inbox();
        let mut answers = api.subscribe(inbox.clone()).await.unwrap();
        api.publish_with_reply(subject, inbox, payload.into())
            .await
            .unwrap();
        // The wake that follows is acknowledged, and comes first.
        let (sent, taken) = soon(async { tokio::join!(wakes::send(&api, &wake), wakes.next()) }).await;
        sent.unwrap();
        assert_eq!(taken.unwrap(), wake);
        assert!(answers.next().now_or_never().is_none(), "{subject}");
    }
    assert!(wakes.next().now_or_never().is_none());
}

#[tokio::test]
async fn orders_are_answered_and_malformed_ones_dropped() {
    let nats = Nats::start().await;
    let (_client, _wakes, mut listener) = agents_side(&nats).await;
    let api = nats.connect().await;
    api.publish("reveille.orders.gpu-box", "not JSON".into())
        .await
        .unwrap();
    api.publish(
        "reveille.orders.gpu-box",
        r#"{"epoch":2,"order":"explode"}"#.into(),
    )
    .await
    .unwrap();
    let orders = [
        Order::Superseded,
        Order::Resume {
            providers: vec![vllm()],
        },
        Order::Sleep { provider: vllm() },
    ];
    let answers = [
        OrderAnswer::Taken,
        OrderAnswer::Refused {
            reason: "busy".to_owned(),
        },
        OrderAnswer::Taken,
    ];
    for (order, answer) in orders.into_iter().zip(answers) {
        let order = AddressedOrder {
            epoch: Epoch(2),
            order,
        };
        let serve = async {
            let taken = listener.next().await.unwrap();
            assert_eq!(taken.order, order);
            taken.answer(&answer).await;
        };
        let (told, ()) = soon(join(orders::send(&api, &agent(), &order), serve)).await;
        assert_eq!(told.unwrap(), answer);
    }
    orders::announce_session(&api, &agent(), Epoch(5)).await.unwrap();
    let taken = soon(listener.next()).await.unwrap();
    assert_eq!(
        (taken.order.epoch, &taken.order.order),
        (Epoch(5), &Order::Superseded)
    );
    // Nobody waits for an answer, and answering all the same is no error.
    taken.answer(&OrderAnswer::Taken).await;
}
