//! Who asks: found out before any handler runs, and what a group of paths needs of him.

use super::{ApiError, AppState};
use crate::keys::{Caller, Permit};
use axum::{
    Extension,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http_body::{Frame, SizeHint};
use reveille_domain::Scope;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tracing::debug;

/// Tells the handler who asks, or refuses him. His place among his key's requests is held until the answer's body is
/// over, or he is gone.
pub(super) async fn authenticate(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (caller, permit) = state.inner.authenticator.authenticate(request.headers())?;
    let named = caller.key().cloned();
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if let Some(key) = named {
        let status = response.status().as_u16();
        debug!(key.id = %key, http.status = status, "answered {status} to the key {key}");
    }
    Ok(match permit {
        None => response,
        Some(permit) => response.map(|body| {
            Body::new(HeldBody {
                body,
                permit: Some(permit),
            })
        }),
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

/// A body during which its request counts as under way. The place is given back with the last bytes, so that whoever has
/// read them may ask again.
struct HeldBody {
    body: Body,
    permit: Option<Permit>,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.permit = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
