//! Why an agent ends by itself.

use reveille_bus::{BusError, control::ControlError, relay::RelayStartError};
use reveille_domain::Epoch;
use std::io;
use thiserror::Error;

/// Why an agent can't run, or can't go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Another process has taken the agent's name. The command line answers it with an exit code of its own, so that no
    /// supervisor restarts this one into a quarrel.
    #[error("superseded by a later session of the same agent name (epoch {current})")]
    Superseded {
        /// The other session's epoch.
        current: Epoch,
    },
    /// Control refuses the agent.
    #[error("control refuses this agent: {0}")]
    Refused(ControlError),
    /// NATS can't be used.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Requests can't be subscribed to.
    #[error(transparent)]
    Relay(#[from] RelayStartError),
    /// The connection to NATS was closed for good.
    #[error("the connection to NATS was closed")]
    Closed,
    /// The system's TLS set-up can't be used.
    #[error("no HTTP client can be made")]
    Http(#[from] reqwest::Error),
    /// The program's own file can't be found out, so no command could be supervised.
    #[error("the program's own file can't be found out")]
    Program(#[source] io::Error),
}
