//! Installing Debian packages.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{output_of, run};

/// A command that runs as root: as it is when we are root already, else through `sudo`.
pub fn as_root(program: &str) -> Command {
    if output_of(Command::new("id").arg("-u")).is_some_and(|uid| uid.trim() == "0") {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Installs Debian packages, saying so.
///
/// # Errors
/// When there is no `apt-get`: the text then names what has to be installed by hand.
pub fn apt_install(what: &str, packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if output_of(Command::new("apt-get").arg("--version")).is_none() {
        bail!("{what} is missing, and there is no apt-get to install it with: please install it ({names})");
    }
    eprintln!("installing {what} with apt-get: {names}");
    run(as_root("apt-get").args(["update", "-qq"])).context("cannot refresh Debian's package lists")?;
    let mut install = as_root("env");
    install.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
    ]);
    run(install.args(packages).stdout(Stdio::null()))
        .with_context(|| format!("cannot install {what}; please install it by hand ({names})"))
}
