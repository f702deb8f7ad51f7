//! Woken by a request, put to sleep when nobody asks, and woken again.

use anyhow::{Result, ensure};
use reveille_tests::{Answer as Whole, is_alive};

use crate::{
    answer::Answer,
    report,
    scene::{Hub, Scene},
    server::Server,
};

/// What puts it to sleep soon.
const IDLE: &str = "idle_after = \"3s\"";
/// Tokens of a usual answer.
const SOME: usize = 24;
/// Tokens of one that takes a while.
const MANY: usize = 400;

/// One server's day.
pub async fn scenarios(hub: &Hub, model: &std::path::Path) -> Result<()> {
    let scene = Scene::set(hub, "day", Server::new(model.to_owned()), IDLE).await?;
    let (first, text) = woken_by_a_request(&scene).await?;
    streams(&scene, &text).await?;
    sleeps_when_idle(&scene, first).await?;
    let second = woken_again(&scene, first, &text).await?;
    asked_while_it_is_put_to_sleep(&scene, second).await
}

async fn woken_by_a_request(scene: &Scene<'_>) -> Result<(u32, String)> {
    let answer = Answer::whole(scene, SOME).await?;
    scene.is("active").await;
    let pid = scene.server.only_process()?;
    let events = ["ProviderRegistered", "WakeRequested(request)", "WakeSucceeded"];
    scene.happened_since(0, &events).await?;
    report(
        "woken by a request",
        format!(
            "hibernating → active, {}, process {pid}: \"{} …\"",
            answer.first_token(),
            answer.text.chars().take(40).collect::<String>().trim()
        ),
    );
    Ok((pid, answer.text))
}

/// The stream comes token by token, and says what the answer in one piece says.
async fn streams(scene: &Scene<'_>, text: &str) -> Result<()> {
    let mut stream = Answer::begin(scene, MANY).await?;
    stream.read(1).await?;
    ensure!(
        stream.tokens < MANY && !stream.done,
        "the whole answer came in one piece"
    );
    let begun = std::time::Instant::now();
    stream.read(usize::MAX).await?;
    ensure!(
        stream.done && stream.tokens == MANY,
        "not {MANY} tokens: {stream:?}"
    );
    let whole = Whole::of(scene.request(SOME, false)).await;
    ensure!(whole.status == 200, "answered {}: {}", whole.status, whole.text());
    ensure!(
        whole.said() == text,
        "streamed and whole answers differ: {text:?}, {:?}",
        whole.said()
    );
    report(
        "streams",
        format!(
            "{MANY} tokens, {}, the rest within {:.2} s; in one piece the same text",
            stream.first_token(),
            begun.elapsed().as_secs_f64()
        ),
    );
    Ok(())
}

async fn sleeps_when_idle(scene: &Scene<'_>, pid: u32) -> Result<()> {
    let before = 3;
    scene.is("hibernating").await;
    scene.server.is_gone().await;
    ensure!(!is_alive(pid), "process {pid} is still there");
    scene.happened_since(before, &["BackendSlept(idle)"]).await?;
    report(
        "put to sleep when idle",
        format!("active → hibernating, BackendSlept(idle), process {pid} is gone"),
    );
    Ok(())
}

async fn woken_again(scene: &Scene<'_>, first: u32, text: &str) -> Result<u32> {
    let before = scene.events().await.len();
    let answer = Answer::whole(scene, SOME).await?;
    let pid = scene.server.only_process()?;
    ensure!(pid != first, "process {first} was never ended");
    ensure!(answer.text == text, "it says something else now: {}", answer.text);
    let events = ["WakeRequested(request)", "WakeSucceeded"];
    scene.happened_since(before, &events).await?;
    report(
        "woken again",
        format!("{}, process {pid}, the same text", answer.first_token()),
    );
    Ok(pid)
}

/// What wedges others: a request just behind an unload.
async fn asked_while_it_is_put_to_sleep(scene: &Scene<'_>, first: u32) -> Result<()> {
    let before = scene.events().await.len();
    scene.order_sleep().await?;
    let answer = Answer::whole(scene, SOME).await?;
    let pid = scene.server.only_process()?;
    ensure!(pid != first && !is_alive(first), "process {first} was not ended");
    let events = [
        "BackendSlept(operator)",
        "WakeRequested(request)",
        "WakeSucceeded",
    ];
    scene.happened_since(before, &events).await?;
    report(
        "asked while it is put to sleep",
        format!(
            "BackendSlept(operator), then woken: {}, process {pid} instead of {first}",
            answer.first_token()
        ),
    );
    Ok(())
}
