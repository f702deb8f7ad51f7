//! The agent's side of shims: one is started for each child, or was started before and waits to be told what to launch.

use super::{launch::Launch, leftovers::ChildrenLock};
use std::{
    fmt, io,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    process::{Child as Process, ChildStderr, ChildStdin, ChildStdout, Command},
};

/// The subcommand of the running program that is the shim.
pub const SHIM: &str = "shim";

/// Where shims come from: the running program itself, called with `shim`.
#[derive(Clone)]
pub struct Shims {
    program: PathBuf,
    lock: Option<ChildrenLock>,
    /// The one that waits; a place for it only where one is kept ready.
    ready: Option<Arc<Mutex<Option<Shim>>>>,
}

/// A running shim, and the ends of its pipes.
pub(super) struct Shim {
    pub(super) process: Process,
    /// Closing it ends the shim and all below it.
    pub(super) lease: ChildStdin,
    /// What it says of its child.
    pub(super) said: BufReader<ChildStdout>,
    /// What its child prints.
    pub(super) printed: ChildStderr,
}

impl Shims {
    /// The running program's own `shim` subcommand, started when it is needed.
    ///
    /// # Errors
    /// When the program's file can't be found out.
    pub fn of_this_program() -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            lock: None,
            ready: None,
        })
    }

    /// Has all of them share `lock`, so that a later run of this agent knows of them.
    #[must_use]
    pub fn sharing(mut self, lock: ChildrenLock) -> Self {
        self.lock = Some(lock);
        self
    }

    pub(super) const fn lock(&self) -> Option<&ChildrenLock> {
        self.lock.as_ref()
    }

    /// Keeps one waiting, from now on: starting this program takes longer than starting most commands.
    #[must_use]
    pub fn with_one_ready(mut self) -> Self {
        self.ready = Some(Arc::default());
        self.prepare();
        self
    }

    /// A shim that has been told what to launch.
    pub(super) async fn give(&self, launch: &Launch) -> io::Result<Shim> {
        let line = launch.line()?;
        // One that has waited may have been killed meanwhile.
        if let Some(mut shim) = self.take()
            && shim.lease.write_all(&line).await.is_ok()
        {
            return Ok(shim);
        }
        let mut shim = self.start()?;
        shim.lease.write_all(&line).await?;
        Ok(shim)
    }

    /// Has one wait again, where one is kept ready.
    pub(super) fn prepare(&self) {
        let Some(ready) = &self.ready else { return };
        let mut ready = ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.is_none() {
            // If it can't be started, whoever needs it says why.
            *ready = self.start().ok();
        }
    }

    fn take(&self) -> Option<Shim> {
        let ready = self.ready.as_ref()?;
        ready.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn start(&self) -> io::Result<Shim> {
        let mut process = Command::new(&self.program)
            .arg(SHIM)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C in the agent's terminal must not end the shim before its child.
            .process_group(0)
            .spawn()?;
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(lease), Some(said), Some(printed)) = pipes else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Shim {
            process,
            lease,
            said: BufReader::new(said),
            printed,
        })
    }
}

impl fmt::Debug for Shims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shims")
            .field("program", &self.program)
            .field("one_ready", &self.ready.is_some())
            .finish()
    }
}
