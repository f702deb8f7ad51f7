//! Each request has one record, which says how it went and nothing of what it said; and who sees it.

use super::{
    Answer, Served,
    fake_hub::{Reply, active, hibernating, inactive},
    keys::{locked, refused},
    streams::{EVENTS, failed, impatient, piece, rest, waiting},
};
use bytes::Bytes;
use reveille_bus::relay::{FaultCode, RelayError, RelayFault};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

impl Served {
    /// The records, the last received first.
    async fn records(&self, query: &str) -> Vec<Value> {
        let page = self.get(&format!("/reveille/v1/requests{query}")).await;
        assert_eq!(page.status, 200, "{}", page.text());
        page.json()["data"].as_array().expect("a list").clone()
    }

    /// The only record, once its request has ended.
    async fn record(&self) -> Value {
        for _ in 0..500 {
            let records = self.records("").await;
            assert!(records.len() <= 1, "{records:?}");
            if let Some(record) = records.first().filter(|record| record["outcome"] != "in_flight") {
                return record.clone();
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("there is no record that has ended: {:?}", self.records("").await)
    }
}

/// The steps that a record has.
fn steps(record: &Value) -> Vec<&str> {
    let steps = record["steps"].as_array().expect("steps").iter();
    steps.map(|step| step["step"].as_str().expect("a step")).collect()
}

const COMPLETION: &str =
    r#"{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":5,"completion_tokens":9}}"#;

#[tokio::test]
async fn a_warm_request_is_recorded_with_its_steps_and_tokens() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served
        .hub
        .replies([Reply::Whole(200, "application/json", Bytes::from(COMPLETION))]);
    let answer = Answer::of(served.chat("m", false).header("x-request-id", "mine")).await;
    assert_eq!(answer.status, 200);
    let record = served.record().await;
    assert_eq!(steps(&record), ["read", "chosen", "sent"], "{record}");
    assert_eq!(record["steps"][1]["why"], "it is awake");
    for (field, expected) in [
        ("request_id", json!("mine")),
        ("replica", json!("test")),
        ("key", Value::Null),
        ("path", json!("/v1/chat/completions")),
        ("model", json!("m")),
        ("stream", json!(false)),
        ("provider", json!("gpu-box/vllm")),
        ("wake_id", Value::Null),
        ("outcome", json!("done")),
        ("status", json!(200)),
        ("error", Value::Null),
        ("tokens", json!({"input": 5, "output": 9, "estimated": false})),
        ("answer_bytes", json!(COMPLETION.len())),
    ] {
        assert_eq!(record[field], expected, "{field}");
    }
    let one = served.get("/reveille/v1/requests/mine").await;
    assert_eq!(one.json(), record);
    let by_record = served
        .get(&format!(
            "/reveille/v1/requests/{}",
            record["record_id"].as_str().expect("an id")
        ))
        .await;
    assert_eq!(by_record.json(), record);
    let missing = served.get("/reveille/v1/requests/other").await;
    assert_eq!((missing.status, missing.error().as_str()), (404, "not_found"));
    let usage = served.get("/reveille/v1/usage").await.json();
    let row = &usage["data"][0];
    assert_eq!((&row["requests"], &row["failures"]), (&json!(1), &json!(0)));
    assert_eq!((&row["tokens_in"], &row["tokens_out"]), (&json!(5), &json!(9)));
}

#[tokio::test]
async fn a_stream_without_usage_has_an_estimate_and_passes_unchanged() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let token = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let done = "data: [DONE]\n\n";
    let pieces = vec![piece(token), piece(token), piece(done)];
    served.hub.replies([Reply::Pieces(200, EVENTS, pieces)]);
    let answer = Answer::of(served.chat("m", true)).await;
    assert_eq!(answer.text(), [token, token, done].concat());
    let record = served.record().await;
    assert_eq!(record["outcome"], "done", "{record}");
    assert_eq!(
        record["tokens"],
        json!({"input": null, "output": 2, "estimated": true})
    );
}

#[tokio::test]
async fn a_request_that_waits_for_a_wake_is_seen_while_it_waits_and_names_the_wake() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    served
        .hub
        .replies([Reply::Whole(200, "application/json", Bytes::from(COMPLETION))]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    let waiting = &served.records("").await[0];
    assert_eq!(waiting["outcome"], "in_flight");
    assert_eq!(steps(waiting), ["read", "chosen", "waking"], "{waiting}");
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.status = active());
    let answer = asking.await.expect("an answer");
    let record = served.record().await;
    assert_eq!(
        record["wake_id"].as_str(),
        answer.header("x-reveille-wake-id"),
        "{record}"
    );
    assert_eq!(steps(&record), ["read", "chosen", "waking", "sent"], "{record}");
}

#[tokio::test]
async fn a_failure_is_recorded_with_its_code_and_reason_however_it_reaches_the_client() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    served.hub.refuse(failed());
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(answer.error(), "wake_failed");
    let record = served.record().await;
    assert_eq!(record["error"]["code"], "wake_failed", "{record}");
    let reason = record["error"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("the controller answered 500"), "{reason}");
    assert_eq!(
        (&record["status"], &record["outcome"]),
        (&json!(503), &json!("failed"))
    );
    assert_eq!(record["provider"], "gpu-box/vllm");
    assert!(record["wake_id"].is_string());
    assert_eq!(steps(&record).last(), Some(&"missed"));

    let served = impatient().await;
    let (response, _) = waiting(&served, "comment").await;
    served.hub.fail_wakes(failed());
    assert!(rest(response).await.contains("wake_failed"));
    let record = served.record().await;
    assert_eq!(record["error"]["code"], "wake_failed", "{record}");
    assert_eq!(
        (&record["status"], &record["outcome"]),
        (&json!(200), &json!("failed"))
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut_and_a_client_that_leaves_is_disconnected() {
    for kind in [EVENTS, "application/octet-stream"] {
        let served = Served::new().await;
        served.hub.publish("gpu-box/vllm", "m", active());
        let pieces = vec![
            piece("data: 1\n\n"),
            Err(RelayError::Silent { silent_ms: 15_000 }),
        ];
        served.hub.replies([Reply::Pieces(200, kind, pieces)]);
        let _ = Answer::of(served.chat("m", true)).await;
        let record = served.record().await;
        assert_eq!(
            (&record["outcome"], &record["error"]["code"]),
            (&json!("cut"), &json!("relay_failed")),
            "{record}"
        );
    }
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.replies([
        Reply::Stalls(EVENTS, Bytes::from_static(b"data: 1\n\n")),
        Reply::Hangs,
    ]);
    let mut response = served.chat("m", true).send().await.expect("an answer");
    let _ = response.chunk().await.expect("a piece");
    drop(response);
    let record = served.record().await;
    assert_eq!(
        (&record["outcome"], &record["error"]),
        (&json!("disconnected"), &Value::Null)
    );
    assert_eq!(record["answer_bytes"], 9);

    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("it is sent", |hub| hub.sent().len() == 2).await;
    asking.abort();
    let disconnected = async || {
        let records = served.records("").await;
        records.len() == 2 && records[0]["outcome"] == "disconnected"
    };
    for _ in 0..500 {
        if disconnected().await {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", served.records("").await);
}

#[tokio::test]
async fn a_record_says_why_a_member_was_chosen_what_spoke_against_others_and_where_it_failed_first() {
    let served = Served::new().await;
    for (provider, status) in [("a/p", active()), ("b/p", active()), ("c/p", inactive())] {
        served.hub.publish(provider, "m", status);
    }
    let unavailable = RelayFault::new(FaultCode::BackendUnavailable, "connection refused");
    served.hub.replies([
        Reply::Fails(unavailable.into()),
        Reply::Whole(200, "application/json", Bytes::from(COMPLETION)),
    ]);
    assert_eq!(Answer::of(served.chat("m", false)).await.status, 200);
    let record = served.record().await;
    assert_eq!(
        steps(&record),
        ["read", "chosen", "sent", "missed", "chosen", "sent"],
        "{record}"
    );
    let chosen = &record["steps"][1];
    assert_eq!((&chosen["provider"], &chosen["of"]), (&json!("a/p"), &json!(3)));
    assert_eq!(
        chosen["others"][1],
        json!({"provider": "c/p", "why": "its agent is lost or stopped"})
    );
    let missed = &record["steps"][3];
    assert_eq!(missed["provider"], "a/p");
    assert!(
        missed["why"]
            .as_str()
            .expect("why")
            .contains("connection refused"),
        "{missed}"
    );
    assert_eq!(
        (&record["provider"], &record["outcome"]),
        (&json!("b/p"), &json!("done"))
    );
}

#[tokio::test]
async fn no_prompt_and_nothing_else_of_a_request_that_is_wrong_is_in_a_record() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let url = |path: &str| format!("{}{path}", served.url);
    for body in [
        r#"{"model":"m","messages":"sesame"}"#,
        r#"{"model":"sesame","messages":[]}"#,
        r#"{"model":7,"messages":["sesame"]}"#,
        r#"{"model":"m","sesame":"#,
        r#"{"Model":"m","messages":[{"content":"sesame"}]}"#,
    ] {
        let request = served.client.post(url("/v1/chat/completions"));
        let request = request.header("content-type", "application/json").body(body);
        assert!(Answer::of(request).await.status >= 400, "{body}");
    }
    let request = served.client.post(url("/v1/audio/transcriptions"));
    let request = request
        .header("content-type", "multipart/form-data; boundary=sesame")
        .body("sesame");
    assert_eq!(Answer::of(request).await.status, 400);
    let _ = served.get("/v1/responses/resp_sesame").await;
    let records = served.records("?limit=50").await;
    assert_eq!(records.len(), 7, "{records:?}");
    for record in &records {
        assert!(!record.to_string().contains("sesame"), "{record}");
        assert_eq!(record["outcome"], "failed");
        assert!(
            record["error"]["code"].is_string() && record["status"].is_u64(),
            "{record}"
        );
    }
}

#[tokio::test]
async fn requests_are_filtered_and_paged() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.publish("gpu-box/ollama", "n", inactive());
    let completion = || Reply::Whole(200, "application/json", Bytes::from(COMPLETION));
    served.hub.replies([completion(), completion(), completion()]);
    for model in ["m", "n", "m", "m"] {
        let _ = Answer::of(served.chat(model, false)).await;
    }
    let count = async |query: &str| served.records(query).await.len();
    assert_eq!(count("").await, 4);
    assert_eq!(count("?model=m").await, 3);
    assert_eq!(count("?failed=true").await, 1);
    assert_eq!(count("?provider=gpu-box/ollama").await, 1);
    assert_eq!(count("?slow=true").await, 0);
    assert_eq!(count("?slow_ms=0").await, 4);
    assert_eq!(count("?since_ms=9999999999999").await, 0);
    let first = served.get("/reveille/v1/requests?limit=3").await.json();
    let next = first["next"].as_str().expect("a cursor");
    assert_eq!(count(&format!("?after={next}")).await, 1);
    for bad in ["since_ms=x", "nonsense=1", "slow=perhaps", "key=A"] {
        let answer = served.get(&format!("/reveille/v1/requests?{bad}")).await;
        assert_eq!(answer.error(), "invalid_query", "{bad}");
    }
    for list in ["requests", "usage"] {
        let answer = served.get(&format!("/reveille/v1/{list}?after=x")).await;
        assert_eq!(answer.error(), "invalid_cursor", "{list}");
    }
}

#[tokio::test]
async fn a_key_sees_its_own_requests_and_usage_and_one_with_admin_sees_all() {
    let (served, root) = locked().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let mut made = vec![];
    for scopes in [&["infer:*"][..], &["infer:*", "query"], &["infer:*", "admin"]] {
        made.push(served.make(&root, json!({ "name": "n", "scopes": scopes })).await);
    }
    served.replies_hello(made.len());
    for (id, key) in &made {
        let request = served
            .chat("m", false)
            .bearer_auth(key)
            .header("x-request-id", id);
        assert_eq!(Answer::of(request).await.status, 200);
    }
    let (admin, others) = (&made[2], &made[..2]);
    for list in ["requests", "usage"] {
        let keys = async |key: &str| {
            let page = served.get_with(key, &format!("/reveille/v1/{list}")).await.json();
            let rows = page["data"].as_array().expect("a list").iter();
            let mut keys: Vec<_> = rows
                .map(|row| row["key"].as_str().expect("a key").to_owned())
                .collect();
            keys.sort();
            keys
        };
        for (id, key) in others {
            assert_eq!(keys(key).await, [id.as_str()], "{list}");
            let own = served
                .get_with(key, &format!("/reveille/v1/{list}?key={id}"))
                .await;
            assert_eq!(own.status, 200);
            let anothers = served
                .get_with(key, &format!("/reveille/v1/{list}?key={}", admin.0))
                .await;
            assert_eq!(refused(&anothers, 403), "insufficient_scope");
        }
        let mut all: Vec<_> = made.iter().map(|(id, _)| id.clone()).collect();
        all.sort();
        assert_eq!(keys(&admin.1).await, all, "{list}");
        assert_eq!(keys(&root).await, all, "{list}");
        assert_eq!(
            refused(&served.get(&format!("/reveille/v1/{list}")).await, 401),
            "missing_api_key"
        );
    }
    let one = async |key: &str, id: &str| {
        let answer = served.get_with(key, &format!("/reveille/v1/requests/{id}")).await;
        answer.status
    };
    assert_eq!(one(&others[0].1, &others[0].0).await, 200);
    assert_eq!(
        one(&others[0].1, &others[1].0).await,
        404,
        "it doesn't exist for this key"
    );
    assert_eq!(one(&admin.1, &others[1].0).await, 200);
}

#[tokio::test]
async fn why_answers_for_a_request_a_provider_and_a_model_to_those_who_may_ask() {
    let (served, root) = locked().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.publish("gpu-box/ollama", "n", hibernating());
    let (_, key) = served
        .make(&root, json!({ "name": "n", "scopes": ["infer:*"] }))
        .await;
    let (_, other) = served
        .make(&root, json!({ "name": "o", "scopes": ["infer:*", "query"] }))
        .await;
    served.replies_hello(1);
    let request = served
        .chat("m", false)
        .bearer_auth(&key)
        .header("x-request-id", "mine");
    assert_eq!(Answer::of(request).await.status, 200);
    let why = async |key: &str, id: &str| served.get_with(key, &format!("/reveille/v1/why/{id}")).await;
    let own = why(&key, "mine").await.json();
    assert_eq!((&own["about"], &own["id"]), (&json!("request"), &json!("mine")));
    assert!(
        own["chain"][0]["what"]
            .as_str()
            .expect("words")
            .contains("asked for `m`"),
        "{own}"
    );
    assert_eq!(why(&other, "mine").await.status, 404, "it is another key's");
    assert_eq!(why(&root, "mine").await.status, 200);
    for (id, about, summary) in [
        (
            "gpu-box/vllm",
            "provider",
            "gpu-box/vllm would get the next request at once",
        ),
        ("n", "model", "the next request would wake gpu-box/ollama"),
        ("gpu-box/n", "model", "the next request would wake gpu-box/ollama"),
    ] {
        let answer = why(&other, id).await.json();
        assert_eq!(
            (&answer["about"], &answer["summary"]),
            (&json!(about), &json!(summary)),
            "{id}"
        );
        assert_eq!(why(&key, id).await.status, 404, "{id} is for those who may query");
    }
    assert_eq!(why(&root, "nothing").await.error(), "not_found");
}
