//! Starting other programs.

use std::{
    env,
    ffi::OsStr,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Error, Result, bail};

/// The workspace's folder.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The `cargo` that started this program, run in the workspace's folder.
pub fn cargo() -> Command {
    starting_cargo(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A program that starts `cargo`, run in the workspace's folder.
pub fn starting_cargo(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    // It has described this package to this program. Build scripts that ask for these variables would run again, and all that
    // depends on them would be built again, for each change between `cargo xtask` and `cargo build`.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// Runs a command. The error for a failure names it.
pub fn run(command: &mut Command) -> Result<()> {
    let name = name_of(command);
    let status = command.status().with_context(|| format!("cannot run `{name}`"))?;
    if !status.success() {
        bail!("`{name}` failed with {status}");
    }
    Ok(())
}

/// The standard output of a command that succeeds; nothing when it can't be run or fails.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Replaces this process with a program, so that Ctrl-C reaches the program directly. Returns only when that fails.
pub fn replace_with(command: &mut Command) -> Error {
    let error = command.exec();
    Error::new(error).context(format!("cannot run `{}`", name_of(command)))
}

/// The command line as a person would type it.
pub fn name_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
