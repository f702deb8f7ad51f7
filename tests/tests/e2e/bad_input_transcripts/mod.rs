//! Bad input over HTTP at a real replica that asks for keys, each with a transcript. (`--nocapture` prints them.)

mod socket;
mod status;
mod who;

use reveille_tests::{AgentConfig, Answer, Api, Process, WakeController, wait_until};
use serde_json::json;
use std::{fs, path::Path};

use crate::{
    keys::Hub,
    scene::SOON,
    transcript::{Transcript, asked},
};

const CHAT: &str = "/v1/chat/completions";
const MODELS: &str = "/v1/models";
const TYPED: &str = "content-type: application/json";
/// What wakes by hand.
const WAKE: &str = "/reveille/v1/providers/gpu-box/qwen/wake";

/// What curl is given, and what comes of it.
struct Row {
    what: &'static str,
    status: u16,
    code: &'static str,
    /// Whether the answer says when to try again.
    retry: bool,
    args: Vec<String>,
}

fn row(what: &'static str, status: u16, code: &'static str, args: &[&str]) -> Row {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Row {
        what,
        status,
        code,
        retry: status == 429 || matches!(code, "wake_failed" | "wake_timeout" | "provider_inactive"),
        args,
    }
}

impl Row {
    fn check(&self, api: &Api) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let said = Transcript::of(self.what, &asked(api, &args));
        self.is(&said);
    }

    fn is(&self, said: &Transcript) {
        let (what, got) = (self.what, (said.status, said.error_code()));
        assert_eq!((got.0, got.1.as_str()), (self.status, self.code), "{what}");
        assert_eq!(said.header("retry-after").is_some(), self.retry, "{what}");
    }
}

fn chat(model: &str) -> String {
    json!({"model": model, "messages": [{"role": "user", "content": "hello"}]}).to_string()
}

/// A file with these bytes, as curl is given it.
fn file(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let file = folder.join(name);
    fs::write(&file, bytes).expect("it is written");
    format!("@{}", file.display())
}

fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}")
}

/// A hub with an open replica to look at, one that asks for keys and lets one request wait, and an agent with models that
/// never come up: `qwen` says that it does, `broken` that it can't. The agent of `gone` has left.
struct Stage {
    hub: Hub,
    open: Api,
    api: Api,
    controllers: [WakeController; 2],
    _agent: Process,
}

impl Stage {
    async fn set() -> Self {
        let hub = Hub::new().await;
        let open = hub.replica(&[]).await;
        let api = hub.replica(&["--require-keys", "--max-waiting", "1"]).await;
        let controllers = [
            WakeController::answering(200).await,
            WakeController::answering(500).await,
        ];
        let backend = hub.world.backend(&[]);
        let [qwen, broken] = [&controllers[0], &controllers[1]].map(WakeController::url);
        let provider = |config: AgentConfig, model: &str, url: &str| {
            let wake = format!("\n[provider.wake]\ntype = \"http\"\nurl = {url:?}\nmax_wait = \"5s\"\n");
            config.provider(model, model, &backend).lines(&wake)
        };
        let config = provider(AgentConfig::new("gpu-box"), "qwen", &qwen);
        let agent = hub.world.agent(&provider(config, "broken", &broken));
        let gone = provider(AgentConfig::new("gone-box"), "gone", &qwen);
        let gone = hub.world.agent(&gone);
        for llm in ["gpu-box/qwen", "gpu-box/broken", "gone-box/gone"] {
            open.wait_for_status(llm, "hibernating", SOON).await;
        }
        gone.stop(SOON).await;
        open.wait_for_status("gone-box/gone", "inactive", SOON).await;
        Self {
            hub,
            open,
            api,
            controllers,
            _agent: agent,
        }
    }

    async fn key(&self, words: &[&str]) -> String {
        self.hub.make(&self.open, words).await.1
    }

    /// Waits until the replica that asks for keys says this of one.
    async fn until_it_is(&self, code: &str, key: &str) {
        wait_until(code, SOON, async || {
            let request = self.api.client().get(format!("{}{MODELS}", self.api.url()));
            let answer = Answer::of(request.bearer_auth(key)).await;
            (answer.status != 200 && answer.json()["error"]["code"] == code).then_some(())
        })
        .await;
    }
}
