//! Installs the clients that people use, in the versions of `tests/clients`, and runs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    build,
    command::{output_of, root, run},
    install::apt_install,
    pip, tools,
};

/// Tells the program where the clients are.
const INSTALLED: &str = "REVEILLE_TEST_CLIENTS_PATH";
/// The first Node.js that all of them run on.
const OLDEST_NODE: u32 = 20;
/// What two of the programs do when they are installed: they put the program for this machine in its place.
const FINISHED_BY: [&str; 2] = [
    "@anthropic-ai/claude-code/install.cjs",
    "opencode-ai/postinstall.mjs",
];

/// Installs what is missing, builds, and becomes the program that plays the cells.
pub fn command(args: &[&str]) -> Result<()> {
    let quick = args.contains(&"--quick");
    let nats = tools::nats_server()?;
    let openai = tools::openai()?;
    let node = node()?;
    let place = pip::tools_folder().join("clients");
    python(&place, "python", "requirements.txt")?;
    packages(&place, "node", &node, &[])?;
    if !quick {
        python(&place, "aider", "aider.txt")?;
        packages(&place, "programs", &node, &FINISHED_BY)?;
    }
    build::programs()?;
    let mut command = Command::new(build::built("debug", "clients")?);
    command
        .args(args)
        .env(INSTALLED, place)
        .env(tools::OPENAI_PATH, openai);
    build::become_program(&mut command, &nats)
}

/// The version of Node.js, which is installed if it is missing.
fn node() -> Result<String> {
    let find = || output_of(Command::new("node").arg("--version"));
    if find().is_none() || output_of(Command::new("npm").arg("--version")).is_none() {
        apt_install("Node.js", &["nodejs", "npm"])?;
    }
    let version = find().context("Node.js was installed, but `node` does not run")?;
    let version = version.trim().to_owned();
    let major = version.trim_start_matches('v').split('.').next();
    if major
        .and_then(|major| major.parse().ok())
        .is_none_or(|major: u32| major < OLDEST_NODE)
    {
        bail!("the clients need Node.js {OLDEST_NODE} or newer, and this is {version}");
    }
    Ok(version)
}

/// The libraries of a list of exact versions.
fn python(place: &Path, folder: &str, list: &str) -> Result<()> {
    let list = scripts().join(list);
    let python = output_of(Command::new("python3").arg("--version")).context("python3 is missing")?;
    unless_installed(&place.join(folder), &[&list], &python, |partial| {
        pip::install_list(&list, partial)
    })
}

/// The libraries or programs of a `package-lock.json`; only the given ones of their own programs are run.
fn packages(place: &Path, folder: &str, node: &str, finished_by: &[&str]) -> Result<()> {
    let files = ["package.json", "package-lock.json"].map(|file| scripts().join(folder).join(file));
    let [package, lock] = &files;
    unless_installed(&place.join(folder), &[package, lock], node, |partial| {
        fs::create_dir_all(partial)?;
        for file in &files {
            fs::copy(file, partial.join(file.file_name().unwrap_or_default()))?;
        }
        let mut npm = Command::new("npm");
        // Not `ci`, which wants the lock to have packages for other machines, too. Versions are those of the lock all the same.
        npm.args(["install", "--no-save", "--ignore-scripts"]);
        npm.args(["--no-audit", "--no-fund", "--loglevel=error"]);
        run(npm.current_dir(partial))?;
        for program in finished_by {
            run(Command::new("node").arg(partial.join("node_modules").join(program)))?;
        }
        Ok(())
    })
}

/// Installs into a folder unless it was made of these lists for this version of a language. It is put together beside its place.
fn unless_installed(
    folder: &Path,
    lists: &[&Path],
    version: &str,
    install: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let mut wanted = version.trim().to_owned();
    for list in lists {
        let text = fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
        wanted = format!("{wanted}\n{text}");
    }
    let note = folder.join("installed-for");
    if fs::read_to_string(&note).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    eprintln!("installing {}", folder.display());
    let partial = folder.with_extension("partial");
    // What is left of an earlier run, if anything.
    let _ = fs::remove_dir_all(&partial);
    install(&partial)?;
    fs::write(partial.join("installed-for"), wanted)?;
    let _ = fs::remove_dir_all(folder);
    fs::rename(&partial, folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn scripts() -> PathBuf {
    root().join("tests/clients")
}
