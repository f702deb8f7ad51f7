//! Several machines with one model, some of them dead: real agents and real backends.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use reveille_tests::{AgentConfig, Answer, Api, Backend, Exit, Process, WakeController, World, wait_until};
use serde_json::json;

use crate::scene::{QUICK_HEARTBEAT, SOON};

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
async fn machines_of_a_pool_take_turns_and_keep_their_conversations() {
    let world = World::new().await;
    let (one, other) = (world.backend(&[]), world.backend(&[]));
    one.start_and_wait().await;
    other.start_and_wait().await;
    let pool = Pool::of(world, &[&one, &other]).await;
    pool.is("a", "active").await;
    pool.is("b", "active").await;
    for expected in ["a/p", "b/p", "a/p", "b/p"] {
        let answer = embed(&pool.api, "qwen").await;
        assert_eq!(answered_by(&answer), (200, Some(expected)));
    }
    let first = pool.api.chat("qwen").await;
    for _ in 0..4 {
        let next = pool.api.chat("qwen").await;
        assert_eq!(answered_by(&next), answered_by(&first));
    }
}

#[tokio::test]
async fn two_gpus_of_one_box_serve_one_model_and_each_stands_in_for_the_other() {
    let world = World::new().await;
    let (one, other) = (world.backend(&[]), world.backend(&[]));
    one.start_and_wait().await;
    other.start_and_wait().await;
    let api = world.api().await;
    let often = "probe = { path = \"/v1/models\", interval = \"100ms\" }\n";
    let config = AgentConfig::new("box")
        .provider("gpu0", "qwen", &one)
        .lines(often)
        .provider("gpu1", "qwen", &other)
        .lines(often);
    let _agent = world.agent(&config);
    let is = async |provider: &str, status: &str| {
        let path = format!("/reveille/v1/providers/box/{provider}");
        wait_until(&format!("{provider} is {status}"), SOON, async || {
            (api.get(&path).await.json()["status"] == status).then_some(())
        })
        .await;
    };
    is("gpu0", "active").await;
    is("gpu1", "active").await;
    for model in ["qwen", "box/qwen"] {
        let mut both = BTreeSet::new();
        for _ in 0..2 {
            let answer = embed(&api, model).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            both.insert(answer.header("x-reveille-provider").map(str::to_owned));
        }
        assert_eq!(both.len(), 2, "{both:?}");
    }
    for (model, provider) in [("box/gpu0/qwen", "box/gpu0"), ("box/gpu1/qwen", "box/gpu1")] {
        for _ in 0..2 {
            let answer = api.chat(model).await;
            assert_eq!(answered_by(&answer), (200, Some(provider)), "{}", answer.text());
        }
    }
    for (path, provider) in [
        ("box/qwen", "gpu0"),
        ("box/gpu0/qwen", "gpu0"),
        ("box/gpu1/qwen", "gpu1"),
    ] {
        let row = api.get(&format!("/reveille/v1/llms/{path}")).await.json();
        assert_eq!(
            (&row["name"], &row["provider"]),
            (&json!("box/qwen"), &json!(provider))
        );
    }
    one.kill9();
    for _ in 0..6 {
        let answer = api.chat("qwen").await;
        assert_eq!(answered_by(&answer), (200, Some("box/gpu1")), "{}", answer.text());
    }
    is("gpu0", "down").await;
    one.start_and_wait().await;
    is("gpu0", "active").await;
    other.kill9();
    let answer = api.chat("box/qwen").await;
    assert_eq!(answered_by(&answer), (200, Some("box/gpu0")), "{}", answer.text());
}

#[tokio::test]
async fn three_hundred_requests_wake_one_of_three_machines_and_the_next_when_its_agent_dies() {
    let world = World::new().await;
    let backends = [(); 3].map(|()| world.backend(&[]));
    let mut controllers = vec![];
    for backend in &backends {
        controllers.push(WakeController::starting(backend, Duration::ZERO).await);
    }
    // The first machine never comes up.
    controllers[0].change(200, None, Duration::ZERO);
    let replicas = [world.api().await, world.api().await];
    let mut agents = vec![];
    for (name, (backend, controller)) in ["a", "b", "c"].into_iter().zip(backends.iter().zip(&controllers)) {
        let config = AgentConfig::new(name)
            .lines(QUICK_HEARTBEAT)
            .provider("p", "qwen", backend)
            .woken_by_http(&controller.url());
        agents.push(world.agent(&config));
    }
    for api in &replicas {
        for name in ["a", "b", "c"] {
            api.wait_for_status(&format!("{name}/qwen"), "hibernating", SOON)
                .await;
        }
    }
    wait_until("the first agent was heard", SOON, async || {
        replicas[0].llm("a/qwen").await?["last_heartbeat_ms"].as_u64()
    })
    .await;

    let asked = join_all((0..300).map(|i| replicas[i % 2].chat("qwen")));
    let killed = async {
        wait_until("all wait for the first machine", SOON, async || {
            let mut waiting = 0;
            for api in &replicas {
                let row = api.get("/reveille/v1/providers/a/p").await.json();
                waiting += row["waiting"].as_u64()?;
            }
            (waiting == 300).then_some(())
        })
        .await;
        assert_eq!(posts(&controllers), [1, 0, 0], "one recipe run");
        agents[0].kill9();
    };
    let (answers, ()) = tokio::join!(asked, killed);
    for answer in &answers {
        assert_eq!(answered_by(answer), (200, Some("b/p")), "{}", answer.text());
    }
    assert_eq!(posts(&controllers), [1, 1, 0], "one more");
    assert_eq!(backends[1].log().answered(), 300, "each once");
    // A replica may have heard by then that the other one wakes it.
    let logs = replicas.each_ref().map(|api| api.process().log());
    for log in &logs {
        let why = "provider.chosen=\"b/p of 3: it is ";
        assert!(log.lines().any(|line| line.contains(why)), "no {why} in\n{log}");
    }
    let asleep = "provider.chosen=\"b/p of 3: it is asleep\"";
    assert!(
        logs.iter().any(|log| log.contains(asleep)),
        "no {asleep} in\n{logs:?}"
    );
}

/// How often each recipe ran.
fn posts(controllers: &[WakeController]) -> Vec<usize> {
    controllers
        .iter()
        .map(|controller| controller.posts().len())
        .collect()
}

/// A request that belongs to no conversation.
async fn embed(api: &Api, model: &str) -> Answer {
    api.post("/v1/embeddings", &json!({ "model": model, "input": "hello" }))
        .await
}

fn answered_by(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.header("x-reveille-provider"))
}
