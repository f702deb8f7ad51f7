//! The HTTP client for probes and recipes, bounded reading of answers, and short reasons for failures.
//!
//! Reasons leave this machine in a wake's outcome, so none of them contains a URL, a header or a body.

use crate::{
    AgentError,
    config::{Address, Secret, Trust, millis},
    tls,
};
use reqwest::{RequestBuilder, Response};
use reveille_bus::open_files;
use std::{error::Error, io, path::Path, time::Duration};

/// A client for probes and recipes. It follows no redirects (a login page is not a backend), uses no proxy (backends are
/// local) and keeps no connections (a backend that has just restarted would break them).
///
/// The process must have installed a TLS provider.
///
/// # Errors
/// When TLS can't be set up.
pub fn client() -> Result<reqwest::Client, AgentError> {
    client_for(&Trust::default(), None)
}

/// The same for servers that are trusted according to `trust`, or for the one at a Unix socket.
///
/// # Errors
/// When TLS can't be set up.
pub fn client_for(trust: &Trust, socket: Option<&Path>) -> Result<reqwest::Client, AgentError> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client_config(trust)?)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(0)
        .user_agent(concat!("reveille-agent/", env!("CARGO_PKG_VERSION")));
    if let Some(socket) = socket {
        builder = builder.unix_socket(socket);
    }
    Ok(builder.build()?)
}

/// The largest answer whose content is checked.
pub(crate) const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The request with the backend's key, if it needs one.
pub(crate) fn authorized(request: RequestBuilder, key: Option<&Secret>) -> RequestBuilder {
    match key {
        Some(key) => request.bearer_auth(key.reveal()),
        None => request,
    }
}

/// Why the body of an answer could not be read.
#[derive(Debug)]
pub(crate) enum BodyError {
    TooLarge,
    Broken(reqwest::Error),
}

/// Reads the body of an answer, up to `max_bytes`.
pub(crate) async fn read_body(answer: &mut Response, max_bytes: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > max_bytes {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Why a request got no usable answer, `waited` after it began.
pub(crate) fn reason(error: &reqwest::Error, waited: Duration) -> String {
    if let Some(limit) = limit_reached(error) {
        return limit;
    }
    if error.is_timeout() {
        // By the time-out of the request, or by the kernel's.
        return format!("no answer within {:?}", rounded(waited));
    }
    if error.is_dns() {
        return "the host's name can't be resolved".to_owned();
    }
    if let Some(reason) = tls::reason(error) {
        return reason;
    }
    if let Some(kind) = io_kind(error) {
        return io_reason(kind);
    }
    if error.is_connect() {
        "could not connect".to_owned()
    } else {
        "the connection broke".to_owned()
    }
}

/// Why the agent could not even try, if it has reached its limit of open files.
pub(crate) fn limit_reached(error: &reqwest::Error) -> Option<String> {
    open_files::reached_in(error).or_else(|| error.is_dns().then(open_files::reached_now).flatten())
}

/// The same of a request to `address`, after asking the server whether `http` and `https` were mixed up, if it seems so.
pub(crate) async fn reason_at(error: &reqwest::Error, address: &Address, waited: Duration) -> String {
    let garbled = match address.url.scheme() {
        "https" => tls::is_garbled(error),
        _ => !error.is_connect() && !error.is_timeout(),
    };
    let hint = if garbled {
        tls::other_scheme(address).await
    } else {
        None
    };
    hint.map_or_else(|| reason(error, waited), str::to_owned)
}

/// A measured time as people want to read it.
pub(crate) fn rounded(time: Duration) -> Duration {
    let step = if time < Duration::from_secs(1) { 1 } else { 100 };
    let steps = (millis(time) + step / 2) / step;
    Duration::from_millis(steps * step)
}

/// Whether the connection was refused: nothing listens there.
pub(crate) fn is_refused(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    // A socket without a file is one on which nothing listens.
    matches!(io_kind(error), Some(ConnectionRefused | NotFound))
}

/// A kind of I/O error while connecting, as people would put it.
pub(crate) fn io_reason(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::NotFound => "the socket doesn't exist".to_owned(),
        io::ErrorKind::PermissionDenied => "the agent may not connect to it (permission denied)".to_owned(),
        kind => kind.to_string(),
    }
}

/// Whether the connection ended because the backend's machine no longer acknowledges what it gets, or has no route.
pub(crate) fn is_gone(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        // By the kernel: a time-out of ours has no number.
        if io.is_some_and(|io| {
            io.raw_os_error().is_some()
                && matches!(io.kind(), TimedOut | HostUnreachable | NetworkUnreachable)
        }) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The underlying I/O error, if it is one that helps people.
pub(crate) fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound, PermissionDenied};
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if let Some(
            kind @ (ConnectionRefused | HostUnreachable | NetworkUnreachable | NotFound | PermissionDenied),
        ) = kind
        {
            return Some(kind);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_machine_is_gone_if_the_kernel_says_so_and_not_by_a_time_out_of_ours() {
        let of_kernel = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        for errno in [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH] {
            assert!(is_gone(&of_kernel(errno)), "{errno}");
        }
        for errno in [Errno::CONNRESET, Errno::PIPE, Errno::CONNREFUSED] {
            assert!(!is_gone(&of_kernel(errno)), "{errno}");
        }
        assert!(!is_gone(&io::Error::from(io::ErrorKind::TimedOut)));
    }
}
