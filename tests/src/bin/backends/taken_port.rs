//! Another server takes the port: while it sleeps, and after it was killed.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use reveille_tests::{Launch, Process, http_client, wait_until};

use crate::{
    answer::{Answer, Outcome},
    report,
    scene::{Hub, PATIENCE, Scene},
    server::{Server, kill9},
};

const SOME: usize = 8;
/// What the journal has of a wake that another server prevents, and of the next one.
const FAILED_THEN_WOKEN: [&str; 4] = [
    "WakeRequested(request)",
    "WakeFailed",
    "WakeRequested(request)",
    "WakeSucceeded",
];

/// Each with a server of its own, so that no failure counts for another.
pub async fn scenarios(hub: &Hub, model: &Path) -> Result<()> {
    taken_while_it_sleeps(hub, model).await?;
    taken_after_a_kill(hub, model).await
}

async fn taken_while_it_sleeps(hub: &Hub, model: &Path) -> Result<()> {
    let scene = Scene::set(hub, "port-taken", Server::new(model.to_owned()), "").await?;
    let seen = refused_while_taken(hub, &scene).await?;
    let next = Outcome::of(&scene, SOME).await;
    next.answered()?;
    scene.happened_since(1, &FAILED_THEN_WOKEN).await?;
    report(
        "its port is taken while it sleeps",
        format!(
            "{seen}\nthe port free again: {next}\n{}",
            scene.journal_since(1).await
        ),
    );
    Ok(())
}

async fn taken_after_a_kill(hub: &Hub, model: &Path) -> Result<()> {
    let scene = Scene::set(hub, "killed-port-taken", Server::new(model.to_owned()), "").await?;
    Answer::whole(&scene, SOME).await?;
    let (first, before) = (scene.server.only_process()?, scene.events().await.len());
    kill9(first)?;
    scene.is("hibernating").await;
    scene.server.is_gone().await;
    scene.died_since(before, &["exited", "unreachable"]).await?;
    let seen = refused_while_taken(hub, &scene).await?;
    // Two failures in a row hold the next wake back for a moment.
    let answer = wait_until("the server answered again", PATIENCE, async || {
        Answer::whole(&scene, SOME).await.ok()
    })
    .await;
    scene.happened_since(before + 1, &FAILED_THEN_WOKEN).await?;
    report(
        "its port is taken after it was killed",
        format!(
            "{seen}\nthe port free again: 200, {}\n{}",
            answer.first_token(),
            scene.journal_since(before).await
        ),
    );
    Ok(())
}

/// Asks while `python3 -m http.server` has the port, and wants a refusal that says so.
async fn refused_while_taken(hub: &Hub, scene: &Scene<'_>) -> Result<String> {
    let other = other_server(hub, scene).await?;
    let caller = Outcome::of(scene, SOME).await;
    let reason = caller.refused(503, "wake_failed")?;
    let pid = other.pid().to_string();
    let said = ["python", "another server", &pid];
    ensure!(
        said.iter().any(|said| reason.contains(said)),
        "the reason doesn't say that process {pid}, python3, has the port: {reason}"
    );
    ensure!(other.is_running(), "the other server was ended");
    scene.is("hibernating").await;
    scene.server.is_gone().await;
    Ok(format!(
        "`python3 -m http.server`, process {pid}, has the port: {caller}"
    ))
}

/// `python3 -m http.server` on the server's port. It knows none of the paths of a backend.
async fn other_server(hub: &Hub, scene: &Scene<'_>) -> Result<Process> {
    let port = scene.server.port().number().to_string();
    let folder = hub.world.folder().join(format!("http-server-{port}"));
    fs::create_dir(&folder)?;
    let other = Launch::new("python3", folder.with_extension("log"))
        .args(["-m", "http.server", "--bind", "127.0.0.1", &port])
        .folder(folder)
        .start();
    let url = scene.server.url();
    wait_until("the other server listened", PATIENCE, async || {
        let answer = http_client().get(&url).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    Ok(other)
}
