//! `cargo xtask ci`: what must hold before a change lands. Every stage runs even when an earlier one failed, so that
//! one run shows every problem.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    build, clients,
    command::{cargo, root, run},
    fuzz, test,
    tools::{self, Tools},
};

/// One line of the closing table.
struct Stage {
    name: &'static str,
    took: Duration,
    passed: bool,
}

/// Runs all stages, prints how long each took and, last, how many tests passed.
pub fn command() -> Result<()> {
    let mut stages = Vec::new();
    stage(&mut stages, "format", || {
        run(cargo().args(["fmt", "--all", "--check"]))
    });
    stage(&mut stages, "clippy", || {
        let checked = ["clippy", "--locked", "--workspace", "--all-targets"];
        run(cargo().args(checked).args(["--", "-D", "warnings"]))
    });
    stage(&mut stages, "licences", licences);
    stage(&mut stages, "documentation", documentation);
    let tools = stage(&mut stages, "tools", || Tools::installed(true));
    stage(&mut stages, "build", build::programs);
    stage(&mut stages, "materials", || run(&mut build::bill_of_materials()?));
    stage(&mut stages, "clients", clients::quick);
    stage(&mut stages, "fuzz", || fuzz::for_seconds(fuzz::CI_SECONDS));
    let mut counts = None;
    stage(&mut stages, "tests", || {
        let Some(tools) = &tools else {
            bail!("the tests need the tools")
        };
        let outcome = test::all(tools)?;
        counts = Some(outcome.counts);
        outcome.verdict()
    });
    print_table(&stages);
    if let Some(counts) = counts {
        println!("{counts}");
    }
    let failed = stages.iter().filter(|stage| !stage.passed);
    let failed: Vec<_> = failed.map(|stage| stage.name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn stage<T>(stages: &mut Vec<Stage>, name: &'static str, work: impl FnOnce() -> Result<T>) -> Option<T> {
    eprintln!("\n── {name} ──");
    let started = Instant::now();
    let result = work();
    if let Err(error) = &result {
        eprintln!("{name} failed: {error:#}");
    }
    stages.push(Stage {
        name,
        took: started.elapsed(),
        passed: result.is_ok(),
    });
    result.ok()
}

/// `--examples` for the same reason as in [`build::programs`].
fn documentation() -> Result<()> {
    let mut command = cargo();
    command.args([
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    command.args(["--lib", "--bins", "--examples"]);
    run(command.env("RUSTDOCFLAGS", "-D warnings"))
}

fn licences() -> Result<()> {
    let mut command = Command::new(tools::cargo_deny()?);
    command.current_dir(root());
    command.args(["--locked", "check", "--hide-inclusion-graph"]);
    run(command.args(["bans", "licenses", "sources"]))
}

fn print_table(stages: &[Stage]) {
    let total: Duration = stages.iter().map(|stage| stage.took).sum();
    println!();
    for stage in stages {
        let verdict = if stage.passed { "ok" } else { "FAILED" };
        println!("{:<15}{:>8.1} s  {verdict}", stage.name, stage.took.as_secs_f64());
    }
    println!("{:<15}{:>8.1} s", "all of it", total.as_secs_f64());
}
