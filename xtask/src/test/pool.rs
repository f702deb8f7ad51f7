//! Runs the test programs, several at once: most tests wait for a server or a clock, so one program alone would leave
//! the processors idle.

use std::{
    io::{self, BufRead, BufReader},
    iter,
    process::Command,
    sync::{
        Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Counts, Options, Outcome, programs::TestProgram};
use crate::tools::Tools;

/// How many test programs run at once, for each processor.
const PROGRAMS_PER_CPU: usize = 2;
/// How many tests each of them runs at once.
const TESTS_PER_PROGRAM: usize = 4;
/// How many tests the first one runs at once: it runs longest, and by itself in the end.
const TESTS_OF_THE_FIRST: usize = 16;
/// How long after the end of a program its output may continue: a process that it left running may hold the pipe for ever.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// The part of a test's line that says it is slow or hangs: shown at once, as its program's output waits for its end.
const STILL_RUNNING: &str = "has been running for over";

/// Runs all programs. Each gets a line when it has ended; the output of one that fails follows whole.
pub fn run(programs: Vec<TestProgram>, tools: &Tools, options: &Options) -> Result<Outcome> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let workers = (PROGRAMS_PER_CPU * cpus).min(programs.len());
    let at_once = iter::once(TESTS_OF_THE_FIRST).chain(iter::repeat(TESTS_PER_PROGRAM));
    let queue = Mutex::new(programs.into_iter().zip(at_once));
    let outcome = Mutex::new(Outcome::default());
    let next = || queue.lock().ok()?.next();
    let work = || -> Result<()> {
        while let Some((program, at_once)) = next() {
            run_one(program, at_once, tools, options, &outcome)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut workers = workers.into_iter();
        workers.try_for_each(|worker| worker.join().expect("a worker never panics"))
    })?;
    Ok(outcome.into_inner().expect("no worker panicked"))
}

fn run_one(
    program: TestProgram,
    tests_at_once: usize,
    tools: &Tools,
    options: &Options,
    outcome: &Mutex<Outcome>,
) -> Result<()> {
    let started = Instant::now();
    let (output, writer) = io::pipe().context("cannot make a pipe")?;
    let mut command = Command::new(&program.path);
    command
        .args(&options.runner_args)
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .env("RUST_TEST_THREADS", tests_at_once.to_string())
        .stdout(writer.try_clone().context("cannot share a pipe")?)
        .stderr(writer);
    if options.all {
        command.arg("--include-ignored");
    }
    tools.tell(&mut command);
    let child = command.spawn();
    // It holds the writing ends of the pipe: without it, the output ends when the program and its children have ended.
    drop(command);
    let mut child = child.with_context(|| format!("cannot run {}", program.path.display()))?;
    let (mut counts, mut text) = (Counts::default(), String::new());
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut lines = BufReader::new(output).split(b'\n');
        lines.all(|line| sender.send(line).is_ok());
    });
    let mut ended: Option<Instant> = None;
    while ended.is_none_or(|at| at.elapsed() < OUTPUT_GRACE) {
        match lines.recv_timeout(OUTPUT_GRACE) {
            Ok(line) => {
                let line = line.context("cannot read what a test program prints")?;
                let line = String::from_utf8_lossy(&line);
                counts.add_line(&line);
                if line.contains(STILL_RUNNING) {
                    println!("{line}");
                }
                text.push_str(&line);
                text.push('\n');
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if ended.is_none() && child.try_wait()?.is_some() {
            ended = Some(Instant::now());
        }
    }
    let succeeded = child.wait().context("cannot wait for a test program")?.success();
    let (source, seconds) = (program.source, started.elapsed().as_secs_f64());
    let verdict = if succeeded { "ok" } else { "FAILED" };
    let line = format!("{verdict:<7}{source:<40} {counts} in {seconds:.1} s");
    if options.shows_output || !succeeded {
        println!("\n── {source} ──\n{text}{line}\n");
    } else if counts != Counts::default() {
        println!("{line}");
    }
    let mut outcome = outcome.lock().expect("no worker panicked");
    outcome.counts += counts;
    if !succeeded && counts.failed == 0 {
        outcome.crashed.push(source);
    }
    Ok(())
}
