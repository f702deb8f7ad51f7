//! What the query API shows: LLM rows, wakes and events, derived from commits of the journal by pure functions,
//! and the port through which they are read.
//!
//! [`Rows`] has two implementations with the same answers: [`MemoryRows`], a fold in memory of what is recent,
//! and the projector's Postgres tables. Both take [`Committed`] in and call the same derivations ([`llm_rows`],
//! [`wake_changes`], [`event_rows`]), so that a row is the fold of the journal wherever it is read.

mod committed;
mod event;
mod llm;
mod memory;
mod query;
mod sort;
mod wake;

pub use committed::{Committed, CommittedBody, RawMessage, RecordedEvent, provider_aggregate_id};
pub use event::{EventPosition, EventRow, event_rows, parse_events_cursor};
pub use llm::{LastWake, LlmKey, LlmKind, LlmRow, llm_rows};
pub use memory::{MAX_HELD_EVENTS, MAX_HELD_WAKES, MemoryRows};
pub use query::{
    Cursor, DEFAULT_PAGE_ROWS, EventQuery, LlmQuery, MAX_PAGE_ROWS, Page, PageLimit, READ_WAIT, Rows,
    RowsError, WakeQuery, reach,
};
pub use sort::{EventRange, EventSort, LlmSort, Place, RowKey, Sort, SortBy, SortKind, SortValue, WakeSort};
pub use wake::{WakeChange, WakeEnd, WakeOutcomeName, WakePosition, WakeRow, wake_changes};

#[cfg(test)]
mod tests;
