//! What there was at a moment of the past, asked in every way, and what has changed since.

use reveille_tests::{Exit, World};
use serde_json::Value;
use std::time::Duration;

use crate::{
    archive::archived,
    docs::blocks_of,
    scene::{LLM, SOON, Scene},
};

/// What a command prints, as JSON.
async fn said(world: &World, line: &[&str], api: Option<&str>) -> Value {
    let mut command = world.reveille(line[0]).args(&line[1..]).args(["-o", "json"]);
    if let Some(api) = api {
        command = command.env("REVEILLE_API_URL", api);
    }
    let process = command.start();
    let exit = process.wait_for_exit(SOON).await;
    assert_eq!(exit, Exit::Code(0), "{line:?}: {}", process.log());
    serde_json::from_str(&process.log())
        .unwrap_or_else(|error| panic!("{line:?}: {error}: {}", process.log()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_looked_up_by_the_documented_commands() {
    let [documented] = blocks_of("the_past_is_looked_up_by_the_documented_commands");
    let world = World::with_postgres().await;
    let projector = world.projector();
    let scene = Scene::asleep_in(world, Duration::ZERO).await;
    let published = scene.world.journal().await.len().to_string();
    assert_eq!(scene.chat().await.status, 200);
    scene.api.wait_for_status(LLM, "active", SOON).await;
    let file = scene.world.folder().join("journal.jsonl").display().to_string();
    let (nats, database) = (scene.world.nats.url(), scene.world.database().url().to_owned());
    let exported = scene
        .world
        .reveille("journal")
        .args(["export", "--nats", &nats, &file])
        .start();
    assert_eq!(
        exported.wait_for_exit(SOON).await,
        Exit::Code(0),
        "{}",
        exported.log()
    );
    archived(&scene.world, &projector).await;

    // The same in every way: asleep when it was published, and awake now.
    let api = scene.api.url().clone();
    let ways = [
        (vec![], Some(api.as_str())),
        (vec!["--archive", file.as_str()], None),
        (vec!["--from-postgres", database.as_str()], None),
    ];
    for list in ["llms", "providers"] {
        for (at, status) in [(published.as_str(), "hibernating"), ("999999", "active")] {
            let mut answers = vec![];
            for (source, api) in &ways {
                let line = [&[list, "--at", at], source.as_slice()].concat();
                answers.push(said(&scene.world, &line, *api).await);
            }
            assert_eq!(answers[0][0]["status"], status, "{list} at {at}: {}", answers[0]);
            assert!(
                answers.windows(2).all(|two| two[0] == two[1]),
                "{list} at {at}: {answers:#?}"
            );
        }
    }
    let agents = said(&scene.world, &["agents", "--at", "1"], Some(&api)).await;
    assert_eq!(
        (&agents[0]["agent"], &agents[0]["status"]),
        (&"gpu-box".into(), &"connected".into())
    );
    let listed = said(
        &scene.world,
        &["agent", "list", "--at", "1", "--archive", &file],
        None,
    )
    .await;
    assert_eq!(
        (&listed[0]["agent"], &listed[0]["providers"]),
        (&"gpu-box".into(), &0.into())
    );
    // Before anything, and after everything.
    let before = said(
        &scene.world,
        &["llms", "--at", "2001-01-01T00:00:00Z"],
        Some(&api),
    )
    .await;
    assert_eq!(before, Value::Array(vec![]));
    let after = said(
        &scene.world,
        &["llms", "--at", "2100-01-01 00:00", "--archive", &file],
        None,
    )
    .await;
    assert_eq!(after[0]["status"], "active");

    // What has changed since it was published, and by which commit.
    let woke = scene.commits_with("WakeSucceeded").await[0].sequence;
    for source in [["--nats", nats.as_str()], ["--from-postgres", &database]] {
        let line = [&["diff", "--from", &published], &source[..]].concat();
        let changes = said(&scene.world, &line, None).await;
        let changes = changes.as_array().expect("a list");
        let status = changes.iter().find(|change| change["field"] == "status");
        let status = status.unwrap_or_else(|| panic!("no status: {changes:#?}"));
        assert_eq!(
            (&status["from"], &status["to"]),
            (&"hibernating".into(), &"active".into())
        );
        assert_eq!(
            (&status["by"]["sequence"], &status["by"]["cause"]),
            (&woke.into(), &"report".into())
        );
    }

    let wakes = scene
        .world
        .reveille("export")
        .args(["wakes", "--csv"])
        .env("REVEILLE_API_URL", &api)
        .start();
    assert_eq!(wakes.wait_for_exit(SOON).await, Exit::Code(0), "{}", wakes.log());
    let printed = wakes.log();
    let lines: Vec<_> = printed.trim().lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    assert!(
        lines[0].starts_with("wake_id,provider,requested_at,") && lines[1].contains(",gpu-box/vllm,"),
        "{printed}"
    );

    for line in documented.lines() {
        let command = line.split('#').next().unwrap_or_default().trim();
        let words: Vec<_> = command
            .split(' ')
            .skip(1)
            .map(|word| word.replace("journal.jsonl", &file))
            .collect();
        let process = scene
            .world
            .reveille(&words[0])
            .args(&words[1..])
            .env("REVEILLE_API_URL", &api)
            .env("REVEILLE_NATS_URL", &nats)
            .start();
        assert_eq!(
            process.wait_for_exit(SOON).await,
            Exit::Code(0),
            "{line}: {}",
            process.log()
        );
    }
}
