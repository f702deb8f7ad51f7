//! What can go wrong on the bus. ControlError by the domain is not breakage, so it is a variant of its own.

use reveille_domain::{AgentRejection, Rejection};
use thiserror::Error;

/// The bus could not do it. None of these says anything about agents, providers or wakes.
#[derive(Debug, Clone, Error)]
pub enum BusError {
    /// NATS can't be reached, or doesn't answer in time.
    #[error("NATS is not available: {0}")]
    Unavailable(String),
    /// An append's outcome isn't known: it may or may not be in the journal.
    #[error("the outcome of an append is not known: {0}")]
    Unknown(String),
    /// The URL of NATS isn't one.
    #[error("{url:?} is no NATS URL: {reason}")]
    Address {
        /// The URL, without credentials.
        url: String,
        /// Why.
        reason: String,
    },
    /// The server is too old.
    #[error("nats-server {found} is too old: Reveille needs {needed} or newer with JetStream")]
    ServerTooOld {
        /// What it says it is.
        found: String,
        /// The oldest that will do.
        needed: String,
    },
    /// A stream isn't there, and whoever asks doesn't make it.
    #[error("there is no stream {stream} yet: an API replica makes it")]
    NoStream {
        /// The stream.
        stream: &'static str,
    },
    /// A stream exists with settings that contradict ours.
    #[error("stream {stream} exists with other settings: {difference}")]
    StreamMismatch {
        /// The stream.
        stream: &'static str,
        /// What differs.
        difference: String,
    },
    /// A commit of this aggregate can't be read by this version of Reveille.
    #[error("a commit of {aggregate} can't be read: {reason}")]
    Unreadable {
        /// The aggregate.
        aggregate: String,
        /// Why.
        reason: String,
    },
    /// Other writers won every race for this aggregate.
    #[error("{0} is too busy: every append lost its race")]
    Busy(String),
    /// The journal no longer holds what the follower had seen: it was restored, truncated or replaced.
    #[error(
        "the journal no longer holds commit {seq} as it was seen: it was restored, truncated or replaced"
    )]
    Diverged {
        /// The commit's sequence.
        seq: u64,
    },
    /// The message is larger than the server takes.
    #[error("a message of {bytes} bytes is larger than the server takes")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

impl BusError {
    pub(crate) fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Why a command did not take effect.
#[derive(Debug, Clone, Error)]
pub enum CommandError<R: std::error::Error> {
    /// The domain refused it.
    #[error(transparent)]
    Rejected(R),
    /// The bus broke.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl From<Rejection> for CommandError<Rejection> {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<AgentRejection> for CommandError<AgentRejection> {
    fn from(rejection: AgentRejection) -> Self {
        Self::Rejected(rejection)
    }
}
