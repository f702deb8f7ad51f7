//! Wakes, newest first by default.

use crate::http::{
    ApiError, AppState,
    extract::{Path, Query, parsed},
    paging::{JsonResult, Page, limit, reach},
};
use axum::{Json, extract::State};
use reveille_domain::{
    AgentName, ProviderId, WakeId,
    rows::{Cursor, Sort, WakeOutcomeFilter, WakeQuery, WakeRow, WakeSort},
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Filter {
    #[serde(default, deserialize_with = "parsed")]
    provider: Option<ProviderId>,
    #[serde(default, deserialize_with = "parsed")]
    agent: Option<AgentName>,
    #[serde(default, deserialize_with = "parsed")]
    outcome: Option<WakeOutcomeFilter>,
    #[serde(default, deserialize_with = "parsed")]
    sort: Option<Sort<WakeSort>>,
    /// Its earlier name was `before`.
    #[serde(alias = "before")]
    after: Option<Cursor>,
    #[serde(default, rename = "limit", deserialize_with = "parsed")]
    rows: Option<u32>,
    #[serde(default, deserialize_with = "parsed")]
    min_seq: Option<u64>,
}

pub(in crate::http) async fn list(
    State(state): State<AppState>,
    Query(filter): Query<Filter>,
) -> JsonResult<Page<WakeRow>> {
    let query = WakeQuery {
        provider: filter.provider,
        agent: filter.agent,
        outcome: filter.outcome,
        sort: filter.sort.unwrap_or_default(),
        after: filter.after,
        limit: limit(filter.rows),
        min_seq: filter.min_seq,
    };
    reach(&*state.rows, query.min_seq).await?;
    Ok(Json(state.rows.wakes(&query).await?.into()))
}

pub(in crate::http) async fn one(
    State(state): State<AppState>,
    Path(id): Path<WakeId>,
) -> JsonResult<WakeRow> {
    let row = state.rows.wake(id).await?;
    row.map(Json).ok_or_else(|| ApiError::NotFound {
        what: "wake",
        name: id.to_string(),
    })
}
