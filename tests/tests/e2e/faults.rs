//! Killing things: whatever dies, everything recovers by itself, and nobody waits for ever.

use std::{path::Path, time::Duration};

use reveille_tests::{AgentConfig, Backend, Exit, WakeController, World, hold_for, is_alive, wait_until};

const SOON: Duration = Duration::from_secs(30);
const LLM: &str = "gpu-box/qwen";
/// Heartbeats so quick that a lost agent is noticed within a test's patience: three missed ones are 1.5 s.
const QUICK_HEARTBEAT: &str = "heartbeat = \"500ms\"\n";
/// The exit code of an agent whose name was taken by a later process.
const SUPERSEDED: i32 = 3;

fn agent(backend: &Backend) -> AgentConfig {
    AgentConfig::new("gpu-box")
        .lines(QUICK_HEARTBEAT)
        .provider("vllm", "qwen", backend)
}

#[tokio::test]
async fn an_agent_killed_in_a_wake_and_restarted_finds_its_backend_and_posts_once() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::from_secs(1)).await;
    let api = world.api().await;
    // The usual heartbeat: the agent is away for less than its lease.
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_http(&controller.url());
    let first = world.agent(&config);
    api.wait_for_status(LLM, "hibernating", SOON).await;

    let asked = async { api.chat("qwen").await };
    let killed = async {
        wait_until("the recipe ran", SOON, async || {
            (controller.posts().len() == 1).then_some(())
        })
        .await;
        first.kill9();
        backend.wait_until_listening(SOON).await;
        world.agent(&config)
    };
    let (answer, _second) = tokio::join!(asked, killed);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        controller.posts().len(),
        1,
        "a restarted agent probes before it runs the recipe again"
    );
    let journal = world.journal().await;
    assert_eq!(
        journal
            .iter()
            .filter(|commit| commit.data("WakeRequested").is_some())
            .count(),
        1
    );
    assert_eq!(
        journal
            .iter()
            .filter(|commit| commit.data("WakeSucceeded").is_some())
            .count(),
        1
    );
}

#[tokio::test]
async fn a_served_child_of_a_killed_agent_is_gone_before_the_next_one_starts() {
    let world = World::new().await;
    let backend = world.backend(&["--boot-delay-ms", "2500", "--fork-grandchild"]);
    let api = world.api().await;
    let config = agent(&backend).woken_by_serving(&backend);
    let first = world.agent(&config);
    api.wait_for_status(LLM, "hibernating", SOON).await;

    let asked = async { api.chat("qwen").await };
    let killed = async {
        wait_until("the child started", SOON, async || {
            (backend.log().starts() == 1).then_some(())
        })
        .await;
        wait_until("the grandchild started", SOON, async || {
            backend.log().grandchildren().first().copied()
        })
        .await;
        let old: Vec<u32> = backend
            .log()
            .pids()
            .into_iter()
            .chain(backend.log().grandchildren())
            .collect();
        first.kill9();
        let second = world.agent(&config);
        wait_until("the child started again", SOON, async || {
            if backend.log().starts() == 2 {
                assert!(
                    old.iter().all(|pid| !is_alive(*pid)),
                    "the first child or its grandchild still ran"
                );
                return Some(());
            }
            None
        })
        .await;
        second
    };
    let (answer, _second) = tokio::join!(asked, killed);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn an_agent_killed_for_good_becomes_inactive_and_its_waiters_are_answered() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::answering(200).await;
    let api = world.api().await;
    let agent = world.agent(&agent(&backend).woken_by_http(&controller.url()));
    api.wait_for_status(LLM, "hibernating", SOON).await;
    let asked = async { api.chat("qwen").await };
    let killed = async {
        wait_until("the recipe ran", SOON, async || {
            (controller.posts().len() == 1).then_some(())
        })
        .await;
        agent.kill9();
    };
    let (answer, ()) = tokio::join!(asked, killed);
    assert_eq!(answer.status, 503, "{}", answer.text());
    api.wait_for_status(LLM, "inactive", SOON).await;
    let journal = world.journal().await;
    let failed = journal
        .iter()
        .find_map(|commit| commit.data("WakeFailed"))
        .expect("the wake ended");
    assert_eq!(failed["failure"]["kind"], "agent_lost");

    let refused = api.chat("qwen").await;
    assert_eq!(
        (refused.status, refused.error_code().as_str()),
        (503, "provider_inactive"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn an_inactive_provider_gets_no_wake_message() {
    let world = World::new().await;
    let wire = world.nats.connect().await;
    let mut wakes = wire.subscribe("reveille.wakes.>").await.expect("subscribed");
    wire.flush().await.expect("flushed");
    let backend = world.backend(&[]);
    let controller = WakeController::answering(200).await;
    let api = world.api().await;
    let agent = world.agent(&agent(&backend).woken_by_http(&controller.url()));
    api.wait_for_status(LLM, "hibernating", SOON).await;
    let exit = agent.stop(SOON).await;
    assert_eq!(exit, Exit::Code(0), "SIGTERM is a clean stop: {}", agent.log());
    api.wait_for_status(LLM, "inactive", SOON).await;
    let refused = api.chat("qwen").await;
    assert_eq!(
        (refused.status, refused.error_code().as_str()),
        (503, "provider_inactive"),
        "{}",
        refused.text()
    );
    let heard = tokio::time::timeout(Duration::from_secs(2), futures::StreamExt::next(&mut wakes)).await;
    assert!(heard.is_err(), "a wake message was sent: {heard:?}");
    assert_eq!(controller.posts().len(), 0);
}

#[tokio::test]
async fn an_agent_that_connects_after_the_wake_was_requested_gets_it() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let api = world.api().await;
    // The usual heartbeat: the agent is away for less than its lease.
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_http(&controller.url());
    let first = world.agent(&config);
    api.wait_for_status(LLM, "hibernating", SOON).await;
    first.kill9();
    let asked = async { api.chat("qwen").await };
    let connects = async {
        wait_until("the wake was requested", SOON, async || {
            let journal = world.journal().await;
            journal
                .iter()
                .any(|commit| commit.data("WakeRequested").is_some())
                .then_some(())
        })
        .await;
        world.agent(&config)
    };
    let (answer, _agent) = tokio::join!(asked, connects);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(controller.posts().len(), 1);
}

#[tokio::test]
async fn a_paused_agent_that_goes_on_is_active_again_by_itself() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let controller = WakeController::answering(200).await;
    let api = world.api().await;
    let agent = world.agent(&agent(&backend).woken_by_http(&controller.url()));
    api.wait_for_status(LLM, "active", SOON).await;
    agent.sigstop();
    api.wait_for_status(LLM, "inactive", SOON).await;
    agent.sigcont();
    api.wait_for_status(LLM, "active", SOON).await;
    assert_eq!(api.chat("qwen").await.status, 200);
    assert!(agent.is_running());
}

#[tokio::test]
async fn a_second_process_of_the_same_name_supersedes_the_first_which_exits_with_its_own_code() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let api = world.api().await;
    let config = agent(&backend);
    let first = world.agent(&config);
    api.wait_for_status(LLM, "active", SOON).await;
    let second = world.agent(&config);
    let exit = first.wait_for_exit(SOON).await;
    assert_eq!(exit, Exit::Code(SUPERSEDED), "{}", first.log());
    assert!(second.is_running());
    wait_until("the second serves", SOON, async || {
        (api.chat("qwen").await.status == 200).then_some(())
    })
    .await;
    hold_for("the second stays", Duration::from_secs(1), async || {
        second.is_running()
    })
    .await;
}

#[tokio::test]
async fn nats_killed_and_restarted_turns_nobody_inactive_and_requests_go_on() {
    let mut world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let controller = WakeController::answering(200).await;
    let api = world.api().await;
    let _agent = world.agent(&agent(&backend).woken_by_http(&controller.url()));
    api.wait_for_status(LLM, "active", SOON).await;
    let before = world.journal().await.len();
    world.nats.kill9();
    // Longer than the agent's lease.
    hold_for("the row stayed active", Duration::from_secs(3), async || {
        api.llm(LLM).await.is_some_and(|row| row["status"] == "active")
    })
    .await;
    world.nats.restart().await;
    wait_until("requests go on", Duration::from_secs(10), async || {
        (api.chat("qwen").await.status == 200).then_some(())
    })
    .await;
    let journal = world.journal().await;
    let inactive = journal
        .iter()
        .filter(|commit| commit.data("ProviderBecameInactive").is_some())
        .count();
    assert_eq!(inactive, 0, "{:?}", &journal[before..]);

    // And the next sleep still wakes.
    controller.change(200, Some(&backend), Duration::ZERO);
    backend.kill9();
    let answer = api.chat("qwen").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn postgres_stopped_leaves_inference_alone_and_started_catches_up() {
    let mut cluster = reveille_tests::Cluster::start().await;
    let world = World::with_database(cluster.database().await).await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let api = world.api().await;
    let _projector = world.projector();
    let _agent = world.agent(&agent(&backend).woken_by_http(&controller.url()));
    api.wait_for_status(LLM, "hibernating", SOON).await;

    cluster.stop().await;
    let answer = api.chat("qwen").await;
    assert_eq!(answer.status, 200, "a wake needs no Postgres: {}", answer.text());
    let query = api.get("/reveille/v1/llms").await;
    assert_eq!(query.status, 503, "{}", query.text());

    cluster.restart().await;
    wait_until("the row caught up", SOON, async || {
        let answer = api.get("/reveille/v1/llms").await;
        (answer.status == 200 && answer.json()["data"][0]["status"] == "active").then_some(())
    })
    .await;
    let last = world
        .journal()
        .await
        .last()
        .map(|commit| commit.sequence)
        .expect("commits");
    let row = api.llm(LLM).await.expect("the row");
    assert_eq!(
        row["updated_seq"].as_u64(),
        Some(last),
        "rows equal the fold of the journal: {row}"
    );
}

#[tokio::test]
async fn an_api_replica_killed_in_a_wake_leaves_it_to_the_other() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::from_secs(2)).await;
    let (first, second) = (world.api().await, world.api().await);
    let _agent = world.agent(&agent(&backend).woken_by_http(&controller.url()));
    first.wait_for_status(LLM, "hibernating", SOON).await;
    second.wait_for_status(LLM, "hibernating", SOON).await;
    let asked = async { second.chat("qwen").await };
    let killed = async {
        let _ = first.chat_with("qwen", "x-reveille-wake", "async").await;
        first.process().kill9();
    };
    let (answer, ()) = tokio::join!(asked, killed);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(controller.posts().len(), 1);
}

#[tokio::test]
async fn up_stops_without_leaving_a_process_and_finds_its_state_again() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let data = world.folder().join("data");
    let config = agent(&backend).woken_by_serving(&backend).to_toml();
    let up = world.up(&data, &config, &[]);
    up.wait_until_ready().await;
    up.wait_for_status(LLM, "hibernating", SOON).await;
    assert_eq!(up.chat("qwen").await.status, 200);
    let events = up.get("/reveille/v1/events").await.json()["data"]
        .as_array()
        .map_or(0, Vec::len);
    let children = descendants(up.process().pid());
    assert!(
        children.len() >= 2,
        "a NATS server and a backend at least: {children:?}"
    );
    up.process().sigint();
    let exit = up.process().wait_for_exit(SOON).await;
    assert_eq!(exit, Exit::Code(0), "{}", up.process().log());
    wait_until("no process is left", SOON, async || {
        children.iter().all(|pid| !is_alive(*pid)).then_some(())
    })
    .await;

    let again = world.up(&data, &config, &[]);
    again.wait_until_ready().await;
    again.wait_for_status(LLM, "hibernating", SOON).await;
    let later = again.get("/reveille/v1/events").await.json()["data"]
        .as_array()
        .map_or(0, Vec::len);
    assert!(
        later > events,
        "the journal goes on: {events} events, then {later}"
    );
    again.process().kill9();
    let children = descendants(again.process().pid());
    wait_until("no process is left after kill -9", SOON, async || {
        children.iter().all(|pid| !is_alive(*pid)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let world = World::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let data = world.folder().join("data");
    let args = ["--data-dir", &data.display().to_string(), "--listen", &address].map(str::to_owned);
    let up = world.reveille("up").args(args).start();
    let exit = up.wait_for_exit(SOON).await;
    assert_ne!(exit, Exit::Code(0));
    assert!(
        up.log().contains(&address)
            || up
                .log()
                .contains(&taken.local_addr().expect("an address").port().to_string())
    );
}

/// The processes below `pid`, read from /proc.
fn descendants(pid: u32) -> Vec<u32> {
    let parent_of = |child: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(Path::new("/proc").join(child.to_string()).join("stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    let all: Vec<u32> = std::fs::read_dir("/proc")
        .expect("a Linux")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let mut found = vec![pid];
    loop {
        let more: Vec<u32> = all
            .iter()
            .copied()
            .filter(|one| {
                !found.contains(one) && parent_of(*one).is_some_and(|parent| found.contains(&parent))
            })
            .collect();
        if more.is_empty() {
            return found.into_iter().filter(|one| *one != pid).collect();
        }
        found.extend(more);
    }
}
