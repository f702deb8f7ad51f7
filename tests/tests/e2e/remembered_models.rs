//! What a backend lists is remembered for the time that it sleeps, over a restart too.

use reveille_tests::{AgentConfig, Api, Backend, Process, World};
use std::sync::Arc;

use crate::{first_use::write, scene::SOON};

/// An agent whose backend was up once, and sleeps at its next start.
async fn asleep_at_the_second_start(backend: &Backend, start: impl Fn() -> Started) {
    backend.start_and_wait().await;
    let first = start();
    first.api.wait_until_ready().await;
    first
        .api
        .wait_for_status("gpu-box/stand-in", "active", SOON)
        .await;
    for process in first.processes() {
        process.stop(SOON).await;
    }
    backend.kill9();
    let second = start();
    second.api.wait_until_ready().await;
    second
        .api
        .wait_for_status("gpu-box/stand-in", "hibernating", SOON)
        .await;
    assert_eq!(
        second.api.chat("stand-in").await.status,
        200,
        "the remembered model wakes it"
    );
}

struct Started {
    api: Arc<Api>,
    agent: Option<Process>,
}

impl Started {
    /// What ends with this start.
    fn processes(&self) -> Vec<&Process> {
        match &self.agent {
            Some(agent) => vec![agent],
            None => vec![self.api.process()],
        }
    }
}

fn asks_its_backend(backend: &Backend) -> AgentConfig {
    AgentConfig::new("gpu-box")
        .lines(&format!(
            "\n[[provider]]\nname = \"vllm\"\nbase_url = {:?}\n",
            backend.url()
        ))
        .woken_by_serving(backend)
}

#[tokio::test]
async fn an_agent_remembers_by_default_what_a_backend_lists_that_sleeps_at_the_next_start() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let api = Arc::new(world.api().await);
    let file = write(&world, "reveille.toml", &asks_its_backend(&backend));
    asleep_at_the_second_start(&backend, || Started {
        api: api.clone(),
        agent: Some(
            world
                .reveille("agent")
                .args(["--nats", &world.nats.url(), "--config", &file])
                .start(),
        ),
    })
    .await;
    assert!(
        world
            .data_home()
            .join("reveille/agent/gpu-box.models.json")
            .exists(),
        "not where it is documented"
    );
}

#[tokio::test]
async fn up_remembers_in_its_data_directory_what_a_backend_lists_that_sleeps_at_the_next_start() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let data = world.folder().join("data");
    asleep_at_the_second_start(&backend, || Started {
        api: Arc::new(world.up(&data, &asks_its_backend(&backend).to_toml(), &[])),
        agent: None,
    })
    .await;
    assert!(
        data.join("agent/gpu-box.models.json").exists(),
        "not where it is documented"
    );
}
