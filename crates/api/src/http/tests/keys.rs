//! Who is let in, to what, and how often: every way to be refused, each with its status, its code and its headers.

use super::{
    Answer, HttpLimits, Served,
    fake_hub::{Reply, active, hibernating},
    limits,
};
use crate::keys::{AuthMode, SecretKey};
use bytes::Bytes;
use reveille_domain::{ProviderSpec, rows::MemoryRows};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

const HELLO: &str = r#"{"choices":[]}"#;

/// A surface that needs keys, and its root key.
pub(super) async fn locked() -> (Served, String) {
    with_root(AuthMode::Required).await
}

pub(super) async fn with_root(mode: AuthMode) -> (Served, String) {
    with_root_and(mode, limits()).await
}

pub(super) async fn with_root_and(mode: AuthMode, limits: HttpLimits) -> (Served, String) {
    let root = SecretKey::generate().expect("randomness");
    let rows = Arc::new(MemoryRows::new());
    let served = Served::guarded(limits, rows, mode, Some(&root)).await;
    (served, root.expose().to_owned())
}

impl Served {
    pub(super) fn replies_hello(&self, times: usize) {
        let hello = || Reply::Whole(200, "application/json", Bytes::from(HELLO));
        self.hub.replies((0..times).map(|_| hello()));
    }

    pub(super) async fn get_with(&self, key: &str, path: &str) -> Answer {
        let request = self.client.get(format!("{}{path}", self.url));
        Answer::of(request.bearer_auth(key)).await
    }

    pub(super) async fn chat_with(&self, key: &str, model: &str) -> Answer {
        Answer::of(self.chat(model, false).bearer_auth(key)).await
    }

    /// Makes a key; the id and the key.
    pub(super) async fn make(&self, root: &str, terms: Value) -> (String, String) {
        let made = Answer::of(self.post("/reveille/v1/keys", &terms).bearer_auth(root)).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let made = made.json();
        let text = |name: &str| made[name].as_str().expect("text").to_owned();
        (text("id"), text("key"))
    }

    pub(super) async fn key_for(&self, root: &str, scopes: &[&str]) -> String {
        let terms = json!({ "name": "test", "scopes": scopes });
        self.make(root, terms).await.1
    }
}

/// A refusal as all of them are; its code.
pub(super) fn refused(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{}", answer.text());
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge, (status == 401).then_some("Bearer"));
    let retry = answer.header("retry-after").map(str::parse::<u64>);
    let expected = matches!(status, 429 | 503);
    assert_eq!(retry.is_some(), expected, "{retry:?}");
    assert!(retry.is_none_or(|seconds| seconds.is_ok_and(|seconds| (1..=60).contains(&seconds))));
    answer.error()
}

#[tokio::test]
async fn who_has_no_good_key_is_refused_everywhere_but_at_the_health_paths() {
    let (served, root) = locked().await;
    served.hub.publish("a/vllm", "m", active());
    let (id, _) = served
        .make(&root, json!({ "name": "n", "scopes": ["infer:*"] }))
        .await;
    let wrong = SecretKey::generate_for(reveille_domain::KeyId::parse(&id).expect("an id"));
    let wrong = wrong.expect("randomness").expose().to_owned();
    let (_, another) = served
        .make(&root, json!({ "name": "n", "scopes": ["infer:*"] }))
        .await;
    let borrowed = format!("rv_{id}_{}", &another[another.len() - 43..]);
    let stranger = SecretKey::generate().expect("randomness").expose().to_owned();
    let root_id = root.split('_').nth(1).expect("an id");
    let root_wrong = format!("rv_{root_id}_{}", "A".repeat(43));
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let bearer = |key: &str| format!("Bearer {key}");
    let (wrong_bearer, root_bearer) = (bearer(&wrong), bearer(&root));
    let rows: &[(&str, Headers<'_>, &str)] = &[
        ("no key", &[], "missing_api_key"),
        (
            "Basic",
            &[("authorization", "Basic cm9vdDpyb290")],
            "invalid_api_key",
        ),
        ("no scheme", &[("authorization", &root)], "invalid_api_key"),
        ("empty", &[("authorization", "Bearer ")], "invalid_api_key"),
        (
            "not ours",
            &[("authorization", "Bearer sk-1234")],
            "invalid_api_key",
        ),
        ("bytes", &[("authorization", "Bearer \u{e9}")], "invalid_api_key"),
        (
            "another secret",
            &[("authorization", &wrong_bearer)],
            "invalid_api_key",
        ),
        (
            "another key's secret",
            &[("x-api-key", &borrowed)],
            "invalid_api_key",
        ),
        (
            "unknown id",
            &[("authorization", &bearer(&stranger))],
            "invalid_api_key",
        ),
        (
            "root's id",
            &[("authorization", &bearer(&root_wrong))],
            "invalid_api_key",
        ),
        ("own header", &[("x-api-key", &wrong)], "invalid_api_key"),
        (
            "cut",
            &[("x-api-key", &root[..root.len() - 1])],
            "invalid_api_key",
        ),
        (
            "two keys",
            &[("authorization", &root_bearer), ("x-api-key", &wrong)],
            "invalid_api_key",
        ),
        (
            "two headers",
            &[("authorization", &root_bearer), ("authorization", &root_bearer)],
            "invalid_api_key",
        ),
        (
            "two own headers",
            &[("x-api-key", &root), ("x-api-key", &root)],
            "invalid_api_key",
        ),
    ];
    for (what, headers, code) in rows {
        for path in [
            "/v1/models",
            "/v1/models/m",
            "/reveille/v1/llms",
            "/reveille/v1/keys",
        ] {
            let mut request = served.client.get(format!("{}{path}", served.url));
            for (name, value) in *headers {
                request = request.header(*name, value.as_bytes());
            }
            let answer = Answer::of(request).await;
            assert_eq!(refused(&answer, 401), *code, "{what} {path}");
            let text = answer.text();
            for secret in [&wrong, &stranger, &root, &root_wrong] {
                assert!(!text.contains(&secret[secret.len() - 40..]), "{what}: {text}");
            }
        }
    }
    assert_eq!(
        refused(&Answer::of(served.chat("m", false)).await, 401),
        "missing_api_key"
    );
    assert_eq!(served.hub.sent().len(), 0, "nothing reached a backend");
    for path in ["/livez", "/readyz"] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    assert_eq!(refused(&served.get("/nowhere").await, 401), "missing_api_key");
    let missing = served.get_with(&root, "/nowhere").await;
    assert_eq!(refused(&missing, 404), "not_found");
}

#[tokio::test]
async fn a_good_key_comes_in_either_header_or_in_both() {
    let (served, root) = locked().await;
    let get = || served.client.get(format!("{}/v1/models", served.url));
    for request in [
        get().bearer_auth(&root),
        get().header("authorization", format!("bearer  {root}")),
        get().header("x-api-key", &root),
        get().header("x-api-key", &root).bearer_auth(&root),
    ] {
        assert_eq!(Answer::of(request).await.status, 200);
    }
}

#[tokio::test]
async fn an_open_surface_takes_any_word_but_a_wrong_key() {
    let (served, root) = with_root(AuthMode::Open).await;
    served.hub.publish("a/vllm", "m", active());
    served.replies_hello(4);
    for key in ["unused", "sk-1234", "ollama"] {
        assert_eq!(served.chat_with(key, "m").await.status, 200, "{key}");
    }
    let basic = served.chat("m", false).basic_auth("me", Some("pw"));
    assert_eq!(Answer::of(basic).await.status, 200);
    let wrong = SecretKey::generate().expect("randomness");
    for key in [wrong.expose(), "rv_", "rv_typo"] {
        assert_eq!(
            refused(&served.chat_with(key, "m").await, 401),
            "invalid_api_key",
            "{key}"
        );
    }
    // A good one counts for what it is.
    let limited = served.key_for(&root, &["query"]).await;
    assert_eq!(
        refused(&served.chat_with(&limited, "m").await, 403),
        "insufficient_scope"
    );
}

#[tokio::test]
async fn each_path_needs_its_scope() {
    let (served, root) = locked().await;
    served.hub.publish("a/vllm", "m", active());
    let [infer, query, admin] = [["infer:*"], ["query"], ["admin"]];
    let [infer, query, admin] = [
        served.key_for(&root, &infer).await,
        served.key_for(&root, &query).await,
        served.key_for(&root, &admin).await,
    ];
    let paths: [(&str, &str, &str); 16] = [
        ("GET", "/v1/models", &infer),
        ("GET", "/v1/models/m", &infer),
        ("POST", "/v1/chat/completions", &infer),
        ("POST", "/v1/completions", &infer),
        ("POST", "/v1/embeddings", &infer),
        ("GET", "/reveille/v1/llms", &query),
        ("GET", "/reveille/v1/providers", &query),
        ("GET", "/reveille/v1/providers/a/vllm", &query),
        ("GET", "/reveille/v1/wakes", &query),
        ("GET", "/reveille/v1/events", &query),
        ("GET", "/reveille/v1/status", &query),
        ("POST", "/reveille/v1/providers/a/vllm/wake", &admin),
        ("POST", "/reveille/v1/providers/a/vllm/sleep", &admin),
        ("GET", "/reveille/v1/keys", &admin),
        ("POST", "/reveille/v1/keys", &admin),
        ("DELETE", "/reveille/v1/keys/nosuchkey1", &admin),
    ];
    for (method, path, needs) in paths {
        for key in [&infer, &query, &admin] {
            let method: reqwest::Method = method.parse().expect("a method");
            let request = served.client.request(method, format!("{}{path}", served.url));
            let request = request.json(&json!({})).bearer_auth(key);
            let answer = Answer::of(request).await;
            if key == needs {
                assert!(!matches!(answer.status, 401 | 403), "{path}: {}", answer.text());
            } else {
                assert_eq!(refused(&answer, 403), "insufficient_scope", "{path}");
                assert!(answer.text().contains("scope"), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_model_that_a_key_may_not_ask_does_not_exist_for_it() {
    let (served, root) = locked().await;
    served.hub.publish("a/vllm", "qwen", active());
    served.hub.publish("b/vllm", "qwen-secret", hibernating());
    served.hub.publish("c/vllm", "llama", active());
    let key = served.key_for(&root, &["infer:qwen", "infer:c/llama"]).await;
    let list = served.get_with(&key, "/v1/models").await.json();
    let ids: Vec<_> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert_eq!(ids, ["c/llama", "qwen"]);
    assert!(!list.to_string().contains("secret"));
    served.replies_hello(3);
    for model in ["qwen", "a/qwen", "c/llama"] {
        assert_eq!(served.chat_with(&key, model).await.status, 200, "{model}");
    }
    // Word for word what a name that nobody publishes is told.
    let differs = |text: String, name: &str| text.replace(name, "…");
    for (model, unpublished) in [
        ("qwen-secret", "qwen-nothing"),
        ("b/qwen-secret", "b/qwen-nothing"),
        ("llama", "llamo"),
    ] {
        let unknown = served.chat_with(&key, unpublished).await;
        assert_eq!(refused(&unknown, 404), "model_not_found");
        let forbidden = served.chat_with(&key, model).await;
        assert_eq!(refused(&forbidden, 404), "model_not_found", "{model}");
        let (one, other) = (
            differs(forbidden.text(), model),
            differs(unknown.text(), unpublished),
        );
        assert_eq!(one, other);
        let headers = |answer: &Answer| {
            answer
                .headers
                .keys()
                .map(ToString::to_string)
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(headers(&forbidden), headers(&unknown));
        let one = served.get_with(&key, &format!("/v1/models/{model}")).await;
        assert_eq!(refused(&one, 404), "model_not_found");
    }
    assert_eq!(served.hub.asked(), 0, "and none of them was woken");
    let all = served.get_with(&root, "/v1/models").await.json();
    assert_eq!(all["data"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_key_for_a_model_named_like_an_agents_is_none_for_that_agents() {
    let (served, root) = locked().await;
    served.hub.publish("box/vllm", "qwen", active());
    served.hub.change("box/vllm", |provider| {
        let models = ["qwen", "box/qwen"].map(|name| name.parse().expect("legal"));
        provider.spec = ProviderSpec::new(models.to_vec(), None, false).expect("a spec");
    });
    served.hub.publish("rack/vllm", "qwen", active());
    let key = served
        .key_for(&root, &["infer:box/qwen", "infer:rack/qwen"])
        .await;
    served.replies_hello(4);
    for (model, status) in [
        ("box/qwen", 200),
        ("box/box/qwen", 200),
        ("box/vllm/qwen", 404),
        ("qwen", 404),
        ("rack/qwen", 200),
        ("rack/vllm/qwen", 200),
    ] {
        assert_eq!(served.chat_with(&key, model).await.status, status, "{model}");
    }
}

#[tokio::test]
async fn before_the_keys_are_known_nobody_is_called_a_stranger() {
    let (served, root) = locked().await;
    served.hub.forget_everything();
    let unknown = SecretKey::generate().expect("randomness");
    let answer = served.get_with(unknown.expose(), "/v1/models").await;
    assert_eq!(refused(&answer, 503), "not_ready");
    let known = served.get_with(&root, "/reveille/v1/providers").await;
    assert_eq!(known.status, 200);
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_refused() {
    let (served, root) = locked().await;
    let (id, key) = served
        .make(&root, json!({ "name": "n", "scopes": ["infer:*"] }))
        .await;
    served
        .hub
        .registry
        .keys()
        .take_unreadable(id.parse().expect("an id"), 42);
    assert_eq!(
        refused(&served.get_with(&key, "/v1/models").await, 503),
        "key_unreadable"
    );
    let row = served.get_with(&root, "/reveille/v1/keys").await.json();
    assert_eq!(
        (&row["data"][0]["status"], &row["data"][0]["scopes"]),
        (&json!("unreadable"), &json!([]))
    );
}
