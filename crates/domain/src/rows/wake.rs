//! One row for each wake, folded from its provider's events.

use super::{
    page::{Cursor, RowsError},
    sort::{RowKey, Sort, SortBy, SortKey, SortKind, SortValue},
};
use crate::{
    ids::WakeId,
    names::ProviderId,
    provider::{ProviderEvent, Registered},
    time::Timestamp,
    wake::{Stage, Wake, WakeCause, WakeFailure, WakeFailureKind},
};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr};

/// One wake. The data of its request (cause, deadline, sequence) is absent when only its end is known: rows in memory
/// that began with a provider's last commit know of earlier wakes only what the provider's state remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeRow {
    /// Its id.
    pub wake_id: WakeId,
    /// The provider.
    pub provider: ProviderId,
    /// What caused it.
    pub cause: Option<WakeCause>,
    /// When it was requested.
    pub requested_at_ms: Timestamp,
    /// When it times out.
    pub deadline_ms: Option<Timestamp>,
    /// When it ended.
    pub ended_at_ms: Option<Timestamp>,
    /// How it ended, or that it hasn't.
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

/// How a wake ended, or that it hasn't.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum WakeOutcomeName {
    /// It has not ended.
    InFlight,
    /// The backend became available.
    Succeeded,
    /// The backend did not become available.
    Failed,
    /// No outcome was known by the deadline.
    TimedOut,
}

/// An outcome by which wakes are looked up. It is as people see it: a wake that failed although nothing was wrong counts as what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString)]
#[strum(serialize_all = "snake_case")]
#[strum(parse_err_ty = String, parse_err_fn = Self::unknown)]
pub enum WakeOutcomeFilter {
    /// It has not ended.
    InFlight,
    /// The backend became available.
    Succeeded,
    /// Something went wrong.
    Failed,
    /// No outcome was known by the deadline.
    TimedOut,
    /// The machine's owner didn't allow it.
    Refused,
    /// Nobody waited for it any longer before it began.
    NotNeeded,
}

impl WakeOutcomeFilter {
    fn unknown(_: &str) -> String {
        "an outcome is in_flight, succeeded, failed, timed_out, refused or not_needed".to_owned()
    }

    /// The outcome of the rows that it admits.
    #[must_use]
    pub const fn outcome(self) -> WakeOutcomeName {
        match self {
            Self::InFlight => WakeOutcomeName::InFlight,
            Self::Succeeded => WakeOutcomeName::Succeeded,
            Self::Failed | Self::Refused | Self::NotNeeded => WakeOutcomeName::Failed,
            Self::TimedOut => WakeOutcomeName::TimedOut,
        }
    }

    /// The only kind of failure that it admits.
    #[must_use]
    pub const fn kind(self) -> Option<WakeFailureKind> {
        match self {
            Self::Refused => Some(WakeFailureKind::NotAllowed),
            Self::NotNeeded => Some(WakeFailureKind::NotNeeded),
            Self::InFlight | Self::Succeeded | Self::Failed | Self::TimedOut => None,
        }
    }

    /// The kinds of failure that it doesn't admit.
    #[must_use]
    pub const fn other_kinds(self) -> &'static [WakeFailureKind] {
        match self {
            Self::Failed => &[WakeFailureKind::NotAllowed, WakeFailureKind::NotNeeded],
            Self::InFlight | Self::Succeeded | Self::TimedOut | Self::Refused | Self::NotNeeded => &[],
        }
    }

    pub(super) fn admits(self, row: &WakeRow) -> bool {
        let kind = row.failure.as_ref().map(|failure| failure.kind);
        row.outcome == self.outcome()
            && (self.kind().is_none() || self.kind() == kind)
            && kind.is_none_or(|kind| !self.other_kinds().contains(&kind))
    }
}

/// How one event changes its provider's wakes.
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
    /// The journal sequence of the commit that ended it.
    pub seq: u64,
}

/// How the `events` of the commit `seq` change the wakes of `provider`, in order. Texts are cut and stripped of control
/// characters once more, because people read them and a text column holds no NUL.
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
        | ProviderEvent::BackendWentDown { .. }
        | ProviderEvent::BackendAwoke { .. }
        | ProviderEvent::ProviderBecameInactive { .. }
        | ProviderEvent::ProviderResumed { .. }
        | ProviderEvent::ProviderDeregistered { .. }
        | ProviderEvent::ProviderExpired { .. } => None,
    };
    events.iter().filter_map(change).collect()
}

impl WakeChange {
    /// The wake that is changed.
    #[must_use]
    pub const fn wake_id(&self) -> WakeId {
        match self {
            Self::Requested(row) => row.wake_id,
            Self::Ended(end) => end.wake_id,
        }
    }

    /// The wake's row after the change. Applying a change twice gives the same row.
    #[must_use]
    pub fn after(self, before: Option<WakeRow>) -> WakeRow {
        match (self, before) {
            (Self::Requested(row), None) => row,
            (Self::Requested(_), Some(before)) => before,
            (Self::Ended(end), before) => {
                let row =
                    before.unwrap_or_else(|| WakeRow::bare(end.wake_id, end.provider.clone(), end.at_ms));
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
    /// What a wake in flight counts as when wakes are sorted by their duration: the longest that Postgres can store.
    pub const IN_FLIGHT_MS: u64 = i64::MAX.unsigned_abs();

    /// A wake of which nothing else is known.
    const fn bare(wake_id: WakeId, provider: ProviderId, requested_at_ms: Timestamp) -> Self {
        Self {
            wake_id,
            provider,
            cause: None,
            requested_at_ms,
            deadline_ms: None,
            ended_at_ms: None,
            outcome: WakeOutcomeName::InFlight,
            failure: None,
            stages: vec![],
            requested_seq: None,
            ended_seq: None,
        }
    }

    /// This row with what `earlier` has of the same wake and this one lacks.
    #[must_use]
    pub fn completed_by(self, earlier: Self) -> Self {
        let (ended_at_ms, outcome, failure) = match self.ended_at_ms {
            Some(_) => (self.ended_at_ms, self.outcome, self.failure),
            None => (earlier.ended_at_ms, earlier.outcome, earlier.failure),
        };
        Self {
            cause: self.cause.or(earlier.cause),
            deadline_ms: self.deadline_ms.or(earlier.deadline_ms),
            ended_at_ms,
            outcome,
            failure,
            stages: match self.stages.is_empty() {
                true => earlier.stages,
                false => self.stages,
            },
            requested_seq: self.requested_seq.or(earlier.requested_seq),
            ended_seq: self.ended_seq.or(earlier.ended_seq),
            ..self
        }
    }

    /// A wake in flight, with the sequence of the commit that began it when that is known.
    #[must_use]
    pub fn requested(provider: &ProviderId, wake: &Wake, seq: Option<u64>) -> Self {
        Self {
            cause: Some(wake.cause.bounded()),
            deadline_ms: Some(wake.deadline_ms),
            requested_seq: seq,
            ..Self::bare(wake.id, provider.clone(), wake.requested_at_ms)
        }
    }

    /// The wakes that a provider's state remembers: the last few that ended, and the one in flight.
    #[must_use]
    pub fn remembered(provider: &Registered) -> Vec<Self> {
        let ended = provider.wakes.iter().map(|wake| Self {
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
                    | WakeFailureKind::GroupBlocked
                    | WakeFailureKind::NotNeeded,
                ) => WakeOutcomeName::Failed,
            },
            failure: wake.failure.as_ref().map(WakeFailure::bounded),
            ..Self::bare(wake.id, provider.id.clone(), wake.requested_at_ms)
        });
        let in_flight = provider.status.wake();
        ended
            .chain(in_flight.map(|wake| Self::requested(&provider.id, wake, None)))
            .collect()
    }

    /// Its position among wakes in the order in which they were requested.
    #[must_use]
    pub const fn position(&self) -> WakePosition {
        WakePosition {
            requested_at_ms: self.requested_at_ms,
            wake_id: self.wake_id,
        }
    }

    /// Its position among wakes.
    #[must_use]
    pub fn sort_key(&self, by: WakeSort) -> SortKey<WakePosition> {
        let took = |ended: Timestamp| ended.as_millis().saturating_sub(self.requested_at_ms.as_millis());
        let value = match by {
            WakeSort::Requested => SortValue::None,
            WakeSort::Took => SortValue::Number(self.ended_at_ms.map_or(Self::IN_FLIGHT_MS, took)),
        };
        SortKey {
            value,
            key: self.position(),
        }
    }
}

/// Identifies wakes, and orders them by the time of their request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WakePosition {
    /// When it was requested.
    pub requested_at_ms: Timestamp,
    /// Its id.
    pub wake_id: WakeId,
}

impl RowKey for WakePosition {
    fn cursor(&self) -> Cursor {
        Cursor::new(format!("{}.{}", self.requested_at_ms.as_millis(), self.wake_id))
    }

    fn parse(cursor: &Cursor) -> Result<Self, RowsError> {
        let parse = || {
            let (at, id) = cursor.as_str().split_once('.')?;
            Some(Self {
                requested_at_ms: Timestamp::from_millis(at.parse().ok()?),
                wake_id: WakeId(id.parse().ok()?),
            })
        };
        parse().ok_or(RowsError::BadCursor)
    }
}

/// What wakes can be sorted by. The time of their request breaks ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum WakeSort {
    /// When they were requested.
    Requested,
    /// How long they took. A wake in flight counts as the longest.
    Took,
}

impl SortBy for WakeSort {
    const ALL: &'static [Self] = &[Self::Requested, Self::Took];
    const DEFAULT: Sort<Self> = Sort::descending(Self::Requested);
    fn as_str(self) -> &'static str {
        self.into()
    }
    fn kind(self) -> SortKind {
        match self {
            Self::Requested => SortKind::Key,
            Self::Took => SortKind::Number,
        }
    }
}
