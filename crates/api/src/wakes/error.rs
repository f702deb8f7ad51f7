//! Why a provider isn't active, or isn't put to sleep.

use crate::{
    keys::Denied,
    registry::{Absence, Registry},
};
use reveille_bus::{BusError, CommandError, JournalTrouble};
use reveille_domain::{
    MODELS_STAGE, ProviderId, Rejection, Timestamp, WakeFailure, WakeFailureKind, WakeId, counted,
    provider::Registered,
};
use std::time::Duration;
use thiserror::Error;

/// Why a provider isn't active.
#[derive(Debug, Clone, Error)]
pub(crate) enum WakeError {
    /// The wake failed, or an earlier one did and the next one isn't tried yet.
    #[error("{provider} did not wake: {} ({})", failure.reason, failure.stage)]
    Failed {
        provider: ProviderId,
        /// `None` if no wake was tried.
        wake_id: Option<WakeId>,
        failure: Box<WakeFailure>,
        /// When the next wake may be tried, if it has to wait.
        retry_after: Option<Duration>,
        /// How long this caller waited.
        spent: Duration,
    },
    /// The caller's own wait ended; a wake that has begun goes on.
    #[error("{provider} is still waking")]
    CallerTimedOut {
        provider: ProviderId,
        wake_id: Option<WakeId>,
        /// How long this caller waited.
        spent: Duration,
        /// How much longer it takes, by earlier wakes.
        left: Option<Duration>,
    },
    /// The agent is away; no wake was tried.
    #[error("{provider} is inactive")]
    Inactive { provider: ProviderId, absence: Absence },
    /// This version can't read the provider's last commit, so it accepts no command.
    #[error("a commit of {provider} can't be read: {reason}")]
    Unreadable { provider: ProviderId, reason: String },
    #[error("{provider} is not published")]
    Unknown { provider: ProviderId },
    #[error("{provider} has no wake recipe")]
    NoRecipe { provider: ProviderId },
    #[error("{provider} already has {} waiting", counted(*limit, "request"))]
    QueueFull { provider: ProviderId, limit: usize },
    /// The caller's key has used up its wakes, or it isn't known yet how many it has used.
    #[error("{denied}")]
    Quota { provider: ProviderId, denied: Denied },
    /// The journal is lost, or takes no commits.
    #[error(transparent)]
    Journal(JournalTrouble),
    /// The journal was not reached in time.
    #[error("the wake can't be requested: {0}")]
    Unavailable(String),
}

/// Why a provider isn't put to sleep.
#[derive(Debug, Clone, Error)]
pub(crate) enum SleepError {
    #[error("{0} is not published")]
    Unknown(ProviderId),
    /// The agent refused.
    #[error("{provider} wasn't put to sleep: {reason}")]
    Refused { provider: ProviderId, reason: String },
    #[error("the agent can't be reached: {0}")]
    Unavailable(String),
}

pub(super) fn held(id: &ProviderId, provider: &Registered, at: Timestamp) -> WakeError {
    let unknown = || WakeFailure::new(WakeFailureKind::TimedOut, "deadline", "the wake timed out");
    WakeError::Failed {
        provider: id.clone(),
        wake_id: provider.wakes.last().map(|wake| wake.id),
        failure: Box::new(provider.failures.last.clone().unwrap_or_else(unknown)),
        retry_after: provider.failures.backoff_at(at),
        spent: Duration::ZERO,
    }
}

pub(super) fn refused(registry: &Registry, id: &ProviderId, error: CommandError<Rejection>) -> WakeError {
    let provider = id.clone();
    match error {
        CommandError::Bus(BusError::Unreadable { reason, .. }) => WakeError::Unreadable { provider, reason },
        CommandError::Bus(BusError::Journal(trouble)) => WakeError::Journal(trouble),
        CommandError::Bus(error) => WakeError::Unavailable(error.to_string()),
        CommandError::Rejected(Rejection::Inactive { reason, .. }) => {
            let absence = registry.absence(&provider.agent, reason);
            WakeError::Inactive { provider, absence }
        }
        CommandError::Rejected(Rejection::NoRecipe) => WakeError::NoRecipe { provider },
        CommandError::Rejected(Rejection::RecentlyFailed {
            retry_after,
            failures,
        }) => {
            let unknown = || WakeFailure::new(WakeFailureKind::Recipe, "wake", "earlier wakes failed");
            WakeError::Failed {
                provider,
                wake_id: None,
                failure: Box::new(failures.last.unwrap_or_else(unknown)),
                retry_after: Some(retry_after),
                spent: Duration::ZERO,
            }
        }
        CommandError::Rejected(_) => WakeError::Unknown { provider },
    }
}

/// Leaves out of a failure what a caller may not know that may not know the models of the provider.
pub(crate) fn hide_models(failure: &mut WakeFailure) {
    if failure.stage == MODELS_STAGE {
        "the server there has other models than its config says".clone_into(&mut failure.reason);
    }
}

impl WakeError {
    /// Whether it concerns the provider alone, not the caller or the journal.
    pub(crate) const fn is_about_one_provider(&self) -> bool {
        match self {
            Self::Failed { .. }
            | Self::Inactive { .. }
            | Self::Unreadable { .. }
            | Self::Unknown { .. }
            | Self::NoRecipe { .. }
            | Self::QueueFull { .. } => true,
            Self::CallerTimedOut { .. } | Self::Quota { .. } | Self::Journal(_) | Self::Unavailable(_) => {
                false
            }
        }
    }

    /// The same error for a caller that may not know the models of the provider.
    pub(crate) fn without_models(mut self) -> Self {
        if let Self::Failed { failure, .. } = &mut self {
            hide_models(failure);
        }
        self
    }

    /// The same error for a caller that has waited for `time`.
    pub(crate) fn after(mut self, time: Duration) -> Self {
        if let Self::Failed { spent, .. } | Self::CallerTimedOut { spent, .. } = &mut self {
            *spent = time;
        }
        self
    }
}
