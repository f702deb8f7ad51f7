//! LLM rows.

use super::Published;
use crate::http::{
    ApiError, AppState,
    extract::{Path, Query},
    paging::{JsonResult, Page, limit, reach},
};
use axum::{Json, extract::State};
use reveille_domain::{
    AgentName, ModelName,
    rows::{LlmQuery, LlmRow, PageLimit},
};

pub(in crate::http) async fn list(
    State(state): State<AppState>,
    Query(filter): Query<Published>,
) -> JsonResult<Page<LlmRow>> {
    let query = LlmQuery {
        agent: filter.agent,
        provider: filter.provider,
        model: filter.model,
        status: filter.status,
        sort: filter.sort.unwrap_or_default(),
        after: filter.after,
        limit: limit(filter.rows),
        min_seq: filter.min_seq,
    };
    reach(&*state.rows, query.min_seq).await?;
    Ok(Json(state.rows.llms(&query).await?.into()))
}

pub(in crate::http) async fn one(
    State(state): State<AppState>,
    Path((agent, model)): Path<(AgentName, ModelName)>,
) -> JsonResult<LlmRow> {
    let name = format!("{agent}/{model}");
    let query = LlmQuery {
        agent: Some(agent),
        model: Some(model),
        limit: PageLimit::new(1),
        ..LlmQuery::default()
    };
    let row = state.rows.llms(&query).await?.items.pop();
    row.map(Json).ok_or(ApiError::NotFound { what: "LLM", name })
}
