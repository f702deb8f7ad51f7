//! Checks HTTP/1.1 before hyper sees it, so that every refusal is answered with its reason.
//!
//! hyper parses and answers; but what it refuses itself it answers with an empty body, or not at all, and it accepts a
//! request that has both lengths. So the guard holds each head until it is whole, and checks it. A refused head never
//! reaches hyper: the guard replaces it by a head of its own, and the service answers that one with the reason. So a
//! refusal is answered like a request: in its turn, after those before it, and then the connection is closed.

mod chunks;
mod exchange;
mod framing;
mod guard;
mod head;
mod service;

pub use exchange::Exchange;
pub(super) use exchange::Quiet;
pub use guard::Http1Guard;
pub use service::{GuardedService, Refuse};

use super::ServerLimits;
use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite};

/// Guards a connection: hyper serves the returned stream with the returned service.
pub fn guard<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    router: Router,
    refuse: Refuse,
    limits: &ServerLimits,
) -> (Http1Guard<S>, GuardedService, Exchange) {
    let exchange = Exchange::new();
    (
        Http1Guard::new(stream, exchange.clone(), limits),
        GuardedService::new(router, exchange.clone(), refuse),
        exchange,
    )
}
