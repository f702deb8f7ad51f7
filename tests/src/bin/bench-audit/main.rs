//! How long an audit takes, and how much memory: an archive of many commits, written here as a hub of some years would have
//! left it, and `reveille audit` on it.
//!
//! Figures depend on the machine; its load stands beside them.

mod years;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use reveille_tests::{load_average, program};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use years::Years;

/// How often the memory of the audit is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The size of it.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// How many commits the archive holds.
    #[arg(long, default_value_t = 1_000_000)]
    commits: u64,
    /// How many providers they are about.
    #[arg(long, default_value_t = 20)]
    providers: u64,
    /// Keep the archive in this file, and audit it if it is there already.
    #[arg(long)]
    archive: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let folder = tempfile::tempdir()?;
    let file = options
        .archive
        .clone()
        .unwrap_or_else(|| folder.path().join("journal.jsonl"));
    if !file.exists() {
        let begun = Instant::now();
        let mut out = BufWriter::new(File::create(&file)?);
        Years::new(options.providers).write(&mut out, options.commits)?;
        out.flush()?;
        println!("archive written in {:.1} s", begun.elapsed().as_secs_f64());
    }
    let bytes = fs::metadata(&file)?.len();
    println!("load average before: {}", load_average());
    let begun = Instant::now();
    let mut audit = Command::new(program("reveille"))
        .args(["audit", "-o", "json"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()?;
    let most_kib = watched(&mut audit)?;
    let took = begun.elapsed().as_secs_f64();
    let output = audit.wait_with_output()?;
    ensure!(output.status.success(), "the audit ended with {}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).context("a report")?;
    let commits = report["commits"].as_u64().context("a number of commits")?;
    println!("load average after: {}", load_average());
    println!(
        "{commits} commits, {:.2} GB, audited in {took:.1} s ({:.0}/s) with at most {} MiB of memory",
        bytes as f64 / 1e9,
        commits as f64 / took,
        most_kib / 1024
    );
    Ok(())
}

/// Waits until the process has ended, and returns the most memory that it had, in KiB.
fn watched(process: &mut Child) -> Result<u64> {
    let status = format!("/proc/{}/status", process.id());
    let mut most = 0;
    while process.try_wait()?.is_none() {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(kib.unwrap_or(0));
        thread::sleep(LOOK_EVERY);
    }
    match most {
        0 => bail!("it ended before its memory could be read"),
        most => Ok(most),
    }
}
