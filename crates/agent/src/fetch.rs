//! The HTTP client for probes and recipes, and short reasons for what goes wrong with it.
//!
//! Reasons go to others in a wake's outcome, so none of them holds a URL, a header or a body.

use std::{error::Error, io, time::Duration};

/// A client for probes and recipes: no redirects (a login page is not a backend), no proxy (backends are local), and
/// no kept connections (a backend that has just restarted would break them).
///
/// The process must have installed a TLS provider.
///
/// # Errors
/// When the TLS set-up of the system can't be used.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(0)
        .user_agent(concat!("reveille-agent/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Why a request got no usable answer.
pub(crate) fn reason(error: &reqwest::Error, limit: Duration) -> String {
    if error.is_timeout() {
        return format!("no answer within {limit:?}");
    }
    if let Some(kind) = io_kind(error) {
        return kind.to_string();
    }
    if error.is_connect() {
        "could not connect".to_owned()
    } else {
        "the connection broke".to_owned()
    }
}

/// Whether nobody listens where the request went.
pub(crate) fn is_refused(error: &reqwest::Error) -> bool {
    io_kind(error) == Some(io::ErrorKind::ConnectionRefused)
}

/// The I/O error at the bottom, when it is one that tells people something.
fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    let mut cause = error.source();
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if let Some(kind @ (ConnectionRefused | HostUnreachable | NetworkUnreachable)) = kind {
            return Some(kind);
        }
        cause = error.source();
    }
    None
}
