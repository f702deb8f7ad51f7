//! Requests are remembered over restarts and by all replicas, with and without Postgres, and why each took its time is told.

use crate::scene::{LLM, SOON, Scene};
use reveille_tests::{Api, Exit, World, wait_until};
use serde_json::Value;
use std::time::Duration;

/// A request's record, once it has ended.
async fn record(api: &Api, id: &str) -> Value {
    wait_until("the request was remembered", SOON, async || {
        let answer = api.get(&format!("/reveille/v1/requests/{id}")).await;
        let record = (answer.status == 200).then(|| answer.json())?;
        (record["outcome"] != "in_flight").then_some(record)
    })
    .await
}

async fn why(scene: &Scene, api: &Api, id: &str) -> String {
    let command = scene
        .world
        .reveille("why")
        .args([id, "--api", &api.url()])
        .start();
    assert_eq!(
        command.wait_for_exit(SOON).await,
        Exit::Code(0),
        "{}",
        command.log()
    );
    command.log()
}

/// What is told of a request that woke its backend, before and after its replica has gone.
async fn is_remembered_and_explained(mut scene: Scene) {
    let delay = Duration::from_millis(300);
    let woke = scene.api.chat_with("qwen", "x-request-id", "asked-1").await;
    assert_eq!(woke.status, 200, "{}", woke.text());
    let wake = woke
        .header("x-reveille-wake-id")
        .expect("it woke the backend")
        .to_owned();
    let before = record(&scene.api, "asked-1").await;
    assert_eq!(before["wake_id"], wake.as_str(), "{before}");
    assert_eq!(
        (&before["provider"], &before["outcome"]),
        (&"gpu-box/vllm".into(), &"done".into())
    );
    assert!(before["tokens"]["output"].as_u64() > Some(0), "{before}");
    assert!(
        before["first_byte_ms"].as_u64() >= Some(u64::try_from(delay.as_millis()).expect("short")),
        "{before}"
    );

    let other = scene.world.api().await;
    assert_eq!(
        record(&other, "asked-1").await,
        before,
        "another replica has read it"
    );
    let ended = scene.api.process().stop(SOON).await;
    assert_eq!(ended, Exit::Code(0));
    drop(other);
    scene.api = scene.world.api().await;
    scene.is("active").await;
    assert_eq!(record(&scene.api, "asked-1").await, before, "it was read back");

    for id in ["asked-1", wake.as_str()] {
        let told = why(&scene, &scene.api, id).await;
        for part in [
            "request asked-1 for `qwen`",
            "the stage `step 1 http`",
            "gpu-box/vllm was awake",
        ] {
            let is_own = id == "asked-1" && part.starts_with("request");
            assert!(told.contains(part) || is_own, "{part}\n{told}");
        }
    }
    let told = why(&scene, &scene.api, "qwen").await;
    assert!(
        told.contains("gpu-box/vllm would get the next request at once"),
        "{told}"
    );
    let usage = wait_until("the usage was summed up", SOON, async || {
        let usage = scene.api.get("/reveille/v1/usage?model=qwen").await.json();
        usage["data"].get(0).cloned()
    })
    .await;
    assert_eq!(
        (&usage["requests"], &usage["failures"]),
        (&1.into(), &0.into()),
        "{usage}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_remembered_and_explained_after_its_replica_has_gone() {
    let delay = Duration::from_millis(300);
    is_remembered_and_explained(Scene::asleep(delay).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_in_postgres_even_when_the_stream_has_gone() {
    let world = World::with_postgres().await;
    let _projector = world.projector();
    let scene = Scene::asleep_in(world, Duration::from_millis(300)).await;
    assert_eq!(
        scene
            .api
            .chat_with("qwen", "x-request-id", "asked-1")
            .await
            .status,
        200
    );
    let before = record(&scene.api, "asked-1").await;
    let mut connection = scene.world.database().connect().await;
    wait_until("the projector wrote it", SOON, async || {
        let count = "SELECT count(*) FROM requests WHERE request_id = 'asked-1'";
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.ok()?;
        (count == 1).then_some(())
    })
    .await;
    let js = async_nats::jetstream::new(scene.world.nats.connect().await);
    js.delete_stream("REVEILLE_REQUESTS")
        .await
        .expect("it is deleted");
    let api = scene.world.api().await;
    assert_eq!(record(&api, "asked-1").await, before);
    let listed = api.get("/reveille/v1/requests?model=qwen").await.json();
    assert_eq!(listed["data"][0], before, "{listed}");
    assert_eq!(
        scene.api.chat("qwen").await.status,
        200,
        "requests don't depend on it"
    );
    assert!(api.llm(LLM).await.is_some());
}
