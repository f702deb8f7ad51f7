//! LLM rows.

use super::{Published, past};
use crate::http::{
    ApiError, AppState,
    extract::{Path, Query},
    paging::{JsonResult, Page, limit, reach},
};
use axum::{Json, extract::State};
use reveille_domain::{
    AgentName, ModelName, ProviderName,
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
    if let Some(at) = filter.at {
        return past::llms(&state, at, &query).await;
    }
    reach(&*state.rows, query.min_seq).await?;
    Ok(Json(state.rows.llms(&query).await?.into()))
}

/// The row of `agent/model`, or else of `agent/provider/model`. If several providers of the agent have the model, it is that of the
/// first one.
pub(in crate::http) async fn one(
    State(state): State<AppState>,
    Path((agent, model)): Path<(AgentName, ModelName)>,
) -> JsonResult<LlmRow> {
    let name = format!("{agent}/{model}");
    let of_provider = model.as_str().split_once('/');
    let of_provider = of_provider.and_then(|(provider, model)| {
        Some((ProviderName::parse(provider).ok()?, ModelName::parse(model).ok()?))
    });
    let mut query = LlmQuery {
        agent: Some(agent),
        model: Some(model),
        limit: PageLimit::new(1),
        ..LlmQuery::default()
    };
    let mut row = state.rows.llms(&query).await?.items.pop();
    if row.is_none()
        && let Some((provider, model)) = of_provider
    {
        (query.provider, query.model) = (Some(provider), Some(model));
        row = state.rows.llms(&query).await?.items.pop();
    }
    row.map(Json).ok_or(ApiError::NotFound { what: "LLM", name })
}
