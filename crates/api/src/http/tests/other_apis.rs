//! What the APIs beside OpenAI's have of their own, and the ways to a backend that are none of its usual paths.

use super::{
    Answer, Served,
    fake_hub::{Reply, active, hibernating},
    inference::declined,
    keys::locked,
    streams::{EVENTS, piece},
    surface::{WHOLE, form},
};
use crate::inference::endpoint::SHOW;
use axum::http::Method;
use reveille_bus::relay::{OWN_PATHS, UselessPath, useless_path};
use reveille_domain::{Balancing, ModelDetails, ModelName, WakeCause};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

#[tokio::test]
async fn the_model_of_a_query_may_be_the_default_one_and_is_given_once() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", super::DEFAULT_MODEL, active());
    served
        .hub
        .replies([Reply::Whole(200, "application/json", WHOLE.into())]);
    let answer = served.get("/props?autoload=false&model=&x=a%20%26b").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        served.hub.sent()[0].head.path,
        format!("/props?model={}&autoload=false&x=a%20%26b", super::DEFAULT_MODEL)
    );
    for (query, code) in [
        ("model=a&model=b", "duplicate_field"),
        ("model=a&Model=b", "unsupported_field"),
        ("MODEL=b", "unsupported_field"),
    ] {
        let answer = served.get(&format!("/props?{query}")).await;
        assert_eq!((answer.status, answer.error().as_str()), (400, code), "{query}");
    }
}

#[tokio::test]
async fn a_form_reaches_its_backend_byte_by_byte_with_its_type() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/whisper", "m", active());
    served
        .hub
        .publish("gpu-box/usual", super::DEFAULT_MODEL, active());
    served
        .hub
        .replies((0..2).map(|_| Reply::Whole(200, "application/json", WHOLE.into())));
    let path = "/v1/audio/transcriptions";
    let fields = [("file", "x\r\n--\u{0}y"), ("model", "m")];
    assert_eq!(Answer::of(form(&served, path, &fields)).await.status, 200);
    let sent = served.hub.sent().pop().expect("sent");
    let kind = (
        "content-type".to_owned(),
        "multipart/form-data; boundary=b".to_owned(),
    );
    assert!(sent.head.headers.contains(&kind));
    let request = form(&served, path, &fields).build().expect("a request");
    assert_eq!(
        request.body().and_then(reqwest::Body::as_bytes),
        Some(&sent.body[..])
    );

    assert_eq!(
        Answer::of(form(&served, path, &[("file", "x")])).await.status,
        200
    );
    let sent = served.hub.sent().pop().expect("sent");
    assert_eq!(sent.head.provider.as_str(), "usual");
    assert!(String::from_utf8_lossy(&sent.body).contains(super::DEFAULT_MODEL));
}

#[tokio::test]
async fn a_form_is_refused_where_json_belongs_and_the_reverse_and_from_foreign_pages() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let fields = [("model", "m"), ("file", "x"), ("messages", "[]")];
    for (request, status, code) in [
        (
            form(&served, "/v1/chat/completions", &fields),
            415,
            "unsupported_media_type",
        ),
        (
            served.post("/v1/audio/transcriptions", &json!({ "model": "m" })),
            415,
            "unsupported_media_type",
        ),
        (
            form(
                &served,
                "/v1/audio/transcriptions",
                &[("model", "m"), ("model", "m")],
            ),
            400,
            "duplicate_field",
        ),
        (
            form(&served, "/v1/audio/transcriptions", &fields).header("origin", "https://evil.example"),
            403,
            "origin_not_allowed",
        ),
        (
            form(&served, "/v1/audio/transcriptions", &fields).header("sec-fetch-site", "cross-site"),
            403,
            "origin_not_allowed",
        ),
    ] {
        let answer = Answer::of(request).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (status, code),
            "{}",
            answer.text()
        );
    }
    assert!(served.hub.sent().is_empty());
}

#[tokio::test]
async fn ollamas_clients_list_what_is_there_and_see_what_is_known_of_a_sleeping_model() {
    let served = Served::new().await;
    served.hub.publish("a/ollama", "sleeping", hibernating());
    served.hub.publish("a/vllm", "awake", active());
    served.hub.change("a/ollama", |provider| {
        let name: ModelName = "sleeping".parse().expect("legal");
        let details = ModelDetails {
            created: Some(1_700_000_000),
            context_length: Some(8192),
            capabilities: ["tools".parse().expect("legal")].into(),
        };
        let details = [(name, details)].into();
        provider.spec = provider.spec.clone().with_details(details).expect("legal");
    });
    let names = async |path: &str| {
        let list = served.get(path).await.json();
        let models = list["models"].as_array().expect("a list").clone();
        for model in &models {
            assert_eq!(model["name"], model["model"]);
            assert_eq!(model["digest"].as_str().map(str::len), Some(64));
            for time in ["modified_at", "expires_at"] {
                let time = model[time].as_str().expect("a time");
                assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
            }
        }
        models
            .iter()
            .map(|model| model["name"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("/api/tags").await, ["awake", "sleeping"]);
    assert_eq!(names("/api/ps").await, ["awake"]);
    let shown = Answer::of(served.post(SHOW, &json!({ "name": "sleeping" })))
        .await
        .json();
    assert_eq!(shown["capabilities"], json!(["tools"]));
    assert_eq!(shown["model_info"]["unknown.context_length"], 8192);
    assert_eq!(shown["modified_at"], "2023-11-14T22:13:20Z");
    let version = served.get("/api/version").await.json();
    assert!(version["version"].is_string() && version["reveille"].is_string());
    assert_eq!(served.get("/").await.status, 200);
    assert_eq!(served.hub.asked(), 0);
}

#[tokio::test]
async fn anthropics_clients_list_models_in_their_form() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "Qwen/Qwen3-8B", hibernating());
    let get = async |path: &str| {
        let request = served.client.get(format!("{}{path}", served.url));
        Answer::of(request.header("anthropic-version", "2023-06-01"))
            .await
            .json()
    };
    let model = json!({
        "type": "model", "id": "Qwen/Qwen3-8B", "display_name": "Qwen/Qwen3-8B", "created_at": "1970-01-01T00:00:01Z",
    });
    let list = json!({ "data": [model], "has_more": false, "first_id": model["id"], "last_id": model["id"] });
    assert_eq!(get("/v1/models").await, list);
    assert_eq!(get("/v1/models/Qwen/Qwen3-8B").await, model);
    assert_eq!(get("/v1/models/none").await["error"]["type"], "not_found_error");
}

#[tokio::test]
async fn a_model_is_loaded_and_unloaded_by_its_name() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", hibernating());
    served.hub.publish("b/vllm", "m", hibernating());
    served.hub.publish("c/vllm", "load", hibernating());
    served.hub.refuse_one("a/vllm", declined("a/vllm"));
    let ask = async |command: &str, model: &str| {
        let answer = Answer::of(served.post(&format!("/models/{command}"), &json!({ "model": model }))).await;
        (answer.status, answer.text())
    };
    let success = (200, r#"{"success":true}"#.to_owned());
    assert_eq!(ask("load", "m").await, success);
    let asked: Vec<_> = served.hub.asked_of().iter().map(ToString::to_string).collect();
    assert_eq!(
        asked,
        ["a/vllm", "b/vllm"],
        "the next one if the first can't be woken"
    );
    assert!(matches!(&served.hub.causes()[0], WakeCause::Request { .. }));
    served.hub.change("b/vllm", |provider| provider.status = active());
    assert_eq!(ask("unload", "m").await, success);
    assert_eq!(
        served.hub.slept.load(Ordering::SeqCst),
        1,
        "only the one that is awake"
    );
    assert_eq!(ask("load", "none").await.0, 404);
    assert_eq!(ask("other", "m").await.0, 405);
    assert_eq!(
        served.get("/v1/models/load").await.json()["id"],
        "load",
        "a model's name"
    );
}

#[tokio::test]
async fn loading_a_model_wakes_the_provider_that_a_request_would_wake() {
    let served = Served::new().await;
    for provider in ["a/vllm", "b/vllm", "c/vllm"] {
        served.hub.publish(provider, "m", hibernating());
    }
    served
        .hub
        .change("a/vllm", |provider| provider.failures.count = 1);
    served.hub.change("c/vllm", |provider| {
        let first = Balancing::new(1, 1, None).expect("legal");
        provider.spec = provider.spec.clone().with_balancing(first);
    });
    for _ in 0..2 {
        let request = served.post("/models/load", &json!({ "model": "m" }));
        assert_eq!(Answer::of(request).await.status, 200);
    }
    let asked: Vec<_> = served.hub.asked_of().iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["c/vllm", "c/vllm"], "the second joins the wake");
}

#[tokio::test]
async fn unloading_a_model_puts_all_to_sleep_that_can_be_and_tells_of_the_first_that_cannot() {
    let served = Served::new().await;
    for provider in ["a/vllm", "b/vllm", "c/vllm"] {
        served.hub.publish(provider, "m", active());
    }
    *served.hub.stays_awake.lock() = Some("a/vllm".parse().expect("an id"));
    let answer = Answer::of(served.post("/models/unload", &json!({ "model": "m" }))).await;
    assert_eq!((answer.status, answer.error().as_str()), (409, "sleep_refused"));
    assert_eq!(served.hub.slept.load(Ordering::SeqCst), 2, "the others sleep");
}

#[tokio::test]
async fn whoever_may_use_a_model_loads_it_and_unloading_it_needs_more() {
    let (served, root) = locked().await;
    served.hub.publish("a/vllm", "m", active());
    served.hub.publish("b/vllm", "other", hibernating());
    let key = served.key_for(&root, &["infer:m"]).await;
    for (command, model, status) in [("load", "m", 200), ("load", "other", 404), ("unload", "m", 403)] {
        let request = served.post(&format!("/v1/models/{command}"), &json!({ "model": model }));
        let answer = Answer::of(request.bearer_auth(&key)).await;
        assert_eq!(answer.status, status, "{command} {model}: {}", answer.text());
    }
    assert_eq!(served.hub.slept.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_path_of_a_providers_config_reaches_that_provider_and_no_other() {
    let served = Served::new().await;
    served.hub.publish("a/images", "m", hibernating());
    served.hub.publish("b/vllm", "m", active());
    served.hub.publish("b/other", "other", active());
    let path = "/sdapi/v1/txt2img";
    let ask = async |path: &str, model: &str| {
        let answer = Answer::of(served.post(path, &json!({ "model": model, "prompt": "x" }))).await;
        (answer.status, answer.text())
    };
    assert_eq!(ask(path, "m").await.0, 404, "nobody has it yet");
    let documented = async || served.get("/openapi.json").await.json()["paths"][path].clone();
    assert_eq!(documented().await, Value::Null);
    served.hub.change("a/images", |provider| {
        let paths = vec![path.parse().expect("legal")];
        provider.spec = provider.spec.clone().with_extra_paths(paths).expect("few");
        provider.status = active();
    });
    let post = &documented().await["post"];
    let parameters = post["parameters"].as_array().expect("a list");
    assert!(parameters.iter().any(|parameter| parameter["in"] == "query"));
    served
        .hub
        .replies((0..2).map(|_| Reply::Whole(200, "application/json", WHOLE.into())));
    assert_eq!(ask(path, "m").await, (200, WHOLE.to_owned()));
    let by_query = served.post(&format!("{path}?model=a%2Fm"), &json!({ "prompt": "x" }));
    assert_eq!(Answer::of(by_query).await.status, 200);
    let sent: Vec<_> = served
        .hub
        .sent()
        .into_iter()
        .map(|sent| (sent.agent.to_string(), sent.head.path))
        .collect();
    let expected = [path.to_owned(), format!("{path}?model=a%2Fm")].map(|path| ("a".to_owned(), path));
    assert_eq!(sent, expected);
    let twice = served.post(
        &format!("{path}?model=m"),
        &json!({ "prompt": "x", "model": "other" }),
    );
    let twice = Answer::of(twice).await;
    assert_eq!((twice.status, twice.error().as_str()), (400, "duplicate_field"));
    assert_eq!(served.hub.sent().len(), 2);
    let (status, text) = ask(path, "other").await;
    assert!(status == 404 && text.contains("extra_paths"), "{text}");
    assert_eq!(served.get(path).await.status, 405);

    let (locked, root) = locked().await;
    locked.hub.publish("a/images", "m", active());
    locked.hub.change("a/images", |provider| {
        let paths = vec![path.parse().expect("legal")];
        provider.spec = provider.spec.clone().with_extra_paths(paths).expect("few");
    });
    let told = async |path: &str| {
        let answer = Answer::of(locked.post(path, &json!({ "model": "m" }))).await;
        let text = answer.json()["error"].to_string();
        (answer.status, answer.error(), text)
    };
    let (status, code, text) = told(path).await;
    assert_eq!((status, code.as_str()), (401, "missing_api_key"));
    assert_eq!(
        told("/sdapi/v1/nothing").await,
        (status, code, text),
        "nobody without a key learns which paths there are"
    );
    let of_anthropic = locked.post(path, &json!({ "model": "m" }));
    let answer = Answer::of(of_anthropic.header("anthropic-version", "2023-06-01")).await;
    assert_eq!((answer.status, &answer.json()["type"]), (401, &json!("error")));
    let query = locked.key_for(&root, &["query"]).await;
    for (path, told) in [
        (path, (403, "insufficient_scope")),
        ("/nothing", (404, "not_found")),
    ] {
        let request = locked.post(path, &json!({ "model": "m" })).bearer_auth(&query);
        let answer = Answer::of(request).await;
        assert_eq!((answer.status, answer.error().as_str()), told, "{path}");
    }
}

#[tokio::test]
async fn every_path_that_is_answered_here_is_refused_in_a_config() {
    let served = Served::new().await;
    for path in OWN_PATHS {
        assert_ne!(served.get(path).await.status, 404, "{path}");
    }
    let document = served.get("/openapi.json").await.json();
    let paths = document["paths"].as_object().expect("paths");
    for path in paths.keys().filter(|path| *path != "/") {
        let path = path.replace("{id}", "x");
        assert!(
            matches!(useless_path(&path), Some(UselessPath::Own | UselessPath::Relayed)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_stored_response_is_asked_of_the_member_that_keeps_it() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", active());
    served.hub.publish("b/vllm", "m", active());
    let response = |id: &str| {
        Reply::Whole(
            200,
            "application/json",
            format!(r#"{{"id":"{id}","model":"m"}}"#).into(),
        )
    };
    let created = "event: response.created\ndata: {\"response\":{\"id\":\"resp_2\"}}\n\nevent: response.completed\ndata: {}\n\n";
    served.hub.replies([
        response("resp_1"),
        Reply::Pieces(200, EVENTS, vec![piece(created)]),
    ]);
    let ask = |body: Value| Answer::of(served.post("/v1/responses", &body));
    assert_eq!(ask(json!({ "model": "m", "input": "x" })).await.status, 200);
    assert_eq!(
        ask(json!({ "model": "m", "input": "y", "stream": true }))
            .await
            .status,
        200
    );
    let holders: Vec<_> = served
        .hub
        .sent()
        .iter()
        .map(|sent| sent.agent.to_string())
        .collect();
    assert_ne!(holders[0], holders[1], "two conversations");

    for (id, holder) in [("resp_1", &holders[0]), ("resp_2", &holders[1])] {
        for (method, path) in [
            (Method::GET, format!("/v1/responses/{id}?include=x")),
            (Method::GET, format!("/responses/{id}/input_items")),
            (Method::POST, format!("/v1/responses/{id}/cancel")),
            (Method::DELETE, format!("/v1/responses/{id}")),
        ] {
            served
                .hub
                .replies([Reply::Whole(200, "application/json", WHOLE.into())]);
            let request = served
                .client
                .request(method.clone(), format!("{}{path}", served.url));
            let answer = Answer::of(request).await;
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, WHOLE),
                "{method} {path}"
            );
            let sent = served.hub.sent().pop().expect("sent");
            assert_eq!(
                (sent.agent.as_str(), sent.head.method.as_str()),
                (holder.as_str(), method.as_str())
            );
            assert!(
                path.ends_with(sent.head.path.trim_start_matches("/v1")),
                "{path}: {}",
                sent.head.path
            );
        }
        served.hub.replies([response("resp_3")]);
        let next = ask(json!({ "model": "m", "input": "x", "previous_response_id": id })).await;
        assert_eq!(next.status, 200);
        assert_eq!(served.hub.sent().pop().expect("sent").agent.as_str(), holder);
    }
    served.replies_hello(1);
    let unknown = ask(json!({ "model": "m", "input": "x", "previous_response_id": "resp_9" })).await;
    assert_eq!(unknown.status, 200, "any provider may know it");
    let answer = served.get("/v1/responses/resp_9").await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (404, "response_not_found")
    );
    served.hub.change(&format!("{}/vllm", holders[0]), |provider| {
        provider.status = hibernating();
    });
    let answer = served.get("/v1/responses/resp_1").await;
    assert_eq!((answer.status, answer.error().as_str()), (503, "model_asleep"));
    assert_eq!(served.hub.asked(), 0);

    let next = json!({ "model": "m", "input": "x", "previous_response_id": "resp_1" });
    let asking = tokio::spawn(Answer::of(served.post("/v1/responses", &next)));
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    served.hub.replies([response("resp_4")]);
    served.hub.change(&format!("{}/vllm", holders[0]), |provider| {
        provider.status = active();
    });
    assert_eq!(asking.await.expect("an answer").status, 200);
    assert_eq!(served.hub.sent().pop().expect("sent").agent.as_str(), holders[0]);
    served.hub.withdraw(&format!("{}/vllm", holders[0]));
    assert_eq!(served.get("/v1/responses/resp_1").await.status, 404);
    assert_eq!(served.hub.asked(), 1);
}

#[tokio::test]
async fn a_response_of_another_key_does_not_exist() {
    let (served, root) = locked().await;
    served.hub.publish("a/vllm", "m", active());
    let owner = served.key_for(&root, &["infer:m"]).await;
    let other = served.key_for(&root, &["infer:m"]).await;
    let whole = || Reply::Whole(200, "application/json", r#"{"id":"resp_1"}"#.into());
    served.hub.replies([whole(), whole()]);
    let ask =
        async |key: &str, body: Value| Answer::of(served.post("/v1/responses", &body).bearer_auth(key)).await;
    let first = ask(&owner, json!({ "model": "m", "input": "x" })).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let next = json!({ "model": "m", "input": "x", "previous_response_id": "resp_1" });
    for key in [&other, &root] {
        let refused = ask(key, next.clone()).await;
        assert_eq!(
            (refused.status, refused.error().as_str()),
            (404, "response_not_found")
        );
        let refused = served.get_with(key, "/v1/responses/resp_1").await;
        assert_eq!(
            (refused.status, refused.error().as_str()),
            (404, "response_not_found")
        );
    }
    assert_eq!(served.hub.sent().len(), 1, "no backend was asked");
    assert_eq!(ask(&owner, next).await.status, 200);
}
