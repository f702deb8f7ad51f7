//! Killing things: whatever dies, everything recovers by itself, and nobody waits for ever.

use std::time::Duration;

use reveille_tests::{
    AgentConfig, Backend, Cluster, Exit, Process, WakeController, World, descendants, hold_for, is_alive,
    wait_until,
};

use serde_json::json;

use crate::{
    archive::{ask, assert_sound},
    scene::{LLM, QUICK_HEARTBEAT, SOON, Scene, refused},
};

/// The exit code of an agent whose name was taken by a later process.
const SUPERSEDED: i32 = 3;

fn agent(backend: &Backend) -> AgentConfig {
    AgentConfig::new("gpu-box")
        .lines(QUICK_HEARTBEAT)
        .provider("vllm", "qwen", backend)
}

/// A sleeping backend of an agent that is soon taken for lost, and a controller that starts nothing.
async fn soon_lost() -> Scene {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::answering(200).await;
    Scene::set(world, backend, controller, QUICK_HEARTBEAT, "", "hibernating").await
}

async fn recipe_ran(scene: &Scene) {
    wait_until("the recipe ran", SOON, async || {
        (scene.posts() == 1).then_some(())
    })
    .await;
}

/// Heard before: a stop and a withdrawal with an epoch above all that were given out. The provider then believed it, and its
/// agent never again.
#[tokio::test]
async fn an_epoch_that_was_never_given_out_stops_and_withdraws_nothing() {
    let scene = Scene::asleep(Duration::ZERO).await;
    let before = scene.world.journal().await.len();
    let stop = json!({"v": 1, "agent": "gpu-box", "verb": "stop", "epoch": 7});
    let withdraw = json!({"v": 1, "agent": "gpu-box", "verb": "deregister", "epoch": 7, "provider": "vllm"});
    for request in [stop, withdraw] {
        let answer = ask(&scene.world, &request).await;
        assert_eq!(answer["answer"], "refused", "{answer}");
        assert!(
            answer.to_string().contains("epoch 7 was never issued"),
            "{answer}"
        );
    }
    assert_eq!(scene.world.journal().await.len(), before);
    assert_eq!(scene.chat().await.status, 200);
    assert_eq!(scene.agent.stop(SOON).await, Exit::Code(0));
    scene.is("inactive").await;
    assert_sound(&scene.world).await;
}

#[tokio::test]
async fn an_agent_killed_in_a_wake_and_restarted_finds_its_backend_and_posts_once() {
    let scene = Scene::asleep(Duration::from_secs(1)).await;
    let killed = async {
        recipe_ran(&scene).await;
        scene.agent.kill9();
        scene.backend.wait_until_listening(SOON).await;
        scene.world.agent(&scene.config)
    };
    let (answer, _second) = tokio::join!(scene.chat(), killed);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        scene.posts(),
        1,
        "a restarted agent probes before it runs the recipe again"
    );
    assert_eq!(scene.commits_with("WakeRequested").await.len(), 1);
    assert_eq!(scene.commits_with("WakeSucceeded").await.len(), 1);
}

#[tokio::test]
async fn a_request_waits_for_a_killed_agent_that_starts_again_to_publish_its_provider() {
    /// Far longer than it takes to send a request, and shorter than a request waits for an agent.
    const STARTS_FOR: Duration = Duration::from_secs(1);
    let mut scene = Scene::awake("", "").await;
    scene.agent.kill9();
    // A provider is published once it was probed.
    scene.backend.with_process(Process::sigstop);
    scene.agent = scene.world.agent(&scene.config);
    wait_until("the agent was connected", SOON, async || {
        scene.agent.log().contains("gpu-box is connected").then_some(())
    })
    .await;
    let starts = async {
        tokio::time::sleep(STARTS_FOR).await;
        scene.backend.with_process(Process::sigcont);
    };
    let (answer, ()) = tokio::join!(scene.chat(), starts);
    assert_eq!(answer.status, 200, "{}", answer.text());
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
    let scene = soon_lost().await;
    let killed = async {
        recipe_ran(&scene).await;
        scene.agent.kill9();
    };
    let (answer, ()) = tokio::join!(scene.chat(), killed);
    assert_eq!(answer.status, 503, "{}", answer.text());
    scene.is("inactive").await;
    let failed = scene.commits_with("WakeFailed").await;
    assert_eq!(
        failed[0].data("WakeFailed").expect("it has one")["failure"]["kind"],
        "agent_lost"
    );
    assert_eq!(
        refused(&scene.chat().await),
        (503, "provider_inactive".to_owned())
    );
}

#[tokio::test]
async fn who_waits_for_a_provider_that_is_taken_out_of_the_config_is_told_so() {
    // The usual heartbeat: it isn't taken for lost meanwhile.
    let scene = Scene::asleep_for_good(200, "").await;
    let other = AgentConfig::new("gpu-box").provider("other", "other", &scene.backend);
    let restarted = async {
        recipe_ran(&scene).await;
        scene.agent.kill9();
        scene.world.agent(&other)
    };
    let (answer, _second) = tokio::join!(scene.chat(), restarted);
    assert_eq!(refused(&answer), (503, "wake_failed".to_owned()));
    assert!(
        answer.text().contains("no longer publishes it"),
        "{}",
        answer.text()
    );
    let failed = scene.commits_with("WakeFailed").await;
    assert_eq!(
        failed[0].data("WakeFailed").expect("it has one")["failure"]["kind"],
        "withdrawn"
    );
    assert_eq!(refused(&scene.chat().await), (404, "model_not_found".to_owned()));
}

#[tokio::test]
async fn an_inactive_provider_gets_no_wake_message() {
    let scene = soon_lost().await;
    let wire = scene.world.nats.connect().await;
    let mut wakes = wire.subscribe("reveille.wakes.>").await.expect("subscribed");
    wire.flush().await.expect("flushed");
    let exit = scene.agent.stop(SOON).await;
    assert_eq!(
        exit,
        Exit::Code(0),
        "SIGTERM is a clean stop: {}",
        scene.agent.log()
    );
    scene.is("inactive").await;
    assert_eq!(
        refused(&scene.chat().await),
        (503, "provider_inactive".to_owned())
    );
    let heard = tokio::time::timeout(Duration::from_secs(2), futures::StreamExt::next(&mut wakes)).await;
    assert!(heard.is_err(), "a wake message was sent: {heard:?}");
    assert_eq!(scene.posts(), 0);
}

#[tokio::test]
async fn an_agent_that_connects_after_the_wake_was_requested_gets_it() {
    // The usual heartbeat: the agent is away for less than its lease.
    let scene = Scene::asleep(Duration::ZERO).await;
    scene.agent.kill9();
    let connects = async {
        wait_until("the wake was requested", SOON, async || {
            (!scene.commits_with("WakeRequested").await.is_empty()).then_some(())
        })
        .await;
        scene.world.agent(&scene.config)
    };
    let (answer, _agent) = tokio::join!(scene.chat(), connects);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(scene.posts(), 1);
}

#[tokio::test]
async fn a_paused_agent_that_goes_on_is_active_again_by_itself() {
    let scene = Scene::awake(QUICK_HEARTBEAT, "").await;
    scene.is_heard().await;
    scene.agent.sigstop();
    scene.is("inactive").await;
    scene.agent.sigcont();
    scene.is("active").await;
    assert_eq!(scene.chat().await.status, 200);
    assert!(scene.agent.is_running());
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
    // Beside it, in the same data directory, it is a mistake.
    let beside = world.agent(&config);
    let exit = beside.wait_for_exit(SOON).await;
    assert_eq!(exit, Exit::Code(1), "{}", beside.log());
    let said = "is running on this machine already (process ";
    assert!(beside.log().contains(said), "{}", beside.log());
    assert!(first.is_running(), "{}", first.log());

    let elsewhere = world.folder().join("elsewhere");
    let file = world.folder().join("second.toml");
    std::fs::write(&file, config.to_toml()).expect("written");
    let second = world.reveille("agent").args(["--nats", &world.nats_url()]);
    let second = second.arg("--config").arg(file).arg("--data-dir").arg(elsewhere);
    let second = second.start();
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
    let mut scene = Scene::awake(QUICK_HEARTBEAT, "").await;
    scene.world.nats.kill9();
    // Longer than the agent's lease.
    hold_for("the row stayed active", Duration::from_secs(3), async || {
        scene
            .api
            .llm(LLM)
            .await
            .is_some_and(|row| row["status"] == "active")
    })
    .await;
    scene.world.nats.restart().await;
    wait_until("requests go on", SOON, async || {
        (scene.chat().await.status == 200).then_some(())
    })
    .await;
    assert_eq!(scene.commits_with("ProviderBecameInactive").await.len(), 0);

    // And the next sleep still wakes.
    scene.backend.kill9();
    let answer = scene.chat().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn postgres_stopped_leaves_inference_alone_and_started_catches_up() {
    let mut cluster = Cluster::start().await;
    let world = World::with_database(cluster.database().await).await;
    let _projector = world.projector();
    let scene = Scene::asleep_in(world, Duration::ZERO).await;

    cluster.stop().await;
    let answer = scene.chat().await;
    assert_eq!(answer.status, 200, "a wake needs no Postgres: {}", answer.text());
    let query = scene.api.get("/reveille/v1/llms").await;
    assert_eq!(query.status, 503, "{}", query.text());

    cluster.restart().await;
    scene.is("active").await;
    let journal = scene.world.journal().await;
    let last = journal.last().expect("commits");
    let row = scene.api.llm(LLM).await.expect("the row");
    assert_eq!(
        row["updated_seq"].as_u64(),
        Some(last.sequence),
        "rows equal the fold of the journal: {row}"
    );
    let folded = &last.body["state"];
    assert_eq!(row["status"], folded["status"]["status"]);
    assert_eq!(
        (&row["wakes"], &row["epoch"]),
        (&folded["counts"], &folded["epoch"])
    );
}

#[tokio::test]
async fn an_api_replica_killed_in_a_wake_leaves_it_to_the_other() {
    let scene = Scene::asleep(Duration::from_secs(2)).await;
    let second = scene.world.api().await;
    second.wait_for_status(LLM, "hibernating", SOON).await;
    let killed = async {
        assert_eq!(
            scene
                .api
                .chat_with("qwen", "x-reveille-wake", "async")
                .await
                .status,
            503
        );
        scene.api.process().kill9();
    };
    let (answer, ()) = tokio::join!(second.chat("qwen"), killed);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(scene.posts(), 1);
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
    let children = descendants(again.process().pid());
    assert!(!children.is_empty(), "a NATS server at least");
    again.process().kill9();
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
