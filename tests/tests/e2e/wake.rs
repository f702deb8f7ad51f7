//! The main job: a request to a sleeping backend wakes it and is answered.

use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use reveille_tests::{AgentConfig, Api, Backend, WakeController, World, hold_for, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const LLM: &str = "gpu-box/qwen";
/// Quick probing, so that a backend's end is noticed within a test's patience.
const QUICK_PROBE: &str = "[provider.probe]\ninterval = \"500ms\"\n";

/// An agent with one provider that an HTTP controller wakes.
fn woken_by(controller: &WakeController, backend: &Backend) -> AgentConfig {
    AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", backend)
        .woken_by_http(&controller.url())
}

async fn hibernating(api: &Api) -> Value {
    api.wait_for_status(LLM, "hibernating", SOON).await
}

/// The wakes of a journal: ids of those that began, in order.
async fn wakes_requested(world: &World) -> Vec<String> {
    let commits = world.journal().await;
    let begun = commits.iter().filter_map(|commit| commit.data("WakeRequested"));
    begun
        .filter_map(|data| Some(data["wake"]["id"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test]
async fn the_first_inference_wakes_a_virtual_llm_through_its_http_controller() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::from_millis(300)).await;
    let api = world.api().await;
    let _agent = world.agent(&woken_by(&controller, &backend));

    let row = hibernating(&api).await;
    assert_eq!(row["kind"], "virtual");
    assert_eq!(controller.posts().len(), 0, "nothing wakes before a request");

    let answer = api.chat("qwen").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.said().starts_with("token-0"), "{}", answer.text());
    assert_eq!(controller.posts().len(), 1);

    let row = api.wait_for_status(LLM, "active", SOON).await;
    assert_eq!(row["wake_id"], Value::Null);
    let again = api.chat(LLM).await;
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(controller.posts().len(), 1, "an active backend isn't woken");
}

#[tokio::test]
async fn listing_and_queries_never_wake() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let api = world.api().await;
    let _agent = world.agent(&woken_by(&controller, &backend));
    hibernating(&api).await;

    let models = api.get("/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], "qwen");
    assert_eq!(models["data"][0]["status"]["value"], "sleeping");
    for path in [
        "/v1/models/qwen",
        "/reveille/v1/llms",
        "/reveille/v1/providers",
        "/reveille/v1/wakes",
        "/readyz",
    ] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    hold_for("nothing was woken", Duration::from_millis(500), async || {
        controller.posts().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_provider_without_a_recipe_is_active_even_if_unavailable() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let api = world.api().await;
    let _agent = world.agent(&AgentConfig::new("gpu-box").provider("vllm", "qwen", &backend));

    api.wait_for_status(LLM, "active", SOON).await;
    let answer = api.chat("qwen").await;
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (502, "backend_unavailable"),
        "{}",
        answer.text()
    );

    backend.start_and_wait().await;
    assert_eq!(api.chat("qwen").await.status, 200);
}

#[tokio::test]
async fn a_provider_with_a_recipe_is_active_when_its_backend_is_up() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let controller = WakeController::answering(200).await;
    let api = world.api().await;
    let _agent = world.agent(&woken_by(&controller, &backend));
    api.wait_for_status(LLM, "active", SOON).await;
    assert_eq!(api.chat("qwen").await.status, 200);
    assert_eq!(controller.posts().len(), 0);
}

#[tokio::test]
async fn two_hundred_requests_through_two_replicas_share_one_wake() {
    let world = World::with_postgres().await;
    let facts = world.facts().await;
    let backend = world.backend(&["--boot-delay-ms", "1500"]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let (first, second) = (world.api().await, world.api().await);
    let _projector = world.projector();
    let _agent = world.agent(&woken_by(&controller, &backend));
    hibernating(&first).await;
    hibernating(&second).await;

    let answers = join_all((0..200).map(|i| {
        if i % 2 == 0 {
            first.chat("qwen")
        } else {
            second.chat("qwen")
        }
    }))
    .await;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.said().starts_with("token-0"));
    }
    assert_eq!(controller.posts().len(), 1, "one recipe run");
    let wakes = wakes_requested(&world).await;
    assert_eq!(wakes.len(), 1, "one wake: {wakes:?}");
    let held: HashSet<bool> = answers
        .iter()
        .enumerate()
        .filter(|(_, answer)| answer.header("x-reveille-wake-id") == Some(&wakes[0]))
        .map(|(i, _)| i % 2 == 0)
        .collect();
    assert_eq!(held.len(), 2, "requests were held on both replicas");

    let heard = facts.with("WakeRequested");
    let heard = heard
        .iter()
        .find_map(|commit| commit.data("WakeRequested"))
        .expect("a subscriber heard of it");
    assert_eq!(heard["wake"]["id"], wakes[0].as_str());
    let row = wait_until("the Postgres row names the wake", SOON, async || {
        let row = first.llm(LLM).await?;
        (row["status"] == "active" && row["last_wake"]["id"] == wakes[0].as_str()).then_some(row)
    })
    .await;
    assert_eq!(row["wakes"]["succeeded"], 1, "{row}");
    let wake = first.get(&format!("/reveille/v1/wakes/{}", wakes[0])).await;
    assert_eq!(wake.json()["outcome"], "succeeded", "{}", wake.text());
}

#[tokio::test]
async fn a_failed_wake_is_told_to_every_waiter_and_the_next_request_wakes_again() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::answering(500).await;
    let api = world.api().await;
    let _agent = world.agent(&woken_by(&controller, &backend));
    hibernating(&api).await;

    let answers = join_all((0..5).map(|_| api.chat("qwen"))).await;
    for answer in &answers {
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (503, "wake_failed"),
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
    hibernating(&api).await;

    controller.change(200, Some(&backend), Duration::ZERO);
    let answer = api.chat("qwen").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    api.wait_for_status(LLM, "active", SOON).await;
}

#[tokio::test]
async fn a_backend_that_never_becomes_available_fails_its_wake_with_the_reason() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::answering(200).await;
    let api = world.api().await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines(&format!(
            "\n[provider.wake]\ntype = \"http\"\nurl = {:?}\nmax_wait = \"1s\"\n",
            controller.url()
        ));
    let _agent = world.agent(&config);
    hibernating(&api).await;
    let answer = api.chat("qwen").await;
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (504, "wake_timeout"),
        "{}",
        answer.text()
    );
    assert!(
        answer.text().contains("max_wait"),
        "the key to raise is named: {}",
        answer.text()
    );
    hibernating(&api).await;
}

#[tokio::test]
async fn callers_may_refuse_to_wait_without_hindering_the_wake() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::from_secs(1)).await;
    let api = world.api().await;
    let _agent = world.agent(&woken_by(&controller, &backend));
    hibernating(&api).await;

    let never = api.chat_with("qwen", "x-reveille-wake", "never").await;
    assert_eq!(
        (never.status, never.error_code().as_str()),
        (503, "model_asleep"),
        "{}",
        never.text()
    );
    assert_eq!(controller.posts().len(), 0);
    let later = api.chat_with("qwen", "x-reveille-wake", "async").await;
    assert_eq!(
        (later.status, later.error_code().as_str()),
        (503, "waking"),
        "{}",
        later.text()
    );
    assert!(later.header("retry-after").is_some());
    api.wait_for_status(LLM, "active", SOON).await;
    assert_eq!(api.chat("qwen").await.status, 200);
    assert_eq!(controller.posts().len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_cancel_the_wake() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::from_secs(1)).await;
    let api = world.api().await;
    let _agent = world.agent(&woken_by(&controller, &backend));
    hibernating(&api).await;
    let left = tokio::time::timeout(Duration::from_millis(300), api.chat("qwen")).await;
    assert!(left.is_err(), "the client left before the answer");
    api.wait_for_status(LLM, "active", SOON).await;
    assert_eq!(wakes_requested(&world).await.len(), 1);
}

#[tokio::test]
async fn a_backend_found_dead_under_a_request_is_woken_once_and_the_request_answered() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let api = world.api().await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_http(&controller.url());
    let _agent = world.agent(&config);
    api.wait_for_status(LLM, "active", SOON).await;
    backend.kill9();
    let answer = api.chat("qwen").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(controller.posts().len(), 1);
}

#[tokio::test]
async fn a_backend_that_dies_is_seen_hibernating_without_a_request() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let api = world.api().await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines(QUICK_PROBE)
        .woken_by_http(&controller.url());
    let _agent = world.agent(&config);
    api.wait_for_status(LLM, "active", SOON).await;
    backend.kill9();
    hibernating(&api).await;
    backend.start();
    api.wait_for_status(LLM, "active", SOON).await;
    assert_eq!(controller.posts().len(), 0, "it came up by itself");
}

#[tokio::test]
async fn a_served_backend_is_woken_streams_and_ends_with_its_agent() {
    let world = World::new().await;
    let backend = world.backend(&["--fork-grandchild"]);
    let api = world.api().await;
    let config = AgentConfig::new("gpu-box")
        .provider("llama", "qwen", &backend)
        .woken_by_serving(&backend);
    let agent = world.agent(&config);
    hibernating(&api).await;
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
        pids.iter()
            .all(|pid| !reveille_tests::is_alive(*pid))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_already_began_to_wait_is_told_of_the_failure_by_an_error_event() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::answering(200).await;
    let api = world.api().await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines(&format!(
            "\n[provider.wake]\ntype = \"http\"\nurl = {:?}\nmax_wait = \"10s\"\n",
            controller.url()
        ));
    let _agent = world.agent(&config);
    hibernating(&api).await;
    let answer = api.stream("qwen").await;
    assert_eq!(answer.status, 200, "it had begun to say why it waits");
    assert!(
        answer
            .comments()
            .iter()
            .any(|comment| comment.contains(LLM)),
        "{answer:?}"
    );
    assert_eq!(answer.error_code().as_deref(), Some("wake_timeout"), "{answer:?}");
    assert!(
        answer.is_done(),
        "no backend ever had it, so the stream ends as SDKs expect: {answer:?}"
    );
}
