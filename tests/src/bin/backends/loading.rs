//! Killed during a wake: just after its start, and while it loads its model.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use reveille_tests::{http_client, wait_until};

use crate::{
    answer::Outcome,
    report,
    scene::{Hub, PATIENCE, Scene},
    server::{Server, kill9, write_model},
};

const SOME: usize = 8;

/// Each with a server of its own, so that no failure counts for another.
pub async fn scenarios(hub: &Hub, model: &Path) -> Result<()> {
    killed_while_it_starts(hub, model).await?;
    killed_while_it_loads(hub).await
}

async fn killed_while_it_starts(hub: &Hub, model: &Path) -> Result<()> {
    let scene = Scene::set(hub, "killed-starting", Server::new(model.to_owned()), "").await?;
    let started = async || {
        let maps = fs::read_to_string(format!("/proc/{}/maps", scene.server.only_process().ok()?));
        maps.ok()?.contains("libllama").then_some(())
    };
    let seen = killed_once(&scene, "the server had llama.cpp in memory", started).await?;
    let next = Outcome::of(&scene, SOME).await;
    next.answered()?;
    woken_twice(&scene, "killed while it starts", &seen, &next).await
}

/// Its model is a pipe into which nobody writes, so that llama.cpp loads for as long as it lives.
async fn killed_while_it_loads(hub: &Hub) -> Result<()> {
    let endless = hub.world.folder().join("endless.gguf");
    let made = Command::new("mkfifo").arg(&endless).status();
    ensure!(made.context("cannot run mkfifo")?.success(), "mkfifo failed");
    let scene = Scene::set(hub, "killed-loading", Server::late(endless.clone()), "").await?;
    let url = format!("{}/v1/models", scene.server.url());
    let loading = async || {
        let answer = http_client().get(&url).send().await.ok()?;
        (answer.status() == 503).then_some(())
    };
    let seen = killed_once(&scene, "the server said that it loads", loading).await?;
    write_model(&endless)?;
    let next = Outcome::of(&scene, SOME).await;
    next.answered()?;
    woken_twice(&scene, "killed while it loads its model", &seen, &next).await
}

/// Two callers ask, and the server that is woken for them is killed once `ready` says so. Wants both refused for that reason.
async fn killed_once(
    scene: &Scene<'_>,
    what: &str,
    ready: impl AsyncFnMut() -> Option<()>,
) -> Result<String> {
    let killed = async {
        wait_until(what, PATIENCE, ready).await;
        let pid = scene.server.only_process()?;
        kill9(pid)?;
        anyhow::Ok(pid)
    };
    let (one, other, killed) = tokio::join!(Outcome::of(scene, SOME), Outcome::of(scene, SOME), killed);
    let killed = killed?;
    for caller in [&one, &other] {
        let reason = caller.refused(503, "wake_failed")?;
        ensure!(
            reason.contains("signal 9"),
            "the reason doesn't say what happened: {reason}"
        );
    }
    scene.is("hibernating").await;
    scene.server.is_gone().await;
    Ok(format!("process {killed} killed; two callers:\n{one}\n{other}"))
}

async fn woken_twice(scene: &Scene<'_>, name: &str, seen: &str, next: &Outcome) -> Result<()> {
    let wanted = [
        "WakeRequested(request)",
        "WakeFailed(recipe)",
        "WakeRequested(request)",
        "WakeSucceeded",
    ];
    scene.happened_since(1, &wanted).await?;
    let second = scene.server.only_process()?;
    report(
        name,
        format!(
            "{seen}\nthe next one: {next}, process {second}\n{}",
            scene.journal_since(1).await
        ),
    );
    Ok(())
}
