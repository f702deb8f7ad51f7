//! Presets: names for models with a system prompt, which their agents add.

use super::{
    Answer, Served,
    fake_hub::{Reply, active, hibernating},
    keys::locked,
};
use crate::wakes::WakeError;
use reveille_bus::relay::{FaultCode, PRESET_PATHS, RelayFault};
use reveille_domain::{
    MODELS_STAGE, ModelName, PresetHash, PresetSpec, ProviderSpec, WakeFailure, WakeFailureKind,
};
use serde_json::{Value, json};
use std::time::Duration;

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

    // Another one by that name isn't of its pool.
    served.hub.publish("b/vllm", "m", active());
    add_bot(&served, "b/vllm", "ffffffffffff");
    let of = async |name: &str| {
        let reveille = served.get(&format!("/v1/models/{name}")).await.json()["reveille"].clone();
        let ids = reveille["providers"].as_array().expect("a list").iter();
        let ids: Vec<_> = ids.map(|provider| provider["id"].clone()).collect();
        (reveille["preset"]["hash"].clone(), ids)
    };
    let (own, other) = (json!("0123456789ab"), json!("ffffffffffff"));
    assert_eq!(of("bot").await, (own.clone(), vec![json!("a/vllm")]));
    assert_eq!(of("b/bot").await, (other, vec![json!("b/vllm")]));
    let list = served.get("/v1/models").await.json();
    let listed = list["data"].as_array().expect("a list").iter();
    let bot = listed
        .clone()
        .find(|model| model["id"] == "bot")
        .expect("it is listed");
    assert_eq!(bot["reveille"]["preset"]["hash"], own);
    assert_eq!(bot["reveille"]["providers"].as_array().map(Vec::len), Some(1));
    let rows = served.get("/reveille/v1/providers").await.json();
    assert_eq!(rows["data"][0]["overruled"], json!([]));
    assert_eq!(
        rows["data"][1]["overruled"],
        json!([{ "name": "bot", "is": "preset", "means": "preset", "at": "a/vllm" }])
    );
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

    // A model by that name on another machine answers by its own path alone.
    served.hub.publish("b/vllm", "bot", active());
    let answer = Answer::of(served.post("/v1/embeddings", &body("/v1/embeddings"))).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (400, "preset_not_supported")
    );
    served
        .hub
        .replies([Reply::Whole(200, "application/json", "{\"data\":[{}]}".into())]);
    let of_agent = json!({ "model": "b/bot", "input": "x" });
    let answer = Answer::of(served.post("/v1/embeddings", &of_agent)).await;
    assert_eq!(
        (answer.status, answer.header("x-reveille-provider")),
        (200, Some("b/vllm"))
    );
}

/// What an agent says that has nothing by the name, or something else.
fn unknown() -> Reply {
    let fault = RelayFault::new(
        FaultCode::UnknownModel,
        "its agent publishes no model by this name now",
    );
    Reply::Fails(fault.into())
}

#[tokio::test]
async fn a_preset_that_one_member_has_lost_is_answered_by_another_and_by_none_that_has_another_thing() {
    let served = Served::new().await;
    for (machine, status) in [("a/vllm", active()), ("b/vllm", hibernating())] {
        served.hub.publish(machine, "m", status);
        add_bot(&served, machine, "0123456789ab");
    }
    served.hub.publish("c/vllm", "bot", active());
    served.hub.replies([unknown()]);
    served.replies_hello(1);
    let chat = body("/v1/chat/completions");
    let request = served.post("/v1/chat/completions", &chat);
    let woken = async {
        served.hub.until("a wake", |hub| hub.asked() == 1).await;
        served.hub.change("b/vllm", |provider| provider.status = active());
    };
    let (answer, ()) = futures::future::join(Answer::of(request), woken).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let asked: Vec<_> = served
        .hub
        .sent()
        .iter()
        .map(|sent| sent.agent.to_string())
        .collect();
    assert_eq!(asked, ["a", "b"]);
    let presets: Vec<_> = served
        .hub
        .sent()
        .into_iter()
        .map(|sent| sent.head.preset)
        .collect();
    assert_eq!(presets, vec![PresetHash::parse("0123456789ab").ok(); 2]);
}

#[tokio::test]
async fn a_preset_that_is_gone_while_its_request_waits_does_not_exist() {
    let served = Served::with_timings(|timings| timings.absence = super::LONG).await;
    served.hub.publish("a/vllm", "m", active());
    add_bot(&served, "a/vllm", "0123456789ab");
    let forget = || {
        served.hub.change("a/vllm", |provider| {
            provider.spec = ProviderSpec::new(vec![model("m")], None, false).expect("a spec");
        });
    };
    served.hub.replies([unknown()]);
    let request = served.post("/v1/chat/completions", &body("/v1/chat/completions"));
    let gone = async {
        served.hub.until("the request", |hub| hub.sent().len() == 1).await;
        forget();
    };
    let (answer, ()) = futures::future::join(Answer::of(request), gone).await;
    assert_eq!((answer.status, answer.error().as_str()), (404, "model_not_found"));
    assert_eq!(served.hub.sent().len(), 1);
}

#[tokio::test]
async fn a_request_for_a_preset_is_never_answered_by_a_model_that_has_taken_its_name() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", hibernating());
    add_bot(&served, "a/vllm", "0123456789ab");
    served.hub.publish("b/vllm", "bot", active());
    let request = served.post("/v1/chat/completions", &body("/v1/chat/completions"));
    let lost = async {
        served.hub.until("a wake", |hub| hub.asked() == 1).await;
        served.hub.change("a/vllm", |provider| {
            provider.spec =
                ProviderSpec::new(vec![model("m")], provider.spec.wake().copied(), true).expect("a spec");
            provider.status = active();
        });
    };
    let (answer, ()) = futures::future::join(Answer::of(request), lost).await;
    assert_eq!((answer.status, answer.error().as_str()), (404, "model_not_found"));
    assert!(!answer.text().contains("similar"), "{}", answer.text());
    assert_eq!(served.hub.sent().len(), 0);
    served.replies_hello(1);
    let next = Answer::of(served.post("/v1/chat/completions", &body("/v1/chat/completions"))).await;
    assert_eq!(
        (next.status, next.header("x-reveille-provider")),
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

#[tokio::test]
async fn a_key_for_a_preset_alone_reads_its_models_name_nowhere() {
    let (served, root) = locked().await;
    served.hub.publish("a/vllm", "m", hibernating());
    add_bot(&served, "a/vllm", "0123456789ab");
    let shown = |answer: &Answer| {
        let reveille = answer.json()["reveille"].clone();
        let member = reveille["providers"][0]["preset"].clone();
        assert_eq!(reveille["preset"], member);
        member
    };
    let hash = json!({ "hash": "0123456789ab" });
    let whole = json!({ "model": "m", "hash": "0123456789ab" });
    for (scopes, seen) in [
        (&["infer:bot"][..], &hash),
        (&["infer:a/vllm/bot", "infer:bot"], &hash),
        (&["infer:bot", "infer:m"], &whole),
        (&["infer:bot", "infer:a/m"], &whole),
        (&["infer:*"], &whole),
    ] {
        let key = served.key_for(&root, scopes).await;
        assert_eq!(
            &shown(&served.get_with(&key, "/v1/models/bot").await),
            seen,
            "{scopes:?}"
        );
        if scopes == ["infer:bot"] {
            let list = served.get_with(&key, "/v1/models").await.json();
            assert_eq!(&list["data"][0]["reveille"]["preset"], seen);
        }
        let failure = WakeFailure::new(
            WakeFailureKind::Recipe,
            MODELS_STAGE,
            "the server there lists `x`, not `Org/Own`",
        );
        served.hub.refuse(WakeError::Failed {
            provider: "a/vllm".parse().expect("an id"),
            wake_id: None,
            failure: Box::new(failure),
            retry_after: None,
            spent: Duration::ZERO,
        });
        let failed = served.chat_with(&key, "bot").await;
        assert_eq!(failed.error(), "wake_failed");
        assert_eq!(
            failed.text().contains("Org/Own"),
            seen == &whole,
            "{}",
            failed.text()
        );
    }
}

#[tokio::test]
async fn a_key_for_a_preset_alone_reads_no_models_name_if_the_preset_is_withdrawn_while_it_wakes() {
    let (served, root) = locked().await;
    served.hub.publish("a/vllm", "m", hibernating());
    add_bot(&served, "a/vllm", "0123456789ab");
    let key = served.key_for(&root, &["infer:bot"]).await;
    let withdrawn = async {
        served.hub.until("a wake", |hub| hub.asked() == 1).await;
        served.hub.change("a/vllm", |provider| {
            provider.spec =
                ProviderSpec::new(vec![model("m")], provider.spec.wake().copied(), true).expect("a spec");
        });
        let said = "the server there lists `x`, not `Org/Own`";
        served.hub.fail_wakes(WakeError::Failed {
            provider: "a/vllm".parse().expect("an id"),
            wake_id: None,
            failure: Box::new(WakeFailure::new(WakeFailureKind::Recipe, MODELS_STAGE, said)),
            retry_after: None,
            spent: Duration::ZERO,
        });
    };
    let (failed, ()) = futures::future::join(served.chat_with(&key, "bot"), withdrawn).await;
    assert_eq!(failed.error(), "wake_failed");
    assert!(!failed.text().contains("Org/Own"), "{}", failed.text());
}

#[tokio::test]
async fn what_a_preset_is_asked_about_itself_is_answered_without_its_backend() {
    let (served, root) = locked().await;
    let key = served.key_for(&root, &["infer:bot"]).await;
    let any = served.key_for(&root, &["infer:*"]).await;
    for (machine, status) in [("a/vllm", active()), ("b/vllm", hibernating())] {
        served.hub.publish(machine, "m", status);
        add_bot(&served, machine, "0123456789ab");
    }
    let show = async |key: &str, model: &str| {
        let asked = served.post("/api/show?verbose=1", &json!({ "model": model }));
        Answer::of(asked.bearer_auth(key)).await
    };
    for (key, name) in [(&key, "bot"), (&any, "bot"), (&any, "a/bot"), (&any, "b/bot")] {
        let shown = show(key, name).await;
        assert_eq!((shown.status, &shown.json()["name"]), (200, &json!(name)));
        assert_eq!(shown.json()["modelfile"], json!(""));
    }
    assert_eq!(show(&key, "m").await.status, 404, "it isn't the key's");
    assert_eq!((served.hub.asked(), served.hub.sent().len()), (0, 0));

    // A model's own answer is its backend's.
    served.hub.replies([Reply::Whole(
        200,
        "application/json",
        "{\"modelfile\":\"FROM x\"}".into(),
    )]);
    let of_model = show(&any, "a/m").await;
    assert_eq!(
        (of_model.status, &of_model.json()["modelfile"]),
        (200, &json!("FROM x"))
    );
}

#[tokio::test]
async fn what_a_backend_says_of_its_model_file_is_not_said_of_a_preset() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", active());
    add_bot(&served, "a/vllm", "0123456789ab");
    let refused = served.get("/props?model=bot").await;
    assert_eq!(
        (refused.status, refused.error().as_str()),
        (400, "preset_not_supported")
    );
    assert_eq!(served.hub.sent().len(), 0);
}
