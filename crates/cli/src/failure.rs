//! How a command ends when it doesn't end well, and the exit code that says so.

use std::{fmt, process::ExitCode};

/// Something failed.
const FAILED: u8 = 1;
/// The command line or a config can't be used; clap's own code for the former.
const UNUSABLE: u8 = 2;
/// Another agent took this agent's name: a supervisor must not start it again.
const SUPERSEDED: u8 = 3;

/// Why a command failed; its text is for a person.
#[derive(Debug)]
pub enum Failure {
    /// A config or an argument can't be used.
    Config(String),
    /// Another session of the same agent replaced this one.
    Superseded(String),
    /// Everything else.
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
