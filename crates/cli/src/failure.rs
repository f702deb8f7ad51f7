//! Why a command failed, and its exit code.

use std::{fmt, process::ExitCode};

/// Something failed.
const FAILED: u8 = 1;
/// The command line or a config is wrong; clap exits with the same code. Also: an audit couldn't be finished.
const UNUSABLE: u8 = 2;
/// Another agent took over this agent's name: a service manager must not restart it.
pub const SUPERSEDED: u8 = 3;
/// The hub has revoked this agent: another start would fail as well.
pub const REVOKED: u8 = 4;

/// Why a command failed, in words for a person.
#[derive(Debug)]
pub enum Failure {
    /// A config or an argument is wrong.
    Config(String),
    /// An audit couldn't be finished, which says nothing about what it was to check.
    NotAudited(String),
    /// Another session of the same agent replaced this one.
    Superseded(String),
    /// This agent was revoked.
    Revoked(String),
    /// Any other failure.
    Other(anyhow::Error),
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) | Self::NotAudited(_) => UNUSABLE,
            Self::Superseded(_) => SUPERSEDED,
            Self::Revoked(_) => REVOKED,
            Self::Other(_) => FAILED,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text) | Self::NotAudited(text) | Self::Superseded(text) | Self::Revoked(text) => {
                f.write_str(text)
            }
            Self::Other(error) => f.write_str(&chain(error)),
        }
    }
}

/// The error and its causes, each once: many errors show their cause themselves.
fn chain(error: &anyhow::Error) -> String {
    let mut chain = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if chain.is_empty() {
            chain = cause;
        } else if !chain.ends_with(&cause) {
            chain = format!("{chain}: {cause}");
        }
    }
    chain
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{error::Error, io};

    #[derive(Debug)]
    struct Shown(io::Error);

    impl fmt::Display for Shown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "key.nk: {}", self.0)
        }
    }

    impl Error for Shown {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_cause_that_an_error_shows_itself_is_not_repeated() {
        let missing = || io::Error::from_raw_os_error(2);
        let failure = Failure::from(anyhow::Error::new(Shown(missing())).context("cannot start"));
        assert_eq!(
            failure.to_string(),
            format!("cannot start: key.nk: {}", missing())
        );
        let other = Failure::from(anyhow::Error::new(missing()).context("cannot start"));
        assert_eq!(other.to_string(), format!("cannot start: {}", missing()));
    }
}
