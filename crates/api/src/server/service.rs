//! Answers the requests of one connection, refused ones included.

use crate::guarded_body::GuardedBody;
use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, header::CONNECTION},
    response::Response,
};
use futures::future::BoxFuture;
use hyper::{body::Incoming, service::Service};
use reveille_http1_guard::{ConnectionState, ProtocolError, REFUSED_METHOD};
use std::{convert::Infallible, sync::Arc};
use tower_service::Service as _;

/// Makes the response to bytes that make no request.
pub type Refuse = Arc<dyn Fn(ProtocolError) -> Response + Send + Sync>;

/// Calls the router with the requests that pass the guard.
pub struct GuardedService {
    pub router: Router,
    pub connection: ConnectionState,
    pub refuse: Refuse,
}

impl Service<Request<Incoming>> for GuardedService {
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
            return Box::pin(async { Ok(response.map(guarded)) });
        }
        let (response, connection) = (self.router.clone().call(request), self.connection.clone());
        Box::pin(async move {
            let Ok(mut response) = response.await;
            if connection.is_body_open() {
                // The rest of the body would be read as the next request, so this one is the last.
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(guarded))
        })
    }
}
