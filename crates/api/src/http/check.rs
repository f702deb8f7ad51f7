//! Checks of requests before a handler runs.
//!
//! A request may wait for minutes behind its checks, so that they add nothing to what it holds. Behind `axum::middleware::from_fn`, which
//! could do the same, each of them would take a kilobyte.

use super::ApiError;
use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use futures::future::{Either, Ready, ready};
use std::{
    convert::Infallible,
    task::{Context, Poll},
};
use tower::{Layer, Service};

/// Passes on the requests that a check lets through. The others get its error as their response.
#[derive(Clone)]
pub(super) struct Check<C>(pub C);

impl<S, C: Clone> Layer<S> for Check<C> {
    type Service = Checked<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let check = self.0.clone();
        Checked { inner, check }
    }
}

#[derive(Clone)]
pub(super) struct Checked<S, C> {
    inner: S,
    check: C,
}

impl<S, C, E> Service<Request> for Checked<S, C>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    C: Fn(&Request) -> Result<(), E>,
    E: Into<ApiError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response, Infallible>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match (self.check)(&request) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(error) => Either::Left(ready(Ok(error.into().into_response()))),
        }
    }
}
