//! Pages of a list: how long one is, where it ends, and why there may be none.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The length of a page when the query sets none, in rows.
pub const DEFAULT_PAGE_ROWS: u32 = 100;
/// The longest page, in rows.
pub const MAX_PAGE_ROWS: u32 = 1_000;

/// Why a query gets no rows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RowsError {
    /// The store is unreachable. The reason is for logs, not for callers.
    #[error("the rows are unavailable: {0}")]
    Unavailable(String),
    /// The rows have not reached the commit that the query asks for.
    #[error("the rows are behind: they have reached commit {at} of the journal")]
    Behind {
        /// The last commit in the rows.
        at: u64,
    },
    /// The cursor doesn't belong to this list in this order.
    #[error("the cursor doesn't belong to this list")]
    BadCursor,
    /// Memory holds recent events only; the journal and Postgres have the older ones.
    #[error("events before {from_seq} are not held in memory")]
    NotHeld {
        /// The first commit whose events are held.
        from_seq: u64,
    },
}

/// Where a page ends. Opaque to clients, who send it back to get the next page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// A cursor as a client sent it. It is parsed when it is used.
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

/// The most rows of a page, between 1 and [`MAX_PAGE_ROWS`].
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

/// Some rows in order, and the cursor of the next page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// The cursor of the next page; absent on the last page.
    pub next: Option<Cursor>,
    /// The commit that the rows had reached when they were read, or an earlier one.
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

    /// The same page with each row turned into another.
    #[must_use]
    pub fn map<U>(self, row: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(row).collect(),
            next: self.next,
            applied_seq: self.applied_seq,
        }
    }
}
