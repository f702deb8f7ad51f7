//! What can go wrong on the bus. A command that the domain refuses is no fault of the bus, so it has a variant of its own.

use crate::health::JournalTrouble;
use std::path::PathBuf;
use thiserror::Error;

/// What is wrong with a server that doesn't have JetStream.
pub const JETSTREAM_OFF: &str = "JetStream is off, so the server can't keep the journal";
/// What to do about it.
pub const TURN_JETSTREAM_ON: &str = "add `jetstream { store_dir: \"/var/lib/nats\", sync_interval: always }` to the \
     server's config and restart it";

/// Why the bus failed. None of these says anything about agents, providers or wakes.
#[derive(Debug, Clone, Error)]
pub enum BusError {
    /// NATS can't be reached, or doesn't answer in time.
    #[error("NATS is not available: {0}")]
    Unavailable(String),
    /// The server doesn't let this key in, or not yet.
    #[error(
        "the server refuses this key (authorization violation): it is unknown or revoked, or no API replica is running \
         to admit it"
    )]
    Refused,
    /// The server's certificate isn't from the authority that is trusted for the hub.
    #[error(
        "the server's certificate isn't from the hub that {} belongs to: another hub answers there, such as one that was made \
         anew, or somebody is in between",
        ca.display()
    )]
    OtherHub {
        /// The file of the authority.
        ca: PathBuf,
    },
    /// The commit may or may not be in the journal.
    #[error("the outcome of an append is unknown: {0}")]
    Unknown(String),
    /// The hub says that this agent's key was revoked or replaced.
    #[error(
        "this agent's key no longer works: it was revoked, or a machine that joined under the same name has replaced it"
    )]
    Revoked,
    /// The journal is lost, or takes no commits. After the latter, the commit may yet be stored.
    #[error(transparent)]
    Journal(#[from] JournalTrouble),
    /// The URL of NATS is malformed.
    #[error("{url:?} is not a NATS URL: {reason}")]
    Address {
        /// The URL, without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server is older than [`MIN_SERVER`](crate::MIN_SERVER).
    #[error("nats-server {found} is too old: Reveille needs {needed} or newer with JetStream")]
    ServerTooOld {
        /// The version that the server reports.
        found: String,
        /// The oldest version that is supported.
        needed: String,
    },
    /// JetStream is off, for the server or for the account.
    #[error("{JETSTREAM_OFF}: {TURN_JETSTREAM_ON}")]
    NoJetStream,
    /// A stream is missing, and isn't created here.
    #[error("the stream {stream} is missing: an API replica creates it when it starts")]
    NoStream {
        /// The stream's name.
        stream: &'static str,
    },
    /// A stream exists with settings that Reveille can't work with.
    #[error("stream {stream} exists with other settings: {difference}")]
    StreamMismatch {
        /// The stream's name.
        stream: &'static str,
        /// Which settings differ, and how.
        difference: String,
    },
    /// A commit of this aggregate can't be read by this version of Reveille.
    #[error("a commit of {aggregate} can't be read: {reason}")]
    Unreadable {
        /// The aggregate that the commit belongs to.
        aggregate: String,
        /// What is wrong with the commit.
        reason: String,
    },
    /// Other writers won every race for this aggregate.
    #[error("{0} is too busy: every append lost its race")]
    Busy(String),
    /// The journal no longer holds a commit that the follower has seen: it was restored, truncated or replaced.
    #[error(
        "the journal no longer holds commit {seq} as it was seen: it was restored, truncated or replaced"
    )]
    Diverged {
        /// The stream sequence of that commit.
        seq: u64,
    },
    /// The message exceeds the server's limit.
    #[error("a message of {bytes} bytes exceeds the server's limit")]
    TooLarge {
        /// The message's size.
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
    /// The domain refused the command.
    #[error(transparent)]
    Rejected(R),
    /// The bus failed; the command may be tried again.
    #[error(transparent)]
    Bus(#[from] BusError),
}
