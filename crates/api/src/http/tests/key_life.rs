//! A key from the request that makes it to the one that revokes it, and what its limits leave it in between.

use super::{
    Answer, chat_body,
    fake_hub::{Reply, active, hibernating},
    keys::{locked, refused, with_root_and},
    limits,
};
use crate::keys::{AuthMode, MAX_KEYS};
use bytes::Bytes;
use serde_json::json;
use std::{sync::atomic::Ordering, time::Duration};

#[tokio::test]
async fn a_key_is_shown_once_and_its_life_is_listed() {
    let (served, root) = locked().await;
    let terms = json!({"name": "the laptop", "scopes": ["infer:*", "query", "query"], "expires_in_s": 100,
        "rate": 600, "concurrency": 8, "wakes_per_hour": 20, "progress": "delta", "priority": "low"});
    let (id, key) = served.make(&root, terms).await;
    assert!(key.starts_with(&format!("rv_{id}_")));
    assert_eq!(served.get_with(&key, "/v1/models").await.status, 200);
    let list = served.get_with(&root, "/reveille/v1/keys").await;
    let row = list.json()["data"][0].clone();
    let now = served.hub.now().as_millis();
    assert_eq!(
        row,
        json!({"id": id, "status": "issued", "name": "the laptop", "scopes": ["query", "infer:*"],
            "rate": 600, "concurrency": 8, "wakes_per_hour": 20, "progress": "delta", "priority": "low", "created_at_ms": now,
            "expires_at_ms": now + 100_000, "rotated_at_ms": null, "previous_valid_until_ms": null,
            "revoked_at_ms": null, "last_used_ms": now, "requests": 1, "updated_seq": 41})
    );
    let secret = &key[key.len() - 43..];
    assert!(!list.text().contains(secret));
    served.hub.secs.store(100, Ordering::SeqCst);
    assert_eq!(
        refused(&served.get_with(&key, "/v1/models").await, 401),
        "expired_api_key"
    );
    let row = served.get_with(&root, "/reveille/v1/keys").await.json();
    assert_eq!(row["data"][0]["status"], "expired");
}

#[tokio::test]
async fn a_key_may_say_how_its_streams_report_that_they_wait() {
    let mut limits = limits();
    limits.timings.quiet = Duration::from_millis(30);
    let (served, root) = with_root_and(AuthMode::Required, limits).await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    for (progress, begins) in [("delta", "data: {"), ("comment", ": waking"), ("", ": waking")] {
        let mut terms = json!({ "name": "n", "scopes": ["infer:*"] });
        if !progress.is_empty() {
            terms["progress"] = progress.into();
        }
        let (_, key) = served.make(&root, terms).await;
        let request = served.chat("m", true).bearer_auth(key);
        let mut response = request.send().await.expect("an answer");
        let first = response.chunk().await.expect("a piece").expect("not the end");
        assert!(first.starts_with(begins.as_bytes()), "{progress}: {first:?}");
    }
}

#[tokio::test]
async fn a_rotated_secret_is_good_for_its_grace_and_a_revoked_key_for_nothing() {
    let (served, root) = locked().await;
    let (id, old) = served
        .make(&root, json!({ "name": "n", "scopes": ["infer:*"] }))
        .await;
    let path = format!("/reveille/v1/keys/{id}");
    let rotate = served.post(&format!("{path}/rotate"), &json!({ "grace_s": 60 }));
    let new = Answer::of(rotate.bearer_auth(&root)).await.json()["key"].clone();
    let new = new.as_str().expect("a key");
    let status = async |key: &str| served.get_with(key, "/v1/models").await.status;
    assert_eq!((status(&old).await, status(new).await), (200, 200));
    served.hub.secs.store(60, Ordering::SeqCst);
    assert_eq!((status(&old).await, status(new).await), (401, 200));
    // Without a body there is no grace.
    let rotate = served.client.post(format!("{}{path}/rotate", served.url));
    let newest = Answer::of(rotate.bearer_auth(&root)).await.json()["key"].clone();
    let newest = newest.as_str().expect("a key");
    assert_eq!((status(new).await, status(newest).await), (401, 200));
    let revoke = || {
        served
            .client
            .delete(format!("{}{path}", served.url))
            .bearer_auth(&root)
    };
    for _ in 0..2 {
        let revoked = Answer::of(revoke()).await;
        assert_eq!(
            (revoked.status, &revoked.json()["status"]),
            (200, &json!("revoked"))
        );
    }
    assert_eq!(status(newest).await, 401);
    let rotate = served.post(&format!("{path}/rotate"), &json!({}));
    assert_eq!(
        refused(&Answer::of(rotate.bearer_auth(&root)).await, 409),
        "key_conflict"
    );
}

#[tokio::test]
async fn what_makes_no_key_is_said() {
    let (served, root) = locked().await;
    let many: Vec<_> = (0..65).map(|n| format!("infer:m{n}")).collect();
    for (body, says) in [
        (json!({}), "name"),
        (json!([]), "invalid"),
        (json!({"name": "", "scopes": ["query"]}), "name"),
        (json!({"name": "n", "scopes": []}), "scopes"),
        (json!({"name": "n", "scopes": many}), "scopes"),
        (json!({"name": "n", "scopes": ["everything"]}), "infer:<model>"),
        (json!({"name": "n", "scopes": ["query"], "rate": 0}), "rate"),
        (
            json!({"name": "n", "scopes": ["query"], "concurrency": 100_000}),
            "concurrency",
        ),
        (
            json!({"name": "n", "scopes": ["query"], "wakes_per_hour": 1_001}),
            "wakes per hour",
        ),
        (
            json!({"name": "n", "scopes": ["query"], "wakes_per_hour": -1}),
            "invalid",
        ),
        (
            json!({"name": "n", "scopes": ["query"], "expires_in_s": 0}),
            "future",
        ),
        (
            json!({"name": "n", "scopes": ["query"], "expires": "30d"}),
            "unknown field",
        ),
    ] {
        let answer = Answer::of(served.post("/reveille/v1/keys", &body).bearer_auth(&root)).await;
        refused(&answer, 400);
        assert!(answer.text().contains(says), "{body}: {}", answer.text());
    }
    for (method, path, status) in [
        ("POST", "/reveille/v1/keys/nosuchkey1/rotate", 404),
        ("DELETE", "/reveille/v1/keys/nosuchkey1", 404),
        ("DELETE", "/reveille/v1/keys/NO", 400),
        ("GET", "/reveille/v1/keys?after=NO", 400),
        ("GET", "/reveille/v1/keys/nosuchkey1", 405),
    ] {
        let request = served
            .client
            .request(method.parse().expect("a method"), format!("{}{path}", served.url));
        refused(&Answer::of(request.bearer_auth(&root)).await, status);
    }
    assert_eq!(served.hub.registry.keys().count(), 0);
}

#[tokio::test]
async fn a_key_beyond_its_rate_waits() {
    let (served, root) = locked().await;
    let terms = json!({ "name": "n", "scopes": ["infer:*"], "rate": 2 });
    let (_, key) = served.make(&root, terms).await;
    for _ in 0..2 {
        assert_eq!(served.get_with(&key, "/v1/models").await.status, 200);
    }
    let refusal = served.get_with(&key, "/v1/models").await;
    assert_eq!(refused(&refusal, 429), "rate_limit_exceeded");
    assert_eq!(
        served.get_with(&root, "/v1/models").await.status,
        200,
        "others don't"
    );
}

#[tokio::test]
async fn a_rotation_gives_nothing_back_of_what_a_key_has_used() {
    let (served, root) = locked().await;
    let terms = json!({ "name": "n", "scopes": ["infer:*"], "rate": 1 });
    let (id, key) = served.make(&root, terms).await;
    assert_eq!(served.get_with(&key, "/v1/models").await.status, 200);
    let rotate = served.post(&format!("/reveille/v1/keys/{id}/rotate"), &json!({}));
    let rotated = Answer::of(rotate.bearer_auth(&root)).await.json();
    let refusal = served
        .get_with(rotated["key"].as_str().expect("a key"), "/v1/models")
        .await;
    assert_eq!(refused(&refusal, 429), "rate_limit_exceeded");
}

#[tokio::test]
async fn there_are_so_many_keys_and_no_more() {
    let (served, root) = locked().await;
    for number in 0..MAX_KEYS {
        let id = format!("k{number:09}").parse().expect("legal");
        served.hub.registry.keys().take_unreadable(id, 1);
    }
    let terms = json!({ "name": "n", "scopes": ["query"] });
    let more = Answer::of(served.post("/reveille/v1/keys", &terms).bearer_auth(&root)).await;
    assert_eq!(refused(&more, 409), "too_many_keys");
}

#[tokio::test]
async fn a_stream_counts_while_it_streams_and_a_client_that_leaves_gives_its_place_back() {
    let (served, root) = locked().await;
    served.hub.publish("a/vllm", "m", active());
    let terms = json!({ "name": "n", "scopes": ["infer:*"], "concurrency": 1 });
    let (_, key) = served.make(&root, terms).await;
    let first = Bytes::from_static(b"data: {}\n\n");
    served.hub.replies([Reply::Stalls("text/event-stream", first)]);
    let mut streaming = served
        .chat("m", true)
        .bearer_auth(&key)
        .send()
        .await
        .expect("an answer");
    assert!(streaming.chunk().await.expect("a piece").is_some());
    assert_eq!(
        refused(&served.get_with(&key, "/v1/models").await, 429),
        "concurrency_exceeded"
    );
    drop(streaming);
    served
        .hub
        .until("the request is cancelled", |hub| {
            hub.open.load(Ordering::SeqCst) == 0
        })
        .await;
    assert_eq!(served.get_with(&key, "/v1/models").await.status, 200);
    // One after the other: each has given its place back before its client can know that it is over.
    let pieces = || {
        Reply::Pieces(
            200,
            "text/event-stream",
            vec![Ok(Bytes::from_static(b"data: [DONE]\n\n"))],
        )
    };
    for round in 0..50 {
        served.replies_hello(1);
        assert_eq!(served.chat_with(&key, "m").await.status, 200, "{round}");
        served.hub.replies([pieces()]);
        let streamed = Answer::of(served.chat("m", true).bearer_auth(&key)).await;
        assert_eq!(streamed.status, 200, "{round}");
    }
}

#[tokio::test]
async fn a_wake_names_the_key_that_asked_for_it() {
    let (served, root) = locked().await;
    served.hub.publish("a/vllm", "m", hibernating());
    let (id, key) = served
        .make(&root, json!({ "name": "n", "scopes": ["infer:*"] }))
        .await;
    let asked = served
        .post("/v1/chat/completions", &chat_body("m", false))
        .bearer_auth(&key);
    let asked = Answer::of(asked.header("x-reveille-wake", "async")).await;
    assert_eq!(refused(&asked, 503), "waking");
    let causes = served.hub.causes();
    assert_eq!(
        causes
            .first()
            .and_then(|cause| cause.key())
            .map(ToString::to_string),
        Some(id)
    );
}
