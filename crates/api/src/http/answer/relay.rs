//! What a client sees of a request that the relay brought no response to.

use super::{ErrorResponse, RETRY_SOON_SECONDS};
use axum::http::StatusCode;
use reveille_bus::relay::{FaultCode, RelayError};
use reveille_domain::ProviderId;

pub(super) fn of_relay(provider: &ProviderId, error: &RelayError) -> ErrorResponse {
    let unreachable = |what: &str| {
        let message = format!("the agent of {provider} can't be reached: {what}");
        ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "agent_unreachable", message)
            .retry_in(RETRY_SOON_SECONDS)
    };
    let failed = || {
        let message = format!("the answer of {provider} was lost on its way: {error}");
        ErrorResponse::new(StatusCode::BAD_GATEWAY, "relay_failed", message)
    };
    match error {
        RelayError::NoResponders => unreachable("it isn't connected"),
        RelayError::Disconnected => unreachable("this replica's connection to NATS is down"),
        RelayError::Closed => unreachable("this replica is stopping"),
        RelayError::Overloaded => {
            ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, "relay_full", error.to_string())
                .retry_in(RETRY_SOON_SECONDS)
        }
        RelayError::HeadTooLarge => ErrorResponse::new(
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
fn of_fault(provider: &ProviderId, code: FaultCode, message: &str) -> ErrorResponse {
    let say =
        |status, code, what: &str| ErrorResponse::new(status, code, format!("{what} {provider}: {message}"));
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
