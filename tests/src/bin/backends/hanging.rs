//! Stopped by SIGSTOP while it is idle, before it is asked, and while it streams. It hangs: the kernel accepts connections for it, and
//! nothing answers or closes them.

use std::{path::Path, time::Instant};

use anyhow::{Result, ensure};
use reveille_tests::is_alive;

use crate::{
    answer::{Answer, ENDLESS, Outcome},
    report,
    scene::{Hub, Scene},
    server::{Server, sigstop},
};

const SOME: usize = 8;
/// What the journal has of a server that hung, was noticed, and was woken for the next request.
const WOKEN_AFRESH: [&str; 3] = [
    "BackendSlept(unreachable)",
    "WakeRequested(request)",
    "WakeSucceeded",
];

/// Each with a server of its own, so that no failure counts for another.
pub async fn scenarios(hub: &Hub, model: &Path) -> Result<()> {
    stopped_while_idle(hub, model).await?;
    asked_while_it_is_stopped(hub, model).await?;
    stopped_while_it_streams(hub, model).await
}

/// Nobody asks until it is noticed; then two ask at once.
async fn stopped_while_idle(hub: &Hub, model: &Path) -> Result<()> {
    let scene = awake(hub, "stopped-idle", model).await?;
    let (first, before) = (scene.server.only_process()?, scene.events().await.len());
    sigstop(first).await?;
    let stopped = Instant::now();
    scene.is("hibernating").await;
    let noticed = stopped.elapsed().as_secs_f64();
    let (one, other) = tokio::join!(Outcome::of(&scene, SOME), Outcome::of(&scene, SOME));
    one.answered()?;
    other.answered()?;
    let second = woken_afresh(&scene, first, before).await?;
    report(
        "stopped while idle",
        format!(
            "hibernating after {noticed:.1} s; two callers: {one}, {other}; process {second} instead of {first}\n{}",
            scene.journal_since(before).await
        ),
    );
    Ok(())
}

/// One asks before anything is noticed, one afterwards.
async fn asked_while_it_is_stopped(hub: &Hub, model: &Path) -> Result<()> {
    let scene = awake(hub, "stopped-asked", model).await?;
    let (first, before) = (scene.server.only_process()?, scene.events().await.len());
    sigstop(first).await?;
    let stopped = Instant::now();
    let asked = Outcome::of(&scene, SOME).await;
    let reason = asked.refused(504, "backend_timeout")?;
    ensure!(reason.contains("silent"), "the reason names no silence: {reason}");
    scene.is("hibernating").await;
    let noticed = stopped.elapsed().as_secs_f64();
    let next = Outcome::of(&scene, SOME).await;
    next.answered()?;
    let second = woken_afresh(&scene, first, before).await?;
    report(
        "asked while it is stopped",
        format!(
            "{asked}\nhibernating after {noticed:.1} s; the next caller: {next}; process {second} instead of {first}\n{}",
            scene.journal_since(before).await
        ),
    );
    Ok(())
}

async fn stopped_while_it_streams(hub: &Hub, model: &Path) -> Result<()> {
    let scene = awake(hub, "stopped-busy", model).await?;
    let (first, before) = (scene.server.only_process()?, scene.events().await.len());
    let mut stream = Answer::begin(&scene, ENDLESS).await?;
    stream.read(3).await?;
    sigstop(first).await?;
    let stopped = Instant::now();
    stream.read(usize::MAX).await?;
    let (code, message) = stream.broken_off()?;
    ensure!(
        code == "backend_timeout" && message.contains("silent"),
        "the caller was told {code}: {message}"
    );
    scene.is("hibernating").await;
    let noticed = stopped.elapsed().as_secs_f64();
    let next = Outcome::of(&scene, SOME).await;
    next.answered()?;
    let second = woken_afresh(&scene, first, before).await?;
    report(
        "stopped while it streams",
        format!(
            "{}\nhibernating after {noticed:.1} s; the next caller: {next}; process {second} instead of {first}\n{}",
            stream.end()?,
            scene.journal_since(before).await
        ),
    );
    Ok(())
}

/// A server that is watched closely and has answered a request.
async fn awake<'a>(hub: &'a Hub, name: &str, model: &Path) -> Result<Scene<'a>> {
    let scene = Scene::set(hub, name, Server::new(model.to_owned()).watched(), "").await?;
    Answer::whole(&scene, SOME).await?;
    Ok(scene)
}

/// Wants the stopped process ended, another in its place, and one wake for that. Returns the other.
async fn woken_afresh(scene: &Scene<'_>, first: u32, before: usize) -> Result<u32> {
    let second = scene.server.only_process()?;
    ensure!(
        second != first && !is_alive(first),
        "process {first} was not ended"
    );
    scene.happened_since(before, &WOKEN_AFRESH).await?;
    Ok(second)
}
