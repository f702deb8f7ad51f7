//! A hub that `reveille up` runs by itself, and the commands of those who join it.

use reveille_tests::{Api, Port, Process, World};
use serde_json::Value;
use std::path::PathBuf;

use crate::scene::SOON;

/// A hub on this machine's loopback.
pub struct Hub {
    pub api: Api,
    pub world: World,
}

impl Hub {
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// One that listens for agents, and where.
    pub async fn with_agents() -> (Self, Port) {
        let port = Port::claim();
        let hub = Self::with(&["--agents", &port.address().to_string()]).await;
        (hub, port)
    }

    async fn with(options: &[&str]) -> Self {
        let world = World::new().await;
        let api = world.up(&world.folder().join("hub"), "", options);
        api.wait_until_ready().await;
        Self { api, world }
    }

    /// Runs a command of the hub's own machine to its end.
    pub async fn run(&self, words: &[&str]) -> Process {
        let command = self.world.reveille(words[0]).args(&words[1..]);
        let command = command.env("REVEILLE_API_URL", self.api.url());
        // Where its root key is.
        let process = command.env("REVEILLE_DATA_DIR", self.machine("hub")).start();
        process.wait_for_exit(SOON).await;
        process
    }

    /// A token, and when it expires.
    pub async fn token(&self, agent: &str, expires: &str) -> (String, u64) {
        let made = self
            .run(&["agent-token", "create", agent, "--expires", expires, "-o", "json"])
            .await;
        let made: Value = serde_json::from_str(&made.log()).unwrap_or_else(|_| panic!("{}", made.log()));
        let token = made["token"].as_str().expect("a token").to_owned();
        (token, made["expires_at_ms"].as_u64().expect("a time"))
    }

    /// The folder of a machine, of which nothing else is seen.
    pub fn machine(&self, name: &str) -> PathBuf {
        self.world.folder().join(name)
    }

    /// Joins on a machine, with a config at the place that these words name.
    pub async fn join_at(&self, token: &str, place: &[&str], more: &[&str]) -> Process {
        let words = [&["join", token, "--ports", "1", "--no-start"], place, more].concat();
        self.run(&words).await
    }

    /// Waits until a token has expired.
    pub async fn expired(&self, expires_at_ms: u64) {
        reveille_tests::wait_until("the token had expired", SOON, async || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            (now.expect("a time").as_millis() > u128::from(expires_at_ms) + 1_500).then_some(())
        })
        .await;
    }
}
