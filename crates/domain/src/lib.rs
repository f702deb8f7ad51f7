//! What Reveille knows about agents, providers and wakes, as pure data and rules.
//!
//! Three aggregates: [`Agent`] accepts sessions and numbers them with epochs, and knows by which key an agent
//! proves who it is; [`Provider`] owns the status
//! transitions and the single wake in flight; [`Key`] says who may ask for what. Each has a pure `decide(&self, command) -> events` and
//! `evolve(self, event) -> self`; time and ids come in with the command. [`rows`] derives what the query API
//! shows from that state. This crate knows nothing of NATS, Postgres, tokio or clocks.

mod agent;
pub mod key;
mod names;
pub mod provider;
pub mod rows;
mod spec;
mod time;
mod wake;

pub use agent::{
    Access, AdvanceReason, Agent, AgentCommand, AgentEvent, AgentKey, AgentRejection, EnrolledKey,
    EnrolmentToken, Fence, InvalidAgentKey, MAX_TOKEN_LIFETIME, Session, Sessions,
};
pub use key::{Key, KeyCommand, KeyEvent, KeyRejection, Scope, Scopes, SecretHash};
pub use names::{
    AgentName, GroupName, InvalidName, KeyId, KeyName, MAX_KEY_NAME_BYTES, MAX_MODEL_NAME_BYTES,
    MAX_TOKEN_BYTES, ModelName, ProviderId, ProviderName,
};
pub use provider::{Provider, ProviderCommand, ProviderEvent, Rejection, Status};
pub use spec::{Availability, InvalidSpec, MAX_MODELS, MAX_WAKE_BUDGET, ProviderSpec, RecipeKind, WakeSpec};
pub use time::Timestamp;
pub use wake::{
    Failures, GROUP_STAGE, SleepReason, Stage, Wake, WakeCause, WakeFailure, WakeFailureKind, WakeOutcome,
    WakeRecord,
};

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
    /// One run of an agent process: a UUIDv7 that the agent makes at its start.
    SessionId
}
id! {
    /// One attempt to bring a provider up: a UUIDv7.
    WakeId
}
id! {
    /// What lets an agent's key in, once: a UUIDv7.
    TokenId
}
id! {
    /// One command, however often its append is tried: how an ambiguous append is recognised as ours.
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
    /// The number of an agent's accepted sessions: the fencing token. 1 for the first, never restarting.
    Epoch
}
counter! {
    /// Counts what a session says about one provider; 1 for its first report.
    ReportSeq
}

/// What a session says about a provider is named by its epoch and its report's number; older ones change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReportId {
    /// The epoch of the session that reports.
    pub epoch: Epoch,
    /// The report's number within that session and provider.
    pub seq: ReportSeq,
}
