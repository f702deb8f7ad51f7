//! `cargo xtask demo`: Reveille's main job, on this machine, with everything real but the model.
//!
//! It starts `reveille up` with one provider whose backend doesn't run, sends a streaming chat completion, prints the
//! answer as it arrives, and then who did what when, as the journal has it. The backend is a stand-in, a process of
//! its own that holds no model. With `--once` it ends after that, and well only if all of it happened and a plain NATS
//! subscriber was told the same story.

mod chat;
mod proof;
mod stage;

use anyhow::{Result, anyhow};
use clap::Parser;
use proof::Proof;
use stage::Stage;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// What a shell adds to a signal's number to make it an exit code, and the number of Ctrl-C.
const INTERRUPTED: u8 = 128 + 2;

/// Shows how a request to a sleeping backend wakes it and is answered.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Options {
    /// End after the first answer instead of staying up until Ctrl-C.
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted()?);
    let stage = Stage::set()?;
    let shown = tokio::select! {
        shown = show(&stage) => shown.map_err(|error| stage.with_log(&error)),
        () = &mut interrupted => {
            stage.clear().await?;
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    if shown.is_ok() && !options.once {
        println!("{}", stage.what_to_try());
        tokio::select! {
            () = interrupted => println!("\nstopping"),
            () = stage.ended() => return Err(stage.with_log(&anyhow!("`reveille up` has ended"))),
        }
    }
    let cleared = stage.clear().await;
    shown.and(cleared)?;
    Ok(ExitCode::SUCCESS)
}

async fn show(stage: &Stage) -> Result<()> {
    println!(
        "starting `reveille up` with one provider; its backend, a stand-in LLM without a model, does not run"
    );
    let row = stage.until_published().await?;
    stage.backend_does_not_listen()?;
    println!(
        "{} is {} at {}, and nothing listens at {}\n",
        stage::LLM,
        row["status"].as_str().unwrap_or_default(),
        stage.api_url(),
        stage.backend_url()
    );
    let facts = stage.listen_to_facts().await?;
    let answer = chat::ask(&stage.api_url(), stage::MODEL).await?;
    let proof = Proof::gather(stage, &facts, &answer).await?;
    println!("{}", proof.timeline(&answer));
    Ok(())
}

/// Resolves at Ctrl-C or SIGTERM.
fn interrupted() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = term.recv() => {}
        }
    })
}
