//! Installs the clients that people use, in the versions of `tests/clients`, and runs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    build,
    command::{output_of, replace_with, root, run},
    pip, tools,
};

/// Tells the program where the clients are.
const INSTALLED: &str = "REVEILLE_TEST_CLIENTS_PATH";
/// What two of the programs do when they are installed: they put the program for this machine in its place.
const FINISHED_BY: [&str; 2] = [
    "@anthropic-ai/claude-code/install.cjs",
    "opencode-ai/postinstall.mjs",
];

/// Builds, installs what is missing, and becomes the program that plays the cells.
pub fn command(args: &[&str]) -> Result<()> {
    build::programs()?;
    Err(replace_with(&mut program(args)?))
}

/// Plays the cells that take less than a minute together, with programs that are built already.
pub fn quick() -> Result<()> {
    run(&mut program(&["--quick"])?)
}

/// The program that plays the cells, with all that it needs.
fn program(args: &[&str]) -> Result<Command> {
    let nats = tools::nats_server()?;
    let openai = tools::openai()?;
    let node = Node::found()?;
    let place = pip::tools_folder().join("clients");
    python(&place, "sdks", "sdks.txt")?;
    packages(&place, "node", &node, &[])?;
    if !args.contains(&"--quick") {
        python(&place, "python", "requirements.txt")?;
        python(&place, "aider", "aider.txt")?;
        packages(&place, "programs", &node, &FINISHED_BY)?;
    }
    let mut command = Command::new(build::built("debug", "clients")?);
    command
        .args(args)
        .env(INSTALLED, place)
        .env(tools::OPENAI_PATH, openai)
        .env(tools::NATS_SERVER, &nats);
    command.env(
        "PATH",
        tools::path_with([&*node.folder].into_iter().chain(nats.parent())),
    );
    Ok(command)
}

/// Node.js and its installer.
struct Node {
    folder: PathBuf,
    version: String,
}

impl Node {
    /// In the first folder of `PATH` that has both and new enough ones, or else in `.tools`.
    fn found() -> Result<Self> {
        let folder = tools::node()?;
        let version = output_of(Command::new(folder.join("node")).arg("--version"));
        let version = version.context("Node.js does not run")?;
        Ok(Self { folder, version })
    }

    /// One of its programs, which finds the others.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.folder.join(name));
        command.env("PATH", tools::path_with([&*self.folder]));
        command
    }
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
fn packages(place: &Path, folder: &str, node: &Node, finished_by: &[&str]) -> Result<()> {
    let files = ["package.json", "package-lock.json"].map(|file| scripts().join(folder).join(file));
    let [package, lock] = &files;
    unless_installed(&place.join(folder), &[package, lock], &node.version, |partial| {
        fs::create_dir_all(partial)?;
        for file in &files {
            fs::copy(file, partial.join(file.file_name().unwrap_or_default()))?;
        }
        let mut npm = node.program("npm");
        // Not `ci`, which wants the lock to have packages for other machines, too. Versions are those of the lock all the same.
        npm.args(["install", "--no-save", "--ignore-scripts"]);
        npm.args(["--no-audit", "--no-fund", "--loglevel=error"]);
        run(npm.current_dir(partial))?;
        for program in finished_by {
            run(node
                .program("node")
                .arg(partial.join("node_modules").join(program)))?;
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
