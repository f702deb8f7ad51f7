//! Why a command failed, and its exit code.

use std::{fmt, process::ExitCode};

/// Something failed.
const FAILED: u8 = 1;
/// The command line or a config is wrong; clap exits with the same code.
const UNUSABLE: u8 = 2;
/// Another agent took over this agent's name: a service manager must not restart it.
const SUPERSEDED: u8 = 3;

/// Why a command failed, in words for a person.
#[derive(Debug)]
pub enum Failure {
    /// A config or an argument is wrong.
    Config(String),
    /// Another session of the same agent replaced this one.
    Superseded(String),
    /// Any other failure.
    Other(anyhow::Error),
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) => UNUSABLE,
            Self::Superseded(_) => SUPERSEDED,
            Self::Other(_) => FAILED,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text) | Self::Superseded(text) => f.write_str(text),
            Self::Other(error) => write!(f, "{error:#}"),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}
