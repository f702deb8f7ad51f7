//! What a shim should start. It comes as one line of JSON through the shim's pipe, so that arguments and variables, which may
//! be secrets, are neither on its command line nor in its environment.

use super::orphans::ChildrenLock;
use crate::output::{OutputFile, Writer};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    io::{self, PipeWriter},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) program: Program,
    /// Between TERM and KILL.
    pub(super) grace: Duration,
    /// Whether what the program leaves behind lives on once it has succeeded.
    pub(super) detach: bool,
    /// Runs when the program and its descendants have ended, and how long it may take: it ends what they leave elsewhere.
    pub(super) end: Option<(Program, Duration)>,
    /// Whether the shim's standard error is a file that the program should hold open too.
    pub(super) held: bool,
    /// Where what they print is kept.
    pub(super) kept: Option<KeptOutput>,
    /// The soft limit of open files for what is started: the agent has raised its own.
    pub(super) open_files: Option<u64>,
    /// Held while anything runs, so that a later run of the agent knows.
    pub(super) lock: Option<ChildrenLock>,
}

/// Where output is kept, and as whose.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptOutput {
    pub(super) file: OutputFile,
    pub(super) source: String,
}

impl Launch {
    /// Keeps what the program prints.
    pub(super) fn writer(&self) -> Option<Writer> {
        let KeptOutput { file, source } = self.kept.as_ref()?;
        Some(Writer::start(file.clone(), source.clone()))
    }

    /// Keeps what the program prints that runs at the end.
    pub(super) fn end_writer(&self) -> Option<Writer> {
        let KeptOutput { file, source } = self.kept.as_ref()?;
        Some(Writer::start(file.clone(), format!("{source} end")))
    }
}

/// A program with all that it is started with.
#[derive(Serialize, Deserialize)]
pub(super) struct Program {
    pub(super) file: PathBuf,
    pub(super) args: Vec<OsString>,
    /// Its whole environment.
    pub(super) variables: Vec<(OsString, OsString)>,
    /// Its working directory; `None` for the shim's.
    pub(super) folder: Option<PathBuf>,
}

impl Program {
    /// Starts it in a process group of its own; both of its outputs go to `output`.
    pub(super) fn start(&self, input: Stdio, output: PipeWriter) -> io::Result<Pid> {
        let mut command = Command::new(&self.file);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let child = command
            .args(&self.args)
            .env_clear()
            .envs(self.variables.iter().cloned())
            .stdin(input)
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()?;
        i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}
