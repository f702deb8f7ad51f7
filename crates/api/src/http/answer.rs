//! The one mapping of errors to responses: the OpenAI error object, always JSON, with a status, a code and a sentence
//! that says what to do. No text of an error underneath reaches a client, except the reason of a wake, which its agent
//! wrote for people.

mod denied;

use super::ApiError;
use crate::{
    server::Refusal,
    wakes::{SleepError, WakeError},
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use reveille_bus::relay::{FaultCode, RelayError};
use reveille_domain::{
    ProviderId, WakeFailure, WakeFailureKind, WakeId, provider::InactiveReason, rows::RowsError,
};
use serde::Serialize;
use std::time::Duration;

/// Names the wake that an answer is about.
pub(crate) const WAKE_ID: HeaderName = HeaderName::from_static("x-reveille-wake-id");
/// Names the provider that an answer is about, `agent/provider`.
pub(crate) const PROVIDER: HeaderName = HeaderName::from_static("x-reveille-provider");

/// `Retry-After` is never longer: clients honour no more.
const MAX_RETRY_AFTER_SECONDS: u64 = 60;
/// When nothing says how long a cause lasts, in seconds.
const RETRY_SOON_SECONDS: u64 = 2;
const RETRY_LATER_SECONDS: u64 = 10;

/// OpenAI's error object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorObject {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    /// What programs tell errors apart by.
    pub code: &'static str,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a ErrorObject,
}

/// What a client sees of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The error object.
    pub object: ErrorObject,
    retry_after_s: Option<u64>,
    provider: Option<ProviderId>,
    wake_id: Option<WakeId>,
}

impl Answer {
    fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        let object = ErrorObject {
            message,
            kind,
            param: None,
            code,
        };
        Self {
            status,
            object,
            retry_after_s: None,
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

    fn about(mut self, provider: &ProviderId, wake_id: Option<WakeId>) -> Self {
        self.provider = Some(provider.clone());
        self.wake_id = wake_id;
        self
    }

    /// The object as an answer's body is made of it.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(&ErrorBody { error: &self.object }).unwrap_or_else(|_| b"{\"error\":{}}".to_vec())
    }
}

impl IntoResponse for Answer {
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
        name_provider(headers, self.provider.as_ref(), self.wake_id);
        response
    }
}

/// Says in the headers which provider and wake an answer comes from.
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
    pub fn answer(&self) -> Answer {
        let said = || self.to_string();
        match self {
            Self::Invalid { code, param, message } => {
                Answer::new(StatusCode::BAD_REQUEST, code, message.clone()).param(*param)
            }
            Self::Refused(refusal) => of_refusal(*refusal),
            Self::UnknownPath => Answer::new(StatusCode::NOT_FOUND, "not_found", said()),
            Self::MethodNotAllowed => {
                Answer::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", said())
            }
            Self::TooLarge { .. } => Answer::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", said()),
            Self::UnsupportedMedia { .. } => Answer::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                said(),
            ),
            Self::BodyTimeout { .. } => Answer::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", said()),
            Self::MemoryFull { .. } => {
                Answer::new(StatusCode::TOO_MANY_REQUESTS, "memory_full", said()).retry_in(RETRY_SOON_SECONDS)
            }
            Self::UnknownModel { .. } => {
                Answer::new(StatusCode::NOT_FOUND, "model_not_found", said()).param(Some("model"))
            }
            Self::NotFound { .. } => Answer::new(StatusCode::NOT_FOUND, "not_found", said()),
            Self::Asleep { provider } => {
                Answer::new(StatusCode::SERVICE_UNAVAILABLE, "model_asleep", said()).about(provider, None)
            }
            Self::Leaving { provider, waited } => {
                let (status, code) = match waited {
                    None => (StatusCode::SERVICE_UNAVAILABLE, "model_asleep"),
                    Some(_) => (StatusCode::GATEWAY_TIMEOUT, "wake_timeout"),
                };
                Answer::new(status, code, said())
                    .retry_in(RETRY_SOON_SECONDS)
                    .about(provider, None)
            }
            Self::Waking {
                provider,
                wake_id,
                left,
            } => Answer::new(StatusCode::SERVICE_UNAVAILABLE, "waking", said())
                .retry_in(left.map_or(RETRY_SOON_SECONDS, whole_seconds))
                .about(provider, Some(*wake_id)),
            Self::TooLate {
                provider,
                wake_id,
                left,
                ..
            } => Answer::new(StatusCode::GATEWAY_TIMEOUT, "wake_timeout", said())
                .retry_in(whole_seconds(*left))
                .about(provider, *wake_id),
            Self::Wake(error) => of_wake(error),
            Self::Sleep(error) => of_sleep(error),
            Self::Relay {
                provider,
                wake_id,
                error,
            } => of_relay(provider, error).about(provider, *wake_id),
            Self::BadAnswer {
                provider, wake_id, ..
            } => Answer::new(StatusCode::BAD_GATEWAY, "backend_failed", said()).about(provider, *wake_id),
            Self::Rows(error) => of_rows(error),
            Self::Denied(denied) => denied::of_denied(denied),
            Self::TokenRefused(_) => Answer::new(StatusCode::FORBIDDEN, "token_refused", said()),
            Self::Conflict { code, message } => Answer::new(StatusCode::CONFLICT, code, message.clone()),
            Self::Journal(_) => of_journal(),
            Self::NotReady => Answer::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", said()).retry_in(1),
        }
    }
}

fn of_refusal(refusal: Refusal) -> Answer {
    let (status, code) = match refusal {
        Refusal::WithoutTls => (StatusCode::BAD_REQUEST, "https_required"),
        Refusal::NotHttp => (StatusCode::BAD_REQUEST, "invalid_http"),
        Refusal::UnclearLength => (StatusCode::BAD_REQUEST, "unclear_length"),
        Refusal::SlowHead { .. } => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
        Refusal::LongLine { .. } => (StatusCode::URI_TOO_LONG, "uri_too_long"),
        Refusal::LargeHead { .. } | Refusal::ManyFields { .. } => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large")
        }
    };
    Answer::new(status, code, refusal.to_string())
}

fn of_wake(error: &WakeError) -> Answer {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        WakeError::Failed {
            provider,
            wake_id,
            failure,
            retry_after,
            spent,
        } => {
            let retry = retry_after.as_ref().map_or(1, |after| whole_seconds(*after));
            let answer = match wake_id {
                None if failure.kind == WakeFailureKind::NotAllowed => declined(provider, failure),
                None if failure.kind == WakeFailureKind::Died => {
                    let message = format!(
                        "{provider} is not woken again yet, since a short while ago {}; no wake is tried for {retry} s",
                        failure.reason
                    );
                    Answer::new(unavailable, "wake_failed", message)
                }
                None => {
                    let message = format!(
                        "{provider} failed to wake a short while ago, in stage `{}`: {}; no wake is tried for {retry} s",
                        failure.stage, failure.reason
                    );
                    Answer::new(unavailable, "wake_failed", message)
                }
                Some(_) => ended(provider, failure, *spent),
            };
            answer.retry_in(retry).about(provider, *wake_id)
        }
        WakeError::TimedOut {
            provider,
            wake_id,
            failure,
            spent,
        } => {
            let late = WakeFailure {
                kind: WakeFailureKind::TimedOut,
                ..WakeFailure::clone(failure)
            };
            ended(provider, &late, *spent)
                .retry_in(1)
                .about(provider, Some(*wake_id))
        }
        WakeError::CallerTimedOut {
            provider,
            wake_id,
            spent,
            left,
        } => {
            let message = format!(
                "{provider} is still waking after {}, as long as this request waits (X-Reveille-Wait); the wake goes on",
                seconds(*spent)
            );
            Answer::new(StatusCode::GATEWAY_TIMEOUT, "wake_timeout", message)
                .retry_in(left.map_or(RETRY_SOON_SECONDS, whole_seconds))
                .about(provider, *wake_id)
        }
        WakeError::Inactive { provider, reason, .. } => {
            let why = match reason {
                InactiveReason::AgentLost => "is not heard any more",
                InactiveReason::AgentStopped => "has stopped",
            };
            let message = format!(
                "{provider} is inactive: its agent {why}, so it can't be woken; start the agent {}",
                provider.agent
            );
            Answer::new(unavailable, "provider_inactive", message)
                .retry_in(RETRY_LATER_SECONDS)
                .about(provider, None)
        }
        WakeError::Unknown { provider } => {
            Answer::new(StatusCode::NOT_FOUND, "provider_not_found", error.to_string()).about(provider, None)
        }
        WakeError::NoRecipe { provider } => {
            let message = format!(
                "{error}: add [provider.wake] to the configuration of the agent {}",
                provider.agent
            );
            Answer::new(StatusCode::CONFLICT, "no_wake_recipe", message).about(provider, None)
        }
        WakeError::QueueFull { provider, .. } => {
            Answer::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", error.to_string())
                .retry_in(RETRY_SOON_SECONDS)
                .about(provider, None)
        }
        WakeError::Unreadable { provider, .. } => {
            let message =
                format!("{error}; no command of it is accepted here: upgrade this replica of the API");
            Answer::new(unavailable, "provider_unreadable", message)
                .retry_in(RETRY_LATER_SECONDS)
                .about(provider, None)
        }
        WakeError::Unavailable(_) => of_journal(),
        WakeError::Quota { provider, denied } => denied::of_denied(denied).about(provider, None),
    }
}

/// The end of a wake that left the backend unavailable, after a caller had waited for `spent`.
fn ended(provider: &ProviderId, failure: &WakeFailure, spent: Duration) -> Answer {
    let (stage, reason, spent) = (&failure.stage, &failure.reason, seconds(spent));
    let agent = &provider.agent;
    let failed = |next: &str| {
        let message = format!("{provider} did not wake: {reason} (stage `{stage}`, after {spent}); {next}");
        Answer::new(StatusCode::SERVICE_UNAVAILABLE, "wake_failed", message)
    };
    match failure.kind {
        WakeFailureKind::TimedOut | WakeFailureKind::Unavailable => {
            let message = format!(
                "{provider} did not wake in time: {reason} (stage `{stage}`, after {spent}); if it needs longer, raise \
                 provider.wake.max_wait in the configuration of the agent {agent}"
            );
            Answer::new(StatusCode::GATEWAY_TIMEOUT, "wake_timeout", message)
        }
        WakeFailureKind::Recipe => failed(&format!(
            "look at [provider.wake] in the configuration of the agent {agent}"
        )),
        WakeFailureKind::Died => failed(&format!(
            "look at the backend's own log on the machine of {agent}"
        )),
        WakeFailureKind::AgentLost | WakeFailureKind::AgentStopped => {
            failed(&format!("start the agent {agent}, then ask again"))
        }
        WakeFailureKind::NotAllowed => declined(provider, failure),
        WakeFailureKind::GroupBlocked => {
            let message = format!(
                "{provider} was not woken: {reason} (after {spent}); nothing is wrong with it, and it may be asked again"
            );
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, "group_blocked", message)
        }
        WakeFailureKind::Withdrawn => failed("its agent doesn't publish it so any more"),
    }
}

/// The owner of the machine allows no wake now.
fn declined(provider: &ProviderId, failure: &WakeFailure) -> Answer {
    let message = format!("{provider} is not woken now: {}", failure.reason);
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, "provider_declined", message)
}

fn of_sleep(error: &SleepError) -> Answer {
    match error {
        SleepError::Unknown(provider) => {
            Answer::new(StatusCode::NOT_FOUND, "provider_not_found", error.to_string()).about(provider, None)
        }
        SleepError::Refused(_) => Answer::new(StatusCode::CONFLICT, "sleep_refused", error.to_string()),
        SleepError::Unavailable(_) => {
            let message = "the agent can't be reached".to_owned();
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, "agent_unreachable", message)
                .retry_in(RETRY_SOON_SECONDS)
        }
    }
}

fn of_relay(provider: &ProviderId, error: &RelayError) -> Answer {
    let unreachable = |what: &str| {
        let message = format!("the agent of {provider} can't be reached: {what}");
        Answer::new(StatusCode::SERVICE_UNAVAILABLE, "agent_unreachable", message)
            .retry_in(RETRY_SOON_SECONDS)
    };
    let failed = || {
        let message = format!("the answer of {provider} was lost on its way: {error}");
        Answer::new(StatusCode::BAD_GATEWAY, "relay_failed", message)
    };
    match error {
        RelayError::NoResponders => unreachable("it isn't connected"),
        RelayError::Disconnected => unreachable("this replica's connection to NATS is down"),
        RelayError::Closed => unreachable("this replica is stopping"),
        RelayError::Overloaded => Answer::new(StatusCode::TOO_MANY_REQUESTS, "relay_full", error.to_string())
            .retry_in(RETRY_SOON_SECONDS),
        RelayError::HeadTooLarge => Answer::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            error.to_string(),
        ),
        RelayError::Fault(fault) => of_fault(provider, fault.code, &fault.message),
        RelayError::Gap { .. }
        | RelayError::Silent { .. }
        | RelayError::Overdrawn
        | RelayError::Malformed(_) => failed(),
    }
}

/// `message` is a sentence that the agent wrote for the caller.
fn of_fault(provider: &ProviderId, code: FaultCode, message: &str) -> Answer {
    let say = |status, code, what: &str| Answer::new(status, code, format!("{what} {provider}: {message}"));
    match code {
        FaultCode::Asleep => say(StatusCode::SERVICE_UNAVAILABLE, "wake_failed", "no place at").retry_in(1),
        FaultCode::BackendUnavailable => say(StatusCode::BAD_GATEWAY, "backend_unavailable", "no backend at"),
        FaultCode::BackendFailed => say(
            StatusCode::BAD_GATEWAY,
            "backend_unavailable",
            "the backend broke off at",
        ),
        FaultCode::BackendTimeout => say(
            StatusCode::GATEWAY_TIMEOUT,
            "backend_timeout",
            "too slow a backend at",
        ),
        FaultCode::Overloaded => say(
            StatusCode::TOO_MANY_REQUESTS,
            "agent_full",
            "too many requests at",
        )
        .retry_in(RETRY_SOON_SECONDS),
        FaultCode::ShuttingDown | FaultCode::UnknownProvider => say(
            StatusCode::SERVICE_UNAVAILABLE,
            "agent_unreachable",
            "not served now:",
        )
        .retry_in(RETRY_SOON_SECONDS),
        FaultCode::Cancelled | FaultCode::BadFrame | FaultCode::Lost | FaultCode::Unknown => say(
            StatusCode::BAD_GATEWAY,
            "relay_failed",
            "the answer was lost on its way from",
        ),
    }
}

fn of_journal() -> Answer {
    let message = "nothing can be changed now: the journal is not reached".to_owned();
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable", message).retry_in(RETRY_SOON_SECONDS)
}

fn of_rows(error: &RowsError) -> Answer {
    match error {
        RowsError::Unavailable(_) => {
            let message = "the row store can't be asked now; inference goes on without it".to_owned();
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, "rows_unavailable", message)
                .retry_in(RETRY_SOON_SECONDS)
        }
        RowsError::Behind { .. } => {
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, "rows_behind", error.to_string()).retry_in(1)
        }
        RowsError::BadCursor => Answer::new(StatusCode::BAD_REQUEST, "invalid_cursor", error.to_string()),
        RowsError::NotHeld { .. } => Answer::new(StatusCode::GONE, "events_not_held", error.to_string()),
    }
}

/// Rounded up, so that whoever waits that long isn't early.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
