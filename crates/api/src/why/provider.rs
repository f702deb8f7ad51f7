//! Why a provider or a model is in its state, and what the next request for it would meet.

use super::{Cause, Why, advice_on, span};
use reveille_domain::{
    ModelName, ProviderId, Status, Timestamp, WakeFailure,
    provider::{InactiveReason, Registered, StatusName},
};
use std::time::Duration;

/// What is known of a provider, beside its state in the journal.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub provider: Registered,
    /// Why it comes where it does among those that have the model.
    pub place: Option<String>,
    /// How a wake would fail now by its owner's will.
    pub refused: Option<WakeFailure>,
    /// How long a wake usually takes until it is awake, from now on.
    pub wakes_in: Option<Duration>,
    /// How many requests wait for it in this replica.
    pub waiting: usize,
    /// Why its backend stays awake although it was to sleep.
    pub stays_awake: Option<String>,
    /// What the last requests saw that failed there in a row.
    pub failing: Option<String>,
}

/// A provider's state, and what the next request for it would meet. `now` is NATS time.
pub(crate) fn of_provider(member: &Member, now: Timestamp) -> Why {
    let id = &member.provider.id;
    Why {
        about: "provider",
        id: id.to_string(),
        summary: next_request(member, now),
        chain: state(member),
        advice: advice(member, now),
    }
}

/// The state of each provider of a model, in the order in which a request would try them.
pub(crate) fn of_model(model: &ModelName, members: &[Member], now: Timestamp) -> Why {
    let mut chain = vec![];
    for member in members {
        chain.extend(state(member));
        let place = member.place.as_ref();
        chain.extend(place.map(|why| {
            Cause::now(format!(
                "among the providers of `{model}`, {}: {why}",
                member.provider.id
            ))
        }));
    }
    let first = members.first();
    let of = match members.len() {
        0 | 1 => String::new(),
        several => format!("of {several} providers, {} comes first: ", members[0].provider.id),
    };
    Why {
        about: "model",
        id: model.to_string(),
        summary: first.map_or_else(
            || format!("no provider has `{model}`"),
            |first| format!("{of}{}", next_request(first, now)),
        ),
        chain,
        advice: first.and_then(|first| advice(first, now)),
    }
}

/// What led to the present state.
fn state(member: &Member) -> Vec<Cause> {
    let provider = &member.provider;
    let (id, mut chain) = (&provider.id, vec![]);
    if let Some(last) = provider.wakes.last() {
        let took = span(last.ended_at_ms.since(last.requested_at_ms));
        let how = match &last.failure {
            None => "succeeded".to_owned(),
            Some(failure) => format!("failed in stage `{}`: {}", failure.stage, failure.reason),
        };
        let what = format!("the last wake of {id}, {}, {how} after {took}", last.id);
        chain.push(Cause::at(last.ended_at_ms, what));
    }
    let (since, what) = match &provider.status {
        Status::Active { since_ms, woken_by } => {
            let by = woken_by.map_or_else(
                || "it was found awake".to_owned(),
                |wake| format!("the wake {wake} has brought it up"),
            );
            (*since_ms, format!("{id} is active since then: {by}"))
        }
        Status::Hibernating { since_ms } => (*since_ms, format!("{id} is asleep since then")),
        Status::Waking { wake } => (
            wake.requested_at_ms,
            format!("{id} is waking since then: wake {}", wake.id),
        ),
        Status::Down { since_ms } => (
            *since_ms,
            format!("{id} is down since then: its backend is unavailable, and it has no wake recipe"),
        ),
        Status::Inactive { since_ms, reason, .. } => {
            let why = match reason {
                InactiveReason::AgentLost => "went silent",
                InactiveReason::AgentStopped => "stopped",
            };
            (
                *since_ms,
                format!("{id} is inactive since then: its agent {} {why}", id.agent),
            )
        }
    };
    chain.push(Cause::at(since, what));
    chain.extend(member.refused.as_ref().map(|refused| {
        Cause::now(format!(
            "the owner of {} lets nothing wake now: {}",
            id.agent, refused.reason
        ))
    }));
    chain.extend(
        member
            .stays_awake
            .as_ref()
            .map(|why| Cause::now(format!("{id} was to sleep, and stays awake: {why}"))),
    );
    chain.extend(
        member
            .failing
            .as_ref()
            .map(|what| Cause::now(format!("the last requests at {id} failed: {what}"))),
    );
    if member.waiting > 0 {
        chain.push(Cause::now(format!(
            "requests that wait for {id} in this replica: {}",
            member.waiting
        )));
    }
    chain
}

fn next_request(member: &Member, now: Timestamp) -> String {
    let (provider, id) = (&member.provider, &member.provider.id);
    let held = provider.failures.backoff_at(now);
    let usually = member.wakes_in.map_or_else(String::new, |time| {
        format!(", which usually takes {}", span(time))
    });
    match provider.status.name() {
        StatusName::Active if member.waiting > 0 => format!("the next request would wait for a slot at {id}"),
        StatusName::Active => format!("{id} would get the next request at once"),
        StatusName::Waking => format!("the next request would join the wake of {id}{usually}"),
        StatusName::Hibernating => match (&member.refused, held) {
            (Some(refused), _) => {
                format!(
                    "the next request would be refused, because {id} isn't woken now: {}",
                    refused.reason
                )
            }
            (None, Some(held)) => format!(
                "the next request would be refused, because wakes of {id} are on hold for {} after {} that failed",
                span(held),
                provider.failures.count
            ),
            (None, None) => format!("the next request would wake {id}{usually}"),
        },
        StatusName::Down => {
            format!("{id} would get the next request, which finds out whether its backend is back")
        }
        StatusName::Inactive => format!(
            "the next request would be refused: the agent {} is away",
            id.agent
        ),
    }
}

fn advice(member: &Member, now: Timestamp) -> Option<String> {
    let ProviderId { agent, provider } = &member.provider.id;
    match member.provider.status.name() {
        StatusName::Inactive => Some(format!("start the agent {agent}, or its machine")),
        StatusName::Down => Some(format!(
            "start its backend on the machine of {agent}, or add a [provider.wake] that does"
        )),
        StatusName::Hibernating => {
            let held = member.provider.failures.backoff_at(now);
            let last = member.provider.failures.last.as_ref().filter(|_| held.is_some());
            let failure = member.refused.as_ref().or(last)?;
            advice_on(failure.kind, provider.as_str(), agent.as_str())
        }
        StatusName::Active | StatusName::Waking => None,
    }
}
