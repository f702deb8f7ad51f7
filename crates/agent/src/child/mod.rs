//! Children of the agent, which can't outlive it: each runs below its own [shim](shim_main).

mod descendants;
mod environment;
mod orphans;
mod program;
mod shim;
mod shims;

pub use orphans::{ChildrenLock, Orphans};
pub use program::find as find_program;
pub use shim::shim_main;
pub use shims::{SHIM, Shims};

use crate::config::{CommandAction, Secret};
use rustix::process::{Pid, Signal, kill_process_group};
use shim::Launch;
use std::{fmt, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{ChildStdin, ChildStdout},
    time::timeout,
};

/// How long the shim may take to read what it should start, and then to confirm the start.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Why a child could not be started; one sentence, without the program's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotStarted(String);

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code {
        code: i32,
        /// How many descendants it left running; the shim ends them.
        left: usize,
    },
    Signal(i32),
    /// Its shim was killed, so the child's process group was killed too.
    Lost,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { code, .. } => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::Lost => f.write_str("lost its supervisor"),
        }
    }
}

/// A running child. Dropping it ends it and its descendants, in the background; [`Child::stop`] waits for that.
#[derive(Debug)]
pub struct Child {
    // Boxed: a child is moved a lot, and these are large.
    shim: Box<tokio::process::Child>,
    lease: Option<ChildStdin>,
    said: Box<Lines<BufReader<ChildStdout>>>,
    pid: Pid,
    exit: Option<Exit>,
}

impl Child {
    /// Starts a command below a shim; it is running when this returns.
    ///
    /// # Errors
    /// When the program can't be found or started.
    pub async fn start(shims: &Shims, action: &CommandAction, grace: Duration) -> Result<Self, NotStarted> {
        let launch = launch(shims, action, grace).map_err(|reason| NotStarted(reason.to_owned()))?;
        let broken = |what: &str| NotStarted(format!("the command's supervisor {what}"));
        let shim = timeout(START_LIMIT, shims.give(&launch))
            .await
            .map_err(|_| broken("did not listen"))?
            .map_err(|error| broken(&format!("could not be started: {}", error.kind())))?;
        let mut said = shim.said.lines();
        let line = timeout(START_LIMIT, said.next_line())
            .await
            .map_err(|_| broken("did not answer"))?;
        shims.prepare();
        let line = line
            .ok()
            .flatten()
            .ok_or_else(|| broken("ended before it answered"))?;
        match line.split_once(' ') {
            Some(("started", pid)) => {
                let pid = pid
                    .parse()
                    .ok()
                    .and_then(Pid::from_raw)
                    .ok_or_else(|| broken("spoke nonsense"))?;
                Ok(Self {
                    shim: Box::new(shim.process),
                    lease: Some(shim.lease),
                    said: Box::new(said),
                    pid,
                    exit: None,
                })
            }
            Some(("failed", why)) => Err(NotStarted(format!("the program could not be started: {why}"))),
            _ => Err(broken("spoke nonsense")),
        }
    }

    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Waits for the end of the child itself; its descendants may still be ending. Cancel-safe.
    pub async fn exited(&mut self) -> Exit {
        if let Some(exit) = self.exit {
            return exit;
        }
        let said = self.said.next_line().await.ok().flatten();
        let exit = said.as_deref().and_then(parse_exit).unwrap_or(Exit::Lost);
        if exit == Exit::Lost {
            // The group's leader is dead or still ours, so no other group can have its number.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        self.exit = Some(exit);
        exit
    }

    /// Waits for the end of the child and all of its descendants. Cancel-safe.
    pub async fn ended(&mut self) -> Exit {
        let exit = self.exited().await;
        // An error means that it was reaped before.
        let _ = self.shim.wait().await;
        exit
    }

    /// Ends the child and its descendants (TERM, the grace, KILL) and waits until all have ended.
    pub async fn stop(mut self) -> Exit {
        self.lease = None;
        self.ended().await
    }
}

fn launch(shims: &Shims, action: &CommandAction, grace: Duration) -> Result<Launch, &'static str> {
    let own = action.env.iter().map(|(name, value)| (name, value.reveal()));
    let path = own
        .clone()
        .find(|(name, _)| *name == "PATH")
        .map(|(_, value)| value.as_ref());
    let program = program::find(&action.program, path)?;
    let args = action.args.iter().map(Secret::reveal).map(Into::into);
    // Of two with the same name, the later one counts.
    let variables = environment::passed(std::env::vars_os(), &action.env_pass)
        .chain(own.map(|(name, value)| (name.into(), value.into())));
    Ok(Launch {
        grace,
        lock: shims.lock.clone(),
        program,
        args: args.collect(),
        variables: variables.collect(),
    })
}

fn parse_exit(line: &str) -> Option<Exit> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["exited", kind, number, "left", left] = words[..] else {
        return None;
    };
    let (number, left) = (number.parse().ok()?, left.parse().ok()?);
    match kind {
        "code" => Some(Exit::Code { code: number, left }),
        "signal" => Some(Exit::Signal(number)),
        _ => None,
    }
}
