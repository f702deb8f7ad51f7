//! The commit format: what was written once is read for ever, and nothing that stands in a journal brings us down.

use crate::events::{agent, at, provider, spec};
use cqrs_es::Aggregate;
use proptest::prelude::*;
use reveille_bus::{
    AggregateId,
    commit::{AnyCommit, Commit, CommitError, CommitHash},
};
use reveille_domain::{
    Agent, AgentEvent, CommandId, Epoch, Failures, Provider, ProviderEvent, ReportSeq, SessionId, Stage,
    Timestamp, Wake, WakeCause, WakeFailure, WakeFailureKind, WakeId, provider::RegisteredAs,
};
use std::{fs, path::Path};
use uuid::Uuid;

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + number)
}

fn text<A: Aggregate>(commit: &Commit<A>) -> String {
    String::from_utf8(commit.encode().unwrap().to_vec()).unwrap()
}

fn agent_commit() -> Commit<Agent> {
    let event = AgentEvent::AgentConnected {
        name: agent(),
        session: SessionId(uuid(1)),
        epoch: Epoch(1),
        version: "0.1.0".to_owned(),
        at_ms: at(0),
    };
    let mut state = Agent::default();
    state.apply(event.clone());
    Commit {
        aggregate_version: 1,
        first_event_seq: 1,
        prev: None,
        command_id: CommandId(uuid(2)),
        at: at(0),
        cause: "connect".to_owned(),
        recent_command_ids: vec![],
        events: vec![event],
        state,
    }
}

fn registered() -> ProviderEvent {
    ProviderEvent::ProviderRegistered {
        id: provider(),
        epoch: Epoch(3),
        seq: ReportSeq(0),
        spec: spec(),
        status: RegisteredAs::Hibernating,
        failures: Failures::default(),
        at_ms: at(0),
    }
}

fn requested(wake: u128) -> ProviderEvent {
    ProviderEvent::WakeRequested {
        wake: Wake {
            id: WakeId(uuid(wake)),
            cause: WakeCause::Operator { key: None },
            requested_at_ms: at(10),
            deadline_ms: at(85),
        },
    }
}

/// A wake that was overdue, and the next one, in one commit.
fn provider_commit() -> Commit<Provider> {
    let mut state = Provider::default();
    state.apply(registered());
    state.apply(requested(1));
    let events = vec![
        ProviderEvent::WakeTimedOut {
            wake_id: WakeId(uuid(1)),
            failure: WakeFailure::new(WakeFailureKind::TimedOut, "agent", "no outcome by the deadline"),
            failures: Failures {
                count: 1,
                held_until_ms: None,
                last: None,
            },
            at_ms: at(90),
        },
        requested(2),
    ];
    for event in &events {
        state.apply(event.clone());
    }
    Commit {
        aggregate_version: 3,
        first_event_seq: 3,
        prev: Some(CommitHash::of(b"the commit before")),
        command_id: CommandId(uuid(5)),
        at: at(90),
        cause: "request".to_owned(),
        recent_command_ids: vec![CommandId(uuid(3)), CommandId(uuid(4))],
        events,
        state,
    }
}

#[test]
fn commits_stand_in_the_journal_as_they_always_did() {
    let (agent, provider) = (agent_commit(), provider_commit());
    insta::assert_snapshot!("agent_commit", text(&agent));
    insta::assert_snapshot!("provider_commit", text(&provider));
    // What is read is what was written then, not what is written today.
    assert_eq!(Commit::decode(golden("agent_commit").as_bytes()), Ok(agent));
    assert_eq!(Commit::decode(golden("provider_commit").as_bytes()), Ok(provider));
}

/// What stands in a snapshot's file behind its header.
fn golden(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bus/snapshots");
    let file = fs::read_to_string(folder.join(format!("bus__commits__{name}.snap"))).unwrap();
    file.splitn(3, "---\n").nth(2).unwrap().trim_end().to_owned()
}

fn newer(error: CommitError) -> (&'static str, u32) {
    match error {
        CommitError::Newer { field, found, .. } => (field, found),
        other => panic!("{other}"),
    }
}

#[test]
fn a_commit_of_a_newer_reveille_is_told_from_a_malformed_one() {
    let text = text(&provider_commit());
    let v2 = text.replacen(r#"{"v":1,"#, r#"{"v":2,"else":[],"#, 1);
    assert_eq!(
        newer(Commit::<Provider>::decode(v2.as_bytes()).unwrap_err()),
        ("v", 2)
    );
    // The other fields of a newer version may be anything.
    let bare = br#"{"v":7,"state_version":1}"#;
    assert_eq!(newer(Commit::<Provider>::decode(bare).unwrap_err()), ("v", 7));
    let state = text.replace(
        r#""state_version":1,"state":{"#,
        r#""state_version":2,"state":{"else":1,"#,
    );
    let error = Commit::<Provider>::decode(state.as_bytes()).unwrap_err();
    assert_eq!(newer(error), ("state_version", 2));
    let older = text.replace(r#""state_version":1"#, r#""state_version":0"#);
    assert_eq!(
        Commit::<Provider>::decode(older.as_bytes()),
        Err(CommitError::OlderState { found: 0, known: 1 })
    );
    let event = text.replacen(r#""version":"1""#, r#""version":"2""#, 1);
    let error = Commit::<Provider>::decode(event.as_bytes()).unwrap_err();
    assert_eq!(newer(error), ("event version", 2));
}

#[test]
fn what_is_no_commit_is_malformed() {
    let text = text(&provider_commit());
    let event = text.find(r#""events":["#).unwrap();
    let no_events = format!(
        "{}\"events\":[],{}",
        &text[..event],
        &text[text.find(r#""state_version""#).unwrap()..]
    );
    let cases = [
        String::new(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        "[".repeat(100_000),
        text[..text.len() - 1].to_owned(),
        format!("{text}x"),
        no_events,
        text.replacen(r#""v":1"#, r#""v":0"#, 1),
        text.replacen(r#""v":1"#, r#""v":-1"#, 1),
        text.replacen(r#""v":1"#, r#""v":1,"v":1"#, 1),
        text.replace(r#""first_event_seq":3"#, r#""first_event_seq":0"#),
        text.replace(r#""aggregate_version":3"#, r#""aggregate_version":0"#),
        text.replace(r#""type":"WakeTimedOut""#, r#""type":"WakeDreamt""#),
        text.replace(r#""prev":""#, r#""prev":"+"#),
        text.replace(r#""version":"1""#, r#""version":"one""#),
    ];
    for case in cases {
        let decoded = Commit::<Provider>::decode(case.as_bytes());
        let shown: String = case.chars().take(200).collect();
        assert!(
            matches!(decoded, Err(CommitError::Malformed(_))),
            "{decoded:?} of {shown}"
        );
    }
    // A hash has one spelling per digit and nothing else.
    assert!("+1".repeat(32).parse::<CommitHash>().is_err());
}

#[test]
fn an_agents_commit_is_no_providers() {
    let bytes = agent_commit().encode().unwrap();
    let id = AggregateId::Provider(provider());
    assert!(matches!(
        AnyCommit::decode(&id, &bytes),
        Err(CommitError::Malformed(_))
    ));
}

fn failure() -> impl Strategy<Value = WakeFailure> {
    (".{0,80}", ".{0,80}")
        .prop_map(|(stage, reason)| WakeFailure::new(WakeFailureKind::Recipe, &stage, &reason))
}

fn failures() -> impl Strategy<Value = Failures> {
    let held = proptest::option::of(any::<u64>().prop_map(Timestamp::from_millis));
    (any::<u32>(), held, proptest::option::of(failure())).prop_map(|(count, held_until_ms, last)| Failures {
        count,
        held_until_ms,
        last,
    })
}

fn event() -> impl Strategy<Value = ProviderEvent> {
    let stage = (".{0,20}", any::<u64>(), any::<u64>()).prop_map(|(name, started_after_ms, took_ms)| Stage {
        name,
        started_after_ms,
        took_ms,
    });
    prop_oneof![
        Just(registered()),
        (0..5u128).prop_map(requested),
        (
            0..5u128,
            failure(),
            failures(),
            proptest::collection::vec(stage, 0..4)
        )
            .prop_map(|(wake, failure, failures, stages)| ProviderEvent::WakeFailed {
                wake_id: WakeId(uuid(wake)),
                report: None,
                failure,
                stages,
                failures,
                at_ms: at(20),
            }),
        (any::<u64>(), 0..5u128).prop_map(|(epoch, _)| ProviderEvent::ProviderDeregistered {
            epoch: Epoch(epoch),
            at_ms: at(30),
        }),
    ]
}

prop_compose! {
    fn any_commit()(
        numbers in (1..u64::MAX, 1..u64::MAX),
        prev in proptest::option::of(any::<u64>()),
        ids in proptest::collection::vec(any::<u128>(), 1..18),
        at in any::<u64>(),
        cause in ".{0,40}",
        events in proptest::collection::vec(event(), 1..6),
    ) -> Commit<Provider> {
        let mut state = Provider::default();
        for event in &events {
            state.apply(event.clone());
        }
        let mut ids: Vec<_> = ids.into_iter().map(|id| CommandId(Uuid::from_u128(id))).collect();
        Commit {
            aggregate_version: numbers.0,
            first_event_seq: numbers.1,
            prev: prev.map(|prev| CommitHash::of(&prev.to_le_bytes())),
            command_id: ids.pop().unwrap(),
            at: Timestamp::from_millis(at),
            cause,
            recent_command_ids: ids,
            events,
            state,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(commit in any_commit()) {
        let bytes = commit.encode().unwrap();
        prop_assert_eq!(Commit::decode(&bytes), Ok(commit));
    }

    #[test]
    fn no_damage_to_a_commit_brings_its_reader_down(
        commit in any_commit(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        max in any::<bool>(),
    ) {
        let mut bytes = commit.encode().unwrap().to_vec();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if max {
            let first = format!("\"first_event_seq\":{}", commit.first_event_seq);
            let text = String::from_utf8_lossy(&bytes).replace(&first, "\"first_event_seq\":18446744073709551615");
            bytes = text.into_bytes();
        } else {
            bytes.truncate(cut.index(bytes.len()) + 1);
        }
        if let Ok(read) = Commit::<Provider>::decode(&bytes) {
            prop_assert!(read.last_event_seq() >= read.first_event_seq);
        }
        let _ = Commit::<Agent>::decode(&bytes);
    }
}
