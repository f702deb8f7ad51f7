//! `cargo xtask backends`: a real llama.cpp server as the child of a real agent, through what a server's life has.
//!
//! The model is a tiny one with random weights, but everything that runs is what people run: llama.cpp below the server of
//! llama-cpp-python. Each scenario prints what was seen of it, by the caller, in the API, in the journal and in `/proc`.
//! The first thing that isn't as it should be ends it with an exit code other than 0, and with the processes' logs.

mod answer;
mod dying;
mod hanging;
mod loading;
mod models;
mod scene;
mod server;
mod sleeping;
mod taken_port;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use anyhow::Result;
use scene::Hub;

static PASSED: AtomicUsize = AtomicUsize::new(0);

fn main() -> ExitCode {
    let passed = || PASSED.load(Ordering::Relaxed);
    // A thread of its own: whatever is not as it should be is a panic, as everywhere in the harness, and shows the logs.
    if let Err(why) = thread::spawn(run).join() {
        let why = why.downcast::<String>().unwrap_or_default();
        eprintln!("\nerror: {} scenarios passed, then one failed: {why}", passed());
        return ExitCode::FAILURE;
    }
    println!("\n{} scenarios passed", passed());
    ExitCode::SUCCESS
}

#[tokio::main]
async fn run() {
    let hub = Hub::start().await;
    scenarios(&hub).await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn scenarios(hub: &Hub) -> Result<()> {
    let started = Instant::now();
    let model = hub.world.folder().join("tiny.gguf");
    server::write_model(&model)?;
    println!(
        "a Llama of {} KiB with random weights, written in {:.1} s\n",
        std::fs::metadata(&model)?.len() / 1024,
        started.elapsed().as_secs_f64()
    );
    sleeping::scenarios(hub, &model).await?;
    dying::scenarios(hub, &model).await?;
    hanging::scenarios(hub, &model).await?;
    loading::scenarios(hub, &model).await?;
    models::scenarios(hub, &model).await?;
    taken_port::scenarios(hub, &model).await
}

/// A scenario is over, and this was seen.
fn report(name: &str, seen: impl AsRef<str>) {
    PASSED.fetch_add(1, Ordering::Relaxed);
    println!("ok  {name}");
    for line in seen.as_ref().lines() {
        println!("      {line}");
    }
}
