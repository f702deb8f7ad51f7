//! Several machines with one model, some of them dead: real agents and real backends.

use reveille_tests::{AgentConfig, Answer, Api, Backend, Exit, Process, World};
use serde_json::json;

use crate::scene::SOON;

/// A machine without a wake recipe, whose backend is looked at often.
fn machine(name: &str, backend: &Backend) -> AgentConfig {
    AgentConfig::new(name)
        .provider("p", "qwen", backend)
        .lines("probe = { path = \"/v1/models\", interval = \"100ms\" }\n")
}

/// The machines a, b and c, one for each backend, with an API.
struct Pool {
    api: Api,
    _agents: Vec<Process>,
    world: World,
}

impl Pool {
    async fn of(world: World, backends: &[&Backend]) -> Self {
        let api = world.api().await;
        let agents = ["a", "b", "c"].into_iter().zip(backends);
        let agents = agents.map(|(name, backend)| world.agent(&machine(name, backend)));
        Self {
            api,
            _agents: agents.collect(),
            world,
        }
    }

    async fn is(&self, machine: &str, status: &str) {
        let llm = format!("{machine}/qwen");
        self.api.wait_for_status(&llm, status, SOON).await;
    }
}

#[tokio::test]
async fn a_backend_without_a_recipe_that_dies_is_down_until_it_is_back() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let pool = Pool::of(world, &[&backend]).await;
    pool.is("a", "down").await;
    let model = pool.api.get("/v1/models/qwen").await.json();
    assert_eq!(
        (&model["status"]["value"], &model["reveille"]["status"]),
        (&json!("unloaded"), &json!("down"))
    );
    let answer = pool.api.chat("qwen").await;
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (502, "backend_unavailable")
    );
    assert!(answer.text().contains("a/p's backend"), "{}", answer.text());

    let doctor = pool.world.reveille("doctor");
    let nats = pool.world.nats_url();
    let doctor = doctor
        .args(["--nats", &nats, "--api", &pool.api.url(), "-o", "jsonl"])
        .start();
    assert_eq!(
        doctor.wait_for_exit(SOON).await,
        Exit::Code(0),
        "{}",
        doctor.log()
    );
    let found = doctor.log();
    let found = found
        .lines()
        .find(|line| line.contains("provider a/p"))
        .unwrap_or_else(|| panic!("nothing about a/p:\n{found}"));
    assert!(
        found.contains("\"warning\"") && found.contains("down for "),
        "{found}"
    );

    backend.start_and_wait().await;
    pool.is("a", "active").await;
    assert_eq!(pool.api.chat("qwen").await.status, 200);
    backend.kill9();
    pool.is("a", "down").await;
    let commits = pool.world.journal().await;
    let types: Vec<_> = commits
        .iter()
        .flat_map(reveille_tests::Commit::events)
        .filter_map(|event| event["type"].as_str().map(str::to_owned))
        .filter(|event| event.starts_with("Backend"))
        .collect();
    assert_eq!(types, ["BackendAwoke", "BackendWentDown"]);
}

#[tokio::test]
async fn dead_machines_of_a_pool_cost_a_request_nothing() {
    let world = World::new().await;
    let (dead, also_dead, alive) = (world.backend(&[]), world.backend(&[]), world.backend(&[]));
    alive.start_and_wait().await;
    let pool = Pool::of(world, &[&dead, &also_dead, &alive]).await;
    pool.is("a", "down").await;
    pool.is("b", "down").await;
    pool.is("c", "active").await;
    for _ in 0..6 {
        let answer = pool.api.chat("qwen").await;
        assert_eq!(answered_by(&answer), (200, Some("c/p")), "{}", answer.text());
    }
    alive.kill9();
    pool.is("c", "down").await;
    dead.start_and_wait().await;
    pool.is("a", "active").await;
    let answer = pool.api.chat("qwen").await;
    assert_eq!(answered_by(&answer), (200, Some("a/p")), "{}", answer.text());
}

#[tokio::test]
async fn machines_of_a_pool_take_turns() {
    let world = World::new().await;
    let (one, other) = (world.backend(&[]), world.backend(&[]));
    one.start_and_wait().await;
    other.start_and_wait().await;
    let pool = Pool::of(world, &[&one, &other]).await;
    pool.is("a", "active").await;
    pool.is("b", "active").await;
    for expected in ["a/p", "b/p", "a/p", "b/p"] {
        let answer = pool.api.chat("qwen").await;
        assert_eq!(answered_by(&answer), (200, Some(expected)));
    }
}

fn answered_by(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.header("x-reveille-provider"))
}
