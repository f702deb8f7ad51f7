//! Answers the requests of one connection, refused ones included.

use crate::guarded_body::GuardedBody;
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, header::CONNECTION},
    response::Response,
};
use futures::{FutureExt, future::BoxFuture};
use hyper::{body::Incoming, service::Service};
use reveille_http1_guard::{ConnectionState, ProtocolError, REFUSED_METHOD};
use std::{convert::Infallible, future::ready, sync::Arc};

/// Makes the response to bytes that make no request.
pub type Refuse = Arc<dyn Fn(ProtocolError) -> Response + Send + Sync>;

/// Answers requests.
pub trait Answers:
    tower::Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Answers for S where
    S: tower::Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Calls `answers` with the requests that pass the guard.
pub struct GuardedService<S> {
    pub answers: S,
    pub connection: ConnectionState,
    pub refuse: Refuse,
}

impl<S: Answers> Service<Request<Incoming>> for GuardedService<S> {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let under_way = self.connection.begin();
        let guarded = |body| Body::new(GuardedBody::new(body, under_way));
        if request.method().as_str() == REFUSED_METHOD
            && let Some(error) = self.connection.take_refusal()
        {
            let response = (self.refuse)(error);
            return ready(Ok(response.map(guarded))).boxed();
        }
        let connection = self.connection.clone();
        let answered = move |Ok(mut response): Result<Response, Infallible>| {
            if connection.is_body_open() {
                // The rest of the body would be read as the next request, so this one is the last.
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(guarded))
        };
        self.answers.clone().call(request).map(answered).boxed()
    }
}
