//! The query port: what can be asked of the rows, in pages of bounded length.

use super::{
    event::{EventPosition, EventRange, EventRow, EventSort, parse_events_cursor},
    llm::{LlmRow, LlmSort},
    page::{Cursor, Page, PageLimit, RowsError},
    sort::Sort,
    wake::{WakeOutcomeFilter, WakeRow, WakeSort},
};
use crate::{
    ids::WakeId,
    names::{AgentName, ModelName, ProviderId, ProviderName},
    provider::StatusName,
};
use async_trait::async_trait;
use std::time::Duration;

/// How long [`reach`] waits for the rows.
pub const READ_WAIT: Duration = Duration::from_secs(3);
/// How often [`reach`] checks.
const READ_POLL: Duration = Duration::from_millis(25);

/// Reads LLM rows, wakes and events.
///
/// With `min_seq` a client reads its own writes: rows that haven't reached that commit answer [`RowsError::Behind`] at
/// once, and [`reach`] waits for them. The port itself never waits, so that both implementations behave alike and
/// neither needs a clock.
#[async_trait]
pub trait Rows: Send + Sync {
    /// LLM rows, by default sorted by name.
    async fn llms(&self, query: &LlmQuery) -> Result<Page<LlmRow>, RowsError>;
    /// Wakes, by default newest first.
    async fn wakes(&self, query: &WakeQuery) -> Result<Page<WakeRow>, RowsError>;
    /// One wake.
    async fn wake(&self, id: WakeId) -> Result<Option<WakeRow>, RowsError>;
    /// Events, by default oldest first.
    async fn events(&self, query: &EventQuery) -> Result<Page<EventRow>, RowsError>;
    /// The journal sequence of the last commit in the rows; 0 before the first.
    async fn applied(&self) -> Result<u64, RowsError>;
}

/// Waits until `rows` have reached the commit `seq`, at most [`READ_WAIT`]. `sleep` is the runtime's, such as
/// `tokio::time::sleep`.
///
/// # Errors
/// [`RowsError::Behind`] when they don't get there in time.
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
    /// Only once the rows have reached this commit.
    pub min_seq: Option<u64>,
}

/// Which wakes; absent filters match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WakeQuery {
    /// Of this provider.
    pub provider: Option<ProviderId>,
    /// Of this agent's providers.
    pub agent: Option<AgentName>,
    /// With this outcome.
    pub outcome: Option<WakeOutcomeFilter>,
    /// In this order.
    pub sort: Sort<WakeSort>,
    /// After this one, in that order.
    pub after: Option<Cursor>,
    /// How many.
    pub limit: PageLimit,
    /// Only once the rows have reached this commit.
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
    /// After this event, in that order.
    pub after: Option<Cursor>,
    /// How many.
    pub limit: PageLimit,
    /// Only once the rows have reached this commit.
    pub min_seq: Option<u64>,
}

fn admits<T: PartialEq>(filter: Option<&T>, value: &T) -> bool {
    filter.is_none_or(|wanted| wanted == value)
}

impl LlmQuery {
    /// Whether `row` passes the filters.
    #[must_use]
    pub fn matches(&self, row: &LlmRow) -> bool {
        admits(self.agent.as_ref(), &row.agent)
            && admits(self.provider.as_ref(), &row.provider)
            && admits(self.model.as_ref(), &row.model)
            && admits(self.status.as_ref(), &row.status)
    }
}

impl WakeQuery {
    /// Whether `row` passes the filters.
    #[must_use]
    pub fn matches(&self, row: &WakeRow) -> bool {
        admits(self.provider.as_ref(), &row.provider)
            && admits(self.agent.as_ref(), &row.provider.agent)
            && self.outcome.is_none_or(|outcome| outcome.admits(row))
    }
}

impl EventQuery {
    /// Whether `row` passes the filters.
    #[must_use]
    pub fn matches(&self, row: &EventRow) -> bool {
        admits(self.aggregate_type.as_ref(), &row.aggregate_type)
            && admits(self.aggregate_id.as_ref(), &row.aggregate_id)
            && admits(self.event_type.as_ref(), &row.event_type)
    }

    /// The part of the journal that the query covers.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when the cursor doesn't belong to events.
    pub fn range(&self) -> Result<EventRange, RowsError> {
        let cursor = self.after.as_ref().map(parse_events_cursor).transpose()?;
        // The sequences of streams begin at 1.
        let after = self
            .after_seq
            .map(EventPosition::after_commit)
            .unwrap_or_default();
        if !self.sort.descending {
            let after = cursor.unwrap_or_default().max(after);
            return Ok(EventRange { after, before: None });
        }
        // Read backwards, a cursor that means a whole commit leaves out all of its events.
        let before = cursor.map(|cursor| match cursor.index {
            u32::MAX => EventPosition { index: 0, ..cursor },
            _ => cursor,
        });
        Ok(EventRange { after, before })
    }
}
