//! `/reveille/v1`: what is and what was, in pages, waking and putting to sleep by hand, keys and agents.
//!
//! A page is `{"data": […], "next": cursor | null, "applied": sequence}`; `next` goes on from there, `applied` is the
//! journal sequence that the page has taken in, and `min_seq` waits for one, to read one's own writes. `sort` orders a list,
//! and `after` goes on from a cursor in that order.

mod events;
mod llms;
mod providers;
mod status;
mod wakes;

pub use events::EventFeed;

use super::{ApiError, AppState, agents, auth, extract::parsed, keys};
use axum::{
    Json, Router, middleware,
    routing::{delete, get, post},
};
use reveille_domain::{
    AgentName, ModelName, ProviderName,
    provider::StatusName,
    rows::{self, Cursor, LlmSort, PageLimit, READ_WAIT, RowKey, Rows, RowsError, Sort, SortBy, SortKey},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(super) fn routes() -> Router<AppState> {
    let queries = Router::new()
        .route("/llms", get(llms::list))
        .route("/llms/{agent}/{*model}", get(llms::one))
        .route("/providers", get(providers::list))
        .route("/providers/{agent}/{provider}", get(providers::one))
        .route("/wakes", get(wakes::list))
        .route("/wakes/{id}", get(wakes::one))
        .route("/events", get(events::list_or_follow))
        .route("/agents", get(agents::list))
        .route("/status", get(status::status))
        .route_layer(middleware::from_fn(auth::may_query));
    let orders = Router::new()
        .route("/providers/{agent}/{provider}/wake", post(providers::wake))
        .route("/providers/{agent}/{provider}/sleep", post(providers::sleep))
        .route("/agents/{agent}", delete(agents::revoke))
        .route("/agents/{agent}/tokens", post(agents::issue_token))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{id}", delete(keys::revoke))
        .route("/keys/{id}/rotate", post(keys::rotate))
        .route_layer(middleware::from_fn(auth::may_admin));
    queries.merge(orders)
}

/// Part of a list.
#[derive(Debug, Serialize)]
pub(in crate::http) struct Page<T> {
    data: Vec<T>,
    next: Option<Cursor>,
    applied: u64,
}

impl<T> Page<T> {
    /// What is shown of the rows of a page.
    pub(in crate::http) fn of<R>(page: rows::Page<R>, shown: impl FnMut(R) -> T) -> Self {
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

/// Which of what agents publish is asked for: LLMs and providers alike.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    #[serde(default, deserialize_with = "parsed")]
    agent: Option<AgentName>,
    #[serde(default, deserialize_with = "parsed")]
    provider: Option<ProviderName>,
    #[serde(default, deserialize_with = "parsed")]
    model: Option<ModelName>,
    #[serde(default, deserialize_with = "parsed")]
    status: Option<StatusName>,
    #[serde(default, deserialize_with = "parsed")]
    sort: Option<Sort<LlmSort>>,
    after: Option<Cursor>,
    #[serde(default, rename = "limit", deserialize_with = "parsed")]
    rows: Option<u32>,
    #[serde(default, deserialize_with = "parsed")]
    min_seq: Option<u64>,
}

/// Which part of a list without filters is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "By: SortBy")]
pub(in crate::http) struct Listed<By> {
    #[serde(default, deserialize_with = "parsed")]
    sort: Option<Sort<By>>,
    after: Option<Cursor>,
    #[serde(default, rename = "limit", deserialize_with = "parsed")]
    rows: Option<u32>,
    #[serde(default, deserialize_with = "parsed")]
    min_seq: Option<u64>,
}

impl<By: SortBy> Listed<By> {
    /// That part of `list`, whose rows are in the fold in memory.
    pub async fn page<T, K: RowKey>(
        self,
        state: &AppState,
        list: impl FnOnce() -> Vec<T>,
        sort_key: impl Fn(&T, By) -> SortKey<K>,
    ) -> Result<rows::Page<T>, ApiError> {
        folded(state, self.min_seq).await?;
        let (sort, limit, applied) = (
            self.sort.unwrap_or_default(),
            limit(self.rows),
            state.inner.fleet.applied(),
        );
        let after = self.after.as_ref();
        Ok(rows::Page::sorted(list(), sort, after, limit, applied, sort_key)?)
    }
}

/// Waits until the rows have taken in what the caller wants to see.
async fn reach(rows: &dyn Rows, min_seq: Option<u64>) -> Result<(), ApiError> {
    match min_seq {
        Some(seq) => Ok(rows::reach(rows, seq, tokio::time::sleep).await?),
        None => Ok(()),
    }
}

/// Waits until the fold in memory has taken in what the caller wants to see.
pub(in crate::http) async fn folded(state: &AppState, min_seq: Option<u64>) -> Result<(), ApiError> {
    let fleet = &state.inner.fleet;
    match min_seq {
        Some(seq) if !fleet.applied_to(seq, Instant::now() + READ_WAIT).await => {
            Err(RowsError::Behind { at: fleet.applied() }.into())
        }
        Some(_) | None => Ok(()),
    }
}

fn limit(rows: Option<u32>) -> PageLimit {
    rows.map_or_else(PageLimit::default, PageLimit::new)
}

type Answered<T> = Result<Json<T>, ApiError>;
