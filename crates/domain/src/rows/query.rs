//! The query port: what can be asked of the rows, in pages of bounded length.

use super::{
    EventRange, EventRow, EventSort, LlmRow, LlmSort, Place, RowKey, Sort, SortBy, WakeOutcomeName, WakeRow,
    WakeSort,
};
use crate::{AgentName, ModelName, ProviderId, ProviderName, WakeId, provider::StatusName};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};
use thiserror::Error;

/// How many rows a page holds unless the query says.
pub const DEFAULT_PAGE_ROWS: u32 = 100;
/// How many rows a page holds at most.
pub const MAX_PAGE_ROWS: u32 = 1_000;
/// How long [`reach`] waits for rows to pass a sequence.
pub const READ_WAIT: Duration = Duration::from_secs(3);
/// How often it looks.
const READ_POLL: Duration = Duration::from_millis(25);

/// Reads LLM rows, wakes and events.
///
/// A query's `min_seq` reads one's own writes: rows that have not taken in that commit yet answer
/// [`RowsError::Behind`] at once; [`reach`] waits for them first. The port itself never waits, so that both
/// implementations behave alike and neither needs a clock.
#[async_trait]
pub trait Rows: Send + Sync {
    /// LLM rows, by their names unless the query says.
    async fn llms(&self, query: &LlmQuery) -> Result<Page<LlmRow>, RowsError>;
    /// Wakes, newest first unless the query says.
    async fn wakes(&self, query: &WakeQuery) -> Result<Page<WakeRow>, RowsError>;
    /// One wake.
    async fn wake(&self, id: WakeId) -> Result<Option<WakeRow>, RowsError>;
    /// Events, oldest first unless the query says.
    async fn events(&self, query: &EventQuery) -> Result<Page<EventRow>, RowsError>;
    /// The journal sequence of the last commit that the rows have taken in; 0 before the first.
    async fn applied(&self) -> Result<u64, RowsError>;
}

/// Waits until `rows` have taken in the commit `seq`, at most [`READ_WAIT`]. `sleep` is the runtime's own, such as
/// `tokio::time::sleep`.
///
/// # Errors
/// [`RowsError::Behind`] when they haven't by then.
pub async fn reach<S, F>(rows: &dyn Rows, seq: u64, sleep: S) -> Result<(), RowsError>
where
    S: Fn(Duration) -> F + Send,
    F: Future<Output = ()> + Send,
{
    let mut waited = Duration::ZERO;
    loop {
        let at = rows.applied().await?;
        if at >= seq {
            return Ok(());
        }
        if waited >= READ_WAIT {
            return Err(RowsError::Behind { at });
        }
        sleep(READ_POLL).await;
        waited += READ_POLL;
    }
}

/// Why the rows don't answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RowsError {
    /// The store can't be asked now; for logs, not for callers.
    #[error("the rows are not available: {0}")]
    Unavailable(String),
    /// The rows have not taken in what the query wants to see.
    #[error("the rows are behind: they have taken in the journal up to {at}")]
    Behind {
        /// The last commit they have taken in.
        at: u64,
    },
    /// The cursor was not given out by a page of this kind.
    #[error("the cursor is not one of this list's")]
    BadCursor,
    /// Memory holds recent events only; older ones are read from the journal itself, or from Postgres.
    #[error("events before {from_seq} are not held in memory")]
    NotHeld {
        /// The first commit whose events are held.
        from_seq: u64,
    },
}

/// Where a page ends: opaque to clients, given back to go on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// A cursor as a client gave it back; whether it is one shows when it is used.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many rows a page holds: between 1 and [`MAX_PAGE_ROWS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit(u32);

impl PageLimit {
    /// The nearest legal limit to `rows`.
    #[must_use]
    pub fn new(rows: u32) -> Self {
        Self(rows.clamp(1, MAX_PAGE_ROWS))
    }

    /// The limit.
    #[must_use]
    pub const fn rows(self) -> usize {
        self.0 as usize
    }
}

impl Default for PageLimit {
    fn default() -> Self {
        Self(DEFAULT_PAGE_ROWS)
    }
}

/// Some rows in order, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// The cursor of the next page; absent at the end.
    pub next: Option<Cursor>,
    /// The commit that the rows had taken in when they were read, or an earlier one.
    pub applied_seq: u64,
}

impl<T> Page<T> {
    /// A page of at most `limit` of `rows`, which holds one more when there is a next page.
    #[must_use]
    pub fn cut(mut rows: Vec<T>, limit: PageLimit, applied_seq: u64, cursor: impl Fn(&T) -> Cursor) -> Self {
        let more = rows.len() > limit.rows();
        rows.truncate(limit.rows());
        let next = rows.last().filter(|_| more).map(cursor);
        Self {
            items: rows,
            next,
            applied_seq,
        }
    }

    /// The page of `rows` that follows `after` in an order.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when the cursor isn't one of that order.
    pub fn sorted<By: SortBy, K: RowKey>(
        mut rows: Vec<T>,
        sort: Sort<By>,
        after: Option<&Cursor>,
        limit: PageLimit,
        applied_seq: u64,
        place: impl Fn(&T, By) -> Place<K>,
    ) -> Result<Self, RowsError> {
        let place = |row: &T| place(row, sort.by);
        if let Some(after) = after {
            let after = Place::parse(after, sort.by)?;
            rows.retain(|row| sort.order(&place(row), &after).is_gt());
        }
        rows.sort_by(|one, other| sort.order(&place(one), &place(other)));
        Ok(Self::cut(rows, limit, applied_seq, |row| place(row).cursor()))
    }
}

/// Which LLM rows; absent filters match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LlmQuery {
    /// Of this agent.
    pub agent: Option<AgentName>,
    /// Of providers with this name.
    pub provider: Option<ProviderName>,
    /// With this public model name.
    pub model: Option<ModelName>,
    /// With this status.
    pub status: Option<StatusName>,
    /// In this order.
    pub sort: Sort<LlmSort>,
    /// After this row, in that order.
    pub after: Option<Cursor>,
    /// How many.
    pub limit: PageLimit,
    /// Not before this commit is taken in.
    pub min_seq: Option<u64>,
}

/// Which wakes; absent filters match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WakeQuery {
    /// Of this provider.
    pub provider: Option<ProviderId>,
    /// Of this agent's providers.
    pub agent: Option<AgentName>,
    /// That stand or ended so.
    pub outcome: Option<WakeOutcomeName>,
    /// In this order.
    pub sort: Sort<WakeSort>,
    /// After this one, in that order.
    pub after: Option<Cursor>,
    /// How many.
    pub limit: PageLimit,
    /// Not before this commit is taken in.
    pub min_seq: Option<u64>,
}

/// Which events; absent filters match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Of aggregates of this type.
    pub aggregate_type: Option<String>,
    /// Of the aggregate with this id, such as `gpu-box.vllm` (see [`super::provider_aggregate_id`]).
    pub aggregate_id: Option<String>,
    /// Of this type.
    pub event_type: Option<String>,
    /// Of commits after this one.
    pub after_seq: Option<u64>,
    /// In this order.
    pub sort: Sort<EventSort>,
    /// After this event, in that order: a page's cursor.
    pub after: Option<Cursor>,
    /// How many.
    pub limit: PageLimit,
    /// Not before this commit is taken in.
    pub min_seq: Option<u64>,
}

impl LlmQuery {
    /// Whether `row` passes the filters.
    #[must_use]
    pub fn matches(&self, row: &LlmRow) -> bool {
        self.agent.as_ref().is_none_or(|agent| *agent == row.agent)
            && self
                .provider
                .as_ref()
                .is_none_or(|provider| *provider == row.provider)
            && self.model.as_ref().is_none_or(|model| *model == row.model)
            && self.status.is_none_or(|status| status == row.status)
    }
}

impl WakeQuery {
    /// Whether `row` passes the filters.
    #[must_use]
    pub fn matches(&self, row: &WakeRow) -> bool {
        self.provider
            .as_ref()
            .is_none_or(|provider| *provider == row.provider)
            && self
                .agent
                .as_ref()
                .is_none_or(|agent| *agent == row.provider.agent)
            && self.outcome.is_none_or(|outcome| outcome == row.outcome)
    }
}

impl EventQuery {
    /// Whether `row` passes the filters.
    #[must_use]
    pub fn matches(&self, row: &EventRow) -> bool {
        self.aggregate_type
            .as_ref()
            .is_none_or(|kind| *kind == row.aggregate_type)
            && self
                .aggregate_id
                .as_ref()
                .is_none_or(|id| *id == row.aggregate_id)
            && self
                .event_type
                .as_ref()
                .is_none_or(|kind| *kind == row.event_type)
    }

    /// Which part of the journal is asked for.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when the cursor isn't one of events.
    pub fn range(&self) -> Result<EventRange, RowsError> {
        EventRange::of(self.sort, self.after_seq, self.after.as_ref())
    }
}
