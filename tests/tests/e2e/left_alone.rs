//! Wakes that wait for their group, or boot, while those who asked for them leave.

use std::time::Duration;

use reveille_tests::{AgentConfig, Answer, Api, Commit, World, is_alive, wait_until};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{scene::SOON, sleeping::Shared};

/// Streams of three seconds, in a backend that may be put to sleep at once.
const LONG: [&str; 4] = ["--tokens", "60", "--token-delay-ms", "50"];
const AT_ONCE: &str = "min_awake = \"1ms\"\n";

/// Asks for `model`, and leaves as soon as its wake is in flight.
async fn ask_and_leave(api: &Api, model: &str) {
    let row = format!("gpu-box/{model}");
    tokio::select! {
        answer = api.chat(model) => panic!("answered too early: {}", answer.text()),
        _ = api.wait_for_status(&row, "waking", SOON) => {}
    }
}

/// Waits until a backend has a request.
async fn until_busy(shared: &Shared, index: usize, requests: usize) {
    wait_until("the stream", SOON, async || {
        (shared.backends[index].log().requests().len() >= requests).then_some(())
    })
    .await;
}

/// The ends of a provider's wakes, in order: the kind of the failure, or none.
fn ends(journal: &[Commit], provider: &str) -> Vec<Option<String>> {
    let subject = format!("reveille.events.provider.gpu-box.{provider}");
    let commits = journal.iter().filter(|commit| commit.subject == subject);
    let kind = |failed: Value| failed["failure"]["kind"].as_str().map(str::to_owned);
    commits
        .filter_map(|commit| {
            let failed = commit.data("WakeFailed").map(|data| kind(data.clone()));
            failed.or_else(|| commit.data("WakeSucceeded").map(|_| None))
        })
        .collect()
}

#[tokio::test]
async fn a_wake_that_all_have_left_is_withdrawn_and_the_model_in_use_stays_where_it_is() {
    let shared = Shared::start(&["a", "b"], &LONG, "", AT_ONCE).await;
    let api = &shared.api;
    let stream = api.stream("a");
    let leaves = async {
        until_busy(&shared, 0, 1).await;
        ask_and_leave(api, "b").await;
    };
    let (stream, ()) = tokio::join!(stream, leaves);
    assert!(
        stream.is_done() && stream.said().ends_with("token-59"),
        "{stream:?}"
    );
    api.wait_for_status("gpu-box/b", "hibernating", SOON).await;
    assert_eq!(api.chat("a").await.status, 200);
    assert_eq!(shared.starts(), (vec![1, 0], 0), "nothing was swapped");

    assert_eq!(
        ends(&shared.world.journal().await, "b"),
        [Some("not_needed".to_owned())]
    );
    let wakes = api.get("/reveille/v1/wakes?provider=gpu-box/b").await.json();
    let row = &wakes["data"][0];
    assert_eq!(
        (&row["outcome"], &row["failure"]["kind"]),
        (&"failed".into(), &"not_needed".into())
    );
    let metrics = api.get("/metrics").await.text();
    let counted = "reveille_wake_duration_seconds_count{outcome=\"not_needed\"} 1";
    assert!(metrics.contains(counted), "{metrics}");

    assert_eq!(api.chat("b").await.status, 200, "the next one is woken at once");
    shared.assert_exclusive().await;
}

#[tokio::test]
async fn a_backend_that_boots_for_nobody_is_stopped_if_its_config_says_so() {
    let world = World::new().await;
    let backend = world.backend(&["--boot-delay-ms", "25000"]);
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("cancel_wake = \"when_unwanted\"\n")
        .woken_by_serving(&backend);
    let api = world.api().await;
    let _agent = world.agent(&config);
    api.wait_for_status("gpu-box/qwen", "hibernating", SOON).await;
    ask_and_leave(&api, "qwen").await;
    wait_until("the boot", SOON, async || {
        (backend.log().starts() == 1).then_some(())
    })
    .await;
    api.wait_for_status("gpu-box/qwen", "hibernating", SOON).await;
    assert_eq!(
        ends(&world.journal().await, "vllm"),
        [Some("not_needed".to_owned())]
    );
    let pids = backend.log().pids();
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
}

#[tokio::test]
async fn a_wake_goes_on_for_one_who_waits_at_another_replica() {
    let shared = Shared::start(&["a", "b"], &LONG, "", AT_ONCE).await;
    let (api, other) = (&shared.api, shared.world.api().await);
    let stream = api.stream("a");
    let joins = async {
        until_busy(&shared, 0, 1).await;
        tokio::select! {
            answer = api.chat("b") => panic!("answered too early: {}", answer.text()),
            () = async {
                other.wait_for_status("gpu-box/b", "waking", SOON).await;
                // Enough to be counted there, before the first leaves.
                wait_until("a waiter at the other replica", SOON, async || {
                    let metrics = other.get("/metrics").await.text();
                    metrics.contains("reveille_wake_waiters 1").then_some(())
                }).await;
            } => {}
        }
    };
    let stays = async {
        other.wait_for_status("gpu-box/b", "waking", SOON).await;
        other.chat("b").await
    };
    let (stream, (), stayed) = tokio::join!(stream, joins, stays);
    assert!(stream.is_done(), "{stream:?}");
    assert_eq!(stayed.status, 200, "{}", stayed.text());
    assert_eq!(ends(&shared.world.journal().await, "b"), [None], "one wake");
    shared.assert_exclusive().await;
}

#[tokio::test]
async fn a_wake_goes_on_that_an_operator_or_a_caller_who_comes_back_has_asked_for() {
    let shared = Shared::start(&["a", "b"], &LONG, "", AT_ONCE).await;
    let api = &shared.api;
    for round in 1..=2 {
        let stream = api.stream("a");
        let asks = async {
            until_busy(&shared, 0, round).await;
            let asked: Answer = if round == 1 {
                let path = "/reveille/v1/providers/gpu-box/b/wake";
                api.post(path, &json!({})).await
            } else {
                api.chat_with("b", "x-reveille-wake", "async").await
            };
            assert!([202, 503].contains(&asked.status), "{}", asked.text());
        };
        let (stream, ()) = tokio::join!(stream, asks);
        assert!(stream.is_done(), "{stream:?}");
        api.wait_for_status("gpu-box/b", "active", SOON).await;
        assert_eq!(ends(&shared.world.journal().await, "b"), vec![None; round]);
    }
    shared.assert_exclusive().await;
}

/// Around the moment at which the wake is withdrawn.
const ROUNDS: [u64; 6] = [1_450, 1_480, 1_500, 1_520, 1_550, 1_600];

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn one_who_joins_a_wake_as_it_is_withdrawn_is_answered_by_the_next() {
    let shared = Shared::start(&["a", "b"], &LONG, "", AT_ONCE).await;
    let (api, other) = (&shared.api, shared.world.api().await);
    for (round, pause) in ROUNDS.into_iter().enumerate() {
        let (busy, wanted) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
        let before = shared.backends[round % 2].log().requests().len();
        let stream = api.stream(busy);
        let comes = async {
            until_busy(&shared, round % 2, before + 1).await;
            ask_and_leave(api, wanted).await;
            sleep(Duration::from_millis(pause)).await;
            other.chat(wanted).await
        };
        let (stream, answer) = tokio::join!(stream, comes);
        assert!(stream.is_done(), "{pause}: {stream:?}");
        assert_eq!(answer.status, 200, "{pause}: {}", answer.text());
    }
    shared.assert_exclusive().await;
}
