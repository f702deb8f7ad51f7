//! Killed while it is idle, while it streams, and by the death of its agent.

use std::{path::Path, time::Instant};

use anyhow::{Result, ensure};
use reveille_tests::is_alive;

use crate::{
    answer::{Answer, ENDLESS},
    report,
    scene::{Hub, Scene},
    server::{Server, kill9},
};

const SOME: usize = 8;

/// Each with a server of its own, so that no failure counts for another.
pub async fn scenarios(hub: &Hub, model: &Path) -> Result<()> {
    killed_while_idle(hub, model).await?;
    killed_while_it_streams(hub, model).await?;
    its_agent_is_killed(hub, model).await
}

async fn killed_while_idle(hub: &Hub, model: &Path) -> Result<()> {
    let scene = Scene::set(hub, "killed-idle", Server::new(model.to_owned()), "").await?;
    Answer::whole(&scene, SOME).await?;
    let (first, before) = (scene.server.only_process()?, scene.events().await.len());
    kill9(first)?;
    scene.is("hibernating").await;
    scene.server.is_gone().await;
    let noticed = scene.died_since(before, &["exited", "unreachable"]).await?;
    let answer = Answer::whole(&scene, SOME).await?;
    let second = scene.server.only_process()?;
    scene
        .happened_since(before + 1, &["WakeRequested(request)", "WakeSucceeded"])
        .await?;
    report(
        "killed while idle",
        format!(
            "active → hibernating, {noticed}; the next request wakes it: {}, process {second} instead of {first}",
            answer.first_token()
        ),
    );
    Ok(())
}

async fn killed_while_it_streams(hub: &Hub, model: &Path) -> Result<()> {
    let scene = Scene::set(hub, "killed-busy", Server::new(model.to_owned()), "").await?;
    let mut stream = Answer::begin(&scene, ENDLESS).await?;
    stream.read(3).await?;
    let (first, before) = (scene.server.only_process()?, scene.events().await.len());
    kill9(first)?;
    stream.read(usize::MAX).await?;
    let (code, message) = stream.broken_off()?;
    scene.is("hibernating").await;
    scene.server.is_gone().await;
    let noticed = scene.died_since(before, &["crashed"]).await?;
    Answer::whole(&scene, SOME).await?;
    let second = scene.server.only_process()?;
    report(
        "killed while it streams",
        format!(
            "after {} tokens the caller is told `{code}`: {message}; {noticed}; the next request wakes it: process {second}",
            stream.tokens
        ),
    );
    Ok(())
}

async fn its_agent_is_killed(hub: &Hub, model: &Path) -> Result<()> {
    let mut scene = Scene::set(hub, "agent-killed", Server::new(model.to_owned()), "").await?;
    let mut stream = Answer::begin(&scene, ENDLESS).await?;
    stream.read(3).await?;
    let (first, before) = (scene.server.only_process()?, scene.events().await.len());
    let killed = Instant::now();
    scene.agent().kill9();
    scene.server.is_gone().await;
    let gone_after = killed.elapsed().as_secs_f64();
    ensure!(!is_alive(first), "process {first} is still there");
    stream.read(usize::MAX).await?;
    let (code, message) = stream.broken_off()?;
    let told_after = killed.elapsed().as_secs_f64();

    scene.start_agent_again();
    scene.is("hibernating").await;
    let answer = Answer::whole(&scene, SOME).await?;
    let second = scene.server.only_process()?;
    let events = scene.events().await;
    let epochs = events
        .iter()
        .skip(before)
        .filter_map(|event| event["data"]["epoch"].as_u64());
    ensure!(
        epochs.max() == Some(2),
        "the agent did not come back in a second session: {events:?}"
    );
    report(
        "its agent is killed while it streams",
        format!(
            "process {first} gone after {gone_after:.2} s; after {told_after:.1} s the caller is told `{code}`: {message}; \
             restarted, in epoch 2: {}, process {second}",
            answer.first_token()
        ),
    );
    Ok(())
}
