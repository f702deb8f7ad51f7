//! The scene of most tests: an API replica and the agent `gpu-box`, whose provider `vllm` publishes `qwen` and is woken
//! by an HTTP controller.

use std::time::Duration;

pub use reveille_tests::SOON;
use reveille_tests::{AgentConfig, Answer, Api, Backend, Commit, Process, WakeController, World, wait_until};

/// The row of the scene's model.
pub const LLM: &str = "gpu-box/qwen";
/// Heartbeats so quick that a lost agent is noticed within a test's patience: three missed ones are 1.5 s.
pub const QUICK_HEARTBEAT: &str = "heartbeat = \"500ms\"\n";

pub struct Scene {
    pub agent: Process,
    pub api: Api,
    pub controller: WakeController,
    pub backend: Backend,
    pub config: AgentConfig,
    pub world: World,
}

impl Scene {
    /// The backend sleeps; the controller starts it this long after a post.
    pub async fn asleep(delay: Duration) -> Self {
        Self::asleep_in(World::new().await, delay).await
    }

    /// The same in a world of the test's own.
    pub async fn asleep_in(world: World, delay: Duration) -> Self {
        let backend = world.backend(&[]);
        let controller = WakeController::starting(&backend, delay).await;
        Self::set(world, backend, controller, "", "", "hibernating").await
    }

    /// The backend sleeps, and the controller answers with this status and starts nothing.
    pub async fn asleep_for_good(status: u16, provider_lines: &str) -> Self {
        let world = World::new().await;
        let backend = world.backend(&[]);
        let controller = WakeController::answering(status).await;
        Self::set(world, backend, controller, "", provider_lines, "hibernating").await
    }

    /// The backend runs; the controller starts it again at once, should it end.
    pub async fn awake(agent_lines: &str, provider_lines: &str) -> Self {
        let world = World::new().await;
        let backend = world.backend(&[]);
        backend.start_and_wait().await;
        let controller = WakeController::starting(&backend, Duration::ZERO).await;
        Self::set(world, backend, controller, agent_lines, provider_lines, "active").await
    }

    /// Whatever the test has made, once the row has this status. `provider_lines` end the wake recipe's table.
    pub async fn set(
        world: World,
        backend: Backend,
        controller: WakeController,
        agent_lines: &str,
        provider_lines: &str,
        status: &str,
    ) -> Self {
        let config = AgentConfig::new("gpu-box")
            .lines(agent_lines)
            .provider("vllm", "qwen", &backend)
            .woken_by_http(&controller.url())
            .lines(provider_lines);
        let api = world.api().await;
        let agent = world.agent(&config);
        let scene = Self {
            agent,
            api,
            controller,
            backend,
            config,
            world,
        };
        scene.is(status).await;
        scene
    }

    /// Waits until the row has this status.
    pub async fn is(&self, status: &str) {
        self.api.wait_for_status(LLM, status, SOON).await;
    }

    /// Waits until the agent's heartbeat was heard, which says how often there will be one: before that, an agent may be
    /// silent for as long as one of the usual period.
    pub async fn is_heard(&self) {
        wait_until("the agent was heard", SOON, async || {
            self.api.llm(LLM).await?["last_heartbeat_ms"].as_u64()
        })
        .await;
    }

    /// Sends a chat completion.
    pub async fn chat(&self) -> Answer {
        self.api.chat("qwen").await
    }

    /// How often the recipe ran.
    pub fn posts(&self) -> usize {
        self.controller.posts().len()
    }

    /// The journal's commits that hold an event of this type.
    pub async fn commits_with(&self, event_type: &str) -> Vec<Commit> {
        let commits = self.world.journal().await;
        commits
            .into_iter()
            .filter(|commit| commit.data(event_type).is_some())
            .collect()
    }
}

/// A refusal: its status and its code.
pub fn refused(answer: &Answer) -> (u16, String) {
    assert!(answer.status >= 400, "{}", answer.text());
    (answer.status, answer.error_code())
}
