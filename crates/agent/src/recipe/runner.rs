//! Runs the steps of recipes.

use super::{answer, timeline::Failed};
use crate::{
    AgentError,
    child::{Child, ChildrenLock, Exit, Hint, Orphans, Shims, Start},
    config::{Action, Address, EndCommand, HttpAction, ProviderConfig, Step, Trust},
    fetch,
    output::OutputFile,
    processes::listed,
};
use reveille_domain::WakeFailure;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::debug;

/// The grace between TERM and KILL for a command that overran its time-out, and for processes that it left running.
const COMMAND_GRACE: Duration = Duration::from_secs(1);

/// How long one attempt to connect may take. A machine that is off doesn't answer, and the kernel would retry with ever
/// longer pauses.
const TCP_ATTEMPT: Duration = Duration::from_secs(2);
const TCP_PAUSE: Duration = Duration::from_millis(50);

/// What recipes run with.
#[derive(Debug, Clone)]
pub struct Runner {
    /// The client of `http` steps.
    pub client: fetch::Client,
    /// The shims of `command` steps.
    pub shims: Shims,
    /// Wake recipes wait until these have ended.
    pub orphans: Orphans,
}

/// The name of a step's stage, such as `step 1 http`.
pub(super) fn stage_name(index: usize, step: &Step) -> String {
    let kind = match step.action {
        Action::Http(_) => "http",
        Action::Wol(_) => "wol",
        Action::Tcp(_) => "tcp",
        Action::Once(_) | Action::Detach(_) => "command",
        Action::Serve { .. } => "serve",
    };
    format!("step {} {kind}", index + 1)
}

impl Runner {
    /// A runner for the recipes of `providers`. Their children share `lock`; whatever holds it now is an orphan of an
    /// earlier run. Commands without a working directory of their own run in `folder`.
    ///
    /// # Errors
    /// When the program's own file can't be found, or TLS can't be set up.
    pub fn new(
        providers: &[ProviderConfig],
        lock: Option<ChildrenLock>,
        folder: Option<PathBuf>,
    ) -> Result<Self, AgentError> {
        let orphans = lock.clone().map_or_else(Orphans::none, Orphans::of);
        let mut shims = Shims::of_this_program().map_err(AgentError::Program)?;
        if let Some(lock) = lock {
            shims = shims.sharing(lock);
        }
        if let Some(folder) = folder {
            shims = shims.working_in(folder);
        }
        if providers.iter().any(ProviderConfig::runs_commands) {
            shims = shims.with_one_ready();
        }
        Ok(Self {
            client: fetch::client()?,
            shims,
            orphans,
        })
    }

    /// A runner that keeps in `file` what commands print, and why recipes fail.
    #[must_use]
    pub fn keeping(&self, file: OutputFile) -> Self {
        Self {
            shims: self.shims.clone().keeping(file),
            ..self.clone()
        }
    }

    /// The client for a server that isn't trusted or reached as others are.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn client_for(&self, trust: &Trust, socket: Option<&Path>) -> Result<fetch::Client, AgentError> {
        if trust.is_default() && socket.is_none() {
            return Ok(self.client.clone());
        }
        fetch::client_for(trust, socket)
    }

    /// Runs one step. `running` holds the step's command while there is one. A command that is still there afterwards is
    /// the served backend or, after a failure or a cancellation, something that must be ended. What a command prints is kept as
    /// that of `source`.
    pub(super) async fn run_step(
        &self,
        step: &Step,
        source: &str,
        running: &mut Option<Child>,
    ) -> Result<(), Failed> {
        let start = |command| Start::new(command, COMMAND_GRACE).named(source);
        match &step.action {
            Action::Http(action) => self.request(action, step.timeout).await,
            Action::Wol(action) => {
                let sent = timeout(step.timeout, action.send()).await;
                let sent = sent.map_err(|_| overran(step.timeout))?;
                Ok(sent.map_err(|error| format!("the packet was not sent: {}", error.kind()))?)
            }
            Action::Tcp(address) => Ok(reachable(address, step.timeout).await?),
            Action::Once(command) => self.run_once(start(command), step.timeout, running).await,
            Action::Detach(command) => self.detach(start(command), step.timeout, running).await,
            Action::Serve {
                command,
                stop_grace,
                end,
            } => {
                let start = Start::new(command, *stop_grace).named(source).serving();
                let start = Child::start(&self.shims, start.then(end.as_deref()));
                let child = timeout(step.timeout, start)
                    .await
                    .map_err(|_| overran(step.timeout))?;
                *running = Some(child?);
                Ok(())
            }
        }
    }

    async fn request(&self, action: &HttpAction, limit: Duration) -> Result<(), Failed> {
        let Address { url, socket } = &action.address;
        // Another client would send the step's secrets somewhere else, or to somebody else.
        let client = self.client_for(&action.trust, socket.as_deref());
        let client = client.map_err(|error| error.to_string())?;
        let mut request = client
            .request(action.method.clone(), url.clone())
            .headers(action.headers.clone())
            .timeout(limit);
        if let Some(body) = &action.body {
            request = request.body(body.reveal().to_owned());
        }
        let began = Instant::now();
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let waited = began.elapsed().min(limit);
                return Err(fetch::reason_at(&error, &action.address, waited).await.into());
            }
        };
        let status = answer.status();
        if status.is_success() || action.accept.contains(&status.as_u16()) {
            Ok(())
        } else {
            Err(answer::refused(action, &mut answer).await)
        }
    }

    /// Runs a command to its end, and ends what it leaves running: the step fails then, since what it has started is gone.
    async fn run_once(
        &self,
        start: Start<'_>,
        limit: Duration,
        running: &mut Option<Child>,
    ) -> Result<(), Failed> {
        let to_its_end = async {
            let child = running.insert(Child::start(&self.shims, start).await?);
            Ok::<_, Failed>((child.ended().await, child))
        };
        let (exit, child) = timeout(limit, to_its_end).await.map_err(|_| overran(limit))??;
        succeeded(exit, child)?;
        if !child.left().is_empty() {
            let reason = format!(
                "the command ended, and what it left running was ended too: {}; a command that leaves a server \
                 running needs run = \"detach\"",
                listed(child.left())
            );
            return Err(reason.into());
        }
        *running = None;
        Ok(())
    }

    /// Runs a command to its end; if it succeeds, what it leaves running lives on.
    async fn detach(
        &self,
        start: Start<'_>,
        limit: Duration,
        running: &mut Option<Child>,
    ) -> Result<(), Failed> {
        let to_its_end = async {
            let child = running.insert(Child::start(&self.shims, start.detached()).await?);
            Ok::<_, Failed>((child.exited().await, child))
        };
        let (exit, child) = timeout(limit, to_its_end).await.map_err(|_| overran(limit))??;
        succeeded(exit, child)?;
        *running = None;
        Ok(())
    }

    /// Ends what an earlier run of a served command may have left. There is nothing to end as a rule, and then such commands
    /// fail, so only one that can't be run is an error.
    pub(super) async fn end(
        &self,
        end: &EndCommand,
        source: &str,
        running: &mut Option<Child>,
    ) -> Result<(), Failed> {
        let to_its_end = async {
            let start = Start::new(&end.command, COMMAND_GRACE).named(source);
            let child = Child::start(&self.shims, start).await?;
            Ok::<_, Failed>(running.insert(child).ended().await)
        };
        let limit = end.timeout;
        let exit = timeout(limit, to_its_end).await.map_err(|_| overran(limit))??;
        debug!(recipe.exit = %exit, "ran the `end` of a served command before its start");
        *running = None;
        Ok(())
    }

    /// Adds why a recipe has failed to what is kept.
    pub(super) fn note(&self, source: &'static str, failure: &WakeFailure, hint: Option<&Hint>) {
        let Some(file) = self.shims.kept.clone() else {
            return;
        };
        let mut notes = vec![format!("failed: {}: {}", failure.stage, failure.reason)];
        notes.extend(hint.map(|hint| format!("{}: {hint}", hint.label())));
        // The disk may be slow or full; nobody waits for it.
        tokio::task::spawn_blocking(move || file.note(source, &notes));
    }
}

fn succeeded(exit: Exit, child: &Child) -> Result<(), Failed> {
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(_) | Exit::Signal(_) | Exit::Lost => {
            Err(Failed::hinted(format!("the command {exit}"), child.hint(true)))
        }
    }
}

/// Waits until `address` accepts connections.
async fn reachable(address: &str, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    let mut seen = None;
    loop {
        let attempt = timeout(TCP_ATTEMPT, TcpStream::connect(address));
        match timeout_at(deadline, attempt).await {
            Ok(Ok(Ok(_))) => return Ok(()),
            Ok(Ok(Err(error))) => seen = Some(error.kind().to_string()),
            Ok(Err(_)) => seen = Some("no answer".to_owned()),
            Err(_) => {
                let last = seen.map(|kind| format!(": {kind}")).unwrap_or_default();
                return Err(format!("not reachable within {limit:?} (`timeout`){last}"));
            }
        }
        sleep(TCP_PAUSE).await;
    }
}

fn overran(limit: Duration) -> String {
    format!("not done within {limit:?} (`timeout`)")
}
