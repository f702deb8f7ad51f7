//! Every response carries an id that logs and events name too: the client's own if it is short and printable, else a
//! UUIDv7 of ours.

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    response::Response,
};
use tracing::{Span, error_span, field};
use uuid::Uuid;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id of a client that is kept.
const MAX_ID_BYTES: usize = 128;

/// The id of a request.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The id of a new request.
    pub fn of(request: &Request) -> Self {
        let theirs = request
            .headers()
            .get(X_REQUEST_ID)
            .filter(|id| is_legal(id.as_bytes()));
        // A copy: the value itself keeps a buffer of its connection.
        let theirs = theirs.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
        Self(theirs.unwrap_or_else(Self::fresh))
    }

    fn fresh() -> HeaderValue {
        let mut text = Uuid::encode_buffer();
        let text = Uuid::now_v7().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("none"))
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The span that all log lines of the request are in.
    pub fn span(&self) -> Span {
        // Of the highest level, so that every log line has it.
        error_span!(
            "request",
            request.id = self.as_str(),
            provider.chosen = field::Empty,
            queue.waited_ms = field::Empty
        )
    }

    /// Names the request in its response.
    pub fn name(self, response: &mut Response) {
        response.headers_mut().insert(X_REQUEST_ID, self.0);
    }
}

fn is_legal(id: &[u8]) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Gives a response without a request an id of its own.
pub(super) fn name_response(response: &mut Response) {
    RequestId(RequestId::fresh()).name(response);
}
