//! A preset of a backend that sleeps, asked by every path that has a place for one, at two replicas: with a stream and without.

use std::fs;

use reveille_tests::{AgentConfig, Answer, Api, Port, World, wait_until};
use serde_json::{Value, json};

use crate::{
    echo::{Echo, first_object},
    scene::SOON,
};

/// What the preset adds. Nobody but the backend gets it.
const SYSTEM: &str = "Speak of \"tea\" only.";
const LATER: &str = "Speak of coffee only.";

/// What the backend got of a request to the preset.
async fn got(api: &Api, path: &str, stream: bool, body: &Value) -> Value {
    let mut body = body.clone();
    body["model"] = "bot".into();
    if stream || path.starts_with("/api/") {
        body["stream"] = stream.into();
    }
    let request = api.client().post(format!("{}{path}", api.url())).json(&body);
    let answer = Answer::of(request).await;
    let text = answer.text();
    assert_eq!(answer.status, 200, "{path}: {text}");
    let answered = first_object(&text);
    assert_eq!(answered["model"], "bot", "{path}: {text}");
    let got = answered["got"].as_str().expect("the body");
    serde_json::from_str(got).expect("JSON")
}

#[tokio::test]
async fn a_preset_is_woken_asked_by_every_path_with_a_place_for_it_and_changed_by_a_reload() {
    let world = World::new().await;
    let port = Port::claim();
    let base_url = format!("http://{}", port.address());
    let (controller, posts) = Echo::default().asleep(port).await;
    let apis = [world.api().await, world.api().await];
    fs::write(world.folder().join("prompt.md"), format!("{SYSTEM}\n")).expect("written");
    let config = AgentConfig::new("gpu-box")
        .lines(&format!(
            "\n[[provider]]\nname = \"echo\"\nbase_url = \"{base_url}\"\nmodels = [{{ id = \"own\", as = \"qwen\" }}]\n\
             answer_model = \"backend\"\n"
        ))
        .woken_by_http(&controller)
        .lines(
            "\n[[preset]]\nname = \"bot\"\nmodel = \"qwen\"\nsystem = { file = \"prompt.md\" }\n\
             parameters = { temperature = 0.5 }\npinned = { max_tokens = 7 }\n",
        );
    let file = world.folder().join("agent.toml");
    fs::write(&file, config.to_toml()).expect("written");
    let agent = world.reveille("agent").args(["--nats", &world.nats_url()]);
    let agent = agent.arg("--config").arg(&file).start();
    for api in &apis {
        api.wait_for_status("gpu-box/bot", "hibernating", SOON).await;
    }
    let refused = apis[0]
        .post("/v1/embeddings", &json!({ "model": "bot", "input": "x" }))
        .await;
    assert_eq!(
        (refused.status, refused.error_code().as_str()),
        (400, "preset_not_supported")
    );
    assert!(posts.is_empty(), "a request that is refused wakes nothing");

    let user = json!({ "role": "user", "content": "hello" });
    let system = json!({ "role": "system", "content": SYSTEM });
    let options = json!({ "temperature": 1, "num_predict": 7 });
    for (path, streams, body, expected) in [
        (
            "/v1/chat/completions",
            true,
            json!({ "messages": [user], "max_completion_tokens": 99 }),
            json!({ "messages": [system, user], "temperature": 0.5, "max_completion_tokens": 7 }),
        ),
        (
            "/v1/responses",
            true,
            json!({ "input": "hello", "instructions": "Be brief." }),
            json!({ "instructions": format!("{SYSTEM}\n\nBe brief."), "max_output_tokens": 7 }),
        ),
        (
            "/v1/messages",
            true,
            json!({ "messages": [user], "max_tokens": 99, "system": [{ "type": "text", "text": "a" }] }),
            json!({ "system": [{ "type": "text", "text": SYSTEM }, { "type": "text", "text": "a" }], "max_tokens": 7 }),
        ),
        (
            "/v1/messages/count_tokens",
            false,
            json!({ "messages": [user] }),
            json!({ "messages": [user], "system": SYSTEM }),
        ),
        (
            "/api/chat",
            true,
            json!({ "messages": [user], "options": { "temperature": 1 } }),
            json!({ "messages": [system, user], "options": options }),
        ),
        (
            "/api/generate",
            true,
            json!({ "prompt": "hello", "options": { "temperature": 1 } }),
            json!({ "system": SYSTEM, "options": options }),
        ),
        (
            "/apply-template",
            false,
            json!({ "messages": [user] }),
            json!({ "messages": [system, user], "max_tokens": 7 }),
        ),
    ] {
        for stream in [false, true].into_iter().filter(|stream| streams || !stream) {
            for api in &apis {
                let got = got(api, path, stream, &body).await;
                assert_eq!(got["model"], "own", "{path}");
                for (field, value) in expected.as_object().expect("fields") {
                    assert_eq!(&got[field], value, "{path} stream: {stream}: {got}");
                }
            }
        }
    }
    assert_eq!(posts.len(), 1, "all shared one wake");

    let mut chat = json!({ "model": "bot", "messages": [user] });
    let answered = apis[0].post("/v1/chat/completions", &chat).await;
    assert_eq!(answered.header("openai-model"), Some("bot"));
    chat["fail"] = true.into();
    let failed = apis[0].post("/v1/chat/completions", &chat).await;
    assert_eq!(failed.status, 400);
    assert_eq!(failed.json()["error"]["message"], "the model `bot` can't do that");
    for (field, value) in [
        ("chat_template_kwargs", json!({ "messages": [] })),
        ("prompt", "x".into()),
    ] {
        let mut evading = json!({ "model": "bot", "messages": [user] });
        evading[field] = value;
        let refused = apis[1].post("/v1/chat/completions", &evading).await;
        assert_eq!(
            (refused.status, refused.error_code().as_str()),
            (400, "preset_conflict")
        );
        assert!(
            refused.text().contains(&format!("`{field}")),
            "{}",
            refused.text()
        );
    }

    let hash = async |api: &Api| {
        let bot = api.get("/v1/models/bot").await.json();
        bot["reveille"]["preset"]["hash"].clone()
    };
    let before = hash(&apis[0]).await;
    fs::write(world.folder().join("prompt.md"), LATER).expect("written");
    agent.sighup();
    wait_until("another hash", SOON, async || {
        let now = [hash(&apis[0]).await, hash(&apis[1]).await];
        now.iter()
            .all(|now| now.is_string() && *now != before)
            .then_some(())
    })
    .await;
    let got = got(&apis[1], "/v1/responses", false, &json!({ "input": "hello" })).await;
    assert_eq!(got["instructions"], LATER);
    assert_eq!(posts.len(), 1, "its backend went on");

    let row = apis[0].get("/reveille/v1/llms/gpu-box/bot").await.json();
    assert_eq!(row["preset"]["model"], "qwen", "{row}");
    for commit in world.journal().await {
        let text = String::from_utf8_lossy(&commit.payload);
        assert!(!text.contains("tea") && !text.contains("coffee"), "{text}");
    }
}

#[tokio::test]
async fn a_request_that_waits_while_its_agent_loses_the_preset_reaches_no_backend_by_its_name() {
    let world = World::new().await;
    let (port, echo) = (Port::claim(), Echo::default());
    echo.listen(&port).await;
    let api = world.api().await;
    let provider = format!(
        "\n[[provider]]\nname = \"echo\"\nbase_url = \"http://{}\"\nmodels = [\"own\"]\nmax_concurrency = 1\n",
        port.address()
    );
    let preset = format!("\n[[preset]]\nname = \"bot\"\nmodel = \"own\"\nsystem = {SYSTEM:?}\n");
    let with_preset = AgentConfig::new("gpu-box").lines(&provider).lines(&preset);
    let agent = world.agent(&with_preset);
    api.wait_for_status("gpu-box/bot", "active", SOON).await;
    let path = "/v1/chat/completions";
    let user = json!([{ "role": "user", "content": "hello" }]);
    let holding = api
        .client()
        .post(format!("{}{path}", api.url()))
        .json(&json!({ "model": "own", "messages": user, "hold": true }));
    let holding = tokio::spawn(Answer::of(holding));
    wait_until("the slot is taken", SOON, async || {
        (!echo.got(path).is_empty()).then_some(())
    })
    .await;
    let waiting = api
        .client()
        .post(format!("{}{path}", api.url()))
        .json(&json!({ "model": "bot", "messages": user }));
    let waiting = tokio::spawn(Answer::of(waiting));
    wait_until("it waits for the slot", SOON, async || {
        let row = api.get("/reveille/v1/providers/gpu-box/echo").await.json();
        (row["queued"] == 1).then_some(())
    })
    .await;
    agent.kill9();
    let _agent = world.agent(&AgentConfig::new("gpu-box").lines(&provider));
    let refused = waiting.await.expect("no panic");
    assert_eq!(
        (refused.status, refused.error_code().as_str()),
        (404, "model_not_found"),
        "{}",
        refused.text()
    );
    drop(holding.await);
    let got = echo.got(path);
    assert!(got.iter().all(|body| !body.contains("bot")), "{got:?}");
}
