//! Invariants of the aggregates: they hold for any commands, in any order, from any session, at any time.

mod access;
mod journal;
mod keys;
mod steps;

use journal::Journal;
use proptest::prelude::*;
use reveille_domain::{
    AdvanceReason, Agent, AgentCommand, AgentEvent, AgentName, Epoch, Provider, ProviderCommand, Rejection,
    SessionId, Timestamp,
    audit::{Findings, HistoryAudit},
    provider::StatusName,
};
use std::{collections::HashSet, time::Duration};
use steps::{Step, step};
use uuid::Uuid;

/// The most that a state may take in a commit, whatever was reported: its few models, eight ended wakes with two
/// texts of 400 characters, the last failure, the wake in flight.
const MAX_STATE_BYTES: usize = 40 * 1024;
/// The longest hold after failed wakes.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).expect("serializes")).expect("deserializes")
}

fn check_refusal(provider: &Provider, command: &ProviderCommand, rejection: &Rejection) {
    let is_down = provider
        .registered()
        .is_some_and(|provider| provider.status.name() == StatusName::Down);
    match rejection {
        Rejection::RecentlyFailed { retry_after, .. } => {
            assert!(
                !retry_after.is_zero() && *retry_after <= MAX_BACKOFF,
                "{retry_after:?}"
            );
        }
        Rejection::NoRecipe => assert!(is_down, "what sleeps can be woken: {command:?}"),
        Rejection::SessionSuperseded { .. }
        | Rejection::RegisterFirst { .. }
        | Rejection::NotRegistered
        | Rejection::ResumeFirst
        | Rejection::Inactive { .. }
        | Rejection::HeardSince
        | Rejection::NotExpired => {}
    }
}

/// An audit to which the agent has had every session.
fn audit_with_every_epoch() -> HistoryAudit {
    let mut audit = HistoryAudit::default();
    let name = AgentName::parse("gpu-box").expect("legal");
    let advanced = AgentEvent::AgentEpochAdvanced {
        name: name.clone(),
        epoch: Epoch(u64::MAX),
        reason: AdvanceReason::JournalRestored,
        at_ms: Timestamp::default(),
    };
    audit.agent(&name, &Agent::default(), &[advanced], &mut Findings::default());
    audit
}

fn live(steps: &[Step]) {
    let mut provider = Provider::default();
    let mut journal = Journal::default();
    let mut audit = audit_with_every_epoch();
    let mut now = 1_700_000_000_000_u64;
    for (sequence, step) in (1..).zip(steps) {
        now = now.saturating_add_signed(step.clock);
        let command = journal.command(step, Timestamp::from_millis(now));
        let decision = provider.decide(&command);
        let events = decision.unwrap_or_else(|rejection| {
            check_refusal(&provider, &command, &rejection);
            vec![]
        });
        assert!(
            events.is_empty() || !journal.is_stale(&command),
            "stale, and changed something: {command:#?} after {:?}",
            journal.heard
        );
        let mut found = Findings::default();
        let id = "gpu-box/vllm".parse().expect("legal");
        audit.provider(&id, &provider, &events, sequence, &mut found);
        assert_eq!(
            found.take(),
            [],
            "what the rules decide breaks none: {command:#?}"
        );
        for event in &events {
            journal.append(event);
            provider = provider.evolve(event);
        }
        let state = serde_json::to_string(&provider).expect("serializes");
        assert_eq!(
            serde_json::from_str::<Provider>(&state).expect("deserializes"),
            provider
        );
        assert!(state.len() <= MAX_STATE_BYTES, "a state of {} bytes", state.len());
        journal.agrees_with(&provider);
        let again = provider.decide(&command).unwrap_or_default();
        assert_eq!(
            again,
            [],
            "{command:#?} repeated at once changed something: {provider:#?}"
        );
    }
    let folded = journal
        .events
        .iter()
        .fold(Provider::default(), |provider, event| {
            provider.evolve(&through_json(event))
        });
    assert_eq!(folded, provider, "the fold of the events is the state");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_provider_keeps_its_invariants(steps in proptest::collection::vec(step(), 1..250)) {
        live(&steps);
    }

    #[test]
    fn an_agents_epochs_rise_one_by_one_or_by_an_advance(
        steps in proptest::collection::vec((0..12_u128, proptest::option::weighted(0.1, 0..50_u64)), 1..80),
    ) {
        let mut agent = Agent::default();
        let (mut events, mut accepted, mut current) = (vec![], vec![], None);
        for (session, advance) in steps {
            let (session, before) = (SessionId(Uuid::from_u128(session)), agent.epoch());
            let at = Timestamp::from_millis(1);
            let command = match advance {
                Some(to) => AgentCommand::Advance { to: Epoch(to), reason: AdvanceReason::JournalRestored, at },
                None => AgentCommand::Connect {
                    name: AgentName::parse("gpu-box").expect("legal"),
                    session,
                    version: "v".repeat(10_000),
                    at,
                },
            };
            match (agent.decide(&command), advance) {
                // A session that was accepted before is the current one, or superseded for good.
                (Err(_), _) => prop_assert!(advance.is_none() && accepted.contains(&session) && current != Some(session)),
                (Ok(new), None) if new.is_empty() => prop_assert_eq!(current, Some(session)),
                (Ok(new), Some(to)) if new.is_empty() => prop_assert!(before >= Epoch(to) || accepted.is_empty()),
                (Ok(new), _) => {
                    let (mut found, name) = (Findings::default(), AgentName::parse("gpu-box").expect("legal"));
                    HistoryAudit::default().agent(&name, &agent, &new, &mut found);
                    prop_assert_eq!(found.take(), []);
                    for event in new {
                        match &event {
                            AgentEvent::AgentConnected { epoch, .. } => {
                                prop_assert!(!accepted.contains(&session));
                                prop_assert_eq!(*epoch, before.next());
                                accepted.push(session);
                                current = Some(session);
                            }
                            AgentEvent::AgentEpochAdvanced { epoch, .. } => {
                                prop_assert!(*epoch > before);
                                current = None;
                            }
                            AgentEvent::AgentTokenIssued { .. }
                            | AgentEvent::AgentEnrolled { .. }
                            | AgentEvent::AgentRevoked { .. } => prop_assert!(false, "nobody asked for it"),
                        }
                        agent = agent.evolve(&event);
                        events.push(event);
                    }
                }
            }
            prop_assert!(agent.epoch() >= before);
            prop_assert_eq!(&through_json(&agent), &agent);
            prop_assert!(serde_json::to_string(&agent).expect("serializes").len() < 2048);
        }
        let folded = events.iter().fold(Agent::default(), |agent, event| agent.evolve(&through_json(event)));
        prop_assert_eq!(folded, agent);
    }
}

/// Laws say nothing about what never happens: the generated lives reach every event and every status.
#[test]
fn the_generated_lives_reach_every_event_and_status() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut reached = HashSet::new();
    for _ in 0..200 {
        let steps = proptest::collection::vec(step(), 1..120)
            .new_tree(&mut runner)
            .expect("generates");
        let mut provider = Provider::default();
        let mut journal = Journal::default();
        let mut now = 1_700_000_000_000_u64;
        for step in steps.current() {
            now = now.saturating_add_signed(step.clock);
            let command = journal.command(&step, Timestamp::from_millis(now));
            match provider.decide(&command) {
                Ok(events) => {
                    for event in events {
                        reached.insert(<&str>::from(&event).to_owned());
                        journal.append(&event);
                        provider = provider.evolve(&event);
                    }
                }
                Err(rejection) => {
                    let name = format!("{rejection:?}");
                    let end = name.find([' ', '{']).unwrap_or(name.len());
                    reached.insert(name[..end].to_owned());
                }
            }
            if let Some(provider) = provider.registered() {
                reached.insert(provider.status.name().to_string());
            }
        }
    }
    for expected in [
        "ProviderRegistered",
        "WakeRequested",
        "WakeSucceeded",
        "WakeFailed",
        "WakeTimedOut",
        "BackendSlept",
        "BackendWentDown",
        "BackendAwoke",
        "ProviderBecameInactive",
        "ProviderResumed",
        "ProviderDeregistered",
        "ProviderExpired",
        "active",
        "hibernating",
        "waking",
        "down",
        "inactive",
        "SessionSuperseded",
        "RegisterFirst",
        "RecentlyFailed",
        "NoRecipe",
        "HeardSince",
        "ResumeFirst",
        "Inactive",
        "NotExpired",
        "NotRegistered",
    ] {
        assert!(
            reached.contains(expected),
            "{expected} never happened: {reached:?}"
        );
    }
}
