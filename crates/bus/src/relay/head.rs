//! What the two heads and a fault say. Written as compact JSON with fields that a reader may ignore, so that
//! agents and APIs of neighbouring versions understand each other.

use super::frame::{BadFrame, MAX_META_BYTES};
use reveille_domain::{ProviderName, ReportId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long an agent holds a request whose backend is being put to sleep, unless it is to be told sooner: from then on its
/// client hears that it waits.
pub const HOLD_LIMIT: Duration = Duration::from_secs(5);

/// Header names and values as they travel: few, chosen by the caller, in order.
pub type Headers = Vec<(String, String)>;

/// The headers of a request that travel to the backend; both ends let no others pass, so that credentials, cookies,
/// hop-by-hop headers and whatever is invented tomorrow stay out.
pub const REQUEST_HEADERS: [&str; 6] = [
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "openai-beta",
    "x-request-id",
];
/// The headers of an answer that travel back.
pub const RESPONSE_HEADERS: [&str; 9] = [
    "content-encoding",
    "content-length",
    "content-type",
    "openai-model",
    "openai-processing-ms",
    "openai-version",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
];

/// What the agent must know to make the request to the backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHead {
    /// Which of the agent's providers it is for.
    pub provider: ProviderName,
    /// The HTTP method.
    pub method: String,
    /// Path and query, relative to the provider's base URL.
    pub path: String,
    /// The headers that the API lets through; never the caller's credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Headers,
    /// W3C trace context, so that the agent's spans join the request's trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// How long it may be held, in milliseconds, while the backend is being put to sleep; [`HOLD_LIMIT`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
    /// The whole body's length in bytes. [`RelayClient::send`](super::RelayClient::send) sets it.
    #[serde(default)]
    pub body_bytes: u64,
}

/// What the backend answered, before its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseHead {
    /// The HTTP status.
    pub status: u16,
    /// The headers that the agent lets through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Headers,
}

impl RequestHead {
    /// How long it may be held while the backend is being put to sleep.
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.hold_ms
            .map_or(HOLD_LIMIT, |hold| HOLD_LIMIT.min(Duration::from_millis(hold)))
    }
}

impl ResponseHead {
    /// The value of the first header of that name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// How many body bytes the backend announced.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.header("content-length").and_then(|value| value.parse().ok())
    }
}

/// Why the agent didn't carry a request to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// The backend sleeps; the fault carries the agent's report of it. Not handed over.
    Asleep,
    /// The backend refused the connection, or never got the request. Not handed over.
    BackendUnavailable,
    /// The backend died or answered nonsense after it may have read the request.
    BackendFailed,
    /// The backend took longer than the deadline or the agent's own limits.
    BackendTimeout,
    /// The request was cancelled while it was being worked on.
    Cancelled,
    /// The agent has no such provider. Not handed over.
    UnknownProvider,
    /// The agent is at one of its limits. Not handed over.
    Overloaded,
    /// The agent is stopping. Not handed over.
    ShuttingDown,
    /// The agent could not make sense of the request's frames, or one was lost.
    BadFrame,
    /// The agent knows no such request any more: its end was lost, or its head was.
    Lost,
    /// A code of a newer agent.
    #[serde(other)]
    Unknown,
}

impl FaultCode {
    /// True when no backend can have seen the request, so that sending it again is safe.
    #[must_use]
    pub const fn never_handed_over(self) -> bool {
        match self {
            Self::Asleep
            | Self::BackendUnavailable
            | Self::UnknownProvider
            | Self::Overloaded
            | Self::ShuttingDown => true,
            Self::BackendFailed
            | Self::BackendTimeout
            | Self::Cancelled
            | Self::BadFrame
            | Self::Lost
            | Self::Unknown => false,
        }
    }

    /// The code as it is written on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asleep => "asleep",
            Self::BackendUnavailable => "backend_unavailable",
            Self::BackendFailed => "backend_failed",
            Self::BackendTimeout => "backend_timeout",
            Self::Cancelled => "cancelled",
            Self::UnknownProvider => "unknown_provider",
            Self::Overloaded => "overloaded",
            Self::ShuttingDown => "shutting_down",
            Self::BadFrame => "bad_frame",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}

/// A typed refusal or failure, sent by the agent in place of (the rest of) a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct RelayFault {
    /// What kind of failure.
    pub code: FaultCode,
    /// One sentence for the caller's error object: no URL, secret or upstream body.
    pub message: String,
    /// With [`FaultCode::Asleep`]: the report whose fold the retry must wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportId>,
}

impl RelayFault {
    /// The longest message that is sent, in bytes; the rest is cut off.
    const MAX_MESSAGE_BYTES: usize = 1024;

    /// A fault with a sentence about it.
    #[must_use]
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > Self::MAX_MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(Self::MAX_MESSAGE_BYTES));
        }
        Self {
            code,
            message,
            report: None,
        }
    }

    /// The backend slept under the request; `report` is how the agent says so to control.
    #[must_use]
    pub fn asleep(message: impl Into<String>, report: ReportId) -> Self {
        Self {
            report: Some(report),
            ..Self::new(FaultCode::Asleep, message)
        }
    }
}

/// Reads a head's or a fault's JSON.
pub(super) fn read_meta<'a, T: Deserialize<'a>>(meta: &'a [u8]) -> Result<T, BadFrame> {
    serde_json::from_slice(meta).map_err(|_| BadFrame::Meta)
}

/// Writes a head's or a fault's JSON.
pub(super) fn write_meta<T: Serialize>(meta: &T) -> Result<Vec<u8>, BadFrame> {
    let written = serde_json::to_vec(meta).map_err(|_| BadFrame::Meta)?;
    if written.len() > MAX_META_BYTES {
        Err(BadFrame::Meta)
    } else {
        Ok(written)
    }
}
