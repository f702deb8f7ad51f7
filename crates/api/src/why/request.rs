//! Why a request went as it did.

use super::{Cause, Why, after, millis, wake};
use reveille_domain::{
    WakeCause,
    requests::{RequestOutcome, RequestRecord, StepKind, TokenCount},
    rows::WakeRow,
};

/// Reading a body that takes longer is named, in milliseconds.
const SLOW_BODY_MS: u64 = 500;

/// The chain of a request; `wake` is the one that it waited for, if there was one and it is known.
pub(crate) fn of_request(record: &RequestRecord, wake: Option<&WakeRow>) -> Why {
    let received = record.received_at_ms;
    let mut chain = vec![Cause::at(received, asked(record))];
    for step in &record.steps {
        let at = after(received, step.after_ms);
        chain.extend(step_in_words(&step.kind, step.after_ms).map(|what| Cause::at(at, what)));
        if matches!(step.kind, StepKind::Waking { .. })
            && let Some(wake) = wake
        {
            chain.extend(of_its_wake(record, wake));
        }
    }
    if let Some(last) = record.steps.last().filter(|_| record.steps_left_out > 0) {
        let what = format!("({} more steps in between are left out)", record.steps_left_out);
        chain.push(Cause::at(after(received, last.after_ms), what));
    }
    if let Some(first_byte) = record.first_byte_ms {
        let since = record.handed_over_ms.map(|from| first_byte.saturating_sub(from));
        let since = since.map_or_else(String::new, |ms| {
            format!(", {} after the provider got it", millis(ms))
        });
        chain.push(Cause::at(
            after(received, first_byte),
            format!("the first byte of the answer came{since}"),
        ));
    }
    let summary = ending(record);
    if let Some(ended_at) = record.ended_at() {
        chain.push(Cause::at(ended_at, summary.clone()));
    }
    // Steps of the wake may be later than those of the request, and clocks of two machines differ a little.
    chain.sort_by_key(|cause| cause.at_ms.unwrap_or(received));
    Why {
        about: "request",
        id: record.request_id.clone(),
        summary,
        chain,
        advice: advice(record, wake),
    }
}

fn asked(record: &RequestRecord) -> String {
    let who = match &record.key {
        Some(key) => format!("key {key}"),
        None => "a caller without a key, who needs none on this machine,".to_owned(),
    };
    let what = match &record.model {
        Some(model) => format!("for `{model}`"),
        None => "for a model that isn't known".to_owned(),
    };
    let stream = if record.stream { ", as a stream" } else { "" };
    format!("{who} asked {what} at {}{stream}", record.path)
}

fn step_in_words(kind: &StepKind, after_ms: u64) -> Option<String> {
    Some(match kind {
        StepKind::Read if after_ms < SLOW_BODY_MS => return None,
        StepKind::Read => format!("its body had come, after {}", millis(after_ms)),
        StepKind::Chosen {
            provider, of: 0, why, ..
        } => format!("it goes to {provider}: {why}"),
        StepKind::Chosen {
            provider, of: 1, why, ..
        } => {
            format!("it goes to {provider}, the only provider of the model: {why}")
        }
        StepKind::Chosen {
            provider,
            of,
            why,
            others,
        } => {
            let others = others
                .iter()
                .map(|other| format!("; not to {}: {}", other.provider, other.why));
            format!(
                "it goes to {provider}, one of {of}: {why}{}",
                others.collect::<String>()
            )
        }
        StepKind::Waking { provider } => format!("it waits for {provider} to wake"),
        StepKind::FallingAsleep { provider } => {
            format!("it waits until {provider} has been put to sleep, and can be woken again")
        }
        StepKind::Reaching { provider } => format!("it waits for the agent {} to be back", provider.agent),
        StepKind::Queued {
            provider,
            place: Some(place),
        } => {
            format!("it waits for a slot at {provider}, as number {place} of its queue")
        }
        StepKind::Queued {
            provider,
            place: None,
        } => format!("it waits until {provider} has room for it"),
        StepKind::Sent { provider } => format!("{provider} gets it"),
        StepKind::Missed { provider, why } => format!("{provider} doesn't answer it: {why}"),
    })
}

/// What of a wake its request waited for.
fn of_its_wake(record: &RequestRecord, wake: &WakeRow) -> Vec<Cause> {
    let is_own = matches!(&wake.cause, Some(WakeCause::Request { request_id, .. }) if *request_id == record.request_id);
    let mut chain = vec![];
    if !is_own {
        let at = wake.requested_at_ms;
        chain.push(Cause::at(
            at,
            format!("{} requested that wake", wake::requester(wake)),
        ));
    }
    chain.extend(wake::stages(wake));
    chain.extend(wake::ending(wake));
    chain
}

fn ending(record: &RequestRecord) -> String {
    let took = record
        .ended_ms
        .map_or_else(String::new, |ms| format!(" after {}", millis(ms)));
    let by = match &record.provider {
        Some(provider) => format!("by {provider}"),
        None => "by this hub".to_owned(),
    };
    let reason = match &record.error {
        Some(error) if error.reason.is_empty() => format!(": {}", error.code),
        Some(error) => format!(": {} ({})", error.reason, error.code),
        None => String::new(),
    };
    let status = record.status.unwrap_or_default();
    match record.outcome {
        RequestOutcome::InFlight => "it hasn't ended".to_owned(),
        RequestOutcome::Done => format!("it was answered {by}{took}{}", tokens(record.tokens)),
        RequestOutcome::Failed => format!("it failed with status {status}{took}{reason}"),
        RequestOutcome::Cut => format!("its answer broke off{took}{reason}"),
        RequestOutcome::Disconnected => format!("its client left{took}, before the end"),
    }
}

fn tokens(tokens: Option<TokenCount>) -> String {
    let Some(tokens) = tokens else {
        return String::new();
    };
    let about = if tokens.estimated { "about " } else { "" };
    let part = |count: Option<u64>, about: &str, what: &str| {
        count.map(|count| format!("{about}{count} tokens of {what}"))
    };
    let parts = [
        part(tokens.input, "", "the prompt"),
        part(tokens.output, about, "the answer"),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    format!(", with {}", parts.join(" and "))
}

fn advice(record: &RequestRecord, wake: Option<&WakeRow>) -> Option<String> {
    let failure = wake.and_then(|wake| wake.failure.as_ref());
    if let (Some(failure), Some(wake)) = (failure, wake) {
        let (provider, agent) = (wake.provider.provider.as_str(), wake.provider.agent.as_str());
        return super::advice_on(failure.kind, provider, agent);
    }
    let code = record.error.as_ref()?.code.as_ref();
    Some(match code {
        "model_not_found" => "`reveille llms` lists the models; a key may use those that its scopes name".to_owned(),
        "queue_full" | "queue_timeout" => {
            "raise the provider's max_concurrency if its backend can work on more requests at once, or add another provider of the model"
                .to_owned()
        }
        "wake_timeout" => "let the client wait longer (X-Reveille-Wait, and its own time-out)".to_owned(),
        "provider_inactive" => "start the agent of the provider, or its machine".to_owned(),
        "backend_failed" | "backend_unavailable" | "backend_timeout" => {
            let provider = record.provider.as_ref()?;
            format!(
                "read the backend's own log, or `reveille logs {}` on the machine of {}",
                provider.provider, provider.agent
            )
        }
        _ => return None,
    })
}
