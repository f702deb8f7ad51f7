//! Building the workspace's programs and running them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{cargo, replace_with, run},
    tools,
};

/// The programs every benchmark starts beside its own.
const BENCHED: [&str; 3] = ["reveille", "stand-in-llm", "guard"];

/// Builds every program of the workspace from exactly the versions in the lock file.
///
/// No example exists; `--examples` makes cargo count development dependencies when it unifies features, as
/// `cargo test` does. Without it, dependencies whose features differ between the two would compile twice.
pub fn programs() -> Result<()> {
    eprintln!("building (the first time takes a few minutes)");
    run(cargo().args(["build", "--locked", "--workspace", "--bins", "--examples"]))
}

/// Builds the demo and becomes it. It needs only a NATS server.
pub fn demo(args: &[&str]) -> Result<()> {
    let nats = tools::nats_server()?;
    programs()?;
    become_program(Command::new(built("debug", "demo")?).args(args), &nats)
}

/// Builds the scenarios with a real llama.cpp server and becomes them.
pub fn backends() -> Result<()> {
    let (nats, llama_cpp) = (tools::nats_server()?, tools::llama_cpp()?);
    programs()?;
    let mut command = Command::new(built("debug", "backends")?);
    become_program(command.env(tools::LLAMA_CPP_PATH, llama_cpp), &nats)
}

/// Builds a benchmark and what it measures with optimizations, and becomes the benchmark.
pub fn bench(program: &str, args: &[&str]) -> Result<()> {
    let nats = tools::nats_server()?;
    eprintln!("building for release (the first time takes several minutes)");
    let mut build = cargo();
    build.args(["build", "--locked", "--release"]);
    build.args(["--package", "reveille", "--package", "reveille-tests"]);
    for program in BENCHED.iter().chain([&program]) {
        build.args(["--bin", program]);
    }
    run(&mut build)?;
    become_program(Command::new(built("release", program)?).args(args), &nats)
}

/// Builds everything and writes the bill of materials.
pub fn sbom(args: &[&str]) -> Result<()> {
    programs()?;
    run(bill_of_materials()?.args(args))
}

/// The program that writes the bill of materials. It is separate from this one, whose JSON dependencies would
/// otherwise compile before the README's first command starts.
pub fn bill_of_materials() -> Result<Command> {
    Ok(Command::new(built("debug", "sbom")?))
}

/// Where cargo puts what it builds: this program runs from `<target>/debug`.
pub fn target_folder() -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot find this program's own path")?;
    let target = this.ancestors().nth(2);
    Ok(target
        .context("this program is not in a target folder")?
        .to_owned())
}

/// A program that was built.
pub fn built(profile: &str, program: &str) -> Result<PathBuf> {
    let path = target_folder()?.join(profile).join(program);
    if !path.exists() {
        bail!("the build left no program at {}", path.display());
    }
    Ok(path)
}

/// Becomes a program that starts NATS servers.
pub fn become_program(command: &mut Command, nats: &Path) -> Result<()> {
    command.env(tools::NATS_SERVER, nats);
    if let Some(folder) = nats.parent() {
        command.env("PATH", tools::path_with([folder]));
    }
    Err(replace_with(command))
}
