//! Errors that end an agent.

use reveille_bus::{BusError, control::ControlError, relay::RelayStartError};
use reveille_domain::Epoch;
use std::io;
use thiserror::Error;

/// Why an agent can't run any longer.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Another process has taken the agent's name. It has its own exit code, so that a supervisor doesn't restart this process
    /// into a quarrel.
    #[error("superseded by a later session of the same agent name (epoch {current})")]
    Superseded { current: Epoch },
    #[error("control refuses this agent: {0}")]
    Refused(ControlError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Relay(#[from] RelayStartError),
    #[error("the connection to NATS was closed")]
    Closed,
    #[error("the HTTP client can't be set up")]
    Http(#[from] reqwest::Error),
    #[error("TLS to a backend can't be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// Without it, no command can be supervised.
    #[error("can't find the program's own file")]
    Program(#[source] io::Error),
}
