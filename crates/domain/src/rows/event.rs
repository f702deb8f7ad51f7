//! One row for each event of the journal.

use super::{
    page::{Cursor, RowsError},
    row_source::{RecordedEvent, RowSource, SourceBody},
    sort::{Sort, SortBy, SortKind},
};
use crate::{
    ids::{CommandId, WakeId},
    provider::ProviderEvent,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One event, with its position in the journal and in its aggregate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// The journal sequence of its commit.
    pub stream_seq: u64,
    /// Its index in the commit, counted from 0.
    pub index: u32,
    /// Its aggregate's type: `agent`, `provider` or `key`.
    pub aggregate_type: String,
    /// Its aggregate's id, such as `gpu-box.vllm`.
    pub aggregate_id: String,
    /// Its number among its aggregate's events, counted from 1.
    pub sequence: u64,
    /// Its type, such as `WakeRequested`.
    pub event_type: String,
    /// The version of its data.
    pub version: String,
    /// When it was committed.
    pub at_ms: Timestamp,
    /// The command that caused it.
    pub command_id: Option<CommandId>,
    /// Its data, without any hash of a secret.
    pub data: Value,
    /// The wake that it is about.
    pub wake_id: Option<WakeId>,
}

/// The rows of a commit's events. Those of unreadable commits are included as far as they can be told apart.
#[must_use]
pub fn event_rows(commit: &RowSource) -> Vec<EventRow> {
    let wake_id = |index: usize| match &commit.body {
        SourceBody::Provider { events, .. } => events.get(index).and_then(ProviderEvent::wake_id),
        SourceBody::EventsOnly | SourceBody::Unreadable { .. } => None,
    };
    let row = |(index, event): (usize, &RecordedEvent)| EventRow {
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
        wake_id: wake_id(index),
    };
    commit.events.iter().enumerate().map(row).collect()
}

/// An event's position in the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPosition {
    /// The journal sequence of its commit.
    pub stream_seq: u64,
    /// Its index in the commit.
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

    /// The cursor that points at this event, such as `120.0`.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor::new(format!("{}.{}", self.stream_seq, self.index))
    }
}

impl EventRow {
    /// Its position in the journal.
    #[must_use]
    pub const fn position(&self) -> EventPosition {
        EventPosition {
            stream_seq: self.stream_seq,
            index: self.index,
        }
    }
}

/// Parses a cursor of events: `120.0`, or `120` for the end of that commit.
///
/// # Errors
/// [`RowsError::BadCursor`] when it is neither.
pub fn parse_events_cursor(cursor: &Cursor) -> Result<EventPosition, RowsError> {
    let parse = || match cursor.as_str().split_once('.') {
        None => Some(EventPosition::after_commit(cursor.as_str().parse().ok()?)),
        Some((seq, index)) => Some(EventPosition {
            stream_seq: seq.parse().ok()?,
            index: index.parse().ok()?,
        }),
    };
    parse().ok_or(RowsError::BadCursor)
}

/// What events are sorted by: their position in the journal, `seq`, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventSort;

impl SortBy for EventSort {
    const ALL: &'static [Self] = &[Self];
    const DEFAULT: Sort<Self> = Sort::ascending(Self);
    fn as_str(self) -> &'static str {
        "seq"
    }
    fn kind(self) -> SortKind {
        SortKind::Key
    }
}

/// The part of the journal between two positions, both excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRange {
    /// After this one.
    pub after: EventPosition,
    /// Before this one.
    pub before: Option<EventPosition>,
}

impl EventRange {
    /// Whether an event at `position` is in this part.
    #[must_use]
    pub fn contains(&self, position: EventPosition) -> bool {
        position > self.after && self.before.is_none_or(|before| position < before)
    }
}
