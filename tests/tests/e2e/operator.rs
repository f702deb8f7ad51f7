//! What a person does by hand: waking, putting to sleep, looking at what happened.

use reveille_tests::{AgentConfig, Api, Backend, Exit, Process, World, wait_until};
use serde_json::Value;

use crate::scene::SOON;

const LLM: &str = "gpu-box/stand-in";
const PROVIDER: &str = "gpu-box/vllm";

/// A backend that sleeps like vLLM: its process goes on, and its probe tells.
fn sleeps_like_vllm(url: &str) -> AgentConfig {
    AgentConfig::new("gpu-box").lines(&format!(
        "\n[[provider]]\nname = \"vllm\"\nbase_url = {url:?}\nmodels = [\"stand-in\"]\n\
         probe = {{ path = \"/is_sleeping\", expect = {{ is_sleeping = false }}, interval = \"300ms\" }}\n\
         [provider.wake]\ntype = \"http\"\nurl = \"{url}/wake_up\"\n\
         [provider.sleep]\ntype = \"http\"\nurl = \"{url}/sleep?level=1\"\n"
    ))
}

async fn awake() -> (World, Backend, Api, Process) {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let api = world.api().await;
    let agent = world.agent(&sleeps_like_vllm(&backend.url()));
    api.wait_for_status(LLM, "active", SOON).await;
    (world, backend, api, agent)
}

/// Runs a client command against an API and returns what it printed.
async fn ask(world: &World, api: &Api, command: &str, args: &[&str]) -> String {
    let process = world
        .reveille(command)
        .args(args)
        .args(["--api", &api.url()])
        .start();
    let exit = process.wait_for_exit(SOON).await;
    assert_eq!(exit, Exit::Code(0), "reveille {command}: {}", process.log());
    process.log()
}

#[tokio::test]
async fn a_person_puts_a_backend_to_sleep_and_wakes_it_and_sees_both_in_the_journal() {
    let (world, backend, api, _agent) = awake().await;

    ask(&world, &api, "sleep", &[PROVIDER]).await;
    api.wait_for_status(LLM, "hibernating", SOON).await;
    ask(&world, &api, "wake", &[PROVIDER, "--wait"]).await;
    api.wait_for_status(LLM, "active", SOON).await;
    assert_eq!(backend.log().wake_ups(), 1);

    let printed = ask(&world, &api, "events", &["-o", "jsonl", "--provider", PROVIDER]).await;
    let events: Vec<Value> = printed
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let types: Vec<&str> = events
        .iter()
        .filter_map(|event| event["event_type"].as_str())
        .collect();
    assert_eq!(
        types,
        [
            "ProviderRegistered",
            "BackendSlept",
            "WakeRequested",
            "WakeSucceeded"
        ],
        "{printed}"
    );
    let slept = events
        .iter()
        .find(|event| event["event_type"] == "BackendSlept")
        .expect("it slept");
    assert_eq!(slept["data"]["reason"], "operator");
}

#[tokio::test]
async fn the_newest_events_are_listed_first_however_far_back_they_are() {
    let (world, _backend, api, _agent) = awake().await;
    ask(&world, &api, "sleep", &[PROVIDER]).await;
    api.wait_for_status(LLM, "hibernating", SOON).await;
    // More than are read from the journal at once.
    let jetstream = async_nats::jetstream::new(world.nats.connect().await);
    for _ in 0..1_200 {
        let published = jetstream.publish("reveille.events.stray", "no commit".into());
        published.await.expect("sent").await.expect("stored");
    }
    // One replica has them in memory. The other one has begun after all of them, and reads the journal.
    let late = world.api().await;
    for api in [&api, &late] {
        let order = ["events", "--sort", "-seq", "--provider", PROVIDER, "-o", "jsonl"];
        let printed = ask(&world, api, order[0], &order[1..]).await;
        let types: Vec<_> = printed
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|event| event["event_type"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(types, ["BackendSlept", "ProviderRegistered"], "{printed}");
        let mut path = "/reveille/v1/events?sort=-seq&limit=1".to_owned();
        let mut sequences = vec![];
        loop {
            let page = api.get(&path).await.json();
            sequences.extend(
                page["data"]
                    .as_array()
                    .expect("rows")
                    .iter()
                    .map(|row| row["stream_seq"].clone()),
            );
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/reveille/v1/events?sort=-seq&limit=1&after={next}");
        }
        assert_eq!(sequences, [3, 2, 1]);
    }
}

#[tokio::test]
async fn a_backend_put_to_sleep_by_somebody_else_is_found_asleep_and_woken_by_the_next_request() {
    let (_world, backend, api, _agent) = awake().await;
    let slept = reveille_tests::http_client()
        .post(format!("{}/sleep", backend.url()))
        .send()
        .await;
    assert!(slept.expect("the backend answers").status().is_success());
    api.wait_for_status(LLM, "hibernating", SOON).await;
    let answer = api.chat("stand-in").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.log().wake_ups(), 1);
}

#[tokio::test]
async fn events_are_followed_as_they_happen() {
    let (world, _backend, api, _agent) = awake().await;
    let follower = world
        .reveille("events")
        .args(["--follow", "--after", "0", "-o", "jsonl", "--api", &api.url()])
        .start();
    wait_until("the past was told", SOON, async || {
        follower.log().contains("ProviderRegistered").then_some(())
    })
    .await;
    ask(&world, &api, "sleep", &[PROVIDER]).await;
    wait_until("the present was told", SOON, async || {
        follower.log().contains("BackendSlept").then_some(())
    })
    .await;
    follower.sigint();
    assert_eq!(
        follower.wait_for_exit(SOON).await,
        Exit::Code(0),
        "{}",
        follower.log()
    );
}

#[tokio::test]
async fn tables_and_json_name_what_is_there() {
    let (world, _backend, api, _agent) = awake().await;
    let table = ask(&world, &api, "llms", &[]).await;
    assert!(table.contains(LLM) && table.contains("active"), "{table}");
    let json: Value = serde_json::from_str(&ask(&world, &api, "llms", &["-o", "json"]).await).expect("JSON");
    assert_eq!(json[0]["name"], LLM);
    let sorted = ask(&world, &api, "llms", &["--sort", "-since", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&sorted).expect("JSON"), json);
    let providers = ask(&world, &api, "providers", &["--sort=status"]).await;
    assert!(providers.contains(PROVIDER), "{providers}");
}
