//! Building the workspace, and running the programs that come out of it.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::tools;

/// The folder of the workspace.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// `cargo` as the one that runs this program, in the workspace's folder.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Builds every program of the workspace, from exactly what the lock file names.
///
/// `--examples` names no file of ours: it makes cargo take development dependencies into account when it unites
/// features, as `cargo test` does. Without it a dependency whose features differ between the two compiles twice.
const PROGRAMS: [&str; 5] = ["build", "--locked", "--workspace", "--bins", "--examples"];

/// Builds every program of the workspace, dependencies included, with the features that the tests use.
pub fn programs(profile: &[&str]) -> Result<()> {
    eprintln!("building (the first time takes a few minutes)");
    run(cargo().args(PROGRAMS).args(profile))
}

/// Runs a command and makes a failure an error that names it.
pub fn run(command: &mut Command) -> Result<()> {
    let name = name_of(command);
    let status = command.status().with_context(|| format!("cannot run `{name}`"))?;
    if !status.success() {
        bail!("`{name}` failed with {status}");
    }
    Ok(())
}

fn name_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// Builds and becomes the demo. It needs a NATS server only.
pub fn demo(args: &[&str]) -> Result<()> {
    let nats = tools::nats_server()?;
    programs(&[])?;
    become_program(&mut Command::new(built("debug", "demo")?), args, &nats)
}

/// Builds and becomes the scenarios with a real llama.cpp server.
pub fn backends() -> Result<()> {
    let (nats, llama_cpp) = (tools::nats_server()?, tools::llama_cpp()?);
    programs(&[])?;
    let mut command = Command::new(built("debug", "backends")?);
    become_program(command.env(tools::LLAMA_CPP_PATH, llama_cpp), &[], &nats)
}

/// Builds for speed and becomes the named benchmark.
pub fn bench(program: &str, args: &[&str]) -> Result<()> {
    let nats = tools::nats_server()?;
    programs(&["--release"])?;
    become_program(&mut Command::new(built("release", program)?), args, &nats)
}

/// Builds everything and writes the bill of materials.
pub fn sbom(args: &[&str]) -> Result<()> {
    programs(&[])?;
    run(bill_of_materials()?.args(args))
}

/// The program that writes the bill of materials. It isn't part of this one: what it needs to read JSON would be compiled
/// before the first command of the README begins.
pub fn bill_of_materials() -> Result<Command> {
    Ok(Command::new(built("debug", "sbom")?))
}

/// Where cargo put a program: this one runs from `<target>/debug`.
fn built(profile: &str, program: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    let target = this
        .ancestors()
        .nth(2)
        .context("this program is not in a target folder")?;
    let path = target.join(profile).join(program);
    if !path.exists() {
        bail!("the build left no program at {}", path.display());
    }
    Ok(path)
}

/// Replaces this process, so that Ctrl-C reaches the program alone and nobody waits in between.
fn become_program(command: &mut Command, args: &[&str], nats: &Path) -> Result<()> {
    command.args(args).env(tools::NATS_SERVER, nats);
    if let Some(folder) = nats.parent() {
        command.env("PATH", tools::path_with(folder));
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run `{}`", name_of(command)))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    /// How a crate is compiled: everything that makes cargo compile it once more.
    type Settings = BTreeSet<String>;

    /// What cargo would compile for a command, of the crates that are not ours.
    fn dependencies(args: &[&str]) -> BTreeMap<String, Settings> {
        let mut command = cargo();
        // The plan is printed by an option that is not stable; nothing is built with it.
        command
            .args(args)
            .args(["--unit-graph", "-Zunstable-options"])
            .env("RUSTC_BOOTSTRAP", "1");
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut found = BTreeMap::<String, Settings>::new();
        for unit in plan["units"].as_array().unwrap() {
            let package = unit["pkg_id"].as_str().unwrap();
            if package.starts_with("registry+") {
                let mut profile = unit["profile"].clone();
                profile.as_object_mut().unwrap().remove("name");
                let target = (&unit["target"]["kind"], &unit["mode"], &unit["platform"]);
                let settings = format!("{profile} {}", unit["features"]);
                found
                    .entry(format!("{package} {target:?}"))
                    .or_default()
                    .insert(settings);
            }
        }
        assert!(!found.is_empty());
        found
    }

    #[test]
    fn dependencies_compile_once_for_the_demo_the_tests_and_these_commands() {
        let tests = dependencies(&["test", "--locked", "--workspace", "--no-run"]);
        for args in [&PROGRAMS[..], &["build", "--locked", "--package", "xtask"]] {
            for (dependency, settings) in dependencies(args) {
                assert_eq!(
                    tests.get(&dependency),
                    Some(&settings),
                    "{dependency} differs for {args:?}"
                );
            }
        }
    }
}
