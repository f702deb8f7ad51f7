//! Errors that end an agent.

use reveille_bus::{BusError, control::ControlError, relay::RelayStartError};
use reveille_domain::{AgentName, Epoch};
use std::io;
use thiserror::Error;

/// Why an agent can't run any longer.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Another process has taken the agent's name. It has its own exit code, so that a supervisor doesn't restart this process
    /// into a quarrel.
    #[error(
        "superseded (epoch {current}): another machine or process uses the name {agent}. Give one of them another name \
         (agent.name)"
    )]
    Superseded { agent: AgentName, current: Epoch },
    /// The same name with the same data directory. Connecting would end the one that runs.
    #[error(
        "the agent {agent} is running on this machine already{}: it goes on undisturbed, and `reveille agent reload` makes it use its \
         config as it is now, once it has reached its hub. To start it here instead, end that one first{}; for another agent beside it, give \
         this one another agent.name", shown(*process), ended(*process)
    )]
    Running { agent: AgentName, process: Option<u32> },
    /// The hub says so. Another attempt would fail as well.
    #[error(
        "this agent's key no longer works: it was revoked, or a machine that joined under the same name has replaced it. Join again with a \
         new token, made on the hub with `reveille agent token NAME`"
    )]
    Revoked,
    #[error("control refuses this agent: {0}")]
    Refused(ControlError),
    #[error(transparent)]
    Bus(BusError),
    #[error(transparent)]
    Relay(#[from] RelayStartError),
    #[error("the connection to NATS was closed")]
    Closed,
    #[error("TLS to a backend can't be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// Without it, no command can be supervised.
    #[error("can't find the program's own file")]
    Program(#[source] io::Error),
}

/// A process that is known.
fn shown(process: Option<u32>) -> String {
    process.map_or_else(String::new, |process| format!(" (process {process})"))
}

/// What ends a process that is known.
fn ended(process: Option<u32>) -> String {
    process.map_or_else(String::new, |process| format!(" (`kill {process}`)"))
}

impl From<BusError> for AgentError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Revoked => Self::Revoked,
            error => Self::Bus(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_runs_already_is_named_with_the_command_that_ends_it() {
        let agent = AgentName::parse("pc").expect("a name");
        let running = |process| {
            let agent = agent.clone();
            AgentError::Running { agent, process }.to_string()
        };
        let said = running(Some(7));
        assert!(said.contains("already (process 7): "), "{said}");
        assert!(said.contains("end that one first (`kill 7`); "), "{said}");
        assert!(running(None).contains("end that one first; "));
    }
}
