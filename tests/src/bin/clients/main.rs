//! `cargo xtask clients`: the clients that people use, in pinned versions, each against models that have to be woken.
//!
//! Every cell of the matrix is one client in one scene, with a model and a backend of its own: the script of the client in
//! `tests/clients` does what its users do and prints what the client saw. Cells run beside each other, since most of them wait for a
//! boot. A cell that fails, or whose client isn't there, fails the command.

mod cell;
mod clients;
mod report;
mod runtime;
mod scene;

use std::{
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use cell::Cell;
use futures::{StreamExt, stream};
use reveille_tests::{AgentConfig, World, wait_until};
use runtime::Runtime;

/// Cells at a time for each processor: nearly all of them wait for their backend.
const CELLS_PER_PROCESSOR: usize = 4;
/// No agent has more providers.
const CELLS_PER_AGENT: usize = 64;
/// Until all agents have published them.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // A thread of its own: whatever is not as it should be is a panic in the harness, and shows the logs.
    match thread::spawn(move || run(&args)).join() {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

#[tokio::main]
async fn run(args: &[String]) -> Result<()> {
    let quick = args.iter().any(|arg| arg == "--quick");
    let names: Vec<_> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    if let Some(unknown) = names
        .iter()
        .find(|name| !clients::CLIENTS.iter().any(|client| client.name == name.as_str()))
    {
        bail!("no client {unknown}; there are: {}", clients::names());
    }
    let started = Instant::now();
    let world = World::new().await;
    let runtime = Runtime::new(world.folder())?;
    let mut cells = Vec::new();
    for client in clients::CLIENTS {
        if quick && !client.quick
            || !names.is_empty() && !names.iter().any(|name| name.as_str() == client.name)
        {
            continue;
        }
        let scenes = client.scenes().filter(|scene| !quick || scene.is_quick());
        cells.extend(scenes.map(|scene| Cell::new(&world, client, scene)));
    }
    ensure!(!cells.is_empty(), "no cell to play");
    // The longest boots first.
    cells.sort_by_key(|cell| std::cmp::Reverse(cell.scene.boot()));
    let api = world.api().await;
    let mut agents = Vec::new();
    for (number, cells) in cells.chunks(CELLS_PER_AGENT).enumerate() {
        let name = format!("box-{number}");
        let config = cells
            .iter()
            .fold(AgentConfig::new(&name), |config, cell| cell.publish(config));
        agents.push(world.agent(&config));
    }
    wait_until("all models were published", PUBLISHED_WITHIN, async || {
        let answer = api
            .get("/reveille/v1/providers?status=hibernating&limit=1000")
            .await;
        let published = answer.json()["data"].as_array()?.len();
        (published == cells.len()).then_some(())
    })
    .await;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let runtime = Arc::new(runtime);
    let mut results: Vec<_> = stream::iter(cells)
        .map(|cell| {
            let (runtime, url) = (runtime.clone(), api.url());
            async move {
                let result = cell.play(&runtime, &url).await;
                report::line(&cell, &result);
                (cell, result)
            }
        })
        .buffer_unordered(processors * CELLS_PER_PROCESSOR)
        .collect()
        .await;
    results.sort_by_key(|(cell, _)| cell.place());
    let failed = results.iter().filter(|(_, result)| result.is_err()).count();
    println!("\n{}", report::matrix(&results));
    println!(
        "{} cells in {:.0} s, {failed} failed",
        results.len(),
        started.elapsed().as_secs_f64()
    );
    if failed > 0 {
        bail!("{failed} cells failed");
    }
    let told_to = std::env::var_os("REVEILLE_TEST_UPDATE").is_some();
    if told_to || !quick && names.is_empty() {
        report::write_page()?;
    } else {
        report::check_page()?;
    }
    Ok(())
}
