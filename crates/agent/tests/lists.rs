//! What a backend lists, and what is published of it.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod control;
#[path = "control/owned.rs"]
#[expect(dead_code, reason = "the tests of groups use the rest")]
mod owned;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use backend::{client, eventually, provider};
use control::Control;
use owned::Owned;
use reveille_agent::models::{Listed, Server, discover};
use reveille_agent::provider::{Input, Symptom};
use reveille_domain::{
    Capability, ModelDetails, ModelName, ProviderSpec,
    provider::StatusName::{Active, Hibernating},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;

/// A backend that answers each path as it was last told to, and 404 otherwise.
#[derive(Clone, Default)]
struct Lister {
    url: String,
    answers: Arc<Mutex<HashMap<String, Value>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Lister {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let lister = Self {
            url,
            ..Self::default()
        };
        let routes = Router::new().fallback(answer).with_state(lister.clone());
        tokio::spawn(axum::serve(listener, routes).into_future());
        lister.set("/ok", json!({}));
        lister
    }

    fn set(&self, path: &str, answer: Value) {
        self.answers
            .lock()
            .expect("not poisoned")
            .insert(path.to_owned(), answer);
    }

    /// Lists these models, or whatever `entries` are.
    fn list(&self, entries: &Value) {
        self.set("/v1/models", json!({ "object": "list", "data": entries }));
    }

    fn name(&self, names: &[&str]) {
        self.list(&names.iter().map(|name| json!({ "id": name })).collect());
    }

    fn forget(&self, path: &str) {
        self.answers.lock().expect("not poisoned").remove(path);
    }

    /// How often a path was asked for.
    fn asked(&self, path: &str) -> usize {
        let asked = self.asked.lock().expect("not poisoned");
        asked.iter().filter(|asked| *asked == path).count()
    }

    /// Waits until the list was asked for so often again.
    async fn asked_again(&self, times: usize) {
        let until = self.asked("/v1/models") + times;
        eventually("more lists", || self.asked("/v1/models") >= until).await;
    }
}

async fn answer(State(lister): State<Lister>, uri: Uri, body: Bytes) -> Response {
    let answers = lister.answers.lock().expect("not poisoned").clone();
    lister.asked.lock().expect("not poisoned").push(format!(
        "{}{}",
        uri.path(),
        String::from_utf8_lossy(&body)
    ));
    match answers.get(uri.path()) {
        Some(answer) => answer.to_string().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn published(owned: &Owned) -> ProviderSpec {
    owned.control.provider().spec
}

fn names(spec: &ProviderSpec) -> Vec<&str> {
    spec.models().iter().map(ModelName::as_str).collect()
}

fn model(raw: &str) -> ModelName {
    ModelName::parse(raw).expect("legal")
}

/// A provider that is probed often, and asleep while `/ok` isn't there.
fn probed(lister: &Lister, more: &str) -> String {
    let url = &lister.url;
    format!(
        "base_url = \"{url}\"\n{more}probe = {{ path = \"/ok\", expect = {{}}, interval = \"20ms\" }}\n\
         [provider.wake]\ntype = \"http\"\nurl = \"{url}/ok\"\n"
    )
}

async fn lists(owned: &Owned, expected: &[&str]) {
    eventually(&expected.join(" "), || names(&published(owned)) == expected).await;
}

#[tokio::test]
async fn a_model_that_is_pulled_or_removed_is_published_or_withdrawn_with_the_next_probe() {
    let lister = Lister::start().await;
    lister.name(&["b", "a"]);
    let owned = Owned::start(&probed(&lister, ""));
    owned.until(Active).await;
    lists(&owned, &["a", "b"]).await;
    lister.name(&["c", "b"]);
    lists(&owned, &["b", "c"]).await;
    lister.name(&["c"]);
    lists(&owned, &["c"]).await;
    let registrations = owned.control.registrations();
    lister.asked_again(5).await;
    assert_eq!(
        owned.control.registrations(),
        registrations,
        "nothing has changed since"
    );
}

#[tokio::test]
async fn a_list_that_fails_and_a_backend_that_sleeps_withdraw_nothing() {
    let lister = Lister::start().await;
    lister.name(&["m"]);
    let directory = tempfile::tempdir().expect("a directory");
    let start = |path: &Path| Owned::with(Control::new(), &probed(&lister, ""), Some(path));
    let owned = start(directory.path());
    owned.until(Active).await;
    lists(&owned, &["m"]).await;
    for broken in [
        json!({ "error": "busy" }),
        json!("<html>"),
        json!({ "data": "none" }),
    ] {
        lister.set("/v1/models", broken);
        lister.asked_again(5).await;
    }
    lister.forget("/v1/models");
    lister.asked_again(5).await;
    lister.forget("/ok");
    owned.until(Hibernating).await;
    assert_eq!(names(&published(&owned)), ["m"]);
    owned.stop().await;
    let owned = start(directory.path());
    owned.until(Hibernating).await;
    assert_eq!(names(&published(&owned)), ["m"], "over a restart too");
}

#[tokio::test]
async fn a_preset_is_published_and_withdrawn_with_its_model_and_is_as_able() {
    let lister = Lister::start().await;
    lister.list(&json!([{ "id": "m", "max_model_len": 8192 }, { "id": "bot", "max_model_len": 1 }]));
    let preset = "[[preset]]\nname = \"bot\"\nmodel = \"m\"\nsystem = \"Be brief.\"\n";
    let owned = Owned::start(&(probed(&lister, "") + preset));
    owned.until(Active).await;
    lists(&owned, &["m", "bot"]).await;
    let spec = published(&owned);
    let of_bot = spec.preset(&model("bot")).expect("a preset");
    assert_eq!((&of_bot.model, of_bot.hash.as_str().len()), (&model("m"), 12));
    let length = spec
        .details(&model("bot"))
        .and_then(|details| details.context_length);
    assert_eq!(length, Some(8192), "what the backend calls `bot` isn't published");
    lister.name(&["n"]);
    lists(&owned, &["n"]).await;
    lister.name(&["m"]);
    lists(&owned, &["m", "bot"]).await;
}

#[tokio::test]
async fn a_wake_that_makes_the_models_known_keeps_its_stages() {
    let lister = Lister::start().await;
    lister.forget("/ok");
    lister.set("/start", json!({}));
    lister.name(&["m"]);
    // Its probe asks for `/ok`, and its recipe for `/start`.
    let owned = Owned::start(&probed(&lister, "").replace("/ok\"\n", "/start\"\n"));
    owned.until(Hibernating).await;
    assert!(names(&published(&owned)).is_empty(), "nobody knows them yet");
    owned.handle.send(Input::Wake(owned.control.wake_for_request()));
    eventually("its recipe", || lister.asked("/start") > 0).await;
    lister.set("/ok", json!({}));
    owned.until(Active).await;
    lists(&owned, &["m"]).await;
    assert_eq!(owned.control.succeeded(), [["step 1 http", "probe"]]);
}

#[tokio::test]
async fn a_backend_has_no_model_only_after_it_has_said_so_several_times() {
    let lister = Lister::start().await;
    lister.name(&["m"]);
    let owned = Owned::start(&probed(&lister, ""));
    owned.until(Active).await;
    lists(&owned, &["m"]).await;
    let before = lister.asked("/v1/models");
    lister.name(&[]);
    lists(&owned, &[]).await;
    assert!(lister.asked("/v1/models") >= before + 3);
    lister.name(&["n"]);
    lists(&owned, &["n"]).await;
}

#[tokio::test]
async fn a_list_that_never_stays_the_same_does_not_flood_the_journal() {
    let lister = Lister::start().await;
    lister.name(&["m0"]);
    let owned = Owned::start(&probed(&lister, ""));
    owned.until(Active).await;
    lists(&owned, &["m0"]).await;
    for change in 1..40 {
        lister.name(&[&format!("m{change}")]);
        lister.asked_again(2).await;
    }
    let registrations = owned.control.registrations();
    assert!((5..=9).contains(&registrations), "{registrations} registrations");
    assert_eq!(owned.control.status(), Some(Active));
}

#[tokio::test]
async fn what_the_backend_says_of_a_model_is_published_and_stays_while_it_sleeps() {
    let lister = Lister::start().await;
    lister.list(&json!([{ "id": "Org/M", "created": 1_700_000_000, "max_model_len": 262_144 }]));
    let owned = Owned::start(&probed(
        &lister,
        "models = [{ id = \"Org/M\", as = \"m\" }, \"unlisted\"]\n",
    ));
    owned.until(Active).await;
    let told = ModelDetails {
        created: Some(1_700_000_000),
        context_length: Some(262_144),
        ..ModelDetails::default()
    };
    eventually("details", || {
        published(&owned).details(&model("m")) == Some(&told)
    })
    .await;
    let spec = published(&owned);
    assert_eq!(names(&spec), ["m", "unlisted"]);
    let since = spec
        .details(&model("unlisted"))
        .and_then(|details| details.created);
    assert!(
        since.is_some_and(|since| since > 1_700_000_000),
        "since it is known"
    );
    lister.forget("/ok");
    owned.until(Hibernating).await;
    assert_eq!(published(&owned), spec);
}

#[tokio::test]
async fn a_backend_that_says_that_its_models_were_created_just_now_changes_nothing() {
    let lister = Lister::start().await;
    let now = control::now().as_millis() / 1000;
    let list = |created: u64| lister.list(&json!([{ "id": "m", "created": created }]));
    list(now - 5);
    let owned = Owned::start(&probed(&lister, ""));
    owned.until(Active).await;
    for second in 0..5 {
        list(now + second);
        lister.asked_again(2).await;
    }
    let created = published(&owned)
        .details(&model("m"))
        .and_then(|details| details.created);
    assert_eq!((created, owned.control.registrations()), (Some(now - 5), 1));
}

/// What is found at a backend.
async fn found(lister: &Lister, known: Option<Listed>) -> Listed {
    let provider = provider(&format!("base_url = \"{}/v1\"", lister.url));
    discover(client(), provider, known).await.expect("a list")
}

fn details(listed: &Listed, name: &str) -> (Option<u64>, String) {
    let details = &listed.models[&model(name)];
    let capabilities: Vec<_> = details.capabilities.iter().map(Capability::as_str).collect();
    (details.context_length, capabilities.join(" "))
}

#[tokio::test]
async fn ollama_is_asked_once_about_each_of_its_models() {
    let lister = Lister::start().await;
    lister.name(&["qwen3:latest"]);
    lister.set("/api/version", json!({ "version": "0.12.0" }));
    lister.set(
        "/api/show",
        json!({ "model_info": { "qwen3.context_length": 40_960 }, "capabilities": ["completion", "tools"] }),
    );
    let listed = found(&lister, None).await;
    assert_eq!(listed.server, Server::Ollama);
    let told = (Some(40_960), "completion tools".to_owned());
    assert_eq!(details(&listed, "qwen3:latest"), told);
    lister.name(&["qwen3:latest", "new:7b"]);
    let listed = found(&lister, Some(listed)).await;
    assert_eq!(
        (details(&listed, "qwen3:latest"), details(&listed, "new:7b")),
        (told.clone(), told)
    );
    for name in ["qwen3:latest", "new:7b"] {
        assert_eq!(
            lister.asked(&format!("/api/show{{\"model\":\"{name}\"}}")),
            1,
            "{name}"
        );
    }
    assert_eq!(lister.asked("/api/version"), 1);
}

#[tokio::test]
async fn a_tag_of_ollama_may_be_left_out_in_the_config() {
    let lister = Lister::start().await;
    lister.set("/api/version", json!({ "version": "0.12.0" }));
    lister.list(&json!([{ "id": "qwen3:latest", "created": 1_700_000_000 }]));
    let owned = Owned::start(&probed(&lister, "models = [\"qwen3\"]\n"));
    owned.until(Active).await;
    eventually("Ollama", || published(&owned).has_latest_tag()).await;
    let created = published(&owned)
        .details(&model("qwen3"))
        .and_then(|details| details.created);
    assert_eq!(created, Some(1_700_000_000));
}

#[tokio::test]
async fn lm_studio_and_llama_cpp_tell_more_at_paths_of_their_own() {
    let lister = Lister::start().await;
    lister.list(&json!([{ "id": "vl" }, { "id": "embed" }]));
    lister.set(
        "/api/v0/models",
        json!({ "data": [
            { "id": "vl", "type": "vlm", "max_context_length": 32_768, "capabilities": ["tool_use"] },
            { "id": "embed", "type": "embeddings", "max_context_length": 2048 },
        ]}),
    );
    let listed = found(&lister, None).await;
    assert_eq!(listed.server, Server::LmStudio);
    assert_eq!(
        details(&listed, "vl"),
        (Some(32_768), "tool_use vision".to_owned())
    );
    assert_eq!(details(&listed, "embed"), (Some(2048), "embedding".to_owned()));

    lister.forget("/api/v0/models");
    lister.list(&json!([{ "id": "m.gguf", "meta": { "n_ctx_train": 32_768 } }]));
    assert_eq!(details(&found(&lister, None).await, "m.gguf").0, None);
    lister.set(
        "/props",
        json!({ "default_generation_settings": { "n_ctx": 4096 } }),
    );
    assert_eq!(details(&found(&lister, None).await, "m.gguf").0, Some(4096));
}

/// A backend with one configured model, which is looked at only when there is a reason.
struct Configured {
    lister: Lister,
    owned: Owned,
}

impl Configured {
    /// One that was up, and sleeps.
    async fn asleep() -> Self {
        let lister = Lister::start().await;
        lister.set("/ok", json!({ "is_sleeping": false }));
        lister.list(&json!([{ "id": "m", "max_model_len": 1024 }]));
        let config = probed(&lister, "models = [\"m\"]\n");
        let config = config.replace("expect = {}", "expect = { is_sleeping = false }");
        let owned = Owned::start(&config.replace("20ms", "1h"));
        let this = Self { lister, owned };
        this.publishes(1024).await;
        this.owned.until(Active).await;
        this.lister.set("/ok", json!({ "is_sleeping": true }));
        this.look();
        this.owned.until(Hibernating).await;
        this
    }

    fn look(&self) {
        self.owned.handle.send(Input::Suspect(Symptom::BrokeOff));
    }

    /// It comes up with another context length.
    fn comes_up(&self, context: u64) {
        self.lister
            .list(&json!([{ "id": "m", "max_model_len": context }]));
        self.lister.set("/ok", json!({ "is_sleeping": false }));
    }

    async fn publishes(&self, context: u64) {
        eventually("its context length", || {
            let is_published = self.owned.control.registrations() > 0;
            is_published
                && published(&self.owned)
                    .details(&model("m"))
                    .and_then(|details| details.context_length)
                    == Some(context)
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_backend_lists_while_control_answers_is_published_afterwards() {
    let configured = Configured::asleep().await;
    let Configured { lister, owned } = &configured;
    owned.control.hold();
    let lists = lister.asked("/v1/models");
    configured.comes_up(2048);
    configured.look();
    eventually("the report", || owned.control.is_asked()).await;
    eventually("the list", || lister.asked("/v1/models") > lists).await;
    // The list has been taken over by the time of the second probe from here.
    for _ in 0..2 {
        let looks = lister.asked("/ok");
        configured.look();
        eventually("a probe", || lister.asked("/ok") > looks).await;
    }
    owned.control.release();
    configured.publishes(2048).await;
    owned.until(Active).await;
}

#[tokio::test]
async fn a_backend_that_a_wake_finds_up_already_is_asked_for_its_list() {
    let configured = Configured::asleep().await;
    configured.comes_up(2048);
    configured.owned.wake();
    configured.owned.until(Active).await;
    configured.publishes(2048).await;
}

#[tokio::test]
async fn what_a_backend_does_not_say_this_time_is_kept() {
    let lister = Lister::start().await;
    lister.list(&json!([{ "id": "vl" }]));
    let path = "/api/v0/models";
    lister.set(
        path,
        json!({ "data": [{ "id": "vl", "type": "vlm", "max_context_length": 32_768 }] }),
    );
    let known = found(&lister, None).await;
    lister.forget(path);
    let kept = found(&lister, Some(known)).await;
    assert_eq!(details(&kept, "vl"), (Some(32_768), "vision".to_owned()));

    lister.list(&json!([{ "id": "m.gguf", "meta": { "n_ctx_train": 32_768 } }]));
    lister.set(
        "/props",
        json!({ "default_generation_settings": { "n_ctx": 4096 } }),
    );
    let known = found(&lister, None).await;
    lister.forget("/props");
    assert_eq!(
        details(&found(&lister, Some(known)).await, "m.gguf").0,
        Some(4096)
    );

    // One that says how long a context it serves, beside what it was trained for.
    lister.list(&json!([{ "id": "m", "max_model_len": 262_144, "meta": { "n_ctx_train": 32_768 } }]));
    assert_eq!(details(&found(&lister, None).await, "m").0, Some(262_144));
}
