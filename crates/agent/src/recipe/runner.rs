//! Runs the steps of recipes.

use crate::{
    AgentError,
    child::{Child, ChildrenLock, Exit, Orphans, Shims, Start},
    config::{Action, Address, CommandAction, EndCommand, HttpAction, ProviderConfig, Step, Trust},
    fetch,
    processes::listed,
};
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
    pub client: reqwest::Client,
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

    /// The client for a server that isn't trusted or reached as others are.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn client_for(&self, trust: &Trust, socket: Option<&Path>) -> Result<reqwest::Client, AgentError> {
        if trust.is_default() && socket.is_none() {
            return Ok(self.client.clone());
        }
        fetch::client_for(trust, socket)
    }

    /// Runs one step. `running` holds the step's command while there is one. A command that is still there afterwards is
    /// the served backend or, after a failure or a cancellation, something that must be ended.
    pub(super) async fn run_step(&self, step: &Step, running: &mut Option<Child>) -> Result<(), String> {
        match &step.action {
            Action::Http(action) => self.request(action, step.timeout).await,
            Action::Wol(action) => timeout(step.timeout, action.send())
                .await
                .map_err(|_| overran(step.timeout))?
                .map_err(|error| format!("the packet was not sent: {}", error.kind())),
            Action::Tcp(address) => reachable(address, step.timeout).await,
            Action::Once(command) => self.run_once(command, step.timeout, running).await,
            Action::Detach(command) => self.detach(command, step.timeout, running).await,
            Action::Serve {
                command,
                stop_grace,
                end,
            } => {
                let start = self.start(Start::new(command, *stop_grace).then(end.as_deref()));
                let child = timeout(step.timeout, start)
                    .await
                    .map_err(|_| overran(step.timeout))?;
                *running = Some(child?);
                Ok(())
            }
        }
    }

    async fn request(&self, action: &HttpAction, limit: Duration) -> Result<(), String> {
        let Address { url, socket } = &action.address;
        // Another client would send the step's secrets somewhere else, or to somebody else.
        let client = self.client_for(&action.trust, socket.as_deref());
        let client = client.map_err(|error| error.to_string())?;
        let mut request = client.request(action.method.clone(), url.clone()).timeout(limit);
        for (name, value) in &action.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &action.body {
            request = request.body(body.reveal().to_owned());
        }
        let began = Instant::now();
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let waited = began.elapsed().min(limit);
                return Err(fetch::reason_at(&error, &action.address, waited).await);
            }
        };
        let status = answer.status();
        if status.is_success() || action.accept.contains(&status.as_u16()) {
            Ok(())
        } else {
            Err(format!("HTTP status {}", status.as_u16()))
        }
    }

    /// Runs a command to its end, and ends what it leaves running: the step fails then, since what it has started is gone.
    async fn run_once(
        &self,
        command: &CommandAction,
        limit: Duration,
        running: &mut Option<Child>,
    ) -> Result<(), String> {
        let to_its_end = async {
            let child = running.insert(self.start(Start::new(command, COMMAND_GRACE)).await?);
            Ok::<_, String>((child.ended().await, child.left()))
        };
        let (exit, left) = timeout(limit, to_its_end).await.map_err(|_| overran(limit))??;
        succeeded(exit)?;
        if !left.is_empty() {
            return Err(format!(
                "the command ended, and what it left running was ended too: {}; a command that leaves a server \
                 running needs run = \"detach\"",
                listed(left)
            ));
        }
        *running = None;
        Ok(())
    }

    /// Runs a command to its end; if it succeeds, what it leaves running lives on.
    async fn detach(
        &self,
        command: &CommandAction,
        limit: Duration,
        running: &mut Option<Child>,
    ) -> Result<(), String> {
        let to_its_end = async {
            let start = Start::new(command, COMMAND_GRACE).detached();
            Ok::<_, String>(running.insert(self.start(start).await?).exited().await)
        };
        succeeded(timeout(limit, to_its_end).await.map_err(|_| overran(limit))??)?;
        *running = None;
        Ok(())
    }

    /// Ends what an earlier run of a served command may have left. There is nothing to end as a rule, and then such commands
    /// fail, so only one that can't be run is an error.
    pub(super) async fn end(&self, end: &EndCommand, running: &mut Option<Child>) -> Result<(), String> {
        let to_its_end = async {
            let child = self.start(Start::new(&end.command, COMMAND_GRACE)).await?;
            Ok::<_, String>(running.insert(child).ended().await)
        };
        let limit = end.timeout;
        let exit = timeout(limit, to_its_end).await.map_err(|_| overran(limit))??;
        debug!(recipe.exit = %exit, "ran the `end` of a served command before its start");
        *running = None;
        Ok(())
    }

    async fn start(&self, start: Start<'_>) -> Result<Child, String> {
        let child = Child::start(&self.shims, start).await;
        child.map_err(|error| error.to_string())
    }
}

fn succeeded(exit: Exit) -> Result<(), String> {
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(_) | Exit::Signal(_) | Exit::Lost => Err(format!("the command {exit}")),
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
