//! Lists as of a moment of the past, from the journal.

use super::Published;
use crate::http::{
    ApiError, AppState,
    paging::{JsonResult, Page, limit},
};
use axum::Json;
use reveille_domain::{
    as_of::{Moment, PastProvider, World},
    rows::{self, LlmQuery, LlmRow},
};

/// Everything as of that moment.
pub(in crate::http) async fn world(state: &AppState, at: Moment) -> Result<World, ApiError> {
    state.past.as_of(at).await.map_err(ApiError::Journal)
}

/// The LLM rows as of that moment.
pub(super) async fn llms(state: &AppState, at: Moment, query: &LlmQuery) -> JsonResult<Page<LlmRow>> {
    let world = world(state, at).await?;
    let rows = world.llms().into_iter().filter(|row| query.matches(row));
    let (sort, after) = (query.sort, query.after.as_ref());
    let page = rows::Page::sorted(rows, sort, after, query.limit, world.sequence, LlmRow::sort_key)?;
    Ok(Json(page.into()))
}

/// The providers as of that moment.
pub(super) async fn providers(
    state: &AppState,
    at: Moment,
    filter: &Published,
) -> JsonResult<Page<PastProvider>> {
    let world = world(state, at).await?;
    let matches = |row: &PastProvider| {
        filter.agent.as_ref().is_none_or(|agent| *agent == row.agent)
            && filter.provider.as_ref().is_none_or(|name| *name == row.provider)
            && filter
                .model
                .as_ref()
                .is_none_or(|model| row.models.contains(model))
            && filter.status.is_none_or(|status| status == row.status)
    };
    let rows = world.providers().into_iter().filter(matches);
    let (sort, after, limit) = (
        filter.sort.unwrap_or_default(),
        filter.after.as_ref(),
        limit(filter.rows),
    );
    let page = rows::Page::sorted(rows, sort, after, limit, world.sequence, PastProvider::sort_key)?;
    Ok(Json(page.into()))
}
