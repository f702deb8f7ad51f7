//! What a request means that isn't written as it should be: its path, its body, its model; and what carries its id.

use super::{
    Answer, DEFAULT_MODEL, Served,
    fake_hub::{Reply, active},
    keys::{locked, with_root},
};
use crate::keys::AuthMode;
use axum::http::Method;
use bytes::Bytes;
use reveille_bus::relay::{FaultCode, RelayFault};
use serde_json::json;
use std::collections::HashSet;
use uuid::Uuid;

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m","messages":[]}"#;

async fn post(served: &Served, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = served.client.post(format!("{}{path}", served.url));
    Answer::of(request.header("content-type", "application/json").body(body)).await
}

#[tokio::test]
async fn a_path_is_answered_as_its_client_means_it() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.publish("gpu-box/path", "/srv/llama/", active());
    let paths = [
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/v1/chat/completions",
        "/chat/completions",
        "/v1/chat/completions?api-version=1",
    ];
    served.replies_hello(paths.len());
    for path in paths {
        let answer = post(&served, path, BODY).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(served.hub.sent().last().expect("sent").head.path, CHAT);
    }
    for path in ["/models", "/v1/models/", "/v1//models"] {
        let answer = served.get(path).await;
        assert_eq!(
            (answer.status, &answer.json()["object"]),
            (200, &json!("list")),
            "{path}"
        );
    }
    for (path, id) in [
        ("/v1/models/m", "m"),
        ("/v1/models/m/", "m"),
        ("/v1/models//srv/llama/", "/srv/llama/"),
        ("/v1/models/%2Fsrv%2Fllama%2F", "/srv/llama/"),
    ] {
        let answer = served.get(path).await;
        assert_eq!((answer.status, &answer.json()["id"]), (200, &json!(id)), "{path}");
    }
    assert_eq!(served.get("/livez/").await.status, 200);
}

#[tokio::test]
async fn any_other_path_is_told_the_base_url() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for path in [
        "/openai/v1/chat/completions",
        "/apis/chat",
        "/V1/chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/engines/m/completions",
    ] {
        let answer = post(&served, path, BODY).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (404, "not_found"),
            "{path}"
        );
        let base = format!("{}/v1,", served.url);
        assert!(answer.text().contains(&base), "{path}: {}", answer.text());
    }
    let behind_a_proxy = served
        .client
        .get(format!("{}/nothing", served.url))
        .header("x-forwarded-proto", "https");
    let answer = Answer::of(behind_a_proxy).await;
    let base = format!("https://{}/v1", served.address());
    assert!(answer.text().contains(&base), "{}", answer.text());
    assert!(served.hub.sent().is_empty());
}

#[tokio::test]
async fn no_spelling_of_a_path_is_a_way_around_a_check() {
    let (served, _) = locked().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let paths = [
        (Method::POST, "/chat/completions"),
        (Method::POST, "//v1//v1/chat/completions/"),
        (Method::GET, "/models"),
        (Method::GET, "//metrics/"),
        (Method::GET, "/reveille//v1//keys"),
        (Method::POST, "//reveille/v1/keys/"),
        (Method::DELETE, "/reveille/v1//agents/gpu-box"),
    ];
    let ask = |served: &Served, method: &Method, path: &str| {
        let request = served
            .client
            .request(method.clone(), format!("{}{path}", served.url));
        request.header("content-type", "application/json").body(BODY)
    };
    for (method, path) in &paths {
        let answer = Answer::of(ask(&served, method, path)).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (401, "missing_api_key"),
            "{path}"
        );
    }
    let (served, _) = with_root(AuthMode::Open).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for (method, path) in [
        (Method::POST, "/chat/completions"),
        (Method::POST, "//v1/v1/chat/completions/"),
        (Method::GET, "//reveille/v1/events/?follow=true"),
        (Method::POST, "/reveille/v1//keys/"),
    ] {
        let request = ask(&served, &method, path).header("origin", "https://evil.example");
        let answer = Answer::of(request).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (403, "origin_not_allowed"),
            "{path}"
        );
    }
    assert!(served.hub.sent().is_empty());
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.replies_hello(2);
    for body in [format!("\u{feff}{BODY}"), format!("\u{feff}\r\n{BODY}")] {
        let answer = post(&served, CHAT, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let sent = served.hub.sent().last().expect("sent").body.clone();
        assert_eq!(sent, BODY, "the backend can parse it");
    }
    let utf_16: Vec<u8> = BODY.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (body, says) in [
        ([b"\xff\xfe".as_slice(), &utf_16].concat(), "UTF-8"),
        ("\u{feff}".into(), "empty"),
        (format!("\u{feff}\u{feff}{BODY}").into(), "JSON"),
    ] {
        let answer = post(&served, CHAT, body).await;
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_json"));
        assert!(answer.text().contains(says), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_body_of_another_type_is_told_the_header_to_send() {
    let served = Served::new().await;
    for (header, value, says) in [
        (
            "content-type",
            "application/x-www-form-urlencoded",
            "content-type: application/json",
        ),
        (
            "content-type",
            "multipart/form-data; boundary=x",
            "content-type: application/json",
        ),
        ("content-encoding", "gzip", "gzip"),
    ] {
        let request = served.client.post(format!("{}{CHAT}", served.url));
        let answer = Answer::of(request.header(header, value).body(BODY)).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (415, "unsupported_media_type")
        );
        assert!(answer.text().contains(says), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_request_without_a_model_gets_the_default_one_and_so_does_its_backend() {
    let served = Served::new().await;
    let bodies = [
        (r#"{"messages":[]}"#, r#"{"model":"usual","messages":[]}"#),
        (
            r#"{"model":null,"messages":[]}"#,
            r#"{"model":"usual","messages":[]}"#,
        ),
        (
            r#"{"messages":[],"model":""}"#,
            r#"{"messages":[],"model":"usual"}"#,
        ),
    ];
    for ((body, _), code) in bodies
        .iter()
        .zip(["missing_field", "invalid_type", "invalid_model"])
    {
        let answer = post(&served, CHAT, *body).await;
        assert_eq!((answer.status, answer.error().as_str()), (400, code));
        assert!(
            answer.text().contains("no model is available"),
            "{}",
            answer.text()
        );
    }
    served.hub.publish("gpu-box/other", "other", active());
    let answer = post(&served, CHAT, bodies[0].0).await;
    assert_eq!((answer.status, answer.error().as_str()), (400, "missing_field"));
    assert!(answer.text().contains("such as other"), "{}", answer.text());
    served.hub.publish("gpu-box/vllm", DEFAULT_MODEL, active());
    served.replies_hello(bodies.len());
    for (body, whole) in bodies {
        let answer = post(&served, CHAT, body).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(served.hub.sent().last().expect("sent").body, whole);
    }
}

#[tokio::test]
async fn a_key_gets_the_default_model_only_if_it_may_use_it() {
    let (served, root) = locked().await;
    served.hub.publish("gpu-box/vllm", DEFAULT_MODEL, active());
    served.hub.publish("gpu-box/other", "other", active());
    served.hub.publish("gpu-box/third", "third", active());
    let ask = async |scope: &str| {
        let key = served.key_for(&root, &[scope]).await;
        let request = served.post(CHAT, &json!({ "messages": [] }));
        Answer::of(request.bearer_auth(key)).await
    };
    served.replies_hello(1);
    assert_eq!(ask("infer:usual").await.status, 200);
    let refused = ask("infer:other").await;
    assert_eq!((refused.status, refused.error().as_str()), (400, "missing_field"));
    let text = refused.text();
    assert!(text.contains("such as other"), "{text}");
    assert!(!text.contains(DEFAULT_MODEL) && !text.contains("third"), "{text}");
}

#[tokio::test]
async fn each_attempt_has_an_id_of_its_own_and_callers_and_wakes_keep_theirs() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", active());
    served.hub.publish("b/vllm", "m", active());
    let hello = || Reply::Whole(200, "application/json", Bytes::from_static(b"{}"));
    let gone = RelayFault::new(FaultCode::BackendUnavailable, "a sentence");
    served
        .hub
        .replies([Reply::Fails(gone.into()), hello(), hello(), hello(), hello()]);
    let uuid = "0192f0c1-2b3a-7c4d-8e5f-60718293a4b5";
    for id in [Some("mine"), Some("mine"), Some(uuid), None] {
        let request = served.chat("m", false);
        let request = match id {
            Some(id) => request.header("x-request-id", id),
            None => request,
        };
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let named = answer.header("x-request-id").expect("an id").to_owned();
        assert!(id.is_none_or(|id| id == named), "{named}");
        let sent = served.hub.sent();
        let sent = sent.last().expect("sent").request_id();
        let number = sent.strip_prefix("mine-").map(str::parse::<u64>);
        match id {
            Some("mine") => assert!(number.is_some_and(|number| number.is_ok()), "{sent}"),
            _ => assert!(
                Uuid::try_parse(&sent).is_ok(),
                "some backends take only UUIDs: {sent}"
            ),
        }
    }
    let sent = served.hub.sent();
    let ids: HashSet<_> = sent.iter().map(super::fake_hub::Sent::request_id).collect();
    assert_eq!((sent.len(), ids.len()), (5, 5), "{ids:?}");
}
