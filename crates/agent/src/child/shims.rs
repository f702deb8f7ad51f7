//! The agent's side of shims: each child needs one, which is started for it or was started before and waits.

use super::{launch::Launch, orphans::ChildrenLock};
use crate::output::OutputFile;
use parking_lot::Mutex;
use std::{fs::File, io, path::PathBuf, process::Stdio, sync::Arc};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    process::{Child as Process, ChildStdin, ChildStdout, Command},
};

/// The subcommand that makes this program a shim.
pub const SHIM: &str = "shim";

/// Starts shims: this program, with the `shim` subcommand.
#[derive(Debug, Clone)]
pub struct Shims {
    program: PathBuf,
    pub(super) lock: Option<ChildrenLock>,
    /// What each shim and its program hold open.
    pub(super) held: Option<Arc<File>>,
    /// Where commands without a working directory of their own run; `None` for the agent's.
    pub(super) folder: Option<PathBuf>,
    /// Where what commands print is kept.
    pub(crate) kept: Option<OutputFile>,
    /// The waiting shim; present only if one is kept ready.
    ready: Option<Arc<Mutex<Option<Shim>>>>,
}

/// A running shim, and the ends of its pipes.
#[derive(Debug)]
pub(super) struct Shim {
    pub(super) process: Process,
    /// Closing it ends the shim and everything below it.
    pub(super) lease: ChildStdin,
    /// The shim's reports about its child.
    pub(super) said: BufReader<ChildStdout>,
}

impl Shims {
    /// Shims that start when they are needed.
    ///
    /// # Errors
    /// When the program's own file can't be found.
    pub fn of_this_program() -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            lock: None,
            held: None,
            folder: None,
            kept: None,
            ready: None,
        })
    }

    /// Makes all shims share `lock`, so that a later run of this agent knows of them.
    #[must_use]
    pub fn sharing(mut self, lock: ChildrenLock) -> Self {
        self.lock = Some(lock);
        self
    }

    /// Makes each shim hold `file` open, as its standard error, and its program as its standard input: a lock on the file lasts
    /// until both have ended, even if the shim is killed.
    #[must_use]
    pub fn holding(mut self, file: File) -> Self {
        self.held = Some(Arc::new(file));
        self
    }

    /// Runs commands without a working directory of their own in `folder`.
    #[must_use]
    pub fn working_in(mut self, folder: PathBuf) -> Self {
        self.folder = Some(folder);
        self
    }

    /// Keeps what commands print from now on; clones may keep it elsewhere.
    #[must_use]
    pub fn keeping(mut self, file: OutputFile) -> Self {
        self.kept = Some(file);
        self
    }

    /// Keeps one shim waiting from now on: starting this program takes longer than starting most commands.
    #[must_use]
    pub fn with_one_ready(mut self) -> Self {
        self.ready = Some(Arc::default());
        self.prepare();
        self
    }

    /// A shim that has received what to launch.
    pub(super) async fn give(&self, launch: &Launch) -> io::Result<Shim> {
        let mut line = serde_json::to_vec(launch)?;
        line.push(b'\n');
        // The waiting shim may have been killed.
        let waiting = self.ready.as_ref().and_then(|ready| ready.lock().take());
        if let Some(mut shim) = waiting
            && shim.lease.write_all(&line).await.is_ok()
        {
            return Ok(shim);
        }
        let mut shim = self.start()?;
        shim.lease.write_all(&line).await?;
        Ok(shim)
    }

    /// Starts the next waiting shim, if one is kept ready.
    pub(super) fn prepare(&self) {
        let Some(ready) = &self.ready else { return };
        let mut ready = ready.lock();
        if ready.is_none() {
            // If this fails, the next use reports why.
            *ready = self.start().ok();
        }
    }

    fn start(&self) -> io::Result<Shim> {
        let held = self.held.as_ref().map(|file| file.try_clone()).transpose()?;
        let mut process = Command::new(&self.program)
            .arg(SHIM)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(held.map_or_else(Stdio::null, Stdio::from))
            // Its own group: Ctrl-C in the agent's terminal must not end the shim before its child.
            .process_group(0)
            .spawn()?;
        let (Some(lease), Some(said)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Shim {
            process,
            lease,
            said: BufReader::new(said),
        })
    }
}
