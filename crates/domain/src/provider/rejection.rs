//! Why a command to a provider is refused.

use super::{event::ProviderEvent, state::InactiveReason};
use crate::{ids::Epoch, time::Timestamp, wake::Failures};
use std::time::Duration;
use thiserror::Error;

/// What a command changes, or why it is refused.
pub(super) type Decision = Result<Vec<ProviderEvent>, Rejection>;

/// Why a command to a provider is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// Never registered, or gone.
    #[error("no such provider is published")]
    NotRegistered,
    /// It belongs to a later session of its agent.
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
    /// It is inactive, so its agent must resume it before reporting on it.
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
    /// Its last wakes failed, so the next one is delayed.
    #[error("the provider's last wakes failed")]
    RecentlyFailed {
        /// When the next wake may begin, from now.
        retry_after: Duration,
        /// The last failure.
        failures: Failures,
    },
    /// Its agent was heard from since.
    #[error("the agent was heard from since")]
    HeardSince,
    /// It has not been inactive for long enough.
    #[error("the provider is not inactive, or not for long enough")]
    NotExpired,
}
