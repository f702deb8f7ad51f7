//! A model file that can't be loaded, one that comes late, and one that is replaced.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use reveille_tests::{Answer as Whole, hold_for, http_client, wait_until};

use crate::{
    answer::{Answer, Outcome},
    report,
    scene::{Hub, PATIENCE, Scene},
    server::{Server, write_model, write_other_model},
};

const SOME: usize = 8;
/// How many wakes may fail before the next one is held back, should the machine be so slow that a hold is over by then.
const MAX_WAKES: usize = 5;
/// For how long nothing may be answered while the model isn't there.
const NOT_ANSWERED_FOR: Duration = Duration::from_secs(2);

/// Each with a model file of its own.
pub async fn scenarios(hub: &Hub, model: &Path) -> Result<()> {
    a_broken_model(hub, model).await?;
    a_model_that_comes_late(hub).await?;
    a_model_that_is_replaced(hub, model).await
}

/// A file that was cut off, as a download is.
async fn a_broken_model(hub: &Hub, model: &Path) -> Result<()> {
    let broken = hub.world.folder().join("broken.gguf");
    let whole = fs::read(model)?;
    fs::write(&broken, &whole[..whole.len() / 2])?;
    let scene = Scene::set(hub, "broken-model", Server::new(broken.clone()), "").await?;

    let reason = refusal(&Whole::of(scene.request(SOME, true)).await)?;
    for said in ["`probe`", "exited with code 1"] {
        ensure!(reason.contains(said), "the reason doesn't say {said}: {reason}");
    }
    let before = scene
        .happened_since(1, &["WakeRequested(request)", "WakeFailed(recipe)"])
        .await?;
    scene.server.is_gone().await;
    ensure!(
        scene.status().await? == "hibernating",
        "it is {}",
        scene.status().await?
    );
    report("a broken model file", format!("503 wake_failed: {reason}"));

    let (wakes, held) = until_held(&scene, before).await?;
    scene.server.is_gone().await;
    write_model(&broken)?;
    let answer = wait_until("the mended model answered", PATIENCE, async || {
        Answer::whole(&scene, SOME).await.ok()
    })
    .await;
    report(
        "held back after it failed again",
        format!(
            "{wakes} wakes failed, then at once 503 wake_failed: {held}; the file mended: {} tokens",
            answer.tokens
        ),
    );
    Ok(())
}

/// Asks until a request is refused without a wake: how many failed before, and what is said then.
async fn until_held(scene: &Scene<'_>, mut before: usize) -> Result<(usize, String)> {
    for wakes in 1..=MAX_WAKES {
        let answer = Whole::of(scene.request(SOME, true)).await;
        let reason = refusal(&answer)?;
        let events = scene.events().await.len();
        if events == before {
            ensure!(answer.header("retry-after").is_some(), "no Retry-After: {reason}");
            ensure!(wakes > 1, "the first failure alone holds the next wake back");
            return Ok((wakes, reason));
        }
        before = scene
            .happened_since(before, &["WakeRequested(request)", "WakeFailed(recipe)"])
            .await?;
    }
    bail!("{MAX_WAKES} wakes failed and none was held back")
}

/// The port is open long before an answer is possible.
async fn a_model_that_comes_late(hub: &Hub) -> Result<()> {
    let late = hub.world.folder().join("late.gguf");
    let scene = Scene::set(hub, "late-model", Server::late(late.clone()), "").await?;
    let asked = Answer::whole(&scene, SOME);
    let loaded = async {
        let url = format!("{}/v1/models", scene.server.url());
        wait_until("the server listened", PATIENCE, async || {
            let answer = http_client().get(&url).send().await.ok()?;
            (answer.status() == 503).then_some(())
        })
        .await;
        let listening = Instant::now();
        hold_for("it was still waking", NOT_ANSWERED_FOR, async || {
            scene.status().await.is_ok_and(|status| status == "waking")
        })
        .await;
        write_model(scene.server.model())?;
        anyhow::Ok(listening)
    };
    let (answer, listening) = tokio::join!(asked, loaded);
    let (answer, listening) = (answer?, listening?);
    scene.is("active").await;
    scene
        .happened_since(1, &["WakeRequested(request)", "WakeSucceeded"])
        .await?;
    report(
        "a server that listens before its model is there",
        format!(
            "answers 503 and stays waking, one wake; answered {:.1} s after it listened, {}",
            listening.elapsed().as_secs_f64(),
            answer.first_token()
        ),
    );
    Ok(())
}

/// By a file that is no model while the server runs, and by another model while it sleeps.
async fn a_model_that_is_replaced(hub: &Hub, model: &Path) -> Result<()> {
    let file = hub.world.folder().join("replaced.gguf");
    fs::copy(model, &file)?;
    let scene = Scene::set(hub, "replaced-model", Server::new(file.clone()), "").await?;
    let text = Answer::whole(&scene, SOME).await?.text;

    // As a download does it, so that the server has the file before still open.
    let garbage = file.with_extension("partial");
    fs::write(&garbage, "no model, but a page that says so\n".repeat(10_000))?;
    fs::rename(&garbage, &file)?;
    let running = Answer::whole(&scene, SOME).await?;
    ensure!(
        running.text == text,
        "it says something else now: {}",
        running.text
    );
    let before = scene.events().await.len();
    scene.order_sleep().await?;
    scene.is("hibernating").await;
    scene.server.is_gone().await;
    let caller = Outcome::of(&scene, SOME).await;
    let reason = caller.refused(503, "wake_failed")?;
    ensure!(
        reason.contains("exited with code 1"),
        "the reason doesn't say what happened: {reason}"
    );
    let printed = scene.last_printed().await;
    ensure!(
        printed.contains("replaced.gguf"),
        "what was kept of its output doesn't name the file: {printed}"
    );
    let slept = scene
        .happened_since(
            before,
            &[
                "BackendSlept(operator)",
                "WakeRequested(request)",
                "WakeFailed(recipe)",
            ],
        )
        .await?;
    scene.server.is_gone().await;
    report(
        "its model is replaced by garbage while it runs",
        format!(
            "until it sleeps, the same text; then {caller}\nkept for the owner of the machine: {printed}\n{}",
            scene.journal_since(before).await
        ),
    );

    write_other_model(&file)?;
    let answer = Answer::whole(&scene, SOME).await?;
    ensure!(answer.text != text, "it still says {text}");
    scene
        .happened_since(slept, &["WakeRequested(request)", "WakeSucceeded"])
        .await?;
    report(
        "its model is replaced by another one while it sleeps",
        format!(
            "200, {}: \"{} …\" instead of \"{} …\"\n{}",
            answer.first_token(),
            beginning(&answer.text),
            beginning(&text),
            scene.journal_since(slept).await
        ),
    );
    Ok(())
}

fn beginning(text: &str) -> String {
    text.chars().take(30).collect::<String>().trim().to_owned()
}

/// The message of a 503 `wake_failed`.
fn refusal(answer: &Whole) -> Result<String> {
    ensure!(
        (answer.status, answer.error_code().as_str()) == (503, "wake_failed"),
        "answered {}: {}",
        answer.status,
        answer.text()
    );
    let message = answer.json()["error"]["message"].as_str().map(str::to_owned);
    message.context("an error without a message")
}
