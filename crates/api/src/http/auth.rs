//! Authenticates callers before any handler runs, and checks the scope that a group of paths needs.

use super::{ApiError, AppState};
use crate::{
    guarded_body::GuardedBody,
    keys::{Caller, Denied},
};
use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use futures::{
    FutureExt,
    future::{BoxFuture, Either, ready},
};
use std::{
    convert::Infallible,
    task::{Context, Poll},
};
use tower::{Layer, Service};
use tracing::debug;

/// Passes on the requests of callers that are known and have what `check` asks for, with the caller among their extensions. A request
/// counts against its key until the response's body has ended or the client has disconnected.
#[derive(Clone)]
pub(super) struct Authenticate {
    pub state: AppState,
    /// What a caller needs for a group of paths.
    pub check: fn(&Caller) -> Result<(), Denied>,
}

impl<S> Layer<S> for Authenticate {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { state, check } = self.clone();
        Authenticated { inner, state, check }
    }
}

#[derive(Clone)]
pub(super) struct Authenticated<S> {
    inner: S,
    state: AppState,
    check: fn(&Caller) -> Result<(), Denied>,
}

impl<S> Service<Request> for Authenticated<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let refused = |denied: Denied| ready(Ok(ApiError::from(denied).into_response()));
        let (caller, permit) = match self.state.authenticator.authenticate(request.headers()) {
            Ok(known) => known,
            Err(denied) => return refused(denied).boxed(),
        };
        let key = caller.key().cloned();
        let answering = match (self.check)(&caller) {
            Ok(()) => {
                request.extensions_mut().insert(caller);
                Either::Right(self.inner.call(request))
            }
            Err(denied) => Either::Left(refused(denied)),
        };
        let answered = move |Ok(response): Result<Response, Infallible>| {
            if let Some(key) = key {
                let status = response.status().as_u16();
                debug!(key.id = %key, http.status = status, "answered {status} to key {key}");
            }
            Ok(match permit {
                None => response,
                Some(permit) => response.map(|body| Body::new(GuardedBody::new(body, permit))),
            })
        };
        answering.map(answered).boxed()
    }
}
