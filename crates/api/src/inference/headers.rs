//! Which headers pass, each way: those in the relay's lists, and of these only what makes sense to a caller.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use reveille_bus::relay::{Headers, REQUEST_HEADERS, RESPONSE_HEADERS, ResponseHead};

/// The longest `Retry-After` that is passed on, in seconds: some clients sleep for however long it says.
const MAX_RETRY_AFTER_SECONDS: u64 = 60;
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const TRACEPARENT: &str = "traceparent";
/// Sent as our own id, or as the caller's after a check.
const REQUEST_ID: &str = "x-request-id";

/// The caller's headers for the agent.
pub(crate) fn to_backend(headers: &HeaderMap, request_id: &str) -> Headers {
    let mut allowed = Headers::with_capacity(4);
    for name in REQUEST_HEADERS.iter().filter(|name| **name != REQUEST_ID) {
        if let Some(value) = headers.get(*name).and_then(|value| value.to_str().ok()) {
            allowed.push(((*name).to_owned(), value.to_owned()));
        }
    }
    allowed.push((REQUEST_ID.to_owned(), request_id.to_owned()));
    allowed
}

/// The trace that the request belongs to.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    // 00-<32 hex>-<16 hex>-<2 hex>, and what later versions append.
    (55..=128).contains(&value.len()).then(|| value.to_owned())
}

/// The backend's headers for the caller.
pub(crate) fn to_caller(head: &ResponseHead, headers: &mut HeaderMap) {
    for (name, value) in &head.headers {
        let Ok(name) = HeaderName::try_from(name.as_str()) else {
            continue;
        };
        if name == header::RETRY_AFTER {
            if let Ok(seconds) = value.trim().parse::<u64>() {
                headers.insert(name, HeaderValue::from(seconds.clamp(1, MAX_RETRY_AFTER_SECONDS)));
            }
        } else if RESPONSE_HEADERS.contains(&name.as_str())
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
    }
}

/// Whether the backend answers with a stream of events.
pub(crate) fn is_event_stream(head: &ResponseHead) -> bool {
    let essence = head
        .header("content-type")
        .and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Keeps proxies from buffering a stream.
pub(crate) fn unbuffered(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
}
