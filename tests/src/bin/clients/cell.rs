//! One client in one scene, and whether it saw what its user should see.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reveille_tests::{AgentConfig, Backend, Process, World};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    clients::{CLIENTS, Client},
    runtime::Runtime,
    scene::Scene,
};

/// Until a script ends, on a machine that is busy with other things.
const ENDS_WITHIN: Duration = Duration::from_secs(180);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// What a script's line begins with.
const SEEN: &str = "SEEN ";
/// What the stand-in answers.
const TEXT: &str = "token-0 token-1 token-2 token-3 token-4 token-5 token-6 token-7";
const TOKENS: u64 = 8;
const DIMENSIONS: u64 = 8;
/// A request that has the image is longer than this, and no other is.
const IMAGE_BYTES: u64 = 12_000;

/// A cell of the matrix.
#[derive(Debug)]
pub struct Cell {
    pub client: &'static Client,
    pub scene: Scene,
    backend: Backend,
}

impl Cell {
    pub fn new(world: &World, client: &'static Client, scene: Scene) -> Self {
        let boot = scene.boot().as_millis().to_string();
        let mut args = vec!["--boot-delay-ms", &boot];
        if scene.fails() {
            args.extend(["--fail-boot", "1"]);
        }
        if scene == Scene::Tools || client.always_calls {
            args.push("--calls-tools");
        }
        Self {
            client,
            scene,
            backend: world.backend(&args),
        }
    }

    /// Its provider's name, which is also its model's.
    pub fn model(&self) -> String {
        format!("{}-{}", self.client.name, self.scene.name())
    }

    /// Where it is in the matrix.
    pub fn place(&self) -> (usize, Scene) {
        let row = CLIENTS.iter().position(|client| client.name == self.client.name);
        (row.unwrap_or_default(), self.scene)
    }

    /// One more provider, asleep.
    pub fn publish(&self, config: AgentConfig) -> AgentConfig {
        let model = self.model();
        config
            .provider(&model, &model, &self.backend)
            .woken_by_serving(&self.backend)
    }

    /// Runs the script and judges what the client saw.
    pub async fn play(&self, runtime: &Runtime, url: &str) -> Result<Duration> {
        let started = Instant::now();
        let process = runtime
            .script(self.client, self.scene, url, &self.model())?
            .start();
        let seen = seen(&process).await?;
        self.judge(&seen)?;
        Ok(started.elapsed())
    }

    fn judge(&self, seen: &Value) -> Result<()> {
        let log = self.backend.log();
        let raises = self.client.raises(self.scene);
        if let Some(raised) = raises {
            ensure!(
                seen["error"] == raised.error,
                "expected {}, got {seen}",
                raised.error
            );
            let message = seen["message"].as_str().unwrap_or_default();
            ensure!(
                message.contains("did not wake"),
                "the user isn't told why: {message}"
            );
        } else {
            self.judge_answer(seen)?;
        }
        let wakes = raises.map_or(1, |raised| raised.wakes);
        ensure!(
            (1..=wakes).contains(&log.starts()),
            "expected 1 to {wakes} wakes, got {}",
            log.starts()
        );
        let longest = log.requests().iter().map(|request| request.body_bytes).max();
        if self.scene == Scene::Vision {
            ensure!(
                longest >= Some(IMAGE_BYTES),
                "no image arrived: {longest:?} bytes"
            );
        }
        Ok(())
    }

    fn judge_answer(&self, seen: &Value) -> Result<()> {
        ensure!(seen["error"].is_null(), "{seen}");
        if self.scene == Scene::Embeddings {
            ensure!(seen["dimensions"] == DIMENSIONS, "{seen}");
            return Ok(());
        }
        if self.scene == Scene::Tools || self.client.always_calls {
            // Some clients parse the arguments, others leave that to their user.
            let arguments = match &seen["arguments"] {
                Value::String(text) => serde_json::from_str(text)?,
                other => other.clone(),
            };
            ensure!(
                seen["tool"].is_string() && arguments == json!({ "city": "token-0" }),
                "{seen}"
            );
            return Ok(());
        }
        ensure!(seen["text"] == TEXT, "the text isn't whole: {seen}");
        let tells_usage = self.client.has_usage && !seen["usage"].is_null();
        if tells_usage || self.scene == Scene::Stream && self.client.has_usage {
            ensure!(seen["usage"] == TOKENS, "the usage is wrong: {seen}");
        }
        Ok(())
    }
}

/// What a script printed, once it has ended. What it has started ends with it.
async fn seen(process: &Process) -> Result<Value> {
    let ended = timeout(ENDS_WITHIN, async {
        while process.is_running() {
            sleep(LOOK_AGAIN_AFTER).await;
        }
    });
    let ended = ended.await.is_ok();
    let output = process.log();
    if !ended {
        bail!("it didn't end within {} s:\n{output}", ENDS_WITHIN.as_secs());
    }
    let line = output.lines().rev().find_map(|line| line.strip_prefix(SEEN));
    let line = line.with_context(|| format!("the script failed:\n{output}"))?;
    serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))
}
