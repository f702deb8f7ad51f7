//! What a client sees of a request that the relay brought no response to.

use super::{ErrorResponse, RETRY_SOON_SECONDS};
use axum::http::StatusCode;
use reveille_bus::relay::{FaultCode, RelayError};
use reveille_domain::ProviderId;

pub(super) fn of_relay(provider: &ProviderId, error: &RelayError) -> ErrorResponse {
    let unreachable = |why: &str| {
        let message = format!("the agent of {provider} can't be reached: {why}");
        ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "agent_unreachable", message)
            .retry_in(RETRY_SOON_SECONDS)
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
        | RelayError::Malformed(_) => lost(provider, &error.to_string()),
    }
}

/// `message` is a sentence that the agent wrote for the caller.
fn of_fault(provider: &ProviderId, code: FaultCode, message: &str) -> ErrorResponse {
    let say = |status, code, what| ErrorResponse::new(status, code, format!("{provider}{what}: {message}"));
    match code {
        FaultCode::Asleep => {
            let what = " fell asleep before it took the request";
            say(StatusCode::SERVICE_UNAVAILABLE, "wake_failed", what).retry_in(1)
        }
        FaultCode::BackendUnavailable => {
            let what = "'s backend can't be reached";
            say(StatusCode::BAD_GATEWAY, "backend_unavailable", what)
        }
        FaultCode::BackendFailed => say(
            StatusCode::BAD_GATEWAY,
            "backend_unavailable",
            "'s backend failed",
        ),
        FaultCode::BackendTimeout => say(
            StatusCode::GATEWAY_TIMEOUT,
            "backend_timeout",
            "'s backend timed out",
        ),
        FaultCode::Overloaded => {
            let what = " has too many requests";
            say(StatusCode::TOO_MANY_REQUESTS, "agent_full", what).retry_in(RETRY_SOON_SECONDS)
        }
        FaultCode::ShuttingDown | FaultCode::UnknownProvider => {
            let code = "agent_unreachable";
            say(StatusCode::SERVICE_UNAVAILABLE, code, " is unavailable").retry_in(RETRY_SOON_SECONDS)
        }
        FaultCode::Cancelled | FaultCode::BadFrame | FaultCode::Lost | FaultCode::Unknown => {
            lost(provider, message)
        }
    }
}

fn lost(provider: &ProviderId, why: &str) -> ErrorResponse {
    let message = format!("the response of {provider} was lost on its way: {why}");
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "relay_failed", message)
}
