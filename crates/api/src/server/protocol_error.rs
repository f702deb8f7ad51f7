//! What is refused of a connection before there is a request.

use std::time::Duration;
use thiserror::Error;

/// Why the bytes of a connection are no request that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// HTTP where TLS is spoken.
    #[error("this port speaks TLS: use https:// in the URL")]
    WithoutTls,
    #[error("this is not an HTTP/1.1 request")]
    NotHttp,
    /// More than one word on where the body ends. What lies behind the end would be another request to us and a part of
    /// the body to a proxy in front, or the other way round (RFC 9112, section 11.2).
    #[error(
        "the request says in more than one way, or in none that is known, where its body ends: it needs one \
         content-length, or `transfer-encoding: chunked`, and not both"
    )]
    UnclearLength,
    #[error("the headers did not arrive within {} s", within.as_secs_f64())]
    SlowHead { within: Duration },
    #[error("the request line is larger than {limit} bytes")]
    LongLine { limit: usize },
    #[error("the request line and the headers together are larger than {limit} bytes")]
    LargeHead { limit: usize },
    #[error("the request has more than {limit} headers")]
    ManyFields { limit: usize },
}
