//! `cargo xtask test`: the tools, the programs, then every test, with one line at the end that counts them.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, cargo},
    counts::Counts,
    tools::Tools,
};

/// Installs, builds, tests and prints `N passed, M failed` last.
pub fn command(args: &[&str]) -> Result<()> {
    let started = Instant::now();
    let tools = Tools::installed()?;
    let asked = Asked::parse(args);
    build::programs(&[])?;
    if asked.only_build {
        return build::run(cargo().args(["test", "--locked", "--workspace", "--no-run"]));
    }
    let outcome = run(&tools, &asked)?;
    println!("\nall of it took {:.1} s", started.elapsed().as_secs_f64());
    println!("{}", outcome.counts);
    outcome.verdict()
}

/// Every test of a workspace whose programs are built.
pub fn everything(tools: &Tools) -> Result<Outcome> {
    run(tools, &Asked::default())
}

/// What a test run came to.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The sums over all test binaries.
    pub counts: Counts,
    /// Whether cargo itself was content: false also when a test binary crashed before its result line.
    pub cargo_content: bool,
}

impl Outcome {
    /// An error unless at least one test ran and all of them passed.
    pub fn verdict(&self) -> Result<()> {
        if self.counts.failed > 0 {
            bail!("{} tests failed", self.counts.failed);
        }
        if !self.cargo_content {
            bail!("a test binary did not build or did not end as it should");
        }
        if self.counts.passed == 0 {
            bail!("no test ran: no name contains what was asked for");
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Asked {
    only_build: bool,
    for_the_runner: Vec<String>,
}

impl Asked {
    fn parse(args: &[&str]) -> Self {
        let mut asked = Self::default();
        for arg in args {
            match *arg {
                "--no-run" => asked.only_build = true,
                "--" => {}
                other => asked.for_the_runner.push(other.to_owned()),
            }
        }
        asked
    }
}

fn run(tools: &Tools, asked: &Asked) -> Result<Outcome> {
    let mut command = cargo();
    command
        .args(["test", "--locked", "--workspace", "--no-fail-fast", "--"])
        .args(&asked.for_the_runner);
    tools.tell(&mut command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run `cargo test`")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read what cargo prints")?;
        let line = String::from_utf8_lossy(&line);
        counts.add_line(&line);
        println!("{line}");
    }
    std::io::stdout().flush().context("cannot print")?;
    let status = child.wait().context("cannot wait for cargo")?;
    Ok(Outcome {
        counts,
        cargo_content: status.success(),
    })
}

#[cfg(test)]
mod outcome_tests {
    use super::*;

    fn verdict(passed: u64, failed: u64, cargo_content: bool) -> bool {
        Outcome {
            counts: Counts {
                passed,
                failed,
                skipped: 0,
            },
            cargo_content,
        }
        .verdict()
        .is_ok()
    }

    #[test]
    fn a_run_is_good_only_if_something_ran_and_nothing_failed() {
        assert!(verdict(3, 0, true));
        assert!(!verdict(3, 1, true), "a failed test");
        assert!(!verdict(3, 0, false), "a binary that crashed");
        assert!(!verdict(0, 0, true), "nothing ran");
    }
}
