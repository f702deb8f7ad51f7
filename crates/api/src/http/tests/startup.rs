//! Requests that come right after the start of a replica, or of the `up` that it is a part of.

use super::{
    Answer, LONG, Served,
    fake_hub::{FakeHub, Reply, active, inactive},
};
use bytes::Bytes;
use reveille_bus::Followed;
use serde_json::json;
use std::time::Duration;
use tokio::task::JoinHandle;

const HELLO: &str = "hello";

fn hello() -> Reply {
    Reply::Whole(200, "application/json", Bytes::from_static(HELLO.as_bytes()))
}

/// Sends a request, and waits until the replica holds it.
async fn held(served: &Served, request: reqwest::RequestBuilder) -> JoinHandle<Answer> {
    let answer = tokio::spawn(Answer::of(request));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!answer.is_finished() && served.hub.sent().is_empty());
    answer
}

fn publish(hub: &FakeHub) {
    hub.publish("box/ollama", "m", active());
    hub.own_agent.cancel();
}

#[tokio::test]
async fn a_model_that_the_own_agent_is_about_to_publish_is_waited_for() {
    let unnamed = json!({ "messages": [] });
    for stream in [false, true] {
        let served = Served::starting(LONG).await;
        served.hub.replies([hello()]);
        let asked = held(&served, served.chat("m", stream)).await;
        let listed = held(&served, served.client.get(format!("{}/v1/models", served.url))).await;
        let wake = held(
            &served,
            served.post("/reveille/v1/providers/box/ollama/wake", &json!({})),
        )
        .await;
        let one = held(&served, served.client.get(format!("{}/v1/models/m", served.url))).await;
        publish(&served.hub);
        let answer = asked.await.expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, HELLO));
        let listed = listed.await.expect("a list").json();
        assert_eq!(listed["data"][0]["id"], "m");
        assert_eq!(one.await.expect("a model").status, 200);
        assert_eq!(wake.await.expect("it is awake").status, 200);
    }
    let served = Served::starting(LONG).await;
    served.hub.replies([hello()]);
    let asked = held(&served, served.post("/v1/chat/completions", &unnamed)).await;
    served.hub.publish("box/ollama", super::DEFAULT_MODEL, active());
    served.hub.own_agent.cancel();
    assert_eq!(asked.await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_provider_that_an_earlier_run_left_inactive_is_waited_for_too() {
    let served = Served::starting(LONG).await;
    served.hub.publish("box/ollama", "m", inactive());
    served.hub.replies([hello()]);
    let asked = held(&served, served.chat("m", false)).await;
    publish(&served.hub);
    assert_eq!(asked.await.expect("an answer").status, 200);
}

#[tokio::test]
async fn one_that_is_there_is_used_at_once_and_one_that_does_not_come_is_not_ready_rather_than_unknown() {
    let served = Served::starting(Duration::from_millis(50)).await;
    served.hub.publish("far/vllm", "there", active());
    served.hub.replies([hello()]);
    let answer = Answer::of(served.chat("there", false)).await;
    assert_eq!(answer.status, 200);
    for request in [
        served.chat("m", false),
        served.chat("m", true),
        served.client.get(format!("{}/v1/models/m", served.url)),
        served.post("/reveille/v1/providers/box/ollama/wake", &json!({})),
    ] {
        let answer = Answer::of(request).await;
        assert_eq!((answer.status, answer.error().as_str()), (503, "not_ready"));
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(
            answer.text().contains("this machine's agent"),
            "{}",
            answer.text()
        );
    }
    let list = served.get("/v1/models").await;
    assert_eq!(
        (list.status, &list.json()["data"][0]["id"]),
        (200, &json!("there"))
    );
    served.hub.own_agent.cancel();
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!((answer.status, answer.error().as_str()), (404, "model_not_found"));
}

#[tokio::test]
async fn a_journal_that_is_not_read_yet_is_waited_for() {
    let served = Served::with_timings(|timings| timings.startup = LONG).await;
    served.hub.forget_everything();
    served.hub.replies([hello()]);
    let asked = held(&served, served.chat("m", false)).await;
    let listed = held(&served, served.client.get(format!("{}/v1/models", served.url))).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.registry.follow(&Followed::CaughtUp { sequence: 99 });
    assert_eq!(asked.await.expect("an answer").status, 200);
    assert_eq!(listed.await.expect("a list").json()["data"][0]["id"], "m");
}
