//! The small process between the agent and one of its children: `reveille shim`.
//!
//! The agent may be killed by a signal that it can't catch, and a child may detach its own children. So the shim reads from a
//! pipe whose other end only the agent has, and is the reaper of everything below it: when the pipe closes, it ends the child
//! and all of its descendants, and exits only when all have ended.
//!
//! Standard input is that pipe. The shim waits for one line, the [`Launch`]. On standard output it writes, a line each,
//! `started <pid>` or `failed <why>`, and then `exited code <n> left <m>` or `exited signal <n> left <m>`, where `m` is the
//! number of descendants that the child left running. The child's own output is discarded. The shim's exit code is the child's.

use super::{
    descendants::{descendants, signal_all},
    orphans::ChildrenLock,
};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    io::{self, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::unix::pipe,
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    time::{Instant, sleep, timeout_at},
};

/// The exit code of a shim that was called wrongly or couldn't start its child.
const FAILED: u8 = 125;
/// What a shell adds to a signal's number to make it an exit code.
const SIGNAL_BASE: i32 = 128;
/// How often KILL is repeated while descendants live, since they may be forking.
const KILL_INTERVAL: Duration = Duration::from_millis(20);

/// What a shim should start. It comes as one line of JSON through the shim's pipe, so that arguments and variables, which may
/// be secrets, are neither on its command line nor in its environment.
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

/// `reveille shim`, from start to exit.
pub fn shim_main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(live())) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!(
                "reveille shim: only the agent can start this, through a pipe: {}",
                error.kind()
            );
            ExitCode::from(FAILED)
        }
    }
}

/// Reports to the agent. If nobody reads, the end of the pipe will tell.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn live() -> io::Result<u8> {
    become_reaper()?;
    // Subscribed before there is a child, whose end would be missed otherwise.
    let mut ends = signal(SignalKind::child())?;
    let mut agent = Agent::new()?;
    let Some(launch) = agent.launch().await? else {
        return Ok(0);
    };
    // Released by the end of this process. The child runs even without it.
    let _lock = launch.lock.as_ref().and_then(|lock| lock.share().ok());
    let child = match start(&launch) {
        Ok(child) => child,
        Err(error) => {
            match error.kind() {
                io::ErrorKind::NotFound => say("failed it or its interpreter was not found"),
                kind => say(&format!("failed {kind}")),
            }
            return Ok(FAILED);
        }
    };
    say(&format!("started {}", child.as_raw_pid()));

    let mut family = Family { child, status: None };
    tokio::select! {
        () = family.child_ended(&mut ends) => {}
        () = agent.stop() => {}
    }
    // The agent hears of the end at once; the descendants may take longer.
    let told = family.report();
    family.end_all(&mut ends, launch.grace).await;
    if !told {
        family.report();
    }
    Ok(family.exit_code())
}

/// Makes orphans below us our children instead of the first process's.
fn become_reaper() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

fn start(launch: &Launch) -> io::Result<Pid> {
    let child = Command::new(&launch.program)
        .args(&launch.args)
        .env_clear()
        .envs(launch.variables.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The agent's pipe, and the signals that end a process.
struct Agent {
    pipe: BufReader<pipe::Receiver>,
    signals: [SignalStream; 3],
}

impl Agent {
    fn new() -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ];
        let [term, int, hup] = kinds.map(signal);
        Ok(Self {
            pipe: BufReader::new(pipe),
            signals: [term?, int?, hup?],
        })
    }

    /// What to start; `None` when the end comes first.
    async fn launch(&mut self) -> io::Result<Option<Launch>> {
        let mut line = Vec::new();
        tokio::select! {
            read = self.pipe.read_until(b'\n', &mut line) => read?,
            () = signalled(&mut self.signals) => return Ok(None),
        };
        if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// Waits until the shim should end.
    async fn stop(mut self) {
        tokio::select! {
            // The agent writes nothing but the launch, so any byte, like the end of the pipe, means stop.
            _ = self.pipe.read_u8() => {}
            () = signalled(&mut self.signals) => {}
        }
    }
}

async fn signalled([term, int, hup]: &mut [SignalStream; 3]) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = hup.recv() => {}
    }
}

/// The child and its descendants.
struct Family {
    child: Pid,
    status: Option<WaitStatus>,
}

impl Family {
    /// Reaps ended processes; returns whether none is left. Orphans below us are our children, so with no child left there
    /// is no descendant left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.child => self.status = Some(status),
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    async fn child_ended(&mut self, ends: &mut SignalStream) {
        loop {
            self.reap();
            if self.status.is_some() {
                return;
            }
            ends.recv().await;
        }
    }

    async fn all_ended(&mut self, ends: &mut SignalStream) {
        while !self.reap() {
            ends.recv().await;
        }
    }

    /// TERM, the grace, then KILL until none is left.
    async fn end_all(&mut self, ends: &mut SignalStream, grace: Duration) {
        if self.reap() {
            return;
        }
        signal_all(self.child, Signal::TERM);
        let patience = Instant::now() + grace;
        if timeout_at(patience, self.all_ended(ends)).await.is_ok() {
            return;
        }
        loop {
            signal_all(self.child, Signal::KILL);
            tokio::select! {
                () = self.all_ended(ends) => return,
                () = sleep(KILL_INTERVAL) => {}
            }
        }
    }

    /// Reports how the child ended; returns whether it has.
    fn report(&self) -> bool {
        let left = descendants().len();
        match self.status {
            None => return false,
            Some(status) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => say(&format!("exited code {code} left {left}")),
                (None, signal) => say(&format!(
                    "exited signal {} left {left}",
                    signal.unwrap_or_default()
                )),
            },
        }
        true
    }

    fn exit_code(&self) -> u8 {
        let Some(status) = self.status else { return FAILED };
        let code = status
            .exit_status()
            .or(status.terminating_signal().map(|signal| SIGNAL_BASE + signal));
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)
    }
}
