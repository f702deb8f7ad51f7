//! Runs the test programs, several at once: most tests wait for a server or a clock, so one program alone would leave
//! the processors idle.

use std::{
    io::{self, BufRead, BufReader},
    process::Command,
    sync::Mutex,
    thread,
    time::Instant,
};

use anyhow::{Context, Result};

use super::{Counts, Options, Outcome, programs::TestProgram};
use crate::tools::{TestSet, Tools};

/// How many test programs run at once, for each processor.
const PROGRAMS_PER_CPU: usize = 2;
/// How many tests each of them runs at once, for each processor.
const TESTS_PER_CPU: usize = 2;

/// The part of a test's line that says it is slow or hangs: shown at once, as its program's output waits for its end.
const STILL_RUNNING: &str = "has been running for over";

/// Runs all programs. Each gets a line when it has ended; the output of one that fails follows whole.
pub fn run(programs: Vec<TestProgram>, tools: &Tools, options: &Options) -> Result<Outcome> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let workers = (PROGRAMS_PER_CPU * cpus).min(programs.len());
    let queue = Mutex::new(programs.into_iter());
    let next = || queue.lock().ok()?.next();
    let mut outcome = Outcome::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    let mut outcome = Outcome::default();
                    while let Some(program) = next() {
                        let finished = run_one(&program, tools, options, cpus)?;
                        finished.report(&program, options.shows_output);
                        finished.add_to(&mut outcome, program);
                    }
                    anyhow::Ok(outcome)
                })
            })
            .collect();
        for worker in workers {
            let part = worker.join().expect("a worker never panics")?;
            outcome.counts += part.counts;
            outcome.crashed.extend(part.crashed);
        }
        Ok(outcome)
    })
}

/// How one test program ended.
struct Finished {
    succeeded: bool,
    counts: Counts,
    output: String,
    seconds: f64,
}

fn run_one(program: &TestProgram, tools: &Tools, options: &Options, cpus: usize) -> Result<Finished> {
    let started = Instant::now();
    let (output, writer) = io::pipe().context("cannot make a pipe")?;
    let mut command = Command::new(&program.path);
    command
        .args(&options.runner_args)
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .env("RUST_TEST_THREADS", (TESTS_PER_CPU * cpus).to_string())
        .stdout(writer.try_clone().context("cannot share a pipe")?)
        .stderr(writer);
    if options.set == TestSet::All {
        command.arg("--include-ignored");
    }
    tools.tell(&mut command);
    let child = command.spawn();
    // It holds the writing ends of the pipe: without it, reading ends when the program and its children have ended.
    drop(command);
    let mut child = child.with_context(|| format!("cannot run {}", program.path.display()))?;
    let (mut counts, mut text) = (Counts::default(), String::new());
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what a test program prints")?;
        let line = String::from_utf8_lossy(&line);
        counts.add_line(&line);
        if line.contains(STILL_RUNNING) {
            println!("{line}");
        }
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait().context("cannot wait for a test program")?;
    Ok(Finished {
        succeeded: status.success(),
        counts,
        output: text,
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl Finished {
    fn report(&self, program: &TestProgram, with_output: bool) {
        let Self { counts, seconds, .. } = self;
        let verdict = if self.succeeded { "ok" } else { "FAILED" };
        let line = format!("{verdict:<7}{:<40} {counts} in {seconds:.1} s", program.source);
        if with_output || !self.succeeded {
            println!("\n── {} ──\n{}{line}\n", program.source, self.output);
        } else if *counts != Counts::default() {
            println!("{line}");
        }
    }

    fn add_to(self, outcome: &mut Outcome, program: TestProgram) {
        outcome.counts += self.counts;
        if !self.succeeded && self.counts.failed == 0 {
            outcome.crashed.push(program.source);
        }
    }
}
