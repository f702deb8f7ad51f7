//! The one mapping of errors to responses: an error object in the form of the client's [`family`], always JSON, with a
//! status, a code and a sentence that says what to do. Clients never see the text of an underlying error, except the reason of a
//! failed wake, which its agent wrote for people.

mod denied;
pub(crate) mod family;
mod relay;
mod rows;
mod wake;

use super::ApiError;
use crate::{inference::InferenceError, origin::OriginError};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use reveille_bus::LOOP_DETECTED;
use reveille_domain::{ProviderId, WakeId};
use reveille_http1_guard::ProtocolError;
use serde::Serialize;
use std::time::Duration;

/// The wake that a response is about.
pub(crate) const WAKE_ID: HeaderName = HeaderName::from_static("x-reveille-wake-id");
/// The provider that a response is about, `agent/provider`.
pub(crate) const PROVIDER: HeaderName = HeaderName::from_static("x-reveille-provider");

/// `Retry-After` is never longer: clients honour no more.
const MAX_RETRY_AFTER_SECONDS: u64 = 60;
/// For a cause of unknown duration, in seconds.
const RETRY_SOON_SECONDS: u64 = 2;
/// OpenAI's and Anthropic's clients retry what this header says, whatever the status.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorObject {
    pub message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    /// What programs recognize errors by.
    pub code: &'static str,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a ErrorObject,
}

/// What a client sees of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ErrorResponse {
    pub status: StatusCode,
    pub object: ErrorObject,
    retry_after_s: Option<u64>,
    /// Whether sending the request again soon can't better it.
    pub is_lasting: bool,
    pub provider: Option<ProviderId>,
    pub wake_id: Option<WakeId>,
}

impl ErrorResponse {
    fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        let object = ErrorObject {
            message,
            kind: error_type(status.as_u16()),
            param: None,
            code,
        };
        Self {
            status,
            object,
            retry_after_s: None,
            is_lasting: false,
            provider: None,
            wake_id: None,
        }
    }

    fn param(mut self, param: Option<&'static str>) -> Self {
        self.object.param = param;
        self
    }

    fn retry_in(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds.clamp(1, MAX_RETRY_AFTER_SECONDS));
        self
    }

    /// Tells clients not to send the request again by themselves: they would only cost wakes. Some know that by the `type`
    /// of an error in a stream, which has to be another one than `server_error`.
    fn lasting(mut self, kind: &'static str) -> Self {
        (self.is_lasting, self.object.kind) = (true, kind);
        self
    }

    fn about(mut self, provider: &ProviderId, wake_id: Option<WakeId>) -> Self {
        self.provider = Some(provider.clone());
        self.wake_id = wake_id;
        self
    }

    /// Adds for how long the provider has failed: its requests, or its probe.
    fn failing_for(mut self, time: Option<Duration>) -> Self {
        if let Some(seconds) = time.map(|time| time.as_secs()).filter(|seconds| *seconds > 0) {
            self.object.message += &format!("; it has been failing for {seconds} s");
        }
        self
    }

    /// The response's body for OpenAI's clients.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(&ErrorBody { error: &self.object }).unwrap_or_else(|_| b"{\"error\":{}}".to_vec())
    }
}

/// The `type` of an error with this status.
pub(crate) const fn error_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        _ => "server_error",
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.is_lasting {
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        name_provider(headers, self.provider.as_ref(), self.wake_id);
        // Its form for other families follows.
        response.extensions_mut().insert(self);
        response
    }
}

/// Names in the headers the provider and the wake that a response comes from.
pub(crate) fn name_provider(headers: &mut HeaderMap, provider: Option<&ProviderId>, wake_id: Option<WakeId>) {
    let text = |text: String| HeaderValue::from_str(&text).ok();
    if let Some(value) = provider.and_then(|provider| text(provider.to_string())) {
        headers.insert(PROVIDER, value);
    }
    if let Some(value) = wake_id.and_then(|wake| text(wake.to_string())) {
        headers.insert(WAKE_ID, value);
    }
}

impl ApiError {
    /// What a client sees of it.
    pub fn response(&self) -> ErrorResponse {
        let say = |status, code: &'static str| ErrorResponse::new(status, code, self.to_string());
        match self {
            Self::Invalid { code, param, .. } => say(StatusCode::BAD_REQUEST, code).param(*param),
            Self::Protocol(error) => of_protocol(*error),
            Self::Origin(error) => of_origin(error),
            Self::UnknownPath { .. } | Self::NotFound { .. } => say(StatusCode::NOT_FOUND, "not_found"),
            Self::UnknownResponse { .. } => say(StatusCode::NOT_FOUND, "response_not_found"),
            Self::MethodNotAllowed => say(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::TooLarge(_) => say(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"),
            Self::MediaType(_) | Self::NoForm(_) | Self::ContentEncoding(_) | Self::NoMediaType => {
                say(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            }
            Self::BodyTimeout { .. } => say(StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::MemoryFull { .. } => {
                say(StatusCode::TOO_MANY_REQUESTS, "memory_full").retry_in(RETRY_SOON_SECONDS)
            }
            Self::Inference(error) => inference(error),
            Self::Sleep(error) => wake::of_sleep(error),
            Self::Rows(error) => rows::of_rows(error),
            Self::Denied(denied) => denied::of_denied(denied),
            Self::Loop | Self::TooManyHubs => {
                say(StatusCode::LOOP_DETECTED, LOOP_DETECTED).lasting("configuration_error")
            }
            Self::TokenRefused(_) => say(StatusCode::FORBIDDEN, "token_refused"),
            Self::Conflict { code, .. } => say(StatusCode::CONFLICT, code),
            Self::Journal(error) => rows::of_journal(error),
            Self::NotReady => say(StatusCode::SERVICE_UNAVAILABLE, "not_ready").retry_in(1),
        }
    }
}

fn inference(error: &InferenceError) -> ErrorResponse {
    let unavailable = |code| ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string());
    let too_late = || ErrorResponse::new(StatusCode::GATEWAY_TIMEOUT, "wake_timeout", error.to_string());
    match error {
        InferenceError::NotReady(_) => unavailable("not_ready").retry_in(1),
        InferenceError::UnknownModel { .. } => {
            ErrorResponse::new(StatusCode::NOT_FOUND, "model_not_found", error.to_string())
                .param(Some("model"))
        }
        InferenceError::LacksPath { .. } => {
            ErrorResponse::new(StatusCode::NOT_FOUND, "not_found", error.to_string())
        }
        InferenceError::NoPlaceForPreset { .. } => {
            ErrorResponse::new(StatusCode::BAD_REQUEST, "preset_not_supported", error.to_string())
                .param(Some("model"))
        }
        InferenceError::Body(fault) => ApiError::from(fault.clone()).response(),
        InferenceError::NoModel { code, .. } => {
            ErrorResponse::new(StatusCode::BAD_REQUEST, code, error.to_string()).param(Some("model"))
        }
        InferenceError::Asleep { provider } => unavailable("model_asleep").about(provider, None),
        InferenceError::FallingAsleep { provider, waited } => match waited {
            None => unavailable("model_asleep"),
            Some(_) => too_late(),
        }
        .retry_in(RETRY_SOON_SECONDS)
        .about(provider, None),
        InferenceError::Waking {
            provider,
            wake_id,
            left,
        } => unavailable("waking")
            .retry_in(left.map_or(RETRY_SOON_SECONDS, whole_seconds))
            .about(provider, Some(*wake_id)),
        InferenceError::QueueFull {
            provider, room_in, ..
        } => ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", error.to_string())
            .retry_in(room_in.map_or(RETRY_SOON_SECONDS, whole_seconds))
            .about(provider, None),
        InferenceError::QueueTimedOut {
            provider, position, ..
        } => {
            let left = position.and_then(|position| position.left);
            ErrorResponse::new(StatusCode::GATEWAY_TIMEOUT, "queue_timeout", error.to_string())
                .retry_in(left.map_or(RETRY_SOON_SECONDS, whole_seconds))
                .about(provider, None)
        }
        InferenceError::WaitTooShort {
            provider,
            wake_id,
            left,
            ..
        } => too_late()
            .retry_in(whole_seconds(*left))
            .about(provider, Some(*wake_id)),
        InferenceError::Wake(error) => wake::of_wake(error),
        InferenceError::Relay {
            provider,
            wake_id,
            error,
            failing_for,
        } => relay::of_relay(provider, error)
            .failing_for(*failing_for)
            .about(provider, *wake_id),
        InferenceError::BadResponse {
            provider, wake_id, ..
        }
        | InferenceError::CutShort { provider, wake_id } => {
            ErrorResponse::new(StatusCode::BAD_GATEWAY, "backend_failed", error.to_string())
                .about(provider, *wake_id)
        }
    }
}

fn of_origin(error: &OriginError) -> ErrorResponse {
    let (status, code) = match error {
        OriginError::UnknownHost { .. } | OriginError::NoHost => {
            (StatusCode::MISDIRECTED_REQUEST, "unknown_host")
        }
        OriginError::ForeignOrigin { .. } => (StatusCode::FORBIDDEN, "origin_not_allowed"),
    };
    ErrorResponse::new(status, code, error.to_string())
}

fn of_protocol(error: ProtocolError) -> ErrorResponse {
    let (status, code) = match error {
        ProtocolError::WithoutTls => (StatusCode::BAD_REQUEST, "https_required"),
        ProtocolError::NotHttp | ProtocolError::NoHost | ProtocolError::ManyHosts => {
            (StatusCode::BAD_REQUEST, "invalid_http")
        }
        ProtocolError::UnclearLength => (StatusCode::BAD_REQUEST, "unclear_length"),
        ProtocolError::SlowHead { .. } => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
        ProtocolError::LongLine { .. } => (StatusCode::URI_TOO_LONG, "uri_too_long"),
        ProtocolError::LargeHead { .. } | ProtocolError::ManyFields { .. } => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large")
        }
    };
    ErrorResponse::new(status, code, error.to_string())
}

/// Rounded up, so that a client that waits that long isn't early.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
