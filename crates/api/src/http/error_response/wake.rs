//! What a client sees of a provider that isn't woken, or isn't put to sleep.

use super::{ErrorResponse, RETRY_SOON_SECONDS, denied::of_denied, rows, whole_seconds};
use crate::{
    registry::Absence,
    wakes::{SleepError, WakeError},
};
use axum::http::StatusCode;
use reveille_domain::{MODELS_STAGE, PAUSED_STAGE, ProviderId, WakeFailure, WakeFailureKind};
use std::time::Duration;

/// The `type` of an error that another wake would only repeat.
const WAKE_ERROR: &str = "wake_error";
/// When a person has to act first, in seconds.
const RETRY_LATER_SECONDS: u64 = 10;

pub(super) fn of_wake(error: &WakeError) -> ErrorResponse {
    let unavailable = |code, message| ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
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
                None if failure.kind == WakeFailureKind::NotAllowed => {
                    let again = retry_after.map(|_| format!("; its agent is asked again in {retry} s"));
                    declined(provider, failure, &again.unwrap_or_default())
                }
                None => {
                    let what = if failure.kind == WakeFailureKind::Died {
                        format!("can't be woken yet: a short while ago {}", failure.reason)
                    } else {
                        let (stage, reason) = (&failure.stage, &failure.reason);
                        format!("failed to wake a short while ago, in stage `{stage}`: {reason}")
                    };
                    let message = format!("{provider} {what}; the next wake is possible in {retry} s");
                    unavailable("wake_failed", message).lasting(WAKE_ERROR)
                }
                Some(_) => ended(provider, failure, *spent),
            };
            answer.retry_in(retry).about(provider, *wake_id)
        }
        WakeError::CallerTimedOut {
            provider,
            wake_id,
            spent,
            left,
        } => {
            let message = format!(
                "{provider} is still waking after {}, the longest this request may wait (X-Reveille-Wait); a wake that has \
                 begun goes on, so try again",
                seconds(*spent)
            );
            ErrorResponse::new(StatusCode::GATEWAY_TIMEOUT, "wake_timeout", message)
                .retry_in(left.map_or(RETRY_SOON_SECONDS, whole_seconds))
                .about(provider, *wake_id)
        }
        WakeError::Inactive { provider, absence } => {
            let agent = &provider.agent;
            let (why, remedy) = match absence {
                Absence::Silent => ("is silent", format!("start the agent {agent}")),
                Absence::Stopped => ("has stopped", format!("start the agent {agent}")),
                Absence::Revoked => (
                    "was revoked",
                    format!("let its machine join again with a token of `reveille agent token {agent}`"),
                ),
                Absence::RevokedUntilStart => (
                    "was revoked",
                    "`reveille down` and `reveille up` on the hub's machine admit it again".to_owned(),
                ),
            };
            let message = format!("{provider} is inactive: its agent {why}, so it can't be woken; {remedy}");
            unavailable("provider_inactive", message)
                .retry_in(RETRY_LATER_SECONDS)
                .about(provider, None)
        }
        WakeError::Unknown { provider } => {
            ErrorResponse::new(StatusCode::NOT_FOUND, "provider_not_found", error.to_string())
                .about(provider, None)
        }
        WakeError::NoRecipe { provider } => {
            let message = format!(
                "{error}: add [provider.wake] to the configuration of the agent {}",
                provider.agent
            );
            ErrorResponse::new(StatusCode::CONFLICT, "no_wake_recipe", message)
                .lasting(WAKE_ERROR)
                .about(provider, None)
        }
        WakeError::QueueFull { provider, .. } => {
            ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", error.to_string())
                .retry_in(RETRY_SOON_SECONDS)
                .about(provider, None)
        }
        WakeError::Unreadable { provider, .. } => {
            let message = format!("{error}; upgrade this replica of the API");
            unavailable("provider_unreadable", message)
                .retry_in(RETRY_LATER_SECONDS)
                .about(provider, None)
        }
        WakeError::Journal(trouble) => rows::of_trouble(trouble),
        WakeError::Unavailable(_) => rows::unreachable(),
        WakeError::Quota { provider, denied } => of_denied(denied).about(provider, None),
    }
}

/// A wake that left the backend unavailable, for a caller that waited for `spent`.
fn ended(provider: &ProviderId, failure: &WakeFailure, spent: Duration) -> ErrorResponse {
    let (stage, reason, spent) = (&failure.stage, &failure.reason, seconds(spent));
    let (agent, name) = (&provider.agent, &provider.provider);
    let failed = |next: &str| {
        let message = format!("{provider} did not wake: {reason} (stage `{stage}`, after {spent}); {next}");
        ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "wake_failed", message)
    };
    match failure.kind {
        WakeFailureKind::TimedOut | WakeFailureKind::Unavailable => {
            let message = format!(
                "{provider} did not wake in time: {reason} (stage `{stage}`, after {spent}); if it needs longer, raise \
                 provider.wake.max_wait in the configuration of the agent {agent}"
            );
            ErrorResponse::new(StatusCode::GATEWAY_TIMEOUT, "wake_timeout", message).lasting(WAKE_ERROR)
        }
        WakeFailureKind::Recipe if failure.stage == MODELS_STAGE => failed(&format!(
            "load the model there, or correct `models` in the configuration of the agent {agent}"
        ))
        .lasting(WAKE_ERROR),
        WakeFailureKind::Recipe => failed(&format!(
            "run `reveille logs {name}` on the machine of {agent}, or check [provider.wake] in its configuration"
        ))
        .lasting(WAKE_ERROR),
        WakeFailureKind::Died => failed(&format!(
            "run `reveille logs {name}` on the machine of {agent}, or read the backend's own log"
        ))
        .lasting(WAKE_ERROR),
        WakeFailureKind::AgentLost | WakeFailureKind::AgentStopped => {
            failed(&format!("start the agent {agent}, then try again"))
        }
        WakeFailureKind::NotAllowed => declined(provider, failure, ""),
        WakeFailureKind::GroupBlocked => {
            let message = format!(
                "{provider} was not woken: {reason} (after {spent}); nothing is wrong with it: try again"
            );
            ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "group_blocked", message)
        }
        // Only those who no longer wait for it have seen this wake: a waiter begins another one.
        WakeFailureKind::NotNeeded => failed("try again"),
        WakeFailureKind::Withdrawn => failed("its agent no longer publishes it with these settings"),
    }
}

/// The machine's owner allows no wake now; `again` says when that is found out anew.
fn declined(provider: &ProviderId, failure: &WakeFailure, again: &str) -> ErrorResponse {
    let (reason, agent) = (&failure.reason, &provider.agent);
    let message = format!("{provider} can't be woken now: {reason}");
    let message = match failure.stage.as_str() {
        PAUSED_STAGE if reason.ends_with('`') => format!("{message} on the machine of {agent}"),
        PAUSED_STAGE => {
            format!("{message}; `reveille agent resume` on the machine of {agent} ends the pause")
        }
        _ => message,
    };
    ErrorResponse::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "provider_declined",
        message + again,
    )
    .lasting(WAKE_ERROR)
}

pub(super) fn of_sleep(error: &SleepError) -> ErrorResponse {
    match error {
        SleepError::Unknown(provider) => {
            ErrorResponse::new(StatusCode::NOT_FOUND, "provider_not_found", error.to_string())
                .about(provider, None)
        }
        SleepError::Refused { provider, .. } => {
            ErrorResponse::new(StatusCode::CONFLICT, "sleep_refused", error.to_string()).about(provider, None)
        }
        SleepError::Unavailable(_) => {
            let message = "the agent can't be reached".to_owned();
            ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "agent_unreachable", message)
                .retry_in(RETRY_SOON_SECONDS)
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
