//! Why a command to a provider is refused.

use super::state::InactiveReason;
use crate::{ids::Epoch, time::Timestamp, wake::Failures};
use std::time::Duration;
use thiserror::Error;

/// Why a provider's command is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// Never registered, or gone.
    #[error("no such provider is published")]
    NotRegistered,
    /// A later session of its agent speaks for it.
    #[error("this session was superseded: the provider's current epoch is {current}")]
    SessionSuperseded {
        /// The current epoch.
        current: Epoch,
    },
    /// The session has not registered the provider yet.
    #[error("this session has not registered the provider: its epoch there is {current}")]
    RegisterFirst {
        /// The epoch that is registered.
        current: Epoch,
    },
    /// It is inactive: its agent must resume it before it reports on it.
    #[error("the provider is inactive: resume it first")]
    ResumeFirst,
    /// Its agent is lost or stopped, so no wake is tried.
    #[error("the provider's agent is not there")]
    Inactive {
        /// Why.
        reason: InactiveReason,
        /// Since when.
        since: Timestamp,
    },
    /// It has no wake recipe.
    #[error("the provider has no wake recipe")]
    NoRecipe,
    /// Its last wakes failed, so the next one waits.
    #[error("the provider's last wakes failed")]
    RecentlyFailed {
        /// How long the next wake is held back.
        retry_after: Duration,
        /// The last failure.
        failures: Failures,
    },
    /// It isn't silent: something newer was heard of its agent.
    #[error("the agent was heard since")]
    HeardSince,
    /// It has not been inactive for long enough to expire.
    #[error("the provider is not inactive, or not for long enough")]
    NotExpired,
}
