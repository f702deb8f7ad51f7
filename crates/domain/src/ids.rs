//! Ids and counters that several aggregates share.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One run of an agent process: a UUIDv7 that the agent chooses when it starts.
    SessionId
}
id! {
    /// One attempt to bring a provider up: a UUIDv7.
    WakeId
}
id! {
    /// One inference request as it is remembered: a UUIDv7 of the replica that received it.
    RecordId
}
id! {
    /// A token with which an agent's key is enrolled, once: a UUIDv7.
    TokenId
}
id! {
    /// One command, however often its append is tried. It shows whether an append of unknown outcome succeeded.
    CommandId
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Counts an agent's accepted sessions from 1 and never restarts: the fencing token.
    Epoch
}
counter! {
    /// Counts a session's registrations of and reports on one provider, from 1.
    ReportSeq
}

impl ReportSeq {
    /// Whether it is no number: a registration by an agent that doesn't number them yet.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

/// Identifies a session's report on a provider. A report older than the last one changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReportId {
    /// The epoch of the session that reports.
    pub epoch: Epoch,
    /// The number of the report in that session, for that provider.
    pub seq: ReportSeq,
}
