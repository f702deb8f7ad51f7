//! Authenticates callers before any handler runs, and checks the scope that a group of paths needs.

use super::{ApiError, AppState};
use crate::{
    guarded_body::GuardedBody,
    keys::{Caller, Denied},
};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tracing::debug;

/// Adds the caller to the request, or refuses it. The request counts against its key until the response's body has ended
/// or the client has disconnected.
pub(super) async fn authenticate(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (caller, permit) = state.authenticator.authenticate(request.headers())?;
    let key = caller.key().cloned();
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if let Some(key) = key {
        let status = response.status().as_u16();
        debug!(key.id = %key, http.status = status, "answered {status} to key {key}");
    }
    Ok(match permit {
        None => response,
        Some(permit) => response.map(|body| Body::new(GuardedBody::new(body, permit))),
    })
}

/// What a caller needs for a group of paths.
pub(super) type Check = fn(&Caller) -> Result<(), Denied>;

/// Passes callers that have what the paths need.
pub(super) async fn require(
    State(check): State<Check>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check(&caller)?;
    Ok(next.run(request).await)
}
