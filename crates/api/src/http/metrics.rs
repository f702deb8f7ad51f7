//! `/metrics`, and what is counted for it of every answer.

use super::{ApiError, AppState};
use crate::metrics::CONTENT_TYPE;
use axum::{
    extract::{MatchedPath, Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Counts the answer. The route is the pattern, so what a client writes into a path makes no label.
pub(super) async fn count(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map(MatchedPath::as_str);
    state
        .inner
        .fleet
        .metrics()
        .answered(route, response.status().as_u16());
    response
}

pub(super) async fn page(State(state): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    let fleet = &state.inner.fleet;
    // Writing to memory does not fail.
    let page = fleet.metrics().page(&**fleet).map_err(|_| ApiError::NotReady)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], page))
}
