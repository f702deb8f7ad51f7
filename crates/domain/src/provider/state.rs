//! The state of a provider. Each status owns only the data that exists in it.

use crate::{
    ids::{Epoch, ReportId, ReportSeq, WakeId},
    names::ProviderId,
    spec::ProviderSpec,
    time::Timestamp,
    wake::{Failures, Wake, WakeRecord},
};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr};

/// One backend that an agent publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "nearly every provider is registered")]
pub enum Provider {
    /// Never registered.
    #[default]
    Unregistered,
    /// Published by its agent.
    Registered(Registered),
    /// Deregistered or expired. Its epoch is kept, so that nothing older is accepted.
    Gone(Gone),
}

/// A published provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Its id.
    pub id: ProviderId,
    /// What it publishes.
    pub spec: ProviderSpec,
    /// The session that it belongs to.
    pub epoch: Epoch,
    /// The last report of that session that changed it.
    pub last_seq: ReportSeq,
    /// The latest event in which its agent was heard from.
    pub heard_at_ms: Timestamp,
    /// Its status.
    pub status: Status,
    /// Failed wakes in a row.
    pub failures: Failures,
    /// The last few ended wakes, latest last.
    pub wakes: Vec<WakeRecord>,
    /// How many wakes it has had.
    pub counts: WakeCounts,
}

/// A provider that is no longer published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Its id.
    pub id: ProviderId,
    /// The last session that it belonged to.
    pub epoch: Epoch,
    /// The last report of that session that changed it, in case that session publishes it again.
    pub last_seq: ReportSeq,
    /// Since when.
    pub since_ms: Timestamp,
    /// The last few ended wakes, latest last.
    pub wakes: Vec<WakeRecord>,
    /// How many wakes it has had.
    pub counts: WakeCounts,
}

/// How many wakes were requested, and how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeCounts {
    /// Requested.
    pub requested: u64,
    /// Ended with the backend available.
    pub succeeded: u64,
    /// Ended without it.
    pub failed: u64,
}

/// A published provider's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Status {
    /// Its backend answers, as far as is known.
    Active {
        /// Since when.
        since_ms: Timestamp,
        /// The wake that brought it up, if one did.
        woken_by: Option<WakeId>,
    },
    /// Its backend is asleep, and a request wakes it.
    Hibernating {
        /// Since when.
        since_ms: Timestamp,
    },
    /// Hibernating with a wake in flight.
    Waking {
        /// The wake.
        wake: Wake,
    },
    /// Its backend is unavailable, and it has no recipe that could wake it. It is active again once a probe succeeds.
    Down {
        /// Since when.
        since_ms: Timestamp,
    },
    /// Its agent is lost or stopped.
    Inactive {
        /// Since when.
        since_ms: Timestamp,
        /// Why.
        reason: InactiveReason,
        /// What it was before.
        was: StableStatus,
    },
}

/// A status with a present agent and no wake in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StableStatus {
    /// The backend answers, as far as is known.
    Active,
    /// The backend is asleep.
    Hibernating,
    /// The backend is unavailable, and no recipe could wake it.
    Down,
}

/// Why a provider is inactive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InactiveReason {
    /// Its agent went silent.
    AgentLost,
    /// Its agent stopped.
    AgentStopped,
}

/// A status without its data.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[strum(parse_err_ty = String, parse_err_fn = Self::unknown)]
pub enum StatusName {
    /// See [`Status::Active`].
    Active,
    /// See [`Status::Hibernating`].
    Hibernating,
    /// See [`Status::Waking`].
    Waking,
    /// See [`Status::Down`].
    Down,
    /// See [`Status::Inactive`].
    Inactive,
}

impl StatusName {
    fn unknown(_: &str) -> String {
        "a status is active, hibernating, waking, down or inactive".to_owned()
    }
}

impl Status {
    /// The status without its data.
    #[must_use]
    pub const fn name(&self) -> StatusName {
        match self {
            Self::Active { .. } => StatusName::Active,
            Self::Hibernating { .. } => StatusName::Hibernating,
            Self::Waking { .. } => StatusName::Waking,
            Self::Down { .. } => StatusName::Down,
            Self::Inactive { .. } => StatusName::Inactive,
        }
    }

    /// Since when it has this status.
    #[must_use]
    pub const fn since(&self) -> Timestamp {
        match self {
            Self::Active { since_ms, .. }
            | Self::Hibernating { since_ms }
            | Self::Down { since_ms }
            | Self::Inactive { since_ms, .. } => *since_ms,
            Self::Waking { wake } => wake.requested_at_ms,
        }
    }

    /// The wake in flight.
    #[must_use]
    pub const fn wake(&self) -> Option<&Wake> {
        match self {
            Self::Waking { wake } => Some(wake),
            Self::Active { .. } | Self::Hibernating { .. } | Self::Down { .. } | Self::Inactive { .. } => {
                None
            }
        }
    }
}

impl Registered {
    /// How the wake `id` ended, if it is among the last few.
    #[must_use]
    pub fn ended_wake(&self, id: WakeId) -> Option<&WakeRecord> {
        ended_wake(&self.wakes, id)
    }

    /// The last report that changed it.
    #[must_use]
    pub const fn last_report(&self) -> ReportId {
        ReportId {
            epoch: self.epoch,
            seq: self.last_seq,
        }
    }
}

impl Gone {
    /// The last report that changed it.
    #[must_use]
    pub const fn last_report(&self) -> ReportId {
        ReportId {
            epoch: self.epoch,
            seq: self.last_seq,
        }
    }
}

fn ended_wake(wakes: &[WakeRecord], id: WakeId) -> Option<&WakeRecord> {
    wakes.iter().rev().find(|wake| wake.id == id)
}

impl Provider {
    /// How the wake `id` ended, if it is among the last few.
    #[must_use]
    pub fn ended_wake(&self, id: WakeId) -> Option<&WakeRecord> {
        match self {
            Self::Unregistered => None,
            Self::Registered(registered) => registered.ended_wake(id),
            Self::Gone(gone) => ended_wake(&gone.wakes, id),
        }
    }

    /// The published provider, unless it was never registered or is gone.
    #[must_use]
    pub const fn registered(&self) -> Option<&Registered> {
        match self {
            Self::Registered(registered) => Some(registered),
            Self::Unregistered | Self::Gone(_) => None,
        }
    }

    /// The number of its session's last registration or report that changed something.
    #[must_use]
    pub const fn last_seq(&self) -> ReportSeq {
        match self {
            Self::Unregistered => ReportSeq(0),
            Self::Registered(registered) => registered.last_seq,
            Self::Gone(gone) => gone.last_seq,
        }
    }

    /// The last session that it belonged to; `Epoch(0)` when it was never published.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        match self {
            Self::Unregistered => Epoch(0),
            Self::Registered(registered) => registered.epoch,
            Self::Gone(gone) => gone.epoch,
        }
    }
}
