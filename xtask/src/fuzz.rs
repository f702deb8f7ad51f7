//! `cargo xtask fuzz`: the fuzz target of the HTTP/1 guard, built with coverage by the stable compiler.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{
    build,
    command::{cargo, output_of, root, run},
    install::apt_install,
};

/// How long `cargo xtask fuzz` runs unless told otherwise, in seconds: an hour.
const USUAL_SECONDS: u32 = 3_600;
/// How long it runs in `ci`, in seconds.
pub const CI_SECONDS: u32 = 15;

const TARGET: &str = "http1_guard";

/// What libFuzzer needs of the compiler: counters and tables of the branches that are taken. `cargo fuzz` sets the same.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Ccodegen-units=1 -Cdebug-assertions";

/// Runs for the seconds in `args`, or for an hour.
pub fn command(args: &[&str]) -> Result<()> {
    let seconds = match args {
        [] => USUAL_SECONDS,
        [seconds, ..] => seconds.parse().context("the argument is a number of seconds")?,
    };
    for_seconds(seconds)
}

/// Builds the target and runs it. An input that makes it fail is kept in `target/fuzz/`, and its name printed.
pub fn for_seconds(seconds: u32) -> Result<()> {
    if output_of(Command::new("c++").arg("--version")).is_none() {
        apt_install("a C++ compiler for libFuzzer", &["g++"])?;
    }
    let folder = root().join("fuzz");
    let built = build::target_folder()?.join("fuzz");
    let host =
        output_of(Command::new("rustc").args(["--print", "host-tuple"])).context("cannot run rustc")?;
    let host = host.trim();
    // Naming the target keeps the flags away from build scripts and macros.
    let mut build = cargo();
    build
        .current_dir(&folder)
        .args(["build", "--locked", "--release", "--target", host])
        .env("RUSTFLAGS", COVERAGE)
        .env("CARGO_TARGET_DIR", &built);
    run(&mut build)?;
    // Inputs that reach new branches are kept from run to run.
    let corpus = built.join("corpus").join(TARGET);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let mut fuzz = Command::new(built.join(host).join("release").join(TARGET));
    fuzz.arg(format!("-max_total_time={seconds}"))
        .args(["-max_len=2048", "-verbosity=0", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", built.display()))
        .arg(corpus)
        .arg(folder.join("seeds").join(TARGET));
    run(&mut fuzz)
}
