//! The events of a provider. An event carries its results, so that folding needs no rules.

use super::state::{InactiveReason, StableStatus};
use crate::{
    ids::{Epoch, ReportId, ReportSeq, WakeId},
    names::ProviderId,
    spec::ProviderSpec,
    time::Timestamp,
    wake::{Failures, SleepReason, Stage, Wake, WakeFailure},
};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// The status after a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisteredAs {
    /// Active.
    Active,
    /// Hibernating.
    Hibernating,
    /// Still waking: the wake in flight continues under the new session.
    Waking,
    /// Down.
    Down,
}

/// A fact about a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(tag = "type", content = "data")]
pub enum ProviderEvent {
    /// Its agent published it.
    ProviderRegistered {
        /// The provider.
        id: ProviderId,
        /// The session that it belongs to from now on.
        epoch: Epoch,
        /// The registration's number among what the session says; absent when it had none.
        #[serde(default, skip_serializing_if = "ReportSeq::is_zero")]
        seq: ReportSeq,
        /// What it publishes.
        spec: ProviderSpec,
        /// Its status. A status that it had before keeps its beginning.
        status: RegisteredAs,
        /// Failed wakes in a row, reset once it was active for a while.
        failures: Failures,
        /// When.
        at_ms: Timestamp,
    },
    /// A wake began.
    WakeRequested {
        /// The wake.
        wake: Wake,
    },
    /// The wake in flight ended with the backend available.
    WakeSucceeded {
        /// The wake.
        wake_id: WakeId,
        /// The report, or the registration; absent when the registration before it in the same commit showed it.
        #[serde(skip_serializing_if = "Option::is_none")]
        report: Option<ReportId>,
        /// The recipe's stages.
        stages: Vec<Stage>,
        /// When.
        at_ms: Timestamp,
    },
    /// The wake in flight ended without the backend being available.
    WakeFailed {
        /// The wake.
        wake_id: WakeId,
        /// The report; absent when there was none.
        #[serde(skip_serializing_if = "Option::is_none")]
        report: Option<ReportId>,
        /// Why.
        failure: WakeFailure,
        /// The stages that ran.
        stages: Vec<Stage>,
        /// Failed wakes in a row, including this one if it counts.
        failures: Failures,
        /// When.
        at_ms: Timestamp,
    },
    /// The wake in flight passed its deadline.
    WakeTimedOut {
        /// The wake.
        wake_id: WakeId,
        /// What is known about it.
        failure: WakeFailure,
        /// Failed wakes in a row, including this one.
        failures: Failures,
        /// When.
        at_ms: Timestamp,
    },
    /// The backend fell asleep.
    BackendSlept {
        /// The report.
        report: ReportId,
        /// Why it is asleep.
        reason: SleepReason,
        /// The wake of another member of its group that it made room for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_wake: Option<WakeId>,
        /// Failed wakes in a row, reset once it was active for a while, and one more if it died soon after a wake.
        failures: Failures,
        /// When.
        at_ms: Timestamp,
    },
    /// The backend of a provider without a wake recipe became unavailable.
    BackendWentDown {
        /// The report.
        report: ReportId,
        /// What showed it.
        reason: SleepReason,
        /// When.
        at_ms: Timestamp,
    },
    /// The backend came up by itself.
    BackendAwoke {
        /// The report.
        report: ReportId,
        /// When.
        at_ms: Timestamp,
    },
    /// Its agent was lost or stopped.
    ProviderBecameInactive {
        /// The epoch that went silent or stopped: the provider's from now on.
        epoch: Epoch,
        /// Why.
        reason: InactiveReason,
        /// What it was before.
        was: StableStatus,
        /// Failed wakes in a row, reset once it was active for a while.
        failures: Failures,
        /// Its agent's last heartbeat, if it went silent.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_heartbeat_ms: Option<Timestamp>,
        /// When.
        at_ms: Timestamp,
    },
    /// Its agent is still there.
    ProviderResumed {
        /// The report.
        report: ReportId,
        /// Its status.
        status: StableStatus,
        /// When.
        at_ms: Timestamp,
    },
    /// Its agent no longer publishes it.
    ProviderDeregistered {
        /// The session that withdrew it: the provider's from now on.
        epoch: Epoch,
        /// When.
        at_ms: Timestamp,
    },
    /// It was inactive for too long.
    ProviderExpired {
        /// When.
        at_ms: Timestamp,
    },
}

impl ProviderEvent {
    /// The wake that it is about.
    #[must_use]
    pub const fn wake_id(&self) -> Option<WakeId> {
        match self {
            Self::WakeRequested { wake } => Some(wake.id),
            Self::WakeSucceeded { wake_id, .. }
            | Self::WakeFailed { wake_id, .. }
            | Self::WakeTimedOut { wake_id, .. } => Some(*wake_id),
            Self::ProviderRegistered { .. }
            | Self::BackendSlept { .. }
            | Self::BackendWentDown { .. }
            | Self::BackendAwoke { .. }
            | Self::ProviderBecameInactive { .. }
            | Self::ProviderResumed { .. }
            | Self::ProviderDeregistered { .. }
            | Self::ProviderExpired { .. } => None,
        }
    }
}
