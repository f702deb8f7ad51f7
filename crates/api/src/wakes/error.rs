//! Why a provider isn't active, or isn't put to sleep.

use crate::keys::Denied;
use reveille_bus::{BusError, CommandError};
use reveille_domain::{
    ProviderId, Rejection, Timestamp, WakeFailure, WakeFailureKind, WakeId,
    provider::{InactiveReason, Registered},
};
use std::time::Duration;
use thiserror::Error;

/// Why a provider isn't active.
#[derive(Debug, Clone, Error)]
pub(crate) enum WakeError {
    /// The wake failed, or an earlier one did and the next is held back.
    #[error("{provider} did not wake: {} ({})", failure.reason, failure.stage)]
    Failed {
        /// Which.
        provider: ProviderId,
        /// The wake; `None` when none was tried.
        wake_id: Option<WakeId>,
        /// Why.
        failure: Box<WakeFailure>,
        /// When a next wake may be tried, if one is held back.
        retry_after: Option<Duration>,
        /// How long this caller waited.
        spent: Duration,
    },
    /// The backend did not become available in time, or no outcome was known by the deadline.
    #[error("{provider} did not wake in time: {}", failure.reason)]
    TimedOut {
        /// Which.
        provider: ProviderId,
        /// The wake.
        wake_id: WakeId,
        /// What is known of it.
        failure: Box<WakeFailure>,
        /// How long this caller waited.
        spent: Duration,
    },
    /// The caller's own wait ended; the wake goes on.
    #[error("{provider} is still waking")]
    CallerTimedOut {
        /// Which.
        provider: ProviderId,
        /// The wake, once it is known.
        wake_id: Option<WakeId>,
        /// How long this caller waited.
        spent: Duration,
        /// How long it still takes, as far as earlier wakes tell.
        left: Option<Duration>,
    },
    /// Its agent is lost or stopped; no wake was tried.
    #[error("{provider} is inactive")]
    Inactive {
        /// Which.
        provider: ProviderId,
        /// Why.
        reason: InactiveReason,
        /// Since when.
        since: Timestamp,
    },
    /// Its last commit can't be read by this version, so no command is accepted.
    #[error("a commit of {provider} can't be read: {reason}")]
    Unreadable {
        /// Which.
        provider: ProviderId,
        /// Why.
        reason: String,
    },
    /// Nobody publishes it.
    #[error("{provider} is not published")]
    Unknown {
        /// Which.
        provider: ProviderId,
    },
    /// It can't be woken.
    #[error("{provider} has no wake recipe")]
    NoRecipe {
        /// Which.
        provider: ProviderId,
    },
    /// Too many requests wait for it.
    #[error("{limit} requests wait for {provider} already")]
    QueueFull {
        /// Which.
        provider: ProviderId,
        /// How many may wait.
        limit: usize,
    },
    /// The key of whoever asks has started as many wakes as it may, or it isn't known yet how many.
    #[error("{denied}")]
    Quota {
        /// Which.
        provider: ProviderId,
        /// Why.
        denied: Denied,
    },
    /// The journal can't be reached, or not in time.
    #[error("the wake can't be asked for: {0}")]
    Unavailable(String),
}

/// Why a provider isn't put to sleep.
#[derive(Debug, Clone, Error)]
pub(crate) enum SleepError {
    /// Nobody publishes it.
    #[error("{0} is not published")]
    Unknown(ProviderId),
    /// Its agent can't do it.
    #[error("{0}")]
    Refused(String),
    /// Its agent can't be reached.
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

pub(super) fn refused(id: &ProviderId, error: CommandError<Rejection>) -> WakeError {
    let provider = id.clone();
    match error {
        CommandError::Bus(BusError::Unreadable { reason, .. }) => WakeError::Unreadable { provider, reason },
        CommandError::Bus(error) => WakeError::Unavailable(error.to_string()),
        CommandError::Rejected(Rejection::Inactive { reason, since }) => WakeError::Inactive {
            provider,
            reason,
            since,
        },
        CommandError::Rejected(Rejection::NoRecipe) => WakeError::NoRecipe { provider },
        CommandError::Rejected(Rejection::RecentlyFailed {
            retry_after,
            failures,
        }) => {
            let unknown = || WakeFailure::new(WakeFailureKind::Recipe, "wake", "earlier wakes failed");
            let failure = Box::new(failures.last.unwrap_or_else(unknown));
            let (wake_id, spent) = (None, Duration::ZERO);
            WakeError::Failed {
                provider,
                wake_id,
                failure,
                retry_after: Some(retry_after),
                spent,
            }
        }
        CommandError::Rejected(_) => WakeError::Unknown { provider },
    }
}

impl WakeError {
    /// Whether it says something of the provider alone, not of whoever asks or of the journal.
    pub(crate) const fn is_about_one_provider(&self) -> bool {
        match self {
            Self::Failed { .. }
            | Self::TimedOut { .. }
            | Self::Inactive { .. }
            | Self::Unreadable { .. }
            | Self::Unknown { .. }
            | Self::NoRecipe { .. }
            | Self::QueueFull { .. } => true,
            Self::CallerTimedOut { .. } | Self::Quota { .. } | Self::Unavailable(_) => false,
        }
    }

    /// The same, told to somebody who has waited for `time`.
    pub(crate) fn after(mut self, time: Duration) -> Self {
        if let Self::Failed { spent, .. }
        | Self::TimedOut { spent, .. }
        | Self::CallerTimedOut { spent, .. } = &mut self
        {
            *spent = time;
        }
        self
    }
}
