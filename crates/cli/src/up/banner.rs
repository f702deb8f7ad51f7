//! What `reveille up` tells the person who started it.

use super::nats::Hub;
use crate::{
    client::{ApiClient, Row, field, table::Table},
    failure::Failure,
};
use reveille_agent::config::Config;
use reveille_api::keys::SecretKey;
use serde_json::json;
use std::{
    fmt::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How long the API may take to be ready before a line says that it isn't.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long providers may take to be registered before they are shown as they are.
const REGISTERED_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What runs where.
#[derive(Debug)]
pub struct Banner {
    client: ApiClient,
    /// Where the API is, without a path.
    api: String,
    /// Where the root key is, if keys are needed.
    root_key: Option<PathBuf>,
    nats: String,
    rows: &'static str,
    agent: Option<Agent>,
    /// The journal's end before our agent had said anything.
    before: u64,
}

/// The agent of this run.
#[derive(Debug)]
struct Agent {
    name: String,
    providers: usize,
}

/// Who is answered.
#[derive(Debug)]
pub struct Keys<'a> {
    /// Whether nobody is without a key.
    pub required: bool,
    /// The key that makes the others.
    pub root: &'a SecretKey,
    /// Where it is.
    pub file: PathBuf,
}

impl Banner {
    pub fn new(api: String, hub: &Hub, database: bool, keys: &Keys<'_>) -> Result<Self, Failure> {
        let nats = match hub {
            Hub::Ours {
                server,
                version,
                data,
                ..
            } => format!(
                "{}, our own nats-server {version}, its journal in {}",
                server.url(),
                data.path().display()
            ),
            // The URL may have a password in it.
            Hub::Theirs(_) => "the server that was named".to_owned(),
        };
        Ok(Self {
            client: ApiClient::local(&api, Some(keys.root))?,
            api,
            root_key: keys.required.then(|| keys.file.clone()),
            nats,
            rows: if database { "in the database" } else { "in memory" },
            agent: None,
            before: 0,
        })
    }

    /// Waits until the API answers; says when that takes long.
    pub async fn api_is_ready(&mut self) {
        if !until(READY_WITHIN, async || self.client.is_ready().await).await {
            eprintln!("the API is not ready yet: the log says why; it goes on trying");
            until(Duration::MAX, async || self.client.is_ready().await).await;
        }
        if let Ok(page) = self.client.providers().await {
            self.before = page.applied;
        }
    }

    /// The config's providers are about to be registered.
    pub fn expect(&mut self, config: &Config) {
        self.agent = Some(Agent {
            name: config.agent.name.to_string(),
            providers: config.providers.len(),
        });
    }

    /// Prints it once the config's providers are known to the API.
    pub async fn show(&self) {
        let mut providers = vec![];
        until(REGISTERED_WITHIN, async || {
            if let Ok(page) = self.client.providers().await {
                providers = page.data;
            }
            self.is_complete(&providers)
        })
        .await;
        eprint!("{}", self.text(&providers));
    }

    fn text(&self, providers: &[Row]) -> String {
        let api = &self.api;
        let keys = match &self.root_key {
            None => "any API key will do".to_owned(),
            Some(file) => format!(
                "each with a key that `reveille key create` makes\n          (the root key is in {})",
                file.display()
            ),
        };
        let mut text = format!(
            "\nreveille is up\n\n  \
             API     {api}/v1   point OpenAI clients here; {keys}\n  \
             NATS    {}\n  \
             rows    {}\n",
            self.nats, self.rows
        );
        if api.starts_with("https:") {
            text += "          by a name that its certificate has, in the place of the address\n";
        }
        text += &match &self.agent {
            None => "  agent   none: --config publishes this machine's providers\n".to_owned(),
            Some(agent) => format!("  agent   {}\n", agent.name),
        };
        if !self.is_complete(providers) {
            text += "          not all of its providers are registered yet: the log says why\n";
        }
        if !providers.is_empty() {
            let _ = write!(text, "\n{}\n", indented(&Table::providers(providers).to_string()));
        }
        if let Some(model) = providers.iter().find_map(|row| row["models"][0].as_str()) {
            let body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
            let key = match &self.root_key {
                None => "",
                Some(_) => " -H \"authorization: Bearer $KEY\"",
            };
            let _ = write!(
                text,
                "\n  curl {api}/v1/chat/completions{key} -H 'content-type: application/json' \\\n    -d '{body}'\n"
            );
        }
        text += "\n  Ctrl-C stops all of it\n\n";
        text
    }

    /// Whether this run's agent has registered all of its providers; what an earlier run left doesn't count.
    fn is_complete(&self, providers: &[Row]) -> bool {
        let Some(agent) = &self.agent else { return true };
        let ours = providers
            .iter()
            .filter(|row| field(row, "agent") == agent.name)
            .filter(|row| row["updated_seq"].as_u64() > Some(self.before));
        ours.count() >= agent.providers
    }
}

fn indented(lines: &str) -> String {
    let lines: Vec<_> = lines.lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

/// Whether the condition came true in time.
async fn until(within: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if condition().await {
            return true;
        }
        if started.elapsed() >= within {
            return false;
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args::HubArgs, hub::HubNats};

    fn banner(required: bool) -> Banner {
        // Another test may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = "http://127.0.0.1:8420".to_owned();
        let allowed = HubArgs {
            allow_plaintext: true,
            ..HubArgs::default()
        };
        let hub = Hub::Theirs(HubNats::named("nats://user:secret@hub.example", &allowed).unwrap());
        let keys = Keys {
            required,
            root: &SecretKey::generate().unwrap(),
            file: "/data/root.key".into(),
        };
        let mut banner = Banner::new(api, &hub, false, &keys).unwrap();
        let text =
            "[agent]\nname = 'gpu-box'\n[[provider]]\nname = 'vllm'\nbase_url = 'http://127.0.0.1:8000'\n";
        banner.expect(&Config::parse(text, "reveille.toml", &|_| None).unwrap());
        banner.before = 7;
        banner
    }

    fn provider(updated_seq: u64) -> Row {
        json!({"id": "gpu-box/vllm", "agent": "gpu-box", "status": "hibernating", "models": ["qwen3-8b"],
            "wakes": {"requested": 0}, "last_wakes": [], "updated_seq": updated_seq})
    }

    #[test]
    fn the_banner_says_what_runs_where_and_what_to_try_without_a_password() {
        insta::assert_snapshot!(banner(false).text(&[provider(8)]));
    }

    #[test]
    fn where_keys_are_needed_the_banner_says_how_to_make_one_and_shows_none() {
        let text = banner(true).text(&[provider(8)]);
        assert!(!text.contains("rv_"), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn an_address_that_no_certificate_names_is_not_left_without_a_word() {
        let mut banner = banner(false);
        assert!(!banner.text(&[]).contains("certificate"));
        banner.api = "https://127.0.0.1:8420".to_owned();
        assert!(banner.text(&[]).contains("by a name that its certificate has"));
    }

    #[test]
    fn what_an_earlier_run_left_is_not_taken_for_registered() {
        let banner = banner(false);
        assert!(!banner.is_complete(&[]));
        assert!(!banner.is_complete(&[provider(7)]));
        assert!(banner.is_complete(&[provider(8)]));
        assert!(
            banner
                .text(&[provider(7)])
                .contains("not all of its providers are registered yet")
        );
    }
}
