//! LLM rows.

use super::{Answered, Page, limit, reach};
use crate::http::{
    ApiError, AppState,
    extract::{Path, Query, parsed},
};
use axum::{Json, extract::State};
use reveille_domain::{
    AgentName, ModelName, ProviderName,
    provider::StatusName,
    rows::{Cursor, LlmQuery, LlmRow, PageLimit},
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    #[serde(default, deserialize_with = "parsed")]
    agent: Option<AgentName>,
    #[serde(default, deserialize_with = "parsed")]
    provider: Option<ProviderName>,
    #[serde(default, deserialize_with = "parsed")]
    model: Option<ModelName>,
    #[serde(default, deserialize_with = "parsed")]
    status: Option<StatusName>,
    after: Option<Cursor>,
    #[serde(default, rename = "limit", deserialize_with = "parsed")]
    rows: Option<u32>,
    #[serde(default, deserialize_with = "parsed")]
    min_seq: Option<u64>,
}

pub(super) async fn list(
    State(state): State<AppState>,
    Query(filter): Query<Filter>,
) -> Answered<Page<LlmRow>> {
    let Filter {
        agent,
        provider,
        model,
        status,
        after,
        rows,
        min_seq,
    } = filter;
    let query = LlmQuery {
        agent,
        provider,
        model,
        status,
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
