//! Children of the agent, which can't outlive it: each runs below its own [shim](shim_main).

mod descendants;
mod environment;
mod hint;
mod launch;
mod orphans;
mod printed;
mod program;
mod report;
mod shim;
mod shims;

pub use hint::Hint;
pub use orphans::{ChildrenLock, Orphans};
pub use program::{Unusable, find as find_program};
pub use report::Exit;
pub use shim::shim_main;
pub use shims::{SHIM, Shims};

use crate::{
    config::{CommandAction, EndCommand, Secret},
    processes::Process,
};
use hint::Facts;
use launch::{KeptOutput, Launch, Program};
use report::{INTERPRETER_MISSING, Report};
use reveille_bus::open_files;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{ffi::OsStr, path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{ChildStdin, ChildStdout},
    time::timeout,
};

/// How long the shim may take to read what it should start, and then to confirm the start.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Why a child could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotStarted {
    /// One sentence, without the program's name.
    pub reason: String,
    /// What to do about it, for the owner of this machine.
    pub hint: Option<Hint>,
}

impl From<String> for NotStarted {
    fn from(reason: String) -> Self {
        Self { reason, hint: None }
    }
}

/// How a command is run.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    command: &'a CommandAction,
    grace: Duration,
    detach: bool,
    end: Option<&'a EndCommand>,
    serves: bool,
    source: &'a str,
}

impl<'a> Start<'a> {
    /// A command that ends together with all of its descendants: TERM, the grace, KILL.
    #[must_use]
    pub const fn new(command: &'a CommandAction, grace: Duration) -> Self {
        Self {
            command,
            grace,
            detach: false,
            end: None,
            serves: false,
            source: "command",
        }
    }

    /// What it is called where its output is kept.
    #[must_use]
    pub const fn named(mut self, source: &'a str) -> Self {
        self.source = source;
        self
    }

    /// The command is a backend, and should go on.
    #[must_use]
    pub const fn serving(mut self) -> Self {
        self.serves = true;
        self
    }

    /// What the command leaves behind lives on once it has exited with code 0.
    #[must_use]
    pub const fn detached(mut self) -> Self {
        self.detach = true;
        self
    }

    /// Once the command has ended, whatever ended it, `end` runs.
    #[must_use]
    pub const fn then(mut self, end: Option<&'a EndCommand>) -> Self {
        self.end = end;
        self
    }
}

/// A running child. Dropping it ends it and its descendants, in the background; [`Child::stop`] waits for that.
#[derive(Debug)]
pub struct Child {
    // Boxed: a child is moved a lot, and these are large.
    shim: Box<tokio::process::Child>,
    lease: Option<ChildStdin>,
    detach: bool,
    said: Box<Lines<BufReader<ChildStdout>>>,
    pid: Pid,
    exit: Option<Exit>,
    left: Vec<Process>,
    printed: String,
    clues: Clues,
}

/// What hints depend on.
#[derive(Debug)]
struct Clues {
    serves: bool,
    env_pass: Vec<String>,
    /// The names of its own variables.
    own: Vec<String>,
}

impl Child {
    /// Starts a command below a shim; it is running when this returns.
    ///
    /// # Errors
    /// When the program can't be found or started.
    pub async fn start(shims: &Shims, start: Start<'_>) -> Result<Self, NotStarted> {
        let launch = launch(shims, start)?;
        let broken = |what: &str| NotStarted::from(format!("the command's supervisor {what}"));
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
        let nonsense = || broken("spoke nonsense");
        match serde_json::from_str(&line).map_err(|_| nonsense())? {
            Report::Started(pid) => Ok(Self {
                shim: Box::new(shim.process),
                lease: Some(shim.lease),
                detach: start.detach,
                said: Box::new(said),
                pid: Pid::from_raw(pid).ok_or_else(nonsense)?,
                exit: None,
                left: Vec::new(),
                printed: String::new(),
                clues: Clues {
                    serves: start.serves,
                    env_pass: start.command.env_pass.clone(),
                    own: start.command.env.iter().map(|(name, _)| name.clone()).collect(),
                },
            }),
            Report::Failed(why) => {
                let interpreter = (why == INTERPRETER_MISSING)
                    .then(|| program::interpreter(&launch.program.file))
                    .flatten();
                Err(NotStarted {
                    reason: format!("the program could not be started: {why}"),
                    hint: interpreter.map(|line| Hint::Interpreter(Some(line))),
                })
            }
            Report::Exited { .. } => Err(nonsense()),
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
        let exit = match said.as_deref().map(serde_json::from_str) {
            Some(Ok(Report::Exited { exit, left, printed })) => {
                (self.left, self.printed) = (left, printed);
                exit
            }
            // The group's leader is dead or still ours, so no other group can have its number.
            _ => {
                let _ = kill_process_group(self.pid, Signal::KILL);
                Exit::Lost
            }
        };
        self.exit = Some(exit);
        exit
    }

    /// The descendants that were still running when the child had ended, or some of them if there were many.
    #[must_use]
    pub fn left(&self) -> &[Process] {
        &self.left
    }

    /// The end of what it has printed, once it has ended. For the owner of this machine only.
    #[must_use]
    pub fn printed(&self) -> &str {
        &self.printed
    }

    /// What to do about its end. `boots` says whether a backend was still to come up.
    #[must_use]
    pub fn hint(&self, boots: bool) -> Option<Hint> {
        let Clues {
            serves,
            env_pass,
            own,
        } = &self.clues;
        hint::hint(&Facts {
            exit: self.exit?,
            printed: &self.printed,
            should_serve: boots && *serves && self.left.is_empty(),
            lacks: &|name| environment::is_held_back(name, env_pass) && !own.iter().any(|own| own == name),
        })
    }

    /// Waits for the end of the child and all of its descendants; of a detached one that has succeeded, only for its own,
    /// since what it has left lives on. Cancel-safe.
    pub async fn ended(&mut self) -> Exit {
        let exit = self.exited().await;
        if self.detach && exit == Exit::Code(0) {
            return exit;
        }
        // An error means that it was reaped before.
        let _ = self.shim.wait().await;
        exit
    }

    /// Ends the child and its descendants (TERM, the grace, KILL) and waits until all have ended. Cancel-safe.
    pub async fn end(&mut self) -> Exit {
        self.lease = None;
        self.ended().await
    }

    /// Ends it like [`end`](Self::end), for good.
    pub async fn stop(mut self) -> Exit {
        self.end().await
    }
}

/// Why `program`, which was looked up in `path`, isn't started. Only the hint names it.
fn unusable(program: &str, path: Option<&OsStr>, why: &Unusable) -> NotStarted {
    NotStarted {
        reason: why.to_string(),
        hint: Some(Hint::Unusable {
            program: program.to_owned(),
            reason: why.to_string(),
            remedy: why.remedy(program, path),
        }),
    }
}

fn launch(shims: &Shims, start: Start<'_>) -> Result<Launch, NotStarted> {
    let end = start
        .end
        .map(|end| program(shims, &end.command).map(|program| (program, end.timeout)));
    Ok(Launch {
        program: program(shims, start.command)?,
        grace: start.grace,
        detach: start.detach,
        end: end.transpose()?,
        held: shims.held.is_some(),
        kept: shims.kept.clone().map(|file| KeptOutput {
            file,
            source: start.source.to_owned(),
        }),
        open_files: open_files::first_limit(),
        lock: shims.lock.clone(),
    })
}

fn program(shims: &Shims, command: &CommandAction) -> Result<Program, NotStarted> {
    let own = command.env.iter().map(|(name, value)| (name, value.reveal()));
    let path = own
        .clone()
        .find(|(name, _)| *name == "PATH")
        .map(|(_, value)| value.as_ref());
    let args = command.args.iter().map(Secret::reveal).map(Into::into);
    // Of two with the same name, the later one counts.
    let variables = environment::passed(std::env::vars_os(), &command.env_pass)
        .chain(own.map(|(name, value)| (name.into(), value.into())));
    Ok(Program {
        file: program::find(&command.program, path).map_err(|why| unusable(&command.program, path, &why))?,
        args: args.collect(),
        variables: variables.collect(),
        folder: folder(shims, command).map_err(|reason| NotStarted::from(reason.to_owned()))?,
    })
}

/// The working directory of a command; the agent's own if the default one is gone.
fn folder(shims: &Shims, command: &CommandAction) -> Result<Option<PathBuf>, &'static str> {
    match &command.cwd {
        Some(folder) if folder.is_dir() => Ok(Some(folder.clone())),
        Some(_) => Err("its working directory (`cwd`) does not exist, or is not a directory"),
        None => Ok(shims.folder.clone().filter(|folder| folder.is_dir())),
    }
}
