//! Several providers of one model: which of them a request goes to, and what it costs when some fail.

use super::{
    Answer, Served,
    fake_hub::{Reply, active, down, hibernating, inactive},
};
use bytes::Bytes;
use reveille_bus::relay::{FaultCode, RelayError, RelayFault};
use serde_json::json;

const JSON: &str = "application/json";

/// What shows that a backend works.
const COMPLETION: &str = r#"{"choices":[{"message":{"content":"ok"}}]}"#;

fn whole(status: u16, body: &'static str) -> Reply {
    Reply::Whole(status, JSON, Bytes::from_static(body.as_bytes()))
}

fn fault(code: FaultCode) -> Reply {
    Reply::Fails(RelayFault::new(code, "a sentence").into())
}

impl Served {
    /// Whom the requests so far were handed to.
    fn agents(&self) -> String {
        let sent = self.hub.sent();
        let agents: Vec<_> = sent.iter().map(|sent| sent.agent.to_string()).collect();
        agents.join(" ")
    }

    async fn chats(&self, requests: usize) -> Vec<u16> {
        let mut statuses = vec![];
        for _ in 0..requests {
            statuses.push(Answer::of(self.chat("m", false)).await.status);
        }
        statuses
    }
}

#[tokio::test]
async fn equals_take_turns() {
    let served = Served::new().await;
    for provider in ["a/p", "b/p", "c/p"] {
        served.hub.publish(provider, "m", active());
    }
    served.hub.replies((0..6).map(|_| whole(200, COMPLETION)));
    assert_eq!(served.chats(6).await, [200; 6]);
    assert_eq!(served.agents(), "a b c a b c");
}

#[tokio::test]
async fn a_provider_that_is_down_is_the_last_choice() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", down());
    served.hub.publish("b/p", "m", down());
    served.hub.publish("c/p", "m", hibernating());
    served.hub.replies([whole(200, "woken")]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    served.hub.change("c/p", |provider| provider.status = active());
    assert_eq!(asking.await.expect("an answer").status, 200);
    assert_eq!(served.agents(), "c");

    served.hub.change("c/p", |provider| provider.status = inactive());
    served.hub.replies([whole(200, "it is back")]);
    assert_eq!(served.chats(1).await, [200], "only it can tell that it is back");
    assert_eq!(served.agents(), "c a");
}

#[tokio::test]
async fn a_request_goes_on_from_one_provider_that_is_down_to_the_next() {
    let served = Served::new().await;
    for provider in ["a/p", "b/p", "c/p"] {
        served.hub.publish(provider, "m", down());
    }
    let unavailable = || fault(FaultCode::BackendUnavailable);
    served
        .hub
        .replies([unavailable(), unavailable(), whole(200, "it is back")]);
    assert_eq!(served.chats(1).await, [200]);
    assert_eq!(served.agents(), "a b c");

    served.hub.change("a/p", |provider| provider.status = active());
    served.hub.replies([unavailable(), whole(200, "it is back")]);
    assert_eq!(served.chats(1).await, [200]);
    let agents = served.agents();
    assert!(
        agents.starts_with("a b c a "),
        "the one that is awake first: {agents}"
    );

    served.hub.replies([unavailable(), unavailable(), unavailable()]);
    assert_eq!(served.chats(1).await, [502], "each once");
}

#[tokio::test]
async fn the_error_of_a_provider_that_is_down_says_for_how_long() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/p", "m", down());
    served.hub.replies([fault(FaultCode::BackendUnavailable)]);
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (502, "backend_unavailable")
    );
    let text = answer.text();
    assert!(
        text.contains("gpu-box/p's backend is unavailable: a sentence; it has been failing for "),
        "{text}"
    );
    assert_eq!(served.hub.sent().len(), 1);
}

#[tokio::test]
async fn a_request_that_a_member_did_not_take_goes_on_until_one_takes_it() {
    for missed in [
        || fault(FaultCode::BackendUnavailable),
        || Reply::Fails(RelayError::NoResponders),
        || whole(404, r#"{"error":{"message":"model not found"}}"#),
        || whole(302, ""),
        || whole(401, "{}"),
        || whole(502, "<html>"),
        || whole(503, "{}"),
    ] {
        let served = Served::new().await;
        for provider in ["a/p", "b/p", "c/p"] {
            served.hub.publish(provider, "m", active());
        }
        served.hub.replies([missed(), missed()]);
        served.hub.replies((0..4).map(|_| whole(200, COMPLETION)));
        assert_eq!(served.chats(4).await, [200; 4]);
        assert_eq!(served.agents(), "a b c c c c", "nobody pays twice");
    }
}

#[tokio::test]
async fn a_sleeping_member_is_woken_for_a_request_that_no_other_takes() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", active());
    served.hub.publish("b/p", "m", hibernating());
    served
        .hub
        .replies([fault(FaultCode::BackendUnavailable), whole(200, "woken")]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    served.hub.change("b/p", |provider| provider.status = active());
    let answer = asking.await.expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "woken"));
    assert_eq!(served.agents(), "a b");
}

#[tokio::test]
async fn a_request_that_a_backend_has_ended_goes_to_one_other_and_never_to_the_same() {
    for failed in [|| whole(500, "{}"), || fault(FaultCode::BackendFailed)] {
        let served = Served::new().await;
        for provider in ["a/p", "b/p", "c/p"] {
            served.hub.publish(provider, "m", active());
        }
        served.hub.replies([failed(), failed(), whole(200, COMPLETION)]);
        let statuses = served.chats(2).await;
        assert!(statuses[0] >= 500, "it may break every backend: {statuses:?}");
        assert_eq!(statuses[1], 200);
        assert_eq!(served.agents(), "a b c");
    }
}

#[tokio::test]
async fn one_bad_request_wakes_nobody() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", active());
    served.hub.publish("b/p", "m", hibernating());
    served.hub.replies([
        whole(500, "{}"),
        whole(404, "no such path"),
        whole(200, COMPLETION),
    ]);
    assert_eq!(served.chats(3).await, [500, 404, 200]);
    assert_eq!((served.agents().as_str(), served.hub.asked()), ("a a a", 0));
}

#[tokio::test]
async fn what_the_last_backend_answered_is_told_when_no_other_can_be_asked() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", active());
    served.hub.publish("b/p", "m", active());
    let body = r#"{"error":{"message":"the model is gone"}}"#;
    served
        .hub
        .replies([whole(404, body), fault(FaultCode::BackendUnavailable)]);
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!((answer.status, answer.text().as_str()), (404, body));
    assert_eq!(answer.header("x-reveille-provider"), Some("a/p"));
}

#[tokio::test]
async fn a_stream_that_breaks_off_counts_against_its_member() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", active());
    served.hub.publish("b/p", "m", active());
    let broken = RelayFault::new(FaultCode::BackendFailed, "a sentence");
    let pieces = vec![Ok(Bytes::from_static(b"data: 1\n\n")), Err(broken.into())];
    served
        .hub
        .replies([Reply::Pieces(200, "text/event-stream", pieces)]);
    served.hub.replies((0..3).map(|_| whole(200, COMPLETION)));
    let answer = Answer::of(served.chat("m", true)).await;
    assert!(answer.text().contains("backend_unavailable"), "{}", answer.text());
    assert_eq!(served.chats(3).await, [200; 3]);
    assert_eq!(served.agents(), "a b b b");
}

#[tokio::test]
async fn failed_requests_are_shown_with_the_provider_and_counted() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", active());
    served.hub.replies([whole(500, "{}"), whole(500, "{}")]);
    assert_eq!(served.chats(2).await, [500; 2], "its own words pass");
    let row = served.get("/reveille/v1/providers/a/p").await.json();
    let failed = &row["failed_requests"];
    assert_eq!(
        (
            &failed["suspect"],
            &failed["count"],
            &failed["kind"],
            &failed["last"]
        ),
        (
            &json!(true),
            &json!(2),
            &json!("errored"),
            &json!("HTTP status 500")
        )
    );
    let page = served.get("/metrics").await.text();
    for line in [
        r#"reveille_failed_attempts_total{kind="errored"} 2"#,
        "reveille_suspect_providers 1",
    ] {
        assert!(page.lines().any(|is| is == line), "no {line} in\n{page}");
    }
    served.hub.replies([whole(200, COMPLETION)]);
    assert_eq!(served.chats(1).await, [200]);
    let row = served.get("/reveille/v1/providers/a/p").await.json();
    assert_eq!(row["failed_requests"], json!(null), "a success clears it");
    assert!(
        served
            .get("/metrics")
            .await
            .text()
            .contains("reveille_suspect_providers 0")
    );
}

#[tokio::test]
async fn a_model_that_a_backend_lacks_is_named_with_its_provider() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", active());
    let lacks = r#"{"error":"model \"m\" not found, try pulling it first"}"#;
    served.hub.replies([whole(404, lacks)]);
    assert_eq!(served.chats(1).await, [404]);
    let row = served.get("/reveille/v1/providers/a/p").await.json();
    assert_eq!(
        row["failed_requests"]["last"],
        "HTTP status 404: it doesn't have the model `m`"
    );
}

#[tokio::test]
async fn a_provider_that_is_down_is_listed_so() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", down());
    let model = served.get("/v1/models/m").await.json();
    assert_eq!(
        (&model["status"]["value"], &model["reveille"]["status"]),
        (&json!("unloaded"), &json!("down"))
    );
    let page = served.get("/reveille/v1/providers?status=down").await.json();
    assert_eq!(page["data"][0]["id"], "a/p", "{page}");
    let page = served.get("/metrics").await.text();
    assert!(page.contains(r#"reveille_providers{status="down"} 1"#), "{page}");
    served.hub.publish("b/p", "m", hibernating());
    let model = served.get("/v1/models/m").await.json();
    assert_eq!(model["status"]["value"], "sleeping", "the best of the pool");
}
