//! A stand-in for a model server. It holds no model: it answers every prompt with `token-0 token-1 …`.
//!
//! It speaks enough of the OpenAI API, and of vLLM's sleep mode, for tests and the demo to be run against something
//! that boots late, fails to boot, hangs, sleeps, streams slowly or dies, and it writes down each start and each
//! request, so that they can be counted.

mod answers;
mod dialects;
mod imitated;
mod log;
mod options;
mod routes;
mod server;
mod ticket;
mod tool_calls;

use std::{
    fs::File,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use axum::serve::ListenerExt;
use clap::Parser;
use reveille_tests::monotonic_us;
use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{log::Log, options::Options, server::Server};

fn main() -> Result<ExitCode> {
    let started_us = monotonic_us();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(Options::parse(), started_us))
}

async fn run(options: Options, started_us: u64) -> Result<ExitCode> {
    if options.only_sleep {
        std::future::pending::<()>().await;
    }
    let log = Arc::new(Log::open(options.log.as_deref())?);
    log.write_at(
        &json!({ "event": "start", "pid": std::process::id() }),
        started_us,
    );
    if options.fork_grandchild {
        fork(&log)?;
    }
    // Held until this process is gone, however it ends.
    let _memory = match &options.gpu {
        Some(gpu) => Some(allocate(gpu, &log)?),
        None => None,
    };
    tokio::time::sleep(options.boot_delay()).await;
    if let Some(code) = options.fail_boot {
        eprintln!("the stand-in LLM fails to boot, as it was told to");
        return Ok(ExitCode::from(code));
    }
    let end_delay = Duration::from_millis(options.end_delay_ms);
    if end_delay.is_zero() {
        serve(options, log).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut told = signal(SignalKind::terminate())?;
    tokio::select! {
        served = serve(options, log) => served?,
        _ = told.recv() => {}
    }
    tokio::time::sleep(end_delay).await;
    Ok(ExitCode::SUCCESS)
}

async fn serve(options: Options, log: Arc<Log>) -> Result<()> {
    let address = options.listen;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    log.write(&json!({ "event": "listening", "pid": std::process::id() }));
    println!(
        "a stand-in LLM, which holds no model, listens on {}",
        listener.local_addr()?
    );
    let listener = listener.tap_io(|connection| {
        // A token is a small packet that must not wait for another one. Refused only when the peer is gone.
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, routes::router(Server::new(options, log)))
        .await
        .context("cannot serve")
}

/// Takes the memory of a GPU that only one process fits into.
fn allocate(gpu: &Path, log: &Log) -> Result<File> {
    let memory = File::create(gpu).with_context(|| format!("cannot open {}", gpu.display()))?;
    if memory.try_lock().is_err() {
        log.write(&json!({ "event": "out_of_memory" }));
        bail!("out of memory: another model is in {}", gpu.display());
    }
    Ok(memory)
}

/// Starts a copy of this program that only exists: a model server's worker processes must not outlive it.
fn fork(log: &Log) -> Result<()> {
    let this = std::env::current_exe().context("cannot tell which program this is")?;
    let child = Command::new(this)
        .arg("--only-sleep")
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start a child process")?;
    log.write(&json!({ "event": "grandchild", "pid": child.id() }));
    Ok(())
}
