//! What a shim should start. It comes as one line of JSON through the shim's pipe, so that arguments and variables, which may
//! be secrets, are neither on its command line nor in its environment.

use super::orphans::ChildrenLock;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Launch {
    /// Between TERM and KILL.
    pub(super) grace: Duration,
    /// Held while the command runs, so that a later run of the agent knows.
    pub(super) lock: Option<ChildrenLock>,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    /// The command's whole environment.
    pub(super) variables: Vec<(OsString, OsString)>,
}

impl Launch {
    /// The line that is sent, with its line break.
    pub(super) fn line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }

    /// The command; its output isn't set yet.
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
