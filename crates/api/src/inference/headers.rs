//! Which headers pass, each way: those in the relay's lists, and of these only what makes sense to a caller.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use reveille_bus::{
    VIA_HEADER, Via,
    relay::{Headers, REQUEST_HEADERS, RESPONSE_HEADERS, ResponseHead},
};
use std::time::Duration;

/// The longest `Retry-After` that is passed on, in seconds: some clients sleep for however long it says.
const MAX_RETRY_AFTER_SECONDS: u64 = 60;
/// The `Retry-After` of a backend that is busy and doesn't say for how long, in seconds.
const BUSY_RETRY_AFTER_SECONDS: u64 = 2;
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const TRACEPARENT: &str = "traceparent";
/// Sent as the attempt's own id.
const REQUEST_ID: &str = "x-request-id";

/// What the agent may get of a caller's headers. These are copies: the headers themselves keep a buffer of their connection for as long
/// as they are there.
#[derive(Debug)]
pub(crate) struct PassedOn {
    headers: Box<[(&'static str, String)]>,
    /// The trace that the request belongs to.
    pub traceparent: Option<String>,
}

impl PassedOn {
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: &'static str| headers.get(name).and_then(|value| value.to_str().ok());
        let plain = REQUEST_HEADERS
            .into_iter()
            .filter(|name| !matches!(*name, REQUEST_ID | VIA_HEADER));
        let plain = plain.filter_map(|name| Some((name, text(name)?.to_owned())));
        let lines = headers.get_all(VIA_HEADER).iter().map(HeaderValue::as_bytes);
        // One that can't be read was refused.
        let via = Via::read(lines).unwrap_or_default();
        let via = (!via.is_empty()).then(|| (VIA_HEADER, via.to_string()));
        // 00-<32 hex>-<16 hex>-<2 hex>, and what later versions append.
        let traceparent = text(TRACEPARENT).filter(|value| (55..=128).contains(&value.len()));
        Self {
            headers: plain.chain(via).collect(),
            traceparent: traceparent.map(str::to_owned),
        }
    }

    /// The headers for the agent, with the attempt's id. The agent adds its hub to those that the request has passed.
    pub fn to_backend(&self, attempt_id: String) -> Headers {
        let own = self.headers.iter().cloned().chain([(REQUEST_ID, attempt_id)]);
        own.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// The backend's headers for the caller.
pub(crate) fn to_caller(head: &ResponseHead, headers: &mut HeaderMap) {
    for (name, value) in &head.headers {
        let Ok(name) = HeaderName::try_from(name.as_str()) else {
            continue;
        };
        if name == header::RETRY_AFTER {
            if let Some(seconds) = seconds(value) {
                headers.insert(name, HeaderValue::from(seconds.clamp(1, MAX_RETRY_AFTER_SECONDS)));
            }
        } else if RESPONSE_HEADERS.contains(&name.as_str())
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
    }
    if matches!(head.status, 429 | 503) && !headers.contains_key(header::RETRY_AFTER) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(BUSY_RETRY_AFTER_SECONDS));
    }
}

/// The whole seconds of a `Retry-After`, rounded up. A date is none: it goes by the backend's clock.
fn seconds(retry_after: &str) -> Option<u64> {
    let seconds: f64 = retry_after.trim().parse().ok()?;
    let duration = Duration::try_from_secs_f64(seconds.ceil()).ok()?;
    Some(duration.as_secs())
}

/// The compression of the response's body, if any, in lower case.
pub(crate) fn encoding(head: &ResponseHead) -> Option<String> {
    let encoding = head.header("content-encoding")?.trim().to_ascii_lowercase();
    (!matches!(encoding.as_str(), "" | "identity")).then_some(encoding)
}

/// Whether the backend answers with this content type.
pub(crate) fn is_of_type(head: &ResponseHead, kind: &str) -> bool {
    let essence = head
        .header("content-type")
        .and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(kind))
}

/// Keeps proxies from buffering a stream.
pub(crate) fn unbuffered(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_after(status: u16, value: Option<&str>) -> Option<String> {
        let header = value.map(|value| (header::RETRY_AFTER.to_string(), value.to_owned()));
        let head = ResponseHead {
            status,
            headers: header.into_iter().collect(),
        };
        let mut headers = HeaderMap::new();
        to_caller(&head, &mut headers);
        let value = headers.get(header::RETRY_AFTER)?;
        Some(value.to_str().expect("text").to_owned())
    }

    #[test]
    fn a_busy_backend_always_says_when_to_retry_in_whole_seconds_of_a_minute_at_most() {
        for (value, wanted) in [
            (Some("30"), "30"),
            (Some("120"), "60"),
            (Some("0"), "1"),
            (Some("1.5"), "2"),
            (Some("Fri, 27 Nov 2026 09:00:00 GMT"), "2"),
            (Some("-1"), "2"),
            (None, "2"),
        ] {
            for busy in [429, 503] {
                assert_eq!(retry_after(busy, value).as_deref(), Some(wanted), "{value:?}");
            }
        }
        assert_eq!(retry_after(500, None), None);
        assert_eq!(retry_after(500, Some("1e300")), None);
    }
}
