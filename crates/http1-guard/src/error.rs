//! Why bytes are refused before they make a request.

use std::time::Duration;
use thiserror::Error;

/// Why the bytes of a connection are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// HTTP on a port that speaks TLS.
    #[error("this port speaks TLS: use https:// in the URL")]
    WithoutTls,
    /// No HTTP/1.1 request.
    #[error("this is not an HTTP/1.1 request")]
    NotHttp,
    /// HTTP/1.1 without a `Host` (RFC 9112, section 3.2).
    #[error("an HTTP/1.1 request needs a Host header")]
    NoHost,
    /// More than one `Host`: a proxy in front and we could take different ones for the host.
    #[error("the request has more than one Host header")]
    ManyHosts,
    /// The body's end is ambiguous. What follows that end would be another request to us and part of the body to a proxy
    /// in front, or the reverse (RFC 9112, section 11.2).
    #[error(
        "the request is ambiguous about where its body ends: send one content-length, or `transfer-encoding: chunked`, \
         not both"
    )]
    UnclearLength,
    /// A head that arrives too slowly.
    #[error("the headers did not arrive within {} s", within.as_secs_f64())]
    SlowHead {
        /// The limit.
        within: Duration,
    },
    /// A request line that is too long.
    #[error("the request line is larger than {limit} bytes")]
    LongLine {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A head that is too large.
    #[error("the request line and the headers together are larger than {limit} bytes")]
    LargeHead {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Too many headers.
    #[error("the request has more than {limit} headers")]
    ManyFields {
        /// The limit.
        limit: usize,
    },
}
