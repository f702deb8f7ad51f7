//! Who asks: found out before any handler runs, and what a group of paths needs of him.

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

/// Tells the handler who asks, or refuses him. His place among his key's requests is held until the answer's body is
/// over, or he is gone.
pub(super) async fn authenticate(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (caller, permit) = state.authenticator.authenticate(request.headers())?;
    let named = caller.key().cloned();
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if let Some(key) = named {
        let status = response.status().as_u16();
        debug!(key.id = %key, http.status = status, "answered {status} to the key {key}");
    }
    Ok(match permit {
        None => response,
        Some(permit) => response.map(|body| Body::new(GuardedBody::new(body, permit))),
    })
}

/// Lets through who may read what is and what was.
pub(super) async fn may_query(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    caller.require(Scope::Query)?;
    Ok(next.run(request).await)
}

/// Lets through who may make and revoke keys and agents: with a key, on loopback too, so that another account of this machine
/// can't make itself one that outlasts it.
pub(super) async fn may_make_keys(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    caller.require_key()?;
    caller.require(Scope::Admin)?;
    Ok(next.run(request).await)
}

/// Lets through who may change something.
pub(super) async fn may_admin(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin)?;
    Ok(next.run(request).await)
}

/// Lets through who may ask some model.
pub(super) async fn may_infer(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    caller.require_infer()?;
    Ok(next.run(request).await)
}
