//! What a client sees when its key is refused, or has used up a limit.

use super::{ErrorResponse, MAX_RETRY_AFTER_SECONDS, whole_seconds};
use crate::keys::Denied;
use axum::http::StatusCode;

/// How soon one of a key's requests may end, in seconds.
const REQUEST_ENDS_SECONDS: u64 = 1;

pub(super) fn of_denied(denied: &Denied) -> ErrorResponse {
    let say = |status, code| ErrorResponse::new(status, code, denied.to_string());
    match denied {
        Denied::Missing | Denied::AdminKey => say(StatusCode::UNAUTHORIZED, "missing_api_key"),
        Denied::Invalid(_) => say(StatusCode::UNAUTHORIZED, "invalid_api_key"),
        Denied::Expired { .. } => say(StatusCode::UNAUTHORIZED, "expired_api_key"),
        Denied::Unreadable { .. } => say(StatusCode::SERVICE_UNAVAILABLE, "key_unreadable").retry_in(10),
        Denied::NotReady => say(StatusCode::SERVICE_UNAVAILABLE, "not_ready").retry_in(1),
        Denied::Scope { .. } => say(StatusCode::FORBIDDEN, "insufficient_scope"),
        Denied::Rate { retry_after, .. } => {
            say(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded").retry_in(whole_seconds(*retry_after))
        }
        Denied::Concurrency { .. } => {
            say(StatusCode::TOO_MANY_REQUESTS, "concurrency_exceeded").retry_in(REQUEST_ENDS_SECONDS)
        }
        Denied::Wakes { retry_after, .. } => {
            let say = say(StatusCode::TOO_MANY_REQUESTS, "wake_quota_exceeded");
            let seconds = whole_seconds(*retry_after);
            // A client's own retries would all come too early.
            let say = if seconds > MAX_RETRY_AFTER_SECONDS {
                say.lasting("rate_limit_error")
            } else {
                say
            };
            say.retry_in(seconds)
        }
    }
}
