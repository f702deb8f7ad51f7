//! The last requests, as many as there is room for.

use super::{
    query::{RequestPage, RequestQuery},
    record::RequestRecord,
};
use crate::{ids::RecordId, rows::RowsError};
use std::{cmp::Reverse, collections::VecDeque, sync::Arc};

/// The most requests that are held.
pub const MAX_HELD_REQUESTS: usize = 10_000;
/// The most memory that they may take, in bytes.
pub const MAX_HELD_BYTES: usize = 32 * 1024 * 1024;

/// The requests that ended last, in the order in which they came in.
#[derive(Debug)]
pub struct RecentRequests {
    held: VecDeque<Held>,
    bytes: usize,
    max_requests: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Held {
    record: Arc<RequestRecord>,
    bytes: usize,
}

impl Default for RecentRequests {
    fn default() -> Self {
        Self::bounded(MAX_HELD_REQUESTS, MAX_HELD_BYTES)
    }
}

impl RecentRequests {
    /// Holds so many requests at most, and so many bytes.
    #[must_use]
    pub const fn bounded(max_requests: usize, max_bytes: usize) -> Self {
        Self {
            held: VecDeque::new(),
            bytes: 0,
            max_requests,
            max_bytes,
        }
    }

    /// Takes in a request that has ended after those that are held. Returns one that there is no more room for, to be dropped
    /// when no lock is held.
    pub fn push(&mut self, record: Arc<RequestRecord>) -> Option<Arc<RequestRecord>> {
        let bytes = record.bytes();
        self.bytes += bytes;
        self.held.push_back(Held { record, bytes });
        let mut dropped = None;
        while self.held.len() > self.max_requests || self.bytes > self.max_bytes {
            let oldest = self.held.pop_front()?;
            self.bytes -= oldest.bytes;
            dropped = Some(oldest.record);
        }
        dropped
    }

    /// How many are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Those that are held, the one that came in last first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<RequestRecord>> {
        self.held.iter().rev().map(|held| &held.record)
    }

    /// Those that pass the filters of `query`, the last received first.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when the cursor doesn't belong to requests.
    pub fn page(&self, query: &RequestQuery) -> Result<RequestPage, RowsError> {
        RequestPage::of(self.iter().cloned(), query)
    }

    /// The requests with this id, or the one with this record's id; the last received first.
    #[must_use]
    pub fn find(&self, id: &str) -> Vec<Arc<RequestRecord>> {
        let record_id = id.parse().ok().map(RecordId);
        let is_it =
            |record: &Arc<RequestRecord>| record.request_id == id || Some(record.record_id) == record_id;
        let mut found: Vec<_> = self.iter().filter(|record| is_it(record)).cloned().collect();
        found.sort_unstable_by_key(|record| Reverse(record.record_id));
        found
    }
}
