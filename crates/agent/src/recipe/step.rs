//! One step of a recipe.

use super::Runner;
use crate::{
    child::{Child, Exit},
    config::{Action, CommandAction, HttpAction, Step},
    fetch::reason,
};
use std::time::Duration;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};

/// How long a command that overran its time-out has between TERM and KILL, and what it left running likewise.
const ONCE_GRACE: Duration = Duration::from_secs(1);

/// How long one attempt to connect may take: a machine that is off answers nothing, and the kernel would go on asking with
/// ever longer pauses.
const TCP_ATTEMPT: Duration = Duration::from_secs(2);
const TCP_PAUSE: Duration = Duration::from_millis(50);

/// The name of a step's stage, such as `step 1 http`.
pub(super) fn stage_name(index: usize, step: &Step) -> String {
    let kind = match step.action {
        Action::Http(_) => "http",
        Action::Wol(_) => "wol",
        Action::Tcp(_) => "tcp",
        Action::Once(_) => "command",
        Action::Serve { .. } => "serve",
    };
    format!("step {} {kind}", index + 1)
}

impl Runner {
    /// Runs one step. `running` holds its command while there is one: what is there afterwards is either the served
    /// backend or, after a failure or when this is dropped, something that must still be ended.
    pub(super) async fn run_step(&self, step: &Step, running: &mut Option<Child>) -> Result<(), String> {
        match &step.action {
            Action::Http(action) => self.request(action, step.timeout).await,
            Action::Wol(action) => timeout(step.timeout, action.send())
                .await
                .map_err(|_| overran(step.timeout))?
                .map_err(|error| format!("the packet was not sent: {}", error.kind())),
            Action::Tcp(address) => reachable(address, step.timeout).await,
            Action::Once(action) => self.run_once(action, step.timeout, running).await,
            Action::Serve { command, stop_grace } => {
                let start = Child::start(&self.shims, command, *stop_grace);
                let child = timeout(step.timeout, start)
                    .await
                    .map_err(|_| overran(step.timeout))?;
                *running = Some(child.map_err(|error| error.to_string())?);
                Ok(())
            }
        }
    }

    async fn request(&self, action: &HttpAction, limit: Duration) -> Result<(), String> {
        let mut request = self
            .client
            .request(action.method.clone(), action.url.clone())
            .timeout(limit);
        for (name, value) in &action.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &action.body {
            request = request.body(body.reveal().to_owned());
        }
        let answer = request.send().await.map_err(|error| reason(&error, limit))?;
        let status = answer.status();
        if status.is_success() || action.accept.contains(&status.as_u16()) {
            Ok(())
        } else {
            Err(format!("HTTP status {}", status.as_u16()))
        }
    }

    async fn run_once(
        &self,
        action: &CommandAction,
        limit: Duration,
        running: &mut Option<Child>,
    ) -> Result<(), String> {
        let to_its_end = async {
            let child = Child::start(&self.shims, action, ONCE_GRACE)
                .await
                .map_err(|error| error.to_string())?;
            Ok::<Exit, String>(running.insert(child).ended().await)
        };
        let exit = timeout(limit, to_its_end).await.map_err(|_| overran(limit))??;
        *running = None;
        match exit {
            Exit::Code { code: 0, left: 0 } => Ok(()),
            Exit::Code { code: 0, left } => {
                tracing::warn!(
                    recipe.left_running = left,
                    "the command left {left} processes running, which were ended; a backend needs run = \"serve\""
                );
                Ok(())
            }
            Exit::Code { .. } | Exit::Signal(_) | Exit::Lost => Err(format!("the command {exit}")),
        }
    }
}

/// Waits until somebody accepts connections at `address`.
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
