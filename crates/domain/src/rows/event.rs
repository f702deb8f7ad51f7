//! One row for each event of the journal.

use super::{Committed, CommittedBody, Cursor, RowsError};
use crate::{CommandId, ProviderEvent, Timestamp, WakeId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One event, where it stands in the journal and in its aggregate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// The journal sequence of its commit.
    pub stream_seq: u64,
    /// Its place in the commit; 0 for the first.
    pub index: u32,
    /// Its aggregate's type, `agent`, `provider` or `key`.
    pub aggregate_type: String,
    /// Its aggregate's id, such as `gpu-box.vllm`.
    pub aggregate_id: String,
    /// Its place among its aggregate's events; 1 for the first.
    pub sequence: u64,
    /// Its type, such as `WakeRequested`.
    pub event_type: String,
    /// The version of its data.
    pub version: String,
    /// When it was committed.
    pub at_ms: Timestamp,
    /// The command that it comes from.
    pub command_id: Option<CommandId>,
    /// Its data; without the hash of a key's secret.
    pub data: Value,
    /// The wake it is about.
    pub wake_id: Option<WakeId>,
}

/// The rows of a commit's events, of unreadable commits too as far as their events can be told apart.
#[must_use]
pub fn event_rows(commit: &Committed) -> Vec<EventRow> {
    let wake_of = |index: usize| match &commit.body {
        CommittedBody::Provider { events, .. } => events.get(index).and_then(wake_of),
        CommittedBody::Agent { .. } | CommittedBody::Key | CommittedBody::Unreadable { .. } => None,
    };
    let row = |(index, event): (usize, &super::RecordedEvent)| EventRow {
        stream_seq: commit.stream_seq,
        index: u32::try_from(index).unwrap_or(u32::MAX),
        aggregate_type: commit.aggregate_type.clone(),
        aggregate_id: commit.aggregate_id.clone(),
        sequence: commit.first_event_seq.saturating_add(index as u64),
        event_type: event.event_type.clone(),
        version: event.version.clone(),
        at_ms: commit.at_ms,
        command_id: commit.command_id,
        data: event.data.clone(),
        wake_id: wake_of(index),
    };
    commit.events.iter().enumerate().map(row).collect()
}

const fn wake_of(event: &ProviderEvent) -> Option<WakeId> {
    match event {
        ProviderEvent::WakeRequested { wake } => Some(wake.id),
        ProviderEvent::WakeSucceeded { wake_id, .. }
        | ProviderEvent::WakeFailed { wake_id, .. }
        | ProviderEvent::WakeTimedOut { wake_id, .. } => Some(*wake_id),
        ProviderEvent::ProviderRegistered { .. }
        | ProviderEvent::BackendSlept { .. }
        | ProviderEvent::BackendAwoke { .. }
        | ProviderEvent::ProviderBecameInactive { .. }
        | ProviderEvent::ProviderResumed { .. }
        | ProviderEvent::ProviderDeregistered { .. }
        | ProviderEvent::ProviderExpired { .. } => None,
    }
}

/// Where an event stands in the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPosition {
    /// The journal sequence of its commit.
    pub stream_seq: u64,
    /// Its place in the commit.
    pub index: u32,
}

impl EventPosition {
    /// After every event of the commit `seq`.
    #[must_use]
    pub const fn after_commit(seq: u64) -> Self {
        Self {
            stream_seq: seq,
            index: u32::MAX,
        }
    }

    /// Before every event of the commit, when this place stands after every event of it; else the same.
    pub(super) const fn other_end(self) -> Self {
        let index = if self.index == u32::MAX { 0 } else { self.index };
        Self { index, ..self }
    }

    /// The cursor that stands at this event, such as `120.0`.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor::new(format!("{}.{}", self.stream_seq, self.index))
    }
}

impl EventRow {
    /// Where it stands.
    #[must_use]
    pub const fn position(&self) -> EventPosition {
        EventPosition {
            stream_seq: self.stream_seq,
            index: self.index,
        }
    }
}

/// Reads a cursor of events: `120.0`, or `120` for the end of that commit.
///
/// # Errors
/// [`RowsError::BadCursor`] when it is neither.
pub fn parse_events_cursor(cursor: &Cursor) -> Result<EventPosition, RowsError> {
    let read = || match cursor.as_str().split_once('.') {
        None => Some(EventPosition::after_commit(cursor.as_str().parse().ok()?)),
        Some((seq, index)) => Some(EventPosition {
            stream_seq: seq.parse().ok()?,
            index: index.parse().ok()?,
        }),
    };
    read().ok_or(RowsError::BadCursor)
}
