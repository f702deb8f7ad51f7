//! LLM rows.

use super::{Answered, Page, Published, limit, reach};
use crate::http::{
    ApiError, AppState,
    extract::{Path, Query},
};
use axum::{Json, extract::State};
use reveille_domain::{
    AgentName, ModelName,
    rows::{LlmQuery, LlmRow, PageLimit},
};

pub(super) async fn list(
    State(state): State<AppState>,
    Query(filter): Query<Published>,
) -> Answered<Page<LlmRow>> {
    let Published {
        agent,
        provider,
        model,
        status,
        sort,
        after,
        rows,
        min_seq,
    } = filter;
    let query = LlmQuery {
        agent,
        provider,
        model,
        status,
        sort: sort.unwrap_or_default(),
        after,
        limit: limit(rows),
        min_seq,
    };
    reach(&*state.inner.rows, min_seq).await?;
    Ok(Json(state.inner.rows.llms(&query).await?.into()))
}

pub(super) async fn one(
    State(state): State<AppState>,
    Path((agent, model)): Path<(AgentName, ModelName)>,
) -> Answered<LlmRow> {
    let name = format!("{agent}/{model}");
    let query = LlmQuery {
        agent: Some(agent),
        model: Some(model),
        limit: PageLimit::new(1),
        ..LlmQuery::default()
    };
    let row = state.inner.rows.llms(&query).await?.items.pop();
    row.map(Json).ok_or(ApiError::NotFound { what: "LLM", name })
}
