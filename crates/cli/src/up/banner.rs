//! The banner that `reveille up` prints when everything runs.

use crate::{
    client::{
        ApiClient, Row, field,
        table::{PROVIDERS, table},
    },
    failure::Failure,
    logging::notice,
};
use reqwest::Method;
use reveille_agent::config::Config;
use reveille_api::keys::SecretKey;
use serde_json::json;
use std::{
    fmt::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How long the API may take before a line says that it isn't ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait for providers to be registered before showing the banner without them.
const REGISTERED_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The check of `/readyz` that fails until this run's agent has published its providers.
const OWN_AGENT: &str = "agent";

/// What is running, and where.
#[derive(Debug)]
pub struct Banner {
    client: ApiClient,
    /// The API's URL, without a path.
    api: String,
    /// The root key's file, if keys are required.
    root_key: Option<PathBuf>,
    nats: String,
    lists: &'static str,
    /// The config of this run's agent.
    agent: Option<Config>,
    /// The journal's last commit before our agent started.
    before: u64,
}

impl Banner {
    /// `root_key` is the root key's file, if keys are required.
    pub fn new(
        api: String,
        nats: String,
        database: bool,
        root: &SecretKey,
        root_key: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            client: ApiClient::local(&api, Some(root))?,
            api,
            root_key,
            nats,
            lists: if database { "in Postgres" } else { "in memory" },
            agent: None,
            before: 0,
        })
    }

    /// Waits until the API is ready; prints a line if that takes long.
    pub async fn api_is_ready(&mut self) {
        if !until(READY_WITHIN, async || self.waits_only_for_agent().await).await {
            notice("The API isn't ready yet; the log says why. Still trying.");
            until(Duration::MAX, async || self.waits_only_for_agent().await).await;
        }
        if let Ok(page) = self.client.providers().await {
            self.before = page.applied;
        }
    }

    /// Announces that the config's providers are about to be registered.
    pub fn expect(&mut self, config: &Config) {
        self.agent = Some(config.clone());
    }

    /// Whether the API has all it needs, except for our agent, which starts after it.
    async fn waits_only_for_agent(&self) -> bool {
        let request = self.client.request(Method::GET, "/readyz");
        let Ok(answer) = self.client.body(request).await else {
            return false;
        };
        let checks = answer["checks"].as_object();
        checks.is_some_and(|checks| {
            checks
                .iter()
                .all(|(check, passed)| check == OWN_AGENT || *passed == true)
        })
    }

    /// Waits until the config's providers are registered, but not for ever, and returns all providers.
    pub async fn providers(&self) -> Vec<Row> {
        let mut providers = vec![];
        until(REGISTERED_WITHIN, async || {
            if let Ok(page) = self.client.providers().await {
                providers = page.data;
            }
            self.is_complete(&providers)
        })
        .await;
        providers
    }

    /// Prints the banner.
    pub fn show(&self, providers: &[Row]) {
        notice(self.text(providers).trim_end());
    }

    fn text(&self, providers: &[Row]) -> String {
        let api = &self.api;
        let keys = match &self.root_key {
            None => "any API key will do".to_owned(),
            Some(file) => format!(
                "clients need a key: `reveille key create`\n          (the root key is in {})",
                file.display()
            ),
        };
        let mut text =
            format!("\nreveille is up\n\n  API     {api}/v1   point OpenAI clients here; {keys}\n");
        if api.starts_with("https:") {
            text += "          (use a host name from the certificate instead of this address)\n";
        }
        let agent = match &self.agent {
            None => "none: no config (--config FILE)",
            Some(config) => config.agent.name.as_str(),
        };
        let _ = write!(
            text,
            "  NATS    {}\n  lists   {}\n  agent   {agent}\n",
            self.nats, self.lists
        );
        if !self.is_complete(providers) {
            text += "          some of its providers aren't registered yet; the log says why\n";
        }
        if !providers.is_empty() {
            let _ = write!(text, "\n{}\n", indented(&table(PROVIDERS, providers)));
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
        text += "\n  Press Ctrl-C to stop\n\n";
        text
    }

    /// Whether this run's agent has registered all of its providers. Registrations of earlier runs don't count.
    fn is_complete(&self, providers: &[Row]) -> bool {
        let Some(config) = &self.agent else { return true };
        let ours = providers
            .iter()
            .filter(|row| field(row, "agent") == config.agent.name.as_str())
            .filter(|row| row["updated_seq"].as_u64() > Some(self.before));
        ours.count() >= config.providers.len()
    }
}

fn indented(lines: &str) -> String {
    let lines: Vec<_> = lines.lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

/// Waits for a condition; whether it came true in time.
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

    fn banner(required: bool) -> Banner {
        // Another test may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = "http://127.0.0.1:8420".to_owned();
        let nats = "nats://hub.example (yours)".to_owned();
        let root = SecretKey::generate().unwrap();
        let file = required.then(|| "/data/root.key".into());
        let mut banner = Banner::new(api, nats, false, &root, file).unwrap();
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
    fn the_banner_shows_what_runs_where_and_what_to_try() {
        insta::assert_snapshot!(banner(false).text(&[provider(8)]));
    }

    #[test]
    fn when_keys_are_required_the_banner_says_how_to_create_one_and_shows_none() {
        let text = banner(true).text(&[provider(8)]);
        assert!(!text.contains("rv_"), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn an_address_that_is_not_in_the_certificate_is_explained() {
        let mut banner = banner(false);
        assert!(!banner.text(&[]).contains("certificate"));
        banner.api = "https://127.0.0.1:8420".to_owned();
        assert!(banner.text(&[]).contains("a host name from the certificate"));
    }

    #[test]
    fn registrations_of_an_earlier_run_do_not_count() {
        let banner = banner(false);
        assert!(!banner.is_complete(&[]));
        assert!(!banner.is_complete(&[provider(7)]));
        assert!(banner.is_complete(&[provider(8)]));
        assert!(
            banner
                .text(&[provider(7)])
                .contains("some of its providers aren't registered yet")
        );
    }
}
