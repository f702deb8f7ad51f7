//! Presets: names for models with a system prompt, which their agents add.

use super::{
    Answer, Served,
    fake_hub::{Reply, active, hibernating},
    keys::locked,
};
use reveille_bus::relay::{FaultCode, PRESET_PATHS, RelayFault};
use reveille_domain::{ModelName, PresetHash, PresetSpec, ProviderSpec};
use serde_json::{Value, json};

fn model(name: &str) -> ModelName {
    ModelName::parse(name).expect("legal")
}

fn preset(hash: &str) -> PresetSpec {
    PresetSpec {
        model: model("m"),
        hash: PresetHash::parse(hash).expect("legal"),
    }
}

/// A published provider of `m` has the preset `bot` too.
fn add_bot(served: &Served, provider: &str, hash: &str) {
    served.hub.change(provider, |registered| {
        let (wake, can_sleep) = (registered.spec.wake().copied(), registered.spec.can_sleep());
        let spec = ProviderSpec::new(vec![model("m"), model("bot")], wake, can_sleep).expect("a spec");
        let presets = [(model("bot"), preset(hash))].into();
        registered.spec = spec.with_presets(presets).expect("its models");
    });
}

fn body(path: &str) -> Value {
    let mut body = json!({ "model": "bot", "input": "x", "prompt": "x", "query": "x", "tokens": [] });
    body["messages"] = json!([{ "role": "user", "content": "x" }]);
    if path.starts_with("/api/") {
        body["stream"] = false.into();
    }
    body
}

#[tokio::test]
async fn a_preset_is_listed_like_a_model_with_what_it_is_one_of() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", hibernating());
    add_bot(&served, "a/vllm", "0123456789ab");
    let shown = json!({ "model": "m", "hash": "0123456789ab" });
    let bot = served.get("/v1/models/bot").await.json();
    assert_eq!(
        (
            &bot["reveille"]["preset"],
            &bot["reveille"]["providers"][0]["preset"]
        ),
        (&shown, &shown)
    );
    let of_model = served.get("/v1/models/m").await.json();
    assert!(of_model["reveille"].get("preset").is_none(), "{of_model}");
    let tags = served.get("/api/tags").await.json();
    let names: Vec<_> = tags["models"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|model| &model["name"])
        .collect();
    assert_eq!(names, ["bot", "m"]);

    served.hub.publish("b/vllm", "m", active());
    add_bot(&served, "b/vllm", "ffffffffffff");
    let reveille = served.get("/v1/models/bot").await.json()["reveille"].clone();
    assert!(reveille.get("preset").is_none(), "they differ: {reveille}");
    assert_eq!(reveille["providers"][1]["preset"]["hash"], "ffffffffffff");
}

#[tokio::test]
async fn a_request_without_a_place_for_a_system_prompt_wakes_no_preset_and_is_told_where_there_is_one() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", hibernating());
    add_bot(&served, "a/vllm", "0123456789ab");
    for path in reveille_bus::relay::POST_PATHS {
        let is_form = path.starts_with("/v1/audio/tr")
            || path.starts_with("/v1/images/edits")
            || path.ends_with("/variations");
        if PRESET_PATHS.contains(&path) || path == "/api/show" || is_form {
            continue;
        }
        let answer = Answer::of(served.post(path, &body(path))).await;
        let text = answer.text();
        assert_eq!(answer.status, 400, "{path}: {text}");
        assert!(
            text.contains("`bot` is a preset") && text.contains("/v1/chat/completions"),
            "{path}: {text}"
        );
        if !path.starts_with("/api/") {
            assert_eq!(answer.error(), "preset_not_supported", "{path}");
        }
    }
    let paths = served.get("/openapi.json").await.json()["paths"].clone();
    for path in reveille_bus::relay::POST_PATHS
        .iter()
        .filter(|path| **path != "/api/show")
    {
        let description = &paths[*path]["post"]["description"];
        let expected = if PRESET_PATHS.contains(path) {
            "may be a preset"
        } else {
            "`preset_not_supported`"
        };
        assert!(
            description.as_str().is_some_and(|text| text.contains(expected)),
            "{path}: {description}"
        );
    }
    let show = Answer::of(served.post("/api/show", &json!({ "model": "bot" }))).await;
    assert_eq!((show.status, &show.json()["name"]), (200, &json!("bot")));
    assert_eq!((served.hub.asked(), served.hub.sent().len()), (0, 0));

    // Another machine may have a model by that name.
    served.hub.publish("b/vllm", "bot", active());
    served
        .hub
        .replies([Reply::Whole(200, "application/json", "{\"data\":[{}]}".into())]);
    let answer = Answer::of(served.post("/v1/embeddings", &body("/v1/embeddings"))).await;
    assert_eq!(
        (answer.status, answer.header("x-reveille-provider")),
        (200, Some("b/vllm"))
    );
}

#[tokio::test]
async fn each_path_with_a_place_for_it_is_sent_on_with_the_presets_name() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", active());
    add_bot(&served, "a/vllm", "0123456789ab");
    for path in PRESET_PATHS {
        let whole =
            json!({ "choices": [{ "message": {} }], "object": "response", "type": "message", "done": true });
        served
            .hub
            .replies([Reply::Whole(200, "application/json", whole.to_string().into())]);
        let answer = Answer::of(served.post(path, &body(path))).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let sent = served.hub.sent().pop().expect("sent");
        assert_eq!(
            serde_json::from_slice::<Value>(&sent.body).expect("JSON"),
            body(path)
        );
    }
}

#[tokio::test]
async fn a_request_that_its_agent_cannot_put_together_with_the_preset_is_the_callers_to_change() {
    let served = Served::new().await;
    for machine in ["a/vllm", "b/vllm"] {
        served.hub.publish(machine, "m", active());
        add_bot(&served, machine, "0123456789ab");
    }
    for (path, code) in [
        ("/v1/chat/completions", "preset_conflict"),
        ("/v1/messages", "preset_conflict"),
    ] {
        let fault = RelayFault::new(FaultCode::BadRequest, "`temperature` is given twice");
        served.hub.replies([Reply::Fails(fault.into())]);
        let before = served.hub.sent().len();
        let answer = Answer::of(served.post(path, &body(path))).await;
        let text = answer.text();
        assert_eq!(answer.status, 400, "{text}");
        assert!(
            text.contains("`temperature` is given twice") && text.contains("invalid_request_error"),
            "{text}"
        );
        assert!(path != "/v1/chat/completions" || answer.error() == code, "{text}");
        assert_eq!(served.hub.sent().len(), before + 1, "no other member is asked");
    }
}

#[tokio::test]
async fn a_key_for_a_preset_does_not_reach_its_model_and_a_key_for_the_model_not_the_preset() {
    let (served, root) = locked().await;
    served.hub.publish("a/vllm", "m", active());
    add_bot(&served, "a/vllm", "0123456789ab");
    let (of_model, of_preset) = (["m", "a/m", "a/vllm/m"], ["bot", "a/bot", "a/vllm/bot"]);
    for (scope, allowed, others) in [
        ("infer:bot", "bot", of_model),
        ("infer:m", "m", of_preset),
        ("infer:a/bot", "a/bot", of_model),
        ("infer:a/m", "a/m", of_preset),
    ] {
        let key = served.key_for(&root, &[scope]).await;
        served.replies_hello(1);
        let answer = served.chat_with(&key, allowed).await;
        assert_eq!(answer.status, 200, "{scope}: {}", answer.text());
        for other in others {
            let answer = served.chat_with(&key, other).await;
            assert_eq!(answer.error(), "model_not_found", "{scope}: {other}");
        }
        let listed = served.get_with(&key, "/v1/models").await.json();
        let ids: Vec<_> = listed["data"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|model| model["id"].clone())
            .collect();
        assert_eq!(ids, [allowed], "{scope}");
    }
}
