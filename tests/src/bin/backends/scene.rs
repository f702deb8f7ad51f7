//! One agent with one llama.cpp server, and what is known of it: by the API, by the journal, by `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use reqwest::RequestBuilder;
use reveille_tests::{AgentConfig, Api, Process, World, wait_until};
use serde_json::{Value, json};

use crate::server::{MODEL, Server};

/// Long enough for anything that isn't broken, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(90);
const PROVIDER: &str = "llama-cpp";

/// A hub, and a folder for models.
pub struct Hub {
    pub world: World,
    pub api: Api,
}

/// One scenario's agent and its server.
pub struct Scene<'a> {
    pub hub: &'a Hub,
    pub server: Server,
    agent: String,
    config: AgentConfig,
    process: Process,
}

impl Hub {
    /// NATS and an API, ready.
    pub async fn start() -> Self {
        let world = World::new().await;
        let api = world.api().await;
        Self { world, api }
    }
}

impl<'a> Scene<'a> {
    /// Starts the agent `name` and waits until its server is published as hibernating; `sleep` are lines of its sleep table.
    pub async fn set(hub: &'a Hub, name: &str, server: Server, sleep: &str) -> Result<Self> {
        let config = AgentConfig::new(name).lines(&server.provider(PROVIDER, sleep));
        let process = hub.world.agent(&config);
        let scene = Self {
            hub,
            server,
            agent: name.to_owned(),
            config,
            process,
        };
        scene.is("hibernating").await;
        let found = scene.server.processes();
        ensure!(found.is_empty(), "a server runs before anybody asked: {found:?}");
        Ok(scene)
    }

    /// The agent.
    pub fn agent(&self) -> &Process {
        &self.process
    }

    /// Starts the agent again, the one before having ended.
    pub fn start_agent_again(&mut self) {
        self.process = self.hub.world.agent(&self.config);
    }

    /// The row's name, by which this agent's model is asked and no other's.
    fn llm(&self) -> String {
        format!("{}/{MODEL}", self.agent)
    }

    /// A chat completion of exactly so many tokens, not sent yet.
    pub fn request(&self, tokens: usize, stream: bool) -> RequestBuilder {
        let messages = [json!({ "role": "user", "content": "what day was this" })];
        let body = json!({
            "model": self.llm(), "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": stream
        });
        let url = format!("{}/v1/chat/completions", self.hub.api.url());
        self.hub.api.client().post(url).json(&body)
    }

    /// Waits until the row has this status.
    pub async fn is(&self, status: &str) {
        self.hub.api.wait_for_status(&self.llm(), status, PATIENCE).await;
    }

    /// The row's status now.
    pub async fn status(&self) -> Result<String> {
        let row = self.hub.api.llm(&self.llm()).await.context("the row is gone")?;
        Ok(row["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Orders it to sleep, as an operator does.
    pub async fn order_sleep(&self) -> Result<()> {
        let path = format!("/reveille/v1/providers/{}/{PROVIDER}/sleep", self.agent);
        let answer = self.hub.api.post(&path, &Value::Null).await;
        ensure!(
            answer.status == 202,
            "answered {}: {}",
            answer.status,
            answer.text()
        );
        Ok(())
    }

    /// Every event of the provider in the journal, oldest first.
    pub async fn events(&self) -> Vec<Value> {
        let subject = format!("reveille.events.provider.{}.{PROVIDER}", self.agent);
        let commits = self.hub.world.journal().await;
        let own = commits.iter().filter(|commit| commit.subject == subject);
        own.flat_map(|commit| commit.events().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Wants exactly these events, told as [`tell`] does, since `first`; returns how many there are now. One that is wanted without
    /// a reason may have any.
    pub async fn happened_since(&self, first: usize, wanted: &[&str]) -> Result<usize> {
        let events = self.events().await;
        let told: Vec<_> = events.iter().skip(first).map(tell).collect();
        let is = |(told, wanted): (&String, &&str)| told == wanted || told.split('(').next() == Some(*wanted);
        ensure!(
            told.len() == wanted.len() && told.iter().zip(wanted).all(is),
            "the journal has {told:?} instead of {wanted:?}"
        );
        Ok(events.len())
    }

    /// The events since `first`, in order and with the reasons that they have.
    pub async fn journal_since(&self, first: usize) -> String {
        let events = self.events().await;
        let told: Vec<_> = events.iter().skip(first).map(tell_reason).collect();
        format!("journal: {}", told.join(", "))
    }

    /// The last line of what its command printed before it failed, which the agent keeps for the owner of the machine.
    pub async fn last_printed(&self) -> String {
        let file = format!("reveille/agent/{}.{PROVIDER}.output", self.agent);
        let file = self.hub.world.data_home().join(file);
        wait_until(
            "the output of the failed command was kept",
            PATIENCE,
            async || {
                let printed = fs::read_to_string(&file).ok()?;
                // Each line has its time and its step before it.
                let mut lines = printed.lines().filter_map(|line| line.split_once(" | "));
                let (_, text) = lines.rfind(|(_, text)| !text.trim().is_empty())?;
                Some(text.trim().to_owned())
            },
        )
        .await
    }

    /// Wants one event since `first`, which says that the backend died for one of these reasons. Returns the event.
    pub async fn died_since(&self, first: usize, reasons: &[&str]) -> Result<String> {
        let events = self.events().await;
        let told: Vec<_> = events.iter().skip(first).map(tell).collect();
        match &told[..] {
            [only]
                if reasons
                    .iter()
                    .any(|reason| *only == format!("BackendSlept({reason})")) =>
            {
                Ok(only.clone())
            }
            _ => bail!("the journal has {told:?} instead of the backend's death"),
        }
    }
}

/// An event in a few words: its type, and the reason if it has one.
fn tell(event: &Value) -> String {
    let (name, data) = (event["type"].as_str().unwrap_or_default(), &event["data"]);
    let reason = [
        &data["reason"],
        &data["failure"]["kind"],
        &data["wake"]["cause"]["by"],
    ];
    match reason.into_iter().find_map(Value::as_str) {
        Some(reason) => format!("{name}({reason})"),
        None => name.to_owned(),
    }
}

/// The same with the whole reason of a failed wake.
fn tell_reason(event: &Value) -> String {
    let failure = &event["data"]["failure"];
    match (failure["stage"].as_str(), failure["reason"].as_str()) {
        (Some(stage), Some(reason)) => format!("{} \"{stage}: {reason}\"", tell(event)),
        _ => tell(event),
    }
}
