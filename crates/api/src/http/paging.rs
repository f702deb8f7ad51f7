//! Parts of lists.
//!
//! A page is `{"data": […], "next": cursor | null, "applied": sequence}`: `next` continues it, `applied` is the journal
//! sequence that it includes, and `min_seq` waits for one, so that clients can read their own writes. `sort` orders a
//! list, and `after` continues from a cursor in that order.

use super::{ApiError, AppState, extract::parsed};
use axum::Json;
use reveille_domain::{
    as_of::Moment,
    rows::{self, Cursor, PageLimit, RowKey, Rows, RowsError, Sort, SortBy, SortKey},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(super) type JsonResult<T> = Result<Json<T>, ApiError>;

#[derive(Debug, Serialize)]
pub(super) struct Page<T> {
    data: Vec<T>,
    next: Option<Cursor>,
    applied: u64,
}

impl<T> Page<T> {
    pub(super) fn of<R>(page: rows::Page<R>, shown: impl FnMut(R) -> T) -> Self {
        Self {
            data: page.items.into_iter().map(shown).collect(),
            next: page.next,
            applied: page.applied_seq,
        }
    }
}

impl<T> From<rows::Page<T>> for Page<T> {
    fn from(page: rows::Page<T>) -> Self {
        Self::of(page, |row| row)
    }
}

/// Which part of a list without filters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "By: SortBy")]
pub(super) struct Listed<By> {
    #[serde(default, deserialize_with = "parsed")]
    sort: Option<Sort<By>>,
    after: Option<Cursor>,
    #[serde(default, rename = "limit", deserialize_with = "parsed")]
    rows: Option<u32>,
    #[serde(default, deserialize_with = "parsed")]
    min_seq: Option<u64>,
    #[serde(default, deserialize_with = "parsed")]
    at: Option<Moment>,
}

impl<By: SortBy> Listed<By> {
    /// The moment of the past that is asked for.
    pub(super) const fn at(&self) -> Option<Moment> {
        self.at
    }

    /// The same part of rows of the past, which end with the commit `applied`.
    pub(super) fn past<T, K: RowKey>(
        self,
        rows: Vec<T>,
        applied: u64,
        sort_key: impl Fn(&T, By) -> SortKey<K>,
    ) -> Result<Page<T>, ApiError> {
        let (sort, after) = (self.sort.unwrap_or_default(), self.after.as_ref());
        Ok(rows::Page::sorted(rows, sort, after, limit(self.rows), applied, sort_key)?.into())
    }

    /// That part of `list`, whose rows are in the fold in memory.
    pub(super) async fn page<T, K: RowKey>(
        self,
        state: &AppState,
        list: impl FnOnce() -> Vec<T>,
        sort_key: impl Fn(&T, By) -> SortKey<K>,
    ) -> Result<rows::Page<T>, ApiError> {
        folded(state, self.min_seq).await?;
        let (sort, limit, applied) = (
            self.sort.unwrap_or_default(),
            limit(self.rows),
            state.registry.applied(),
        );
        let after = self.after.as_ref();
        Ok(rows::Page::sorted(list(), sort, after, limit, applied, sort_key)?)
    }
}

/// Waits until the row store includes the commit that the caller wants to see.
pub(super) async fn reach(rows: &dyn Rows, min_seq: Option<u64>) -> Result<(), ApiError> {
    match min_seq {
        Some(seq) => Ok(rows::reach(rows, seq, tokio::time::sleep).await?),
        None => Ok(()),
    }
}

/// Waits until the fold in memory includes the commit that the caller wants to see.
pub(super) async fn folded(state: &AppState, min_seq: Option<u64>) -> Result<(), ApiError> {
    let registry = &state.registry;
    let until = Instant::now() + state.limits.timings.fold;
    match min_seq {
        Some(seq) if !registry.applied_to(seq, until).await => Err(RowsError::Behind {
            at: registry.applied(),
        }
        .into()),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn limit(rows: Option<u32>) -> PageLimit {
    rows.map_or_else(PageLimit::default, PageLimit::new)
}
