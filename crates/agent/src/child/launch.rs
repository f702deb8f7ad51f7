//! What a shim is told to start: one line of JSON in its pipe, so that arguments and variables, which may be secrets, stand
//! neither on its command line nor in its environment.

use super::leftovers::ChildrenLock;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

/// A command, and how long it has between TERM and KILL.
#[derive(Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) grace: Duration,
    /// What tells a later run of the agent that it still runs.
    pub(super) lock: Option<ChildrenLock>,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    /// All that it sees.
    pub(super) variables: Vec<(OsString, OsString)>,
}

impl Launch {
    /// As it is sent, its end included.
    pub(super) fn line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }

    /// The command, without an output yet.
    pub(super) fn command(self) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(self.args)
            .env_clear()
            .envs(self.variables)
            .stdin(Stdio::null());
        command
    }
}
