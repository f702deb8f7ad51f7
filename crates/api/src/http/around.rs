//! What is done around every request: it gets an id, and its response that id, the name of the hub, errors in the form of the
//! client's family, and a place in the counts.

use super::{AppState, error_response::family, hub, request_id::RequestId};
use axum::{
    extract::{MatchedPath, Request},
    response::Response,
};
use futures::{FutureExt, future::BoxFuture};
use std::{
    convert::Infallible,
    task::{Context, Poll},
};
use tower::{Layer, Service};
use tracing::Instrument;

/// The outermost layer.
#[derive(Clone)]
pub(super) struct AroundAll(pub AppState);

impl<S> Layer<S> for AroundAll {
    type Service = Around<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let state = self.0.clone();
        Around { inner, state }
    }
}

#[derive(Clone)]
pub(super) struct Around<S> {
    inner: S,
    state: AppState,
}

impl<S> Service<Request> for Around<S>
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
        let id = RequestId::of(&request);
        request.extensions_mut().insert(id.clone());
        let family = family::of_request(&request);
        // The pattern, so what a client writes into a path makes no label.
        let route = request.extensions().get::<MatchedPath>().cloned();
        let (state, span) = (self.state.clone(), id.span());
        let answering = span.in_scope(|| self.inner.call(request));
        let answered = move |Ok(mut response): Result<Response, Infallible>| {
            family::put_in_form(&mut response, family, &id);
            let route = route.as_ref().map(MatchedPath::as_str);
            state.metrics.answered(route, response.status().as_u16());
            hub::add_hub(response.headers_mut(), &state);
            id.name(&mut response);
            Ok(response)
        };
        answering.instrument(span).map(answered).boxed()
    }
}
