//! The main job: a request to a sleeping backend wakes it and is answered.

use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use reveille_tests::{AgentConfig, WakeController, World, hold_for, is_alive, wait_until};
use serde_json::Value;

use crate::scene::{LLM, SOON, Scene, refused};

#[tokio::test]
async fn the_first_inference_wakes_a_virtual_llm_through_its_http_controller() {
    let scene = Scene::asleep(Duration::from_millis(300)).await;
    let row = scene.api.llm(LLM).await.expect("the row");
    assert_eq!(
        (row["kind"].as_str(), row["status"].as_str()),
        (Some("virtual"), Some("hibernating"))
    );
    assert_eq!(scene.posts(), 0, "nothing wakes before a request");

    let answer = scene.chat().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.said().starts_with("token-0"), "{}", answer.text());
    assert_eq!(scene.posts(), 1);

    scene.is("active").await;
    assert_eq!(scene.api.llm(LLM).await.expect("the row")["wake_id"], Value::Null);
    let again = scene.api.chat(LLM).await;
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(scene.posts(), 1, "an active backend isn't woken");
}

#[tokio::test]
async fn listing_and_queries_never_wake() {
    let scene = Scene::asleep(Duration::ZERO).await;
    let models = scene.api.get("/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], "qwen");
    assert_eq!(models["data"][0]["status"]["value"], "sleeping");
    for path in [
        "/v1/models/qwen",
        "/reveille/v1/llms",
        "/reveille/v1/providers",
        "/reveille/v1/wakes",
        "/readyz",
    ] {
        assert_eq!(scene.api.get(path).await.status, 200, "{path}");
    }
    hold_for("nothing was woken", Duration::from_millis(500), async || {
        scene.posts() == 0
    })
    .await;
}

#[tokio::test]
async fn a_provider_without_a_recipe_is_down_while_unavailable_and_asked_all_the_same() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let api = world.api().await;
    let _agent = world.agent(&AgentConfig::new("gpu-box").provider("vllm", "qwen", &backend));
    api.wait_for_status(LLM, "down", SOON).await;
    assert_eq!(
        refused(&api.chat("qwen").await),
        (502, "backend_unavailable".to_owned())
    );
    backend.start_and_wait().await;
    assert_eq!(api.chat("qwen").await.status, 200);
}

#[tokio::test]
async fn a_provider_with_a_recipe_is_active_when_its_backend_is_up() {
    let scene = Scene::awake("", "").await;
    assert_eq!(scene.chat().await.status, 200);
    assert_eq!(scene.posts(), 0);
}

#[tokio::test]
async fn two_hundred_requests_through_two_replicas_share_one_wake() {
    let world = World::with_postgres().await;
    let facts = world.facts().await;
    let backend = world.backend(&["--boot-delay-ms", "1500"]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let second = world.api().await;
    let _projector = world.projector();
    let scene = Scene::set(world, backend, controller, "", "", "hibernating").await;
    second.wait_for_status(LLM, "hibernating", SOON).await;

    let replicas = [&scene.api, &second];
    let answers = join_all((0..200).map(|i| replicas[i % 2].chat("qwen"))).await;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.said().starts_with("token-0"));
    }
    assert_eq!(scene.posts(), 1, "one recipe run");
    let requested = scene.commits_with("WakeRequested").await;
    let [commit] = &requested[..] else {
        panic!("one wake: {requested:?}")
    };
    let id = commit.data("WakeRequested").expect("it has one")["wake"]["id"].clone();
    let held: HashSet<usize> = (0..200)
        .filter(|i| answers[*i].header("x-reveille-wake-id") == id.as_str())
        .map(|i| i % 2)
        .collect();
    assert_eq!(held.len(), 2, "requests were held on both replicas");

    let heard = facts.with("WakeRequested");
    assert_eq!(heard.len(), 1, "a subscriber heard of it once");
    assert_eq!(
        heard[0].data("WakeRequested").expect("it has one")["wake"]["id"],
        id
    );
    let row = wait_until("the Postgres row names the wake", SOON, async || {
        let row = second.llm(LLM).await?;
        (row["status"] == "active" && row["last_wake"]["id"] == id).then_some(row)
    })
    .await;
    assert_eq!(row["wakes"]["succeeded"], 1, "{row}");
    let wake = second
        .get(&format!("/reveille/v1/wakes/{}", id.as_str().expect("text")))
        .await;
    assert_eq!(wake.json()["outcome"], "succeeded", "{}", wake.text());
}

#[tokio::test]
async fn a_failed_wake_is_told_to_every_waiter_and_the_next_request_wakes_again() {
    let scene = Scene::asleep_for_good(500, "").await;
    for answer in join_all((0..5).map(|_| scene.chat())).await {
        assert_eq!(
            refused(&answer),
            (503, "wake_failed".to_owned()),
            "{}",
            answer.text()
        );
        assert!(
            answer.text().contains("500"),
            "the reason is told: {}",
            answer.text()
        );
        assert!(answer.header("retry-after").is_some());
    }
    scene.is("hibernating").await;
    scene.controller.change(200, Some(&scene.backend), Duration::ZERO);
    let answer = scene.chat().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    scene.is("active").await;
}

/// A recipe that succeeds and a backend that never comes.
async fn never_available(max_wait: &str) -> Scene {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::answering(200).await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines(&format!(
            "\n[provider.wake]\ntype = \"http\"\nurl = {:?}\nmax_wait = {max_wait:?}\n",
            controller.url()
        ));
    let api = world.api().await;
    let agent = world.agent(&config);
    let scene = Scene {
        agent,
        api,
        controller,
        backend,
        config,
        world,
    };
    scene.is("hibernating").await;
    scene
}

#[tokio::test]
async fn a_backend_that_never_becomes_available_fails_its_wake_with_the_reason() {
    let scene = never_available("1s").await;
    let answer = scene.chat().await;
    assert_eq!(
        refused(&answer),
        (504, "wake_timeout".to_owned()),
        "{}",
        answer.text()
    );
    assert!(
        answer.text().contains("max_wait"),
        "the key to raise is named: {}",
        answer.text()
    );
    scene.is("hibernating").await;
}

#[tokio::test]
async fn a_stream_that_already_began_to_wait_is_told_of_the_failure_by_an_error_event() {
    let scene = never_available("10s").await;
    let answer = scene.api.stream("qwen").await;
    assert_eq!(answer.status, 200, "it had begun to say why it waits");
    assert!(
        answer.comments().iter().any(|comment| comment.contains(LLM)),
        "{answer:?}"
    );
    assert_eq!(answer.error_code().as_deref(), Some("wake_timeout"), "{answer:?}");
    assert!(
        answer.is_done(),
        "no backend ever had it, so the stream ends as SDKs expect: {answer:?}"
    );
}

#[tokio::test]
async fn callers_may_refuse_to_wait_without_hindering_the_wake() {
    let scene = Scene::asleep(Duration::from_secs(1)).await;
    let never = scene.api.chat_with("qwen", "x-reveille-wake", "never").await;
    assert_eq!(refused(&never), (503, "model_asleep".to_owned()));
    assert_eq!(scene.posts(), 0);
    let later = scene.api.chat_with("qwen", "x-reveille-wake", "async").await;
    assert_eq!(refused(&later), (503, "waking".to_owned()));
    assert!(later.header("retry-after").is_some());
    scene.is("active").await;
    assert_eq!(scene.chat().await.status, 200);
    assert_eq!(scene.posts(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_cancel_the_wake() {
    let scene = Scene::asleep(Duration::from_secs(1)).await;
    tokio::select! {
        answer = scene.chat() => panic!("answered before the wake ended: {answer:?}"),
        () = wait_until("the wake began", SOON, async || (scene.posts() == 1).then_some(())) => {}
    }
    scene.is("active").await;
    assert_eq!(scene.commits_with("WakeRequested").await.len(), 1);
}

#[tokio::test]
async fn a_backend_found_dead_under_a_request_is_woken_once_and_the_request_answered() {
    let scene = Scene::awake("", "").await;
    scene.backend.kill9();
    let answer = scene.chat().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(scene.posts(), 1);
}

#[tokio::test]
async fn a_backend_that_dies_is_seen_hibernating_without_a_request() {
    let scene = Scene::awake("", "\n[provider.probe]\ninterval = \"500ms\"\n").await;
    scene.backend.kill9();
    scene.is("hibernating").await;
    scene.backend.start();
    scene.is("active").await;
    assert_eq!(scene.posts(), 0, "it came up by itself");
}

#[tokio::test]
async fn a_served_backend_is_woken_streams_and_ends_with_its_agent() {
    let world = World::new().await;
    let backend = world.backend(&["--fork-grandchild"]);
    let api = world.api().await;
    let agent = world.agent(
        &AgentConfig::new("gpu-box")
            .provider("vllm", "qwen", &backend)
            .woken_by_serving(&backend),
    );
    api.wait_for_status(LLM, "hibernating", SOON).await;
    let answer = api.stream("qwen").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.is_done() && answer.said().starts_with("token-0"),
        "{answer:?}"
    );
    let log = backend.log();
    let pids: Vec<u32> = log.pids().into_iter().chain(log.grandchildren()).collect();
    assert!(pids.len() >= 2, "{log:?}");
    agent.kill9();
    wait_until("the backend and its grandchild are gone", SOON, async || {
        pids.iter().all(|pid| !is_alive(*pid)).then_some(())
    })
    .await;
}
