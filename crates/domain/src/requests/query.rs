//! What can be asked of past requests.

use super::{
    record::RequestRecord,
    usage::{UsageKey, UsageRow},
};
use crate::{
    ids::{RecordId, WakeId},
    names::{KeyId, ModelName, ProviderId},
    rows::{Cursor, PageLimit, RowsError},
    time::Timestamp,
};
use async_trait::async_trait;
use std::{cmp::Reverse, sync::Arc};

/// A request that waits longer for the first byte of its answer is slow, in milliseconds.
pub const SLOW_MS: u64 = 5_000;

/// Reads the requests and the usage that a store has.
#[async_trait]
pub trait PastRequests: Send + Sync {
    /// Requests that have ended, the last received first.
    async fn requests(&self, query: &RequestQuery) -> Result<RequestPage, RowsError>;

    /// The requests with this id, or the one with this record's id; the last received first.
    async fn request(&self, id: &str) -> Result<Vec<Arc<RequestRecord>>, RowsError>;

    /// Usage by hour, the latest hours first.
    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, RowsError>;
}

/// Which requests; absent filters match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestQuery {
    /// Received at this time or later.
    pub since: Option<Timestamp>,
    /// For this model, with or without the names of an agent and a provider before it.
    pub model: Option<ModelName>,
    /// With this key.
    pub key: Option<KeyId>,
    /// Answered by this provider, or failed there.
    pub provider: Option<ProviderId>,
    /// That waited for this wake.
    pub wake: Option<WakeId>,
    /// That waited so long for their first byte, in milliseconds.
    pub slow_ms: Option<u64>,
    /// That failed or broke off.
    pub failed: bool,
    /// Received before the one with this record's id.
    pub after: Option<Cursor>,
    /// How many.
    pub limit: PageLimit,
}

/// Some requests, the last received first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestPage {
    /// The requests.
    pub items: Vec<Arc<RequestRecord>>,
    /// The cursor of the next page; absent on the last page.
    pub next: Option<Cursor>,
}

/// Which usage; absent filters match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// Of hours that end after this time.
    pub since: Option<Timestamp>,
    /// Of this key.
    pub key: Option<KeyId>,
    /// Of this model.
    pub model: Option<ModelName>,
    /// At this provider.
    pub provider: Option<ProviderId>,
    /// After the row that this cursor names.
    pub after: Option<Cursor>,
    /// How many rows.
    pub limit: PageLimit,
}

/// Some rows of usage, the latest hours first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsagePage {
    /// The rows.
    pub items: Vec<UsageRow>,
    /// The cursor of the next page; absent on the last page.
    pub next: Option<Cursor>,
}

impl RequestQuery {
    /// Whether a record passes the filters. The cursor is no filter.
    #[must_use]
    pub fn matches(&self, record: &RequestRecord) -> bool {
        let is_slow = |least: u64| record.waited_ms().is_some_and(|waited| waited >= least);
        self.since.is_none_or(|since| record.received_at_ms >= since)
            && self.model.as_ref().is_none_or(|model| asks_for(record, model))
            && self
                .key
                .as_ref()
                .is_none_or(|key| record.key.as_ref() == Some(key))
            && self
                .provider
                .as_ref()
                .is_none_or(|provider| record.provider.as_ref() == Some(provider))
            && self.wake.is_none_or(|wake| record.wake_id == Some(wake))
            && self.slow_ms.is_none_or(is_slow)
            && (!self.failed || record.outcome.is_failure())
    }

    /// The record before which the page begins.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when the cursor doesn't belong to requests.
    pub fn before(&self) -> Result<Option<RecordId>, RowsError> {
        let parse = |cursor: &Cursor| cursor.as_str().parse().map(RecordId);
        let before = self.after.as_ref().map(parse).transpose();
        before.map_err(|_| RowsError::BadCursor)
    }
}

fn asks_for(record: &RequestRecord, model: &ModelName) -> bool {
    record.model.as_ref().is_some_and(|asked| {
        let before = asked.as_str().strip_suffix(model.as_str());
        before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    })
}

impl RequestPage {
    /// Those of `records` that pass the filters of `query`, the last received first, each once.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when the cursor doesn't belong to requests.
    pub fn of(
        records: impl IntoIterator<Item = Arc<RequestRecord>>,
        query: &RequestQuery,
    ) -> Result<Self, RowsError> {
        let before = query.before()?;
        let follows = |id: RecordId| before.is_none_or(|before| id < before);
        let wanted = records
            .into_iter()
            .filter(|record| follows(record.record_id) && query.matches(record));
        let mut records: Vec<_> = wanted.collect();
        records.sort_unstable_by_key(|record| Reverse(record.record_id));
        records.dedup_by_key(|record| record.record_id);
        Ok(Self::cut(records, query.limit))
    }

    /// A page of at most `limit` of `records`, which holds one more when there is a next page.
    #[must_use]
    pub fn cut(mut records: Vec<Arc<RequestRecord>>, limit: PageLimit) -> Self {
        let more = records.len() > limit.rows();
        records.truncate(limit.rows());
        let next = records.last().filter(|_| more).map(Self::cursor);
        Self { items: records, next }
    }

    /// The cursor that points at a record.
    #[must_use]
    pub fn cursor(record: &Arc<RequestRecord>) -> Cursor {
        Cursor::new(record.record_id.to_string())
    }
}

impl UsagePage {
    /// Those of `rows` that pass the filters of `query`.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when the cursor doesn't belong to usage.
    pub fn of(rows: impl IntoIterator<Item = UsageRow>, query: &UsageQuery) -> Result<Self, RowsError> {
        let after = query.after_key()?;
        let follows = |key: &UsageKey| after.as_ref().is_none_or(|after| key.place() > after.place());
        let wanted = rows
            .into_iter()
            .filter(|row| follows(&row.key) && query.matches(&row.key));
        let mut rows: Vec<_> = wanted.collect();
        rows.sort_by(|one, other| one.key.place().cmp(&other.key.place()));
        Ok(Self::cut(rows, query.limit))
    }

    /// A page of at most `limit` of `rows`, which holds one more when there is a next page.
    #[must_use]
    pub fn cut(mut rows: Vec<UsageRow>, limit: PageLimit) -> Self {
        let more = rows.len() > limit.rows();
        rows.truncate(limit.rows());
        let last = rows.last().filter(|_| more);
        let cursor = |row: &UsageRow| serde_json::to_string(&row.key).map(Cursor::new).ok();
        let next = last.and_then(cursor);
        Self { items: rows, next }
    }
}

impl UsageQuery {
    /// The row after which the page begins.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when the cursor doesn't belong to usage.
    pub fn after_key(&self) -> Result<Option<UsageKey>, RowsError> {
        let parse = |cursor: &Cursor| serde_json::from_str(cursor.as_str());
        let after = self.after.as_ref().map(parse).transpose();
        after.map_err(|_| RowsError::BadCursor)
    }

    /// Whether usage of `key` passes the filters.
    #[must_use]
    pub fn matches(&self, key: &UsageKey) -> bool {
        self.since.is_none_or(|since| key.ends_after(since))
            && self
                .key
                .as_ref()
                .is_none_or(|wanted| key.key.as_ref() == Some(wanted))
            && self
                .model
                .as_ref()
                .is_none_or(|wanted| key.model.as_ref() == Some(wanted))
            && self
                .provider
                .as_ref()
                .is_none_or(|wanted| key.provider.as_ref() == Some(wanted))
    }
}
