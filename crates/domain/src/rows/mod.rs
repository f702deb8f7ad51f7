//! What the query API shows: LLM rows, wakes and events, derived from the journal's commits by pure functions, and the
//! port through which they are read.
//!
//! [`Rows`] has two implementations with the same answers: [`MemoryRows`], a fold of what is recent, and the projector's
//! Postgres tables. Both take in [`RowSource`] and call the same derivations ([`llm_rows`], [`wake_changes`],
//! [`event_rows`]), so a row is the fold of the journal in either.

mod event;
mod llm;
mod memory;
mod page;
mod query;
mod row_source;
mod sort;
mod wake;

pub use event::{EventPosition, EventRange, EventRow, EventSort, event_rows, parse_events_cursor};
pub use llm::{LastWake, LlmKey, LlmKind, LlmRow, LlmSort, llm_rows};
pub use memory::{LoadedAt, MAX_HELD_EVENTS, MAX_HELD_WAKES, MemoryRows};
pub use page::{Cursor, DEFAULT_PAGE_ROWS, MAX_PAGE_ROWS, Page, PageLimit, RowsError};
pub use query::{EventQuery, LlmQuery, READ_WAIT, Rows, WakeQuery, reach};
pub use row_source::{RawMessage, RecordedEvent, RowSource, SourceBody, provider_aggregate_id};
pub use sort::{RowKey, Sort, SortBy, SortKey, SortKind, SortValue};
pub use wake::{
    WakeChange, WakeEnd, WakeOutcomeFilter, WakeOutcomeName, WakePosition, WakeRow, WakeSort, wake_changes,
};

#[cfg(test)]
mod tests;
