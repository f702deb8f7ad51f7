//! `cargo xtask test`: installs the tools, builds, runs the tests, and prints one line at the end that counts them.

mod counts;
mod pool;
mod programs;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::tools::Tools;
pub use counts::Counts;

/// Installs, builds, tests and prints `N passed, M failed` last.
pub fn command(args: &[&str]) -> Result<()> {
    let started = Instant::now();
    let options = Options::parse(args);
    let tools = Tools::installed(options.all)?;
    let programs = programs::build()?;
    if options.only_build {
        return Ok(());
    }
    let outcome = pool::run(programs, &tools, &options)?;
    println!("\nall of it took {:.1} s", started.elapsed().as_secs_f64());
    println!("{}", outcome.counts);
    outcome.verdict()
}

/// Every test, the slow ones included.
pub fn all(tools: &Tools) -> Result<Outcome> {
    let options = Options {
        all: true,
        ..Options::default()
    };
    pool::run(programs::build()?, tools, &options)
}

/// The result of a test run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The sums over all test programs.
    pub counts: Counts,
    /// The test programs that crashed: they failed without reporting a failed test.
    pub crashed: Vec<String>,
}

impl Outcome {
    /// An error unless at least one test ran and all of them passed.
    pub fn verdict(&self) -> Result<()> {
        if self.counts.failed > 0 {
            bail!("{} tests failed", self.counts.failed);
        }
        if !self.crashed.is_empty() {
            bail!("crashed: {}", self.crashed.join(", "));
        }
        if self.counts.passed == 0 {
            bail!("no test ran: no test's name contains the filter");
        }
        Ok(())
    }
}

/// What the command line asks for.
#[derive(Debug, Default)]
struct Options {
    /// Whether the tests that are marked as ignored run too: slow ones, and those that need a browser.
    all: bool,
    only_build: bool,
    /// Filters, and what follows `--`: passed to every test program.
    runner_args: Vec<String>,
    /// Whether something follows `--`, such as `--nocapture` or `--list`: then all output is shown.
    shows_output: bool,
}

impl Options {
    fn parse(args: &[&str]) -> Self {
        let mut options = Self::default();
        let mut args = args.iter();
        for arg in args.by_ref() {
            match *arg {
                "--all" => options.all = true,
                "--no-run" => options.only_build = true,
                "--" => break,
                filter => options.runner_args.push(filter.to_owned()),
            }
        }
        for arg in args {
            options.shows_output = true;
            options.runner_args.push((*arg).to_owned());
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(passed: u64, failed: u64, crashed: &[&str]) -> bool {
        Outcome {
            counts: Counts {
                passed,
                failed,
                skipped: 0,
            },
            crashed: crashed.iter().map(ToString::to_string).collect(),
        }
        .verdict()
        .is_ok()
    }

    #[test]
    fn a_run_is_good_only_if_something_ran_and_nothing_failed() {
        assert!(verdict(3, 0, &[]));
        assert!(!verdict(3, 1, &[]), "a failed test");
        assert!(!verdict(3, 0, &["e2e"]), "a program that crashed");
        assert!(!verdict(0, 0, &[]), "nothing ran");
    }

    #[test]
    fn filters_and_arguments_after_two_dashes_go_to_the_test_programs() {
        let options = Options::parse(&["wakes", "--all", "--", "--exact", "--all"]);
        assert!(options.all);
        assert_eq!(options.runner_args, ["wakes", "--exact", "--all"]);
        assert!(options.shows_output);
        let options = Options::parse(&["--no-run"]);
        assert!(options.only_build && !options.shows_output && options.runner_args.is_empty());
    }
}
