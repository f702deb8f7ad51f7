use super::{
    Answer, Served,
    fake_hub::{Reply, active, hibernating, id, inactive},
};
use crate::{
    commands::{Admin, AgentCommandAt},
    inference::{
        CurrentPhase, InferenceRequest, Options, RequestBody, endpoint::tests::at, headers::PassedOn,
    },
    keys::Caller,
    wakes::WakeError,
};
use axum::http::HeaderMap;
use bytes::Bytes;
use reveille_bus::{
    JournalTrouble,
    access::NatsKey,
    relay::{FaultCode, RelayFault},
};
use reveille_domain::{
    AgentCommand, AgentKey, MODELS_STAGE, ModelName, Timestamp, WakeFailure, WakeFailureKind, WakeId,
    WakeRecord,
};
use std::time::Duration;
use tokio::time::timeout;

fn whole(body: &'static str) -> Reply {
    Reply::Whole(200, "application/json", Bytes::from_static(body.as_bytes()))
}

fn failed(kind: WakeFailureKind, wake_id: Option<WakeId>) -> WakeError {
    failed_at("step 1 http", kind, wake_id)
}

fn failed_at(stage: &str, kind: WakeFailureKind, wake_id: Option<WakeId>) -> WakeError {
    WakeError::Failed {
        provider: id("gpu-box/vllm"),
        wake_id,
        failure: Box::new(WakeFailure::new(kind, stage, "the controller answered 500")),
        retry_after: wake_id.is_none().then(|| Duration::from_millis(3_200)),
        spent: Duration::from_millis(1_500),
    }
}

fn some_wake() -> WakeId {
    WakeId(uuid::Uuid::now_v7())
}

#[tokio::test]
async fn a_request_to_a_sleeping_backend_wakes_it_and_is_answered() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    served.hub.replies([whole("hello")]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    assert!(
        served.hub.sent().is_empty(),
        "nothing is sent to a backend that sleeps"
    );
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.status = active());
    let answer = asking.await.expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert!(answer.header("x-reveille-wake-id").is_some());
}

#[tokio::test]
async fn a_failed_wake_says_what_failed_where_and_what_to_do() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    let wake = some_wake();
    let late = WakeFailure::new(WakeFailureKind::TimedOut, "probe", "no outcome by the deadline");
    let cases = [
        (
            failed(WakeFailureKind::Recipe, Some(wake)),
            503,
            "wake_failed",
            "[provider.wake]",
            "1",
        ),
        (
            failed_at(MODELS_STAGE, WakeFailureKind::Recipe, Some(wake)),
            503,
            "wake_failed",
            "load the model there, or correct `models` in the configuration of the agent gpu-box",
            "1",
        ),
        (
            failed(WakeFailureKind::Unavailable, Some(wake)),
            504,
            "wake_timeout",
            "provider.wake.max_wait",
            "1",
        ),
        (
            failed(WakeFailureKind::Unavailable, None),
            503,
            "wake_failed",
            "the next wake is possible in 4 s",
            "4",
        ),
        (
            failed(WakeFailureKind::Died, None),
            503,
            "wake_failed",
            "can't be woken yet",
            "4",
        ),
        (
            WakeError::Failed {
                provider: id("gpu-box/vllm"),
                wake_id: Some(wake),
                failure: Box::new(late),
                retry_after: None,
                spent: Duration::from_secs(65),
            },
            504,
            "wake_timeout",
            "provider.wake.max_wait",
            "1",
        ),
    ];
    for (error, status, code, says, retry) in cases {
        served.hub.refuse(error);
        let answer = Answer::of(served.chat("m", false)).await;
        assert_eq!((answer.status, answer.error().as_str()), (status, code));
        let message = answer.json()["error"]["message"].to_string();
        assert!(
            message.contains("gpu-box/vllm") && message.contains(says),
            "{message}"
        );
        assert_eq!(answer.header("retry-after"), Some(retry));
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{message}");
        assert_eq!(answer.json()["error"]["type"], "wake_error", "{message}");
        assert_eq!(answer.header("x-reveille-provider"), Some("gpu-box/vllm"));
        let wake = (!message.contains("the next wake is possible")).then(|| wake.to_string());
        assert_eq!(answer.header("x-reveille-wake-id"), wake.as_deref());
    }
    assert!(served.hub.sent().is_empty());
}

#[tokio::test]
async fn a_client_may_repeat_by_itself_what_another_try_may_better() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    let wake = Some(some_wake());
    for error in [
        failed(WakeFailureKind::AgentStopped, wake),
        failed(WakeFailureKind::GroupBlocked, wake),
        WakeError::QueueFull {
            provider: id("gpu-box/vllm"),
            limit: 1,
        },
        WakeError::CallerTimedOut {
            provider: id("gpu-box/vllm"),
            wake_id: wake,
            spent: Duration::from_secs(290),
            left: None,
        },
    ] {
        served.hub.refuse(error);
        let answer = Answer::of(served.chat("m", false)).await;
        let error = answer.json()["error"].clone();
        assert_eq!(answer.header("x-should-retry"), None, "{error}");
        assert_ne!(error["type"], "wake_error", "{error}");
        assert!(answer.header("retry-after").is_some(), "{error}");
    }
}

#[tokio::test]
async fn a_caller_may_wait_less_and_the_wake_goes_on() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    let answer = Answer::of(served.chat("m", false).header("x-reveille-wait", "0.05")).await;
    assert_eq!((answer.status, answer.error().as_str()), (504, "wake_timeout"));
    assert!(answer.header("x-reveille-wake-id").is_some() && answer.header("retry-after").is_some());
}

#[tokio::test]
async fn a_caller_may_ask_not_to_be_held_or_not_to_wake() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    let never = Answer::of(served.chat("m", true).header("x-reveille-wake", "never")).await;
    assert_eq!((never.status, never.error().as_str()), (503, "model_asleep"));
    assert_eq!(served.hub.asked(), 0);
    let waking = Answer::of(served.chat("m", true).header("x-reveille-wake", "async")).await;
    assert_eq!((waking.status, waking.error().as_str()), (503, "waking"));
    assert!(waking.header("retry-after").is_some() && waking.header("x-reveille-wake-id").is_some());
    assert_eq!(served.hub.asked(), 1);
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.status = active());
    for mode in ["async", "never"] {
        served.hub.replies([whole("awake")]);
        assert_eq!(
            Answer::of(served.chat("m", false).header("x-reveille-wake", mode))
                .await
                .text(),
            "awake"
        );
    }
}

#[tokio::test]
async fn a_caller_is_told_that_the_agent_was_revoked_and_what_admits_it_again() {
    let served = Served::new().await;
    let id = id("gpu-box/vllm");
    let commands = [
        Box::new({
            let name = id.agent.clone();
            let key = AgentKey::parse(&NatsKey::fresh_user().public()).unwrap();
            move |at| AgentCommand::Trust { name, key, at }
        }) as AgentCommandAt,
        Box::new({
            let name = id.agent.clone();
            move |at| AgentCommand::Revoke { name, at }
        }),
    ];
    for command in commands {
        assert!(
            Admin::agent(&*served.hub, &id.agent, "test", command)
                .await
                .is_ok()
        );
    }
    served.hub.publish("gpu-box/vllm", "m", inactive());
    let told = async || Answer::of(served.chat("m", false)).await.text();
    let text = told().await;
    assert!(
        text.contains("its agent was revoked") && text.contains("`reveille agent token gpu-box`"),
        "{text}"
    );
    served.state.registry.agents().admit_at_start([id.agent]);
    let text = told().await;
    assert!(
        text.contains("its agent was revoked") && text.contains("`reveille up` on the hub's machine"),
        "{text}"
    );
}

#[tokio::test]
async fn an_inactive_provider_is_never_woken() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", inactive());
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "provider_inactive")
    );
    assert!(answer.header("retry-after").is_some());
    assert_eq!(served.hub.asked(), 0);
}

#[tokio::test]
async fn an_unknown_model_is_answered_with_similar_names_once_the_journal_is_read() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "qwen3-8b", active());
    let answer = Answer::of(served.chat("qwen3", false)).await;
    assert_eq!((answer.status, answer.error().as_str()), (404, "model_not_found"));
    assert!(answer.text().contains("qwen3-8b"));
    served.hub.forget_everything();
    let answer = Answer::of(served.chat("qwen3", false)).await;
    assert_eq!((answer.status, answer.error().as_str()), (503, "not_ready"));
}

#[tokio::test]
async fn a_full_queue_is_told_to_come_back_and_a_lost_journal_says_no_more_than_that() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    served.hub.refuse(WakeError::QueueFull {
        provider: id("gpu-box/vllm"),
        limit: 1_024,
    });
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!((answer.status, answer.error().as_str()), (429, "queue_full"));
    assert!(answer.header("retry-after").is_some());
    served
        .hub
        .refuse(WakeError::Unavailable("nats://user:secret@hub".to_owned()));
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "journal_unavailable")
    );
    assert!(!answer.text().contains("secret"));
}

#[tokio::test]
async fn what_is_wrong_with_the_journal_is_named_with_what_can_be_done() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    let lost = JournalTrouble::Lost("the stream is gone".to_owned());
    let full = JournalTrouble::Full("no space left".to_owned());
    for (trouble, said) in [
        (
            lost,
            "the journal is lost: the stream is gone; it has to be restored, or a new one begun",
        ),
        (
            full,
            "the journal takes no commits: no space left; models that are awake can be used",
        ),
    ] {
        served.hub.refuse(WakeError::Journal(trouble));
        let answer = Answer::of(served.chat("m", false)).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (503, "journal_unavailable")
        );
        assert!(answer.text().contains(said), "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
    }
}

/// The fold says that it is active, and no commit can change that.
#[tokio::test]
async fn a_backend_that_sleeps_while_the_journal_takes_no_commits_is_not_waited_for() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    *served.hub.trouble.lock() = Some(JournalTrouble::Full("no space left".to_owned()));
    let leaving = RelayFault::new(FaultCode::Asleep, "it is being put to sleep");
    served.hub.replies([Reply::Fails(leaving.into())]);
    let asked = Answer::of(served.chat("m", false));
    let answer = timeout(Duration::from_secs(10), asked).await.expect("an answer");
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "journal_unavailable")
    );
    assert!(answer.text().contains("no space left"), "{}", answer.text());
}

/// The wakes that a provider remembers: each took so many seconds by itself.
fn remembered(seconds: &[u64]) -> Vec<WakeRecord> {
    let record = |took: &u64| WakeRecord {
        id: some_wake(),
        requested_at_ms: Timestamp::from_millis(1_000),
        // Longer than that, since others had the memory.
        ended_at_ms: Timestamp::from_millis(61_000 + took * 1_000),
        group_wait_ms: 60_000,
        failure: None,
    };
    seconds.iter().map(record).collect()
}

#[tokio::test]
async fn a_request_that_waits_for_less_than_a_wake_takes_is_told_at_once_and_the_wake_goes_on() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    served.hub.change("gpu-box/vllm", |provider| {
        provider.wakes = remembered(&[20, 10, 30]);
    });
    let hurried = || served.chat("m", false).header("x-reveille-wait", "5");
    let answer = Answer::of(hurried()).await;
    assert_eq!((answer.status, answer.error().as_str()), (504, "wake_timeout"));
    assert_eq!(answer.header("retry-after"), Some("20"));
    assert!(answer.header("x-reveille-wake-id").is_some());
    assert!(
        answer.text().contains("usually takes 20.0 s more to wake"),
        "{}",
        answer.text()
    );
    assert_eq!((served.hub.asked(), served.hub.sent().len()), (1, 0));

    let models = Answer::of(served.client.get(format!("{}/v1/models", served.url)))
        .await
        .json();
    let told = &models["data"][0]["reveille"];
    assert_eq!(
        told["wake_times"],
        serde_json::json!([{ "provider": "gpu-box/vllm", "p50_ms": 20_000, "p95_ms": 30_000 }])
    );
}

#[tokio::test]
async fn without_earlier_wakes_nothing_is_told_of_their_time_and_nobody_is_sent_away() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    served.hub.replies([whole("hello")]);
    let models = Answer::of(served.client.get(format!("{}/v1/models", served.url)))
        .await
        .json();
    let told = models["data"][0]["reveille"]
        .as_object()
        .expect("an object")
        .clone();
    assert!(
        !told.contains_key("eta_ms") && !told.contains_key("wake_times"),
        "{told:?}"
    );
    let asking = tokio::spawn(Answer::of(
        served.chat("m", false).header("x-reveille-wait", "20"),
    ));
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.status = active());
    assert_eq!(asking.await.expect("an answer").status, 200);
}

/// Thousands wait at once: what few of them need belongs on the heap.
#[tokio::test]
async fn the_future_of_a_request_that_waits_is_small() {
    const MOST_BYTES: usize = 2_048;
    let (served, none) = (Served::new().await, HeaderMap::new());
    let request = InferenceRequest {
        endpoint: at("/v1/chat/completions"),
        path: "/v1/chat/completions".to_owned(),
        model: ModelName::parse("m").expect("legal"),
        member: None,
        caller: Caller::operator(),
        request_id: "r".to_owned(),
        options: Options::read(&none, Duration::from_secs(1), None).expect("legal"),
        headers: PassedOn::of(&none),
        body: RequestBody::whole(Bytes::new(), served.state.bodies.hold()),
    };
    let phase = CurrentPhase::default();
    let bytes = size_of_val(&served.state.inference.answer(&request, &phase));
    assert!(bytes <= MOST_BYTES, "{bytes} bytes");
}
