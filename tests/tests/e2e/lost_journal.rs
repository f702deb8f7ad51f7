//! The journal is gone under a running hub: nothing is laid in its place, what is awake is served, keys and agents stay known,
//! and a restored journal is taken up by whoever runs.

use crate::{
    keys::Hub,
    scene::{LLM, SOON, Scene},
};
use async_nats::jetstream;
use reveille_tests::{AgentConfig, Answer, Api, Exit, JOURNAL, WakeController, World, hold_for, wait_until};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Longer than it took to lay an empty journal.
const A_WHILE: Duration = Duration::from_secs(4);

async fn journal_command(world: &World, args: &[&str]) -> String {
    let process = world.reveille("journal").args(args).start();
    let exit = process.wait_for_exit(SOON).await;
    assert_eq!(exit, Exit::Code(0), "{args:?}: {}", process.log());
    process.log()
}

async fn export(world: &World, name: &str) -> PathBuf {
    let file = world.folder().join(name);
    journal_command(world, &["export", "--nats", &world.nats.url(), text(&file)]).await;
    file
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

async fn delete_stream(world: &World, stream: &str) {
    let context = jetstream::new(world.nats.connect().await);
    context.delete_stream(stream).await.expect("it was there");
}

async fn journal_exists(world: &World) -> bool {
    let context = jetstream::new(world.nats.connect().await);
    context.get_stream(JOURNAL).await.is_ok()
}

/// Waits until an API isn't ready for a reason with these words.
async fn not_ready(api: &Api, words: &str) -> Value {
    wait_until(&format!("it isn't ready: {words}"), SOON, async || {
        // One that starts doesn't listen at once.
        let request = api.client().get(format!("{}/readyz", api.url()));
        let body: Value = request.send().await.ok()?.json().await.ok()?;
        let reason = body["reason"].as_str()?;
        reason.contains(words).then(|| body.clone())
    })
    .await
}

async fn chat(api: &Api, key: &str, model: &str) -> Answer {
    api.chat_with(model, "authorization", &format!("Bearer {key}"))
        .await
}

#[tokio::test]
async fn a_deleted_journal_is_not_begun_again_and_is_restored_under_those_who_run() {
    let hub = Hub::new().await;
    let world = &hub.world;
    let (awake, asleep) = (world.backend(&[]), world.backend(&[]));
    awake.start_and_wait().await;
    let controller = WakeController::starting(&asleep, Duration::ZERO).await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &awake)
        .provider("other", "phi", &asleep)
        .woken_by_http(&controller.url());
    let (one, two) = (hub.replica(&[]).await, hub.replica(&[]).await);
    let agent = world.agent(&config);
    for api in [&one, &two] {
        api.wait_for_status(LLM, "active", SOON).await;
        api.wait_for_status("gpu-box/phi", "hibernating", SOON).await;
    }
    let (_, key) = hub.make(&one, &["--scope", "infer:*,query"]).await;
    wait_until("both know the key", SOON, async || {
        (chat(&two, &key, "qwen").await.status == 200).then_some(())
    })
    .await;
    let file = export(world, "journal.jsonl").await;

    delete_stream(world, JOURNAL).await;
    for api in [&one, &two] {
        let body = not_ready(api, "is gone, although its commits up to").await;
        assert_eq!(
            (&body["status"], &body["checks"]["journal"]),
            (&json!("not_ready"), &json!(false))
        );
        let log = api.process().log();
        assert!(
            log.contains("ERROR") && log.contains("the journal is lost"),
            "{log}"
        );
        let refused = chat(api, &key, "phi").await;
        assert_eq!(
            (refused.status, refused.error_code()),
            (503, "journal_unavailable".to_owned())
        );
        assert!(
            refused.text().contains("the journal is lost"),
            "{}",
            refused.text()
        );
        assert!(refused.took < Duration::from_secs(5), "{:?}", refused.took);
    }
    hold_for(
        "what is awake is served, and nothing is laid",
        A_WHILE,
        async || chat(&one, &key, "qwen").await.status == 200 && !journal_exists(world).await,
    )
    .await;

    let said = journal_command(world, &["import", "--nats", &world.nats.url(), text(&file)]).await;
    assert!(said.contains("for new sessions"), "{said}");
    for api in [&one, &two] {
        api.wait_until_ready().await;
    }
    wait_until("what sleeps can be woken again", SOON, async || {
        (chat(&two, &key, "phi").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(chat(&one, &key, "qwen").await.status, 200);
    assert!(agent.is_running(), "{}", agent.log());
    assert_eq!(awake.log().starts(), 1, "its backend was left alone");
}

#[tokio::test]
async fn a_replica_that_starts_without_the_journal_waits_for_it_unless_it_is_told_otherwise() {
    let scene = Scene::awake("", "").await;
    scene.is_heard().await;
    scene.api.process().stop(SOON).await;
    delete_stream(&scene.world, JOURNAL).await;
    let waiting = scene.world.api_with(&[]);
    not_ready(&waiting, "is gone, although agents were connected to this hub").await;
    hold_for("nothing is laid", A_WHILE, async || {
        !journal_exists(&scene.world).await
    })
    .await;
    waiting.process().stop(SOON).await;
    // The agent comes back by itself to a journal that has never heard of it.
    let told = scene.world.api_with(&["--new-journal"]);
    told.wait_until_ready().await;
    told.wait_for_status(LLM, "active", SOON).await;
    assert_eq!(told.chat("qwen").await.status, 200);
    assert!(scene.agent.is_running(), "{}", scene.agent.log());
}

#[tokio::test]
async fn agents_come_back_to_a_journal_that_lacks_their_session() {
    let scene = Scene::asleep(Duration::ZERO).await;
    let file = export(&scene.world, "older.jsonl").await;
    // A session that the archive doesn't have, in an epoch that the restored journal gives out again.
    scene.agent.stop(SOON).await;
    let agent = scene.world.agent(&scene.config);
    scene.is("hibernating").await;
    delete_stream(&scene.world, JOURNAL).await;
    not_ready(&scene.api, "is gone").await;
    let nats = scene.world.nats.url();
    journal_command(&scene.world, &["import", "--exact", "--nats", &nats, text(&file)]).await;
    scene.api.wait_until_ready().await;
    wait_until("it is woken again", SOON, async || {
        (scene.chat().await.status == 200).then_some(())
    })
    .await;
    assert!(agent.is_running(), "{}", agent.log());
    let log = scene.api.process().log();
    assert!(
        log.contains("the journal was replaced: it no longer holds commit"),
        "{log}"
    );
}

#[tokio::test]
async fn commits_in_the_database_show_that_the_journal_is_lost() {
    let world = World::with_postgres().await;
    let _projector = world.projector();
    let scene = Scene::asleep_in(world, Duration::ZERO).await;
    scene.api.process().stop(SOON).await;
    scene.agent.stop(SOON).await;
    for stream in [JOURNAL, "REVEILLE_HEARTBEATS"] {
        delete_stream(&scene.world, stream).await;
    }
    let api = scene.world.api_with(&[]);
    not_ready(&api, "is gone, although the database has its commits up to").await;
    assert!(!journal_exists(&scene.world).await);
}

#[tokio::test]
async fn whoever_waits_for_a_wake_as_the_journal_is_lost_hears_of_that_and_not_of_a_deadline() {
    // Nothing else ends the wait: the backend comes up later than the wake's deadline.
    let scene = Scene::asleep(Duration::from_secs(600)).await;
    let loses = async {
        wait_until("the recipe ran", SOON, async || {
            (scene.posts() == 1).then_some(())
        })
        .await;
        delete_stream(&scene.world, JOURNAL).await;
    };
    let (answer, ()) = tokio::join!(scene.chat(), loses);
    assert_eq!(
        (answer.status, answer.error_code()),
        (503, "journal_unavailable".to_owned())
    );
    assert!(answer.text().contains("the journal is lost"), "{}", answer.text());
    assert!(answer.took < Duration::from_secs(25), "{:?}", answer.took);
}
