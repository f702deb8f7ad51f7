//! NATS's clock is set, or the hub sleeps: the monotonic clock can't explain it, and nothing follows from it.

use crate::scene::{LLM, QUICK_HEARTBEAT, SOON, Scene};
use reveille_tests::{AgentConfig, SteppedClock, WakeController, World, hold_for, wait_until};
use serde_json::json;
use std::time::Duration;

const HOUR: i64 = 60 * 60;
/// A lost agent is noticed after three seconds; its heartbeats are rare enough for a step between two of them.
const HEARTBEAT: &str = "heartbeat = \"1s\"\n";
/// Longer than it takes from the start until a silent agent of that heartbeat would be noticed.
const SETTLED: Duration = Duration::from_secs(8);

/// A world whose NATS server's clock the test sets.
async fn stepped() -> (World, SteppedClock) {
    let mut world = World::new().await;
    let clock = SteppedClock::of(&world.nats).await;
    world.reach_nats_at(&clock.url());
    (world, clock)
}

async fn asleep_in(world: World, agent_lines: &str, delay: Duration) -> Scene {
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, delay).await;
    let scene = Scene::set(world, backend, controller, agent_lines, "", "hibernating").await;
    scene.is_heard().await;
    scene
}

async fn recipe_ran(scene: &Scene) {
    wait_until("the recipe ran", SOON, async || (scene.posts() > 0).then_some(())).await;
}

async fn none_with(scene: &Scene, event_type: &str) {
    assert_eq!(scene.commits_with(event_type).await.len(), 0, "{event_type}");
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_step_of_natss_clock_makes_nobody_inactive_and_ends_no_wake() {
    for ahead in [HOUR, -HOUR] {
        let (world, clock) = stepped().await;
        let scene = asleep_in(world, HEARTBEAT, Duration::from_secs(6)).await;
        hold_for("the agent was heard", SETTLED, async || scene.agent.is_running()).await;
        let stepped = async {
            recipe_ran(&scene).await;
            // No heartbeat comes for a while, although not for long enough to be lost.
            scene.agent.sigstop();
            clock.set_ahead(ahead);
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            scene.agent.sigcont();
            // One that joins finds the wake as it is.
            let joined = scene
                .api
                .post("/reveille/v1/providers/gpu-box/vllm/wake", &json!({}))
                .await;
            assert!(joined.text().contains("waking"), "{}", joined.text());
        };
        let (answer, ()) = tokio::join!(scene.chat(), stepped);
        assert_eq!(answer.status, 200, "{}", answer.text());
        hold_for("the row stayed active", SETTLED, async || {
            scene
                .api
                .llm(LLM)
                .await
                .is_some_and(|row| row["status"] == "active")
        })
        .await;
        none_with(&scene, "ProviderBecameInactive").await;
        none_with(&scene, "WakeTimedOut").await;
        assert_eq!(scene.commits_with("WakeRequested").await.len(), 1);
        let log = scene.api.process().log();
        let way = if ahead > 0 { "forward" } else { "back" };
        let said = format!("NATS's clock went {way} by ");
        assert!(log.contains(&said), "{said}: {log}");
    }
}

#[tokio::test]
async fn after_a_step_back_agents_are_lost_and_found_as_before() {
    let (world, clock) = stepped().await;
    let scene = asleep_in(world, QUICK_HEARTBEAT, Duration::ZERO).await;
    // Lost before the step, and found after it.
    scene.agent.sigstop();
    scene.is("inactive").await;
    clock.set_ahead(-HOUR);
    scene.agent.sigcont();
    scene.is("hibernating").await;
    // And lost after it, although the journal last heard the agent an hour later.
    clock.set_ahead(-2 * HOUR);
    scene.agent.sigstop();
    scene.is("inactive").await;
    scene.agent.sigcont();
    scene.is("hibernating").await;
}

/// A provider whose wake ends only by its deadline, a few seconds after its request, if its agent says nothing.
async fn woken_in_vain(world: World) -> Scene {
    let backend = world.backend(&[]);
    let controller = WakeController::answering(200).await;
    let recipe = format!(
        "\n[provider.wake]\ntype = \"http\"\nurl = {:?}\ntimeout = \"1s\"\nmax_wait = \"1s\"\n",
        controller.url()
    );
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines(&recipe);
    let scene = Scene {
        api: world.api().await,
        agent: world.agent(&config),
        controller,
        backend,
        config,
        world,
    };
    scene.is("hibernating").await;
    scene
}

#[tokio::test]
async fn a_wake_that_is_first_seen_after_a_step_back_is_given_no_more_than_a_whole_one() {
    let (world, clock) = stepped().await;
    let scene = woken_in_vain(world).await;
    let wake = "/reveille/v1/providers/gpu-box/vllm/wake";
    assert_eq!(scene.api.post(wake, &json!({})).await.status, 202);
    recipe_ran(&scene).await;
    scene.agent.sigstop();
    scene.api.process().kill9();
    clock.set_ahead(-HOUR);
    let _later = scene.world.api().await;
    wait_until("it timed out", SOON, async || {
        (scene.commits_with("WakeTimedOut").await.len() == 1).then_some(())
    })
    .await;
    scene.agent.sigcont();
}

#[tokio::test]
async fn a_wake_ends_at_its_deadline_although_natss_clock_was_set_back() {
    let (world, clock) = stepped().await;
    let scene = woken_in_vain(world).await;
    let stepped = async {
        recipe_ran(&scene).await;
        // The usual heartbeat: it isn't lost before the deadline.
        scene.agent.sigstop();
        clock.set_ahead(-HOUR);
    };
    let (answer, ()) = tokio::join!(scene.chat(), stepped);
    assert_eq!(
        (answer.status, answer.error_code()),
        (504, "wake_timeout".to_owned())
    );
    assert_eq!(scene.commits_with("WakeTimedOut").await.len(), 1);
    scene.agent.sigcont();
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_hub_that_was_frozen_as_a_whole_marks_nobody_inactive() {
    let scene = asleep_in(World::new().await, QUICK_HEARTBEAT, Duration::ZERO).await;
    assert_eq!(scene.chat().await.status, 200);
    hold_for("the agent was heard", SETTLED, async || scene.agent.is_running()).await;
    let (nats, api) = (scene.world.nats.process(), scene.api.process());
    for process in [nats, api, &scene.agent] {
        process.sigstop();
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    for process in [nats, api, &scene.agent] {
        process.sigcont();
    }
    hold_for("the row stayed active", SETTLED, async || {
        scene
            .api
            .llm(LLM)
            .await
            .is_some_and(|row| row["status"] == "active")
    })
    .await;
    none_with(&scene, "ProviderBecameInactive").await;
}
