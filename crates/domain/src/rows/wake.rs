//! One row for each wake, folded from its provider's events.

use super::{Cursor, RowKey, RowsError};
use crate::{
    ProviderEvent, ProviderId, Stage, Timestamp, Wake, WakeCause, WakeFailure, WakeFailureKind, WakeId,
    provider::Registered,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One wake. What its request would tell (cause, deadline, sequence) is absent when only its end is known: memory
/// that began with a provider's last commit knows of earlier wakes what the provider's state remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeRow {
    /// Its id.
    pub wake_id: WakeId,
    /// The provider.
    pub provider: ProviderId,
    /// Who asked for it.
    pub cause: Option<WakeCause>,
    /// When it was asked for.
    pub requested_at_ms: Timestamp,
    /// When it ends as timed out unless its outcome is known.
    pub deadline_ms: Option<Timestamp>,
    /// When it ended.
    pub ended_at_ms: Option<Timestamp>,
    /// How it stands or ended.
    pub outcome: WakeOutcomeName,
    /// Why it failed or timed out.
    pub failure: Option<WakeFailure>,
    /// The recipe's stages that ran.
    pub stages: Vec<Stage>,
    /// The journal sequence of the commit that began it.
    pub requested_seq: Option<u64>,
    /// The journal sequence of the commit that ended it.
    pub ended_seq: Option<u64>,
}

/// How a wake stands or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WakeOutcomeName {
    /// Not ended.
    InFlight,
    /// The backend became available.
    Succeeded,
    /// It didn't.
    Failed,
    /// No outcome was known by the deadline.
    TimedOut,
}

impl WakeOutcomeName {
    /// The name as it is written everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }
}

impl fmt::Display for WakeOutcomeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for WakeOutcomeName {
    type Err = String;
    fn from_str(raw: &str) -> Result<Self, String> {
        [Self::InFlight, Self::Succeeded, Self::Failed, Self::TimedOut]
            .into_iter()
            .find(|outcome| outcome.as_str() == raw)
            .ok_or_else(|| "an outcome is in_flight, succeeded, failed or timed_out".to_owned())
    }
}

/// What one event does to the wakes of its provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeChange {
    /// A wake began.
    Requested(WakeRow),
    /// A wake ended.
    Ended(WakeEnd),
}

/// The end of a wake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeEnd {
    /// The wake.
    pub wake_id: WakeId,
    /// Its provider.
    pub provider: ProviderId,
    /// When it ended.
    pub at_ms: Timestamp,
    /// How.
    pub outcome: WakeOutcomeName,
    /// Why, unless it succeeded.
    pub failure: Option<WakeFailure>,
    /// The stages that ran.
    pub stages: Vec<Stage>,
    /// The journal sequence of the commit that says so.
    pub seq: u64,
}

/// What `events` of the commit `seq` do to the wakes of `provider`, in order. Their texts are cut and freed of control
/// characters again, whoever wrote them: people read them, and a column of text holds no NUL.
#[must_use]
pub fn wake_changes(provider: &ProviderId, events: &[ProviderEvent], seq: u64) -> Vec<WakeChange> {
    let end =
        |wake_id: &WakeId, at_ms: &Timestamp, outcome, failure: Option<&WakeFailure>, stages: &[Stage]| {
            WakeChange::Ended(WakeEnd {
                wake_id: *wake_id,
                provider: provider.clone(),
                at_ms: *at_ms,
                outcome,
                failure: failure.map(WakeFailure::bounded),
                stages: Stage::bounded(stages),
                seq,
            })
        };
    let change = |event: &ProviderEvent| match event {
        ProviderEvent::WakeRequested { wake } => Some(WakeChange::Requested(WakeRow::requested(
            provider,
            wake,
            Some(seq),
        ))),
        ProviderEvent::WakeSucceeded {
            wake_id,
            stages,
            at_ms,
            ..
        } => Some(end(wake_id, at_ms, WakeOutcomeName::Succeeded, None, stages)),
        ProviderEvent::WakeFailed {
            wake_id,
            failure,
            stages,
            at_ms,
            ..
        } => Some(end(
            wake_id,
            at_ms,
            WakeOutcomeName::Failed,
            Some(failure),
            stages,
        )),
        ProviderEvent::WakeTimedOut {
            wake_id,
            failure,
            at_ms,
            ..
        } => Some(end(wake_id, at_ms, WakeOutcomeName::TimedOut, Some(failure), &[])),
        ProviderEvent::ProviderRegistered { .. }
        | ProviderEvent::BackendSlept { .. }
        | ProviderEvent::BackendAwoke { .. }
        | ProviderEvent::ProviderBecameInactive { .. }
        | ProviderEvent::ProviderResumed { .. }
        | ProviderEvent::ProviderDeregistered { .. }
        | ProviderEvent::ProviderExpired { .. } => None,
    };
    events.iter().filter_map(change).collect()
}

impl WakeChange {
    /// The wake that changes.
    #[must_use]
    pub const fn wake_id(&self) -> WakeId {
        match self {
            Self::Requested(row) => row.wake_id,
            Self::Ended(end) => end.wake_id,
        }
    }

    /// The wake's row after the change. Repeating a change gives the same row.
    #[must_use]
    pub fn after(self, before: Option<WakeRow>) -> WakeRow {
        match (self, before) {
            (Self::Requested(row), None) => row,
            (Self::Requested(_), Some(before)) => before,
            (Self::Ended(end), before) => {
                let row = before.unwrap_or_else(|| WakeRow::unknown(&end));
                WakeRow {
                    ended_at_ms: Some(end.at_ms),
                    outcome: end.outcome,
                    failure: end.failure,
                    stages: end.stages,
                    ended_seq: Some(end.seq),
                    ..row
                }
            }
        }
    }
}

impl WakeRow {
    /// A wake in flight, begun by the commit `seq` when that is known.
    #[must_use]
    pub fn requested(provider: &ProviderId, wake: &Wake, seq: Option<u64>) -> Self {
        Self {
            wake_id: wake.id,
            provider: provider.clone(),
            cause: Some(wake.cause.bounded()),
            requested_at_ms: wake.requested_at_ms,
            deadline_ms: Some(wake.deadline_ms),
            ended_at_ms: None,
            outcome: WakeOutcomeName::InFlight,
            failure: None,
            stages: vec![],
            requested_seq: seq,
            ended_seq: None,
        }
    }

    /// The wakes that a provider's state remembers: the last few that ended, and the one in flight.
    #[must_use]
    pub fn remembered(provider: &Registered) -> Vec<Self> {
        let ended = provider.wakes.iter().map(|wake| Self {
            wake_id: wake.id,
            provider: provider.id.clone(),
            cause: None,
            requested_at_ms: wake.requested_at_ms,
            deadline_ms: None,
            ended_at_ms: Some(wake.ended_at_ms),
            outcome: match wake.failure.as_ref().map(|failure| failure.kind) {
                None => WakeOutcomeName::Succeeded,
                Some(WakeFailureKind::TimedOut) => WakeOutcomeName::TimedOut,
                Some(
                    WakeFailureKind::Recipe
                    | WakeFailureKind::Unavailable
                    | WakeFailureKind::AgentLost
                    | WakeFailureKind::AgentStopped
                    | WakeFailureKind::Withdrawn
                    | WakeFailureKind::Died
                    | WakeFailureKind::NotAllowed
                    | WakeFailureKind::GroupBlocked,
                ) => WakeOutcomeName::Failed,
            },
            failure: wake.failure.as_ref().map(WakeFailure::bounded),
            stages: vec![],
            requested_seq: None,
            ended_seq: None,
        });
        let in_flight = provider.status.wake();
        ended
            .chain(in_flight.map(|wake| Self::requested(&provider.id, wake, None)))
            .collect()
    }

    fn unknown(end: &WakeEnd) -> Self {
        Self {
            wake_id: end.wake_id,
            provider: end.provider.clone(),
            cause: None,
            requested_at_ms: end.at_ms,
            deadline_ms: None,
            ended_at_ms: None,
            outcome: WakeOutcomeName::InFlight,
            failure: None,
            stages: vec![],
            requested_seq: None,
            ended_seq: None,
        }
    }

    /// Where it stands among the wakes.
    #[must_use]
    pub const fn position(&self) -> WakePosition {
        WakePosition {
            requested_at_ms: self.requested_at_ms,
            wake_id: self.wake_id,
        }
    }
}

/// What orders wakes: when they were asked for, then their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WakePosition {
    /// When it was asked for.
    pub requested_at_ms: Timestamp,
    /// Its id.
    pub wake_id: WakeId,
}

impl RowKey for WakePosition {
    fn cursor(&self) -> Cursor {
        Cursor::new(format!("{}.{}", self.requested_at_ms.as_millis(), self.wake_id))
    }

    fn parse(cursor: &Cursor) -> Result<Self, RowsError> {
        let read = || {
            let (at, id) = cursor.as_str().split_once('.')?;
            Some(Self {
                requested_at_ms: Timestamp::from_millis(at.parse().ok()?),
                wake_id: WakeId(id.parse().ok()?),
            })
        };
        read().ok_or(RowsError::BadCursor)
    }
}
