//! Authenticates callers before any handler runs, and checks the scope that a group of paths needs.

use super::{ApiError, AppState};
use crate::{guarded_body::GuardedBody, keys::Caller};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use reveille_domain::Scope;
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

/// Passes callers that may query.
pub(super) async fn may_query(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    caller.require(Scope::Query)?;
    Ok(next.run(request).await)
}

/// Passes callers with a key that may administer: making keys and agents needs one on loopback too, so that another account
/// of this machine can't give itself a key that outlasts it.
pub(super) async fn may_make_keys(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    caller.require_key()?;
    caller.require(Scope::Admin)?;
    Ok(next.run(request).await)
}

/// Passes callers that may administer.
pub(super) async fn may_admin(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin)?;
    Ok(next.run(request).await)
}

/// Passes callers that may use some model.
pub(super) async fn may_infer(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    caller.require_infer()?;
    Ok(next.run(request).await)
}
