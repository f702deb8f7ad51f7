//! What a client sees of a request that the relay brought no response to.

use super::{ErrorResponse, RETRY_SOON_SECONDS};
use axum::http::StatusCode;
use reveille_bus::relay::{FaultCode, RelayError};
use reveille_domain::ProviderId;

/// How an agent begins to say that it got no connection.
const UNREACHED: &str = "the backend can't be reached: ";

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
        RelayError::BodyBrokeOff => {
            let message = "the rest of the request's body never came, or can't be used".to_owned();
            ErrorResponse::new(StatusCode::BAD_REQUEST, "incomplete_body", message)
        }
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
            // Lists show the agent's sentence by itself. Without a connection it begins like this one.
            let (what, why) = match message.strip_prefix(UNREACHED) {
                Some(why) => ("can't be reached", why),
                None => ("is unavailable", message),
            };
            let message = format!("{provider}'s backend {what}: {why}");
            ErrorResponse::new(StatusCode::BAD_GATEWAY, "backend_unavailable", message)
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
        FaultCode::FirstByteTimeout => say(
            StatusCode::GATEWAY_TIMEOUT,
            "first_byte_timeout",
            "'s backend timed out",
        ),
        FaultCode::Overloaded => {
            let what = " has too many requests";
            say(StatusCode::TOO_MANY_REQUESTS, "agent_full", what).retry_in(RETRY_SOON_SECONDS)
        }
        FaultCode::Busy => {
            let what = " had no turn for the request within its own wait";
            say(StatusCode::GATEWAY_TIMEOUT, "queue_timeout", what).retry_in(RETRY_SOON_SECONDS)
        }
        FaultCode::ShuttingDown | FaultCode::UnknownProvider | FaultCode::UnknownModel => {
            let code = "agent_unreachable";
            say(StatusCode::SERVICE_UNAVAILABLE, code, " is unavailable").retry_in(RETRY_SOON_SECONDS)
        }
        FaultCode::BadRequest => {
            ErrorResponse::new(StatusCode::BAD_REQUEST, "preset_conflict", message.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_says_twice_what_is_wrong() {
        let provider = "gpu-box/p".parse().expect("an id");
        for (code, message, said) in [
            (
                FaultCode::BackendUnavailable,
                "the backend can't be reached: connection refused",
                "gpu-box/p's backend can't be reached: connection refused",
            ),
            (
                FaultCode::BackendUnavailable,
                "the server there lists `a`, not `b`",
                "gpu-box/p's backend is unavailable: the server there lists `a`, not `b`",
            ),
            (
                FaultCode::BackendFailed,
                "the backend broke off before its answer, 2 s after the request",
                "gpu-box/p's backend failed: the backend broke off before its answer, 2 s after the request",
            ),
        ] {
            assert_eq!(of_fault(&provider, code, message).object.message, said);
        }
    }
}
