//! Why a wake was requested, what it did, and how it ended.

use super::{Cause, Why, advice_on, after, millis, span};
use reveille_domain::{
    GROUP_STAGE, ProviderId, Timestamp, WakeCause, WakeFailureKind, counted,
    requests::RequestRecord,
    rows::{WakeOutcomeName, WakeRow},
};
use std::sync::Arc;

/// How many of the requests that waited are named.
const NAMED: usize = 10;

/// A member of the group that was put to sleep meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    pub provider: ProviderId,
    pub slept_at: Timestamp,
}

/// The chain of a wake: `waited` are the requests that are known to have waited for it, and `room` who made room for it.
pub(crate) fn of_wake(wake: &WakeRow, waited: &[Arc<RequestRecord>], room: &[Room]) -> Why {
    let provider = &wake.provider;
    let requested = format!("{} requested a wake of {provider}", requester(wake));
    let mut chain = vec![Cause::at(wake.requested_at_ms, requested)];
    chain.extend(stages(wake));
    for room in room {
        let what = format!(
            "{} had been put to sleep, which made room in the group",
            room.provider
        );
        chain.push(Cause::at(room.slept_at, what));
    }
    for record in waited.iter().take(NAMED) {
        let who = record
            .key
            .as_ref()
            .map_or_else(String::new, |key| format!(" of key {key}"));
        let what = format!("request {}{who} came, and waited for it", record.request_id);
        chain.push(Cause::at(record.received_at_ms, what));
    }
    if let Some(more) = waited.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let what = format!("{} more waited for it", counted(more, "request"));
        chain.push(Cause::at(wake.requested_at_ms, what));
    }
    chain.extend(ending(wake));
    chain.sort_by_key(|cause| cause.at_ms);
    let failure = wake.failure.as_ref();
    Why {
        about: "wake",
        id: wake.wake_id.to_string(),
        summary: ending(wake).map_or_else(|| format!("{provider} is still waking"), |ending| ending.what),
        chain,
        advice: failure
            .and_then(|failure| advice_on(failure.kind, provider.provider.as_str(), provider.agent.as_str())),
    }
}

/// Who requested a wake.
pub(super) fn requester(wake: &WakeRow) -> String {
    let with = |key: Option<&_>| key.map_or_else(String::new, |key| format!(" with key {key}"));
    match &wake.cause {
        Some(WakeCause::Request {
            request_id,
            model,
            key,
        }) => {
            format!("request {request_id} for `{model}`{}", with(key.as_ref()))
        }
        Some(WakeCause::Operator { key }) => format!("an operator{}", with(key.as_ref())),
        None => "somebody whose request isn't remembered".to_owned(),
    }
}

/// What its recipe did, as its agent reported it.
pub(super) fn stages(wake: &WakeRow) -> Vec<Cause> {
    // The agent's times begin when it accepted the wake, which is a moment after the request for it.
    let stages = wake.stages.iter().map(|stage| {
        let at = after(wake.requested_at_ms, stage.started_after_ms);
        let took = millis(stage.took_ms);
        if stage.name == GROUP_STAGE {
            Cause::at(at, format!("the wake waited {took} until its group had room"))
        } else {
            Cause::at(
                at,
                format!("the stage `{}` of its recipe began, and took {took}", stage.name),
            )
        }
    });
    stages.collect()
}

/// How it ended; `None` if it hasn't.
pub(super) fn ending(wake: &WakeRow) -> Option<Cause> {
    let (provider, at) = (&wake.provider, wake.ended_at_ms?);
    let took = span(at.since(wake.requested_at_ms));
    let why = wake.failure.as_ref();
    let why = why.map_or_else(String::new, |failure| {
        format!(": {} (stage `{}`)", failure.reason, failure.stage)
    });
    let what = match (wake.outcome, wake.failure.as_ref().map(|failure| failure.kind)) {
        (WakeOutcomeName::InFlight, _) => return None,
        (WakeOutcomeName::Succeeded, _) => {
            format!("{provider} was awake, {took} after the request for the wake")
        }
        (_, Some(WakeFailureKind::NotAllowed)) => {
            format!("the owner of {} didn't allow the wake{why}", provider.agent)
        }
        (_, Some(WakeFailureKind::NotNeeded)) => {
            "the wake ended, because nobody waited for it any longer".to_owned()
        }
        (WakeOutcomeName::Failed, _) => format!("the wake failed after {took}{why}"),
        (WakeOutcomeName::TimedOut, _) => format!("nothing was heard of the wake within {took}{why}"),
    };
    Some(Cause::at(at, what))
}
