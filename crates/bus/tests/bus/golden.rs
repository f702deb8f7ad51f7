//! The journals that releases have written: kept as files, and read for ever. `tests/golden/<release>` has a file for each
//! aggregate, named by its subject, with one commit a line. Once a release is out, its files stay as they are.

use crate::events::{
    Stored, agent, agent_key, at, check, client_key, create_key, provider, provider_key, spec,
};
use cqrs_es::{Aggregate, event_sink::EventSink};
use reveille_bus::commit::{Commit, CommitHash};
use reveille_domain::{
    AdvanceReason, Agent, AgentCommand, AgentKey, Availability, CommandId, Epoch, GROUP_STAGE, Key,
    KeyCommand, Provider, ProviderCommand, ProviderSpec, ReportId, ReportSeq, SecretHash, SessionId,
    SleepReason, Stage, Timestamp, TokenId, WakeCause, WakeFailure, WakeFailureKind, WakeId, WakeOutcome,
};
use std::{collections::BTreeSet, env, fs, path::PathBuf, time::Duration};
use uuid::Uuid;

/// What this program writes.
const RELEASE: &str = "0.1.0";
const AGENT_EVENTS: [&str; 5] = [
    "AgentConnected",
    "AgentEpochAdvanced",
    "AgentTokenIssued",
    "AgentEnrolled",
    "AgentRevoked",
];
const KEY_EVENTS: [&str; 3] = ["KeyCreated", "KeyRotated", "KeyRevoked"];
/// The public half of no one's key.
const AGENT_KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
const PROVIDER_EVENTS: [&str; 12] = [
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
];

#[test]
fn the_journals_of_all_releases_are_read_and_fold_to_the_states_in_them() {
    let releases = fs::read_dir(folder()).unwrap();
    let releases: Vec<_> = releases.map(|release| release.unwrap().file_name()).collect();
    assert!(releases.iter().any(|release| release == RELEASE), "{releases:?}");
    for release in releases {
        let all = kept(release.to_str().unwrap());
        assert!(all.len() > 2, "{release:?}");
        check(&all);
    }
}

/// With `REVEILLE_TEST_UPDATE` set it writes the files: only for a release that isn't out.
#[test]
fn what_is_written_today_is_what_this_release_writes() {
    let written = [
        (agent_key(), lines::<Agent>(&agent_commands())),
        (provider_key(), lines::<Provider>(&provider_commands())),
        (client_key(), lines::<Key>(&key_commands())),
    ];
    if env::var_os("REVEILLE_TEST_UPDATE").is_some() {
        for (id, lines) in &written {
            let text = lines.join("\n") + "\n";
            fs::write(folder().join(RELEASE).join(id.subject() + ".jsonl"), text).unwrap();
        }
    }
    let all = kept(RELEASE);
    for (id, now) in written {
        let of_id = all.iter().filter(|stored| stored.id() == id);
        let then: Vec<_> = of_id
            .map(|stored| String::from_utf8(stored.payload.clone()).unwrap())
            .collect();
        assert_eq!(then, now, "{id}");
    }
}

#[test]
fn every_event_stands_in_the_golden_journal() {
    let all = kept(RELEASE);
    for (id, names) in [
        (agent_key(), &AGENT_EVENTS[..]),
        (provider_key(), &PROVIDER_EVENTS),
        (client_key(), &KEY_EVENTS),
    ] {
        let commits = all.iter().filter(|stored| stored.id() == id);
        let mut written = BTreeSet::new();
        for stored in commits {
            let commit: serde_json::Value = serde_json::from_slice(&stored.payload).unwrap();
            let events = commit["events"].as_array().unwrap();
            written.extend(
                events
                    .iter()
                    .map(|event| event["type"].as_str().unwrap().to_owned()),
            );
        }
        let names: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(written, names, "{id}");
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The journal that a release has written.
fn kept(release: &str) -> Vec<Stored> {
    let mut all = vec![];
    for file in fs::read_dir(folder().join(release)).unwrap() {
        let file = file.unwrap().path();
        let subject = file.file_stem().unwrap().to_str().unwrap();
        for line in fs::read_to_string(&file).unwrap().lines() {
            all.push(Stored {
                sequence: all.len() as u64 + 1,
                subject: subject.to_owned(),
                payload: line.as_bytes().to_vec(),
            });
        }
    }
    all
}

fn uuid(number: usize) -> Uuid {
    Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + number as u128)
}

/// The commits of these commands, chained as in a journal.
fn lines<A>(commands: &[A::Command]) -> Vec<String>
where
    A: Aggregate<Services = ()> + Clone,
    A::Command: Clone,
{
    let (mut lines, mut prev, mut event_seq, mut recent) = (vec![], None, 1, vec![]);
    let mut state = A::default();
    for (index, command) in commands.iter().enumerate() {
        let sink = EventSink::default();
        let handled = state.handle(command.clone(), &(), &sink);
        futures::executor::block_on(handled).unwrap();
        let events = futures::executor::block_on(sink.collect());
        assert!(!events.is_empty(), "command {index} changes nothing");
        let commit = Commit {
            aggregate_version: index as u64 + 1,
            first_event_seq: event_seq,
            prev,
            command_id: CommandId(uuid(1_000 + index)),
            at: at(index as u64 * 10),
            cause: "golden".to_owned(),
            recent_command_ids: recent.clone(),
            events,
            state: state.clone(),
        };
        let bytes = commit.encode().unwrap();
        event_seq = commit.last_event_seq() + 1;
        prev = Some(CommitHash::of(&bytes));
        recent.push(commit.command_id);
        lines.push(String::from_utf8(bytes.to_vec()).unwrap());
    }
    lines
}

/// Everything that can happen to an agent, once at least.
fn agent_commands() -> Vec<AgentCommand> {
    let connect = |session| AgentCommand::Connect {
        name: agent(),
        session: SessionId(uuid(session)),
        version: RELEASE.to_owned(),
        at: at(session as u64 * 10),
    };
    let advance = AgentCommand::Advance {
        to: Epoch(1_000),
        reason: AdvanceReason::JournalRestored,
        at: at(25),
    };
    let (token, secret) = (TokenId(uuid(500)), SecretHash::new([3; 32]));
    let issue = AgentCommand::IssueToken {
        name: agent(),
        token,
        secret,
        expires_at: at(100),
        at: at(40),
    };
    let enroll = AgentCommand::Enroll {
        name: agent(),
        token,
        secret,
        key: AgentKey::parse(AGENT_KEY).unwrap(),
        at: at(50),
    };
    let revoke = AgentCommand::Revoke {
        name: agent(),
        at: at(60),
    };
    vec![connect(1), connect(2), advance, connect(3), issue, enroll, revoke]
}

/// Everything that can happen to a key.
fn key_commands() -> Vec<KeyCommand> {
    let rotate = |secret, grace, at| KeyCommand::Rotate {
        secret: SecretHash::new([secret; 32]),
        grace: Duration::from_secs(grace),
        at,
    };
    vec![
        create_key(&client_key()),
        rotate(1, 60, at(10)),
        rotate(2, 0, at(20)),
        KeyCommand::Revoke { at: at(30) },
    ]
}

fn register(epoch: u64, availability: Availability, at: Timestamp) -> ProviderCommand {
    ProviderCommand::Register {
        id: provider(),
        epoch: Epoch(epoch),
        seq: ReportSeq(0),
        spec: spec(),
        availability: Some(availability),
        at,
    }
}

/// Published by a later session, without a wake recipe.
fn register_without_recipe(at: Timestamp) -> ProviderCommand {
    ProviderCommand::Register {
        id: provider(),
        epoch: Epoch(3),
        seq: ReportSeq(0),
        spec: ProviderSpec::new(spec().models().to_vec(), None, false).unwrap(),
        availability: Some(Availability::Available),
        at,
    }
}

fn report(epoch: u64, seq: u64) -> ReportId {
    ReportId {
        epoch: Epoch(epoch),
        seq: ReportSeq(seq),
    }
}

fn ended(wake: usize, seq: u64, outcome: WakeOutcome, at: Timestamp) -> ProviderCommand {
    ProviderCommand::ReportWake {
        wake_id: WakeId(uuid(wake)),
        report: report(1, seq),
        outcome,
        at,
    }
}

/// Everything that can happen to a provider, once at least.
fn provider_commands() -> Vec<ProviderCommand> {
    // By a replica to which the wake before has passed its deadline, if it is still in flight.
    let wake = |wake: usize, cause, at| ProviderCommand::RequestWake {
        wake_id: WakeId(uuid(wake)),
        cause,
        overdue: Some(WakeId(uuid(wake - 1))),
        allowed_at: None,
        at,
    };
    let stages = || {
        let stage = |name: &str, started_after_ms, took_ms| Stage {
            name: name.to_owned(),
            started_after_ms,
            took_ms,
        };
        vec![stage(GROUP_STAGE, 0, 3_000), stage("step 1 http", 3_001, 20)]
    };
    let failed = WakeOutcome::Failed {
        failure: WakeFailure::new(
            WakeFailureKind::Recipe,
            "step 1 http",
            "the controller answered 500",
        ),
        stages: stages(),
    };
    let succeeded = WakeOutcome::Succeeded { stages: stages() };
    vec![
        register(1, Availability::Unavailable, at(0)),
        wake(1, WakeCause::Operator { key: None }, at(10)),
        // The overdue one ends and the next begins in one commit.
        wake(2, WakeCause::Operator { key: None }, at(300)),
        ended(2, 1, failed, at(310)),
        wake(3, WakeCause::Operator { key: None }, at(400)),
        ended(3, 2, succeeded, at(410)),
        ProviderCommand::ReportAsleep {
            report: report(1, 3),
            reason: SleepReason::Idle,
            for_wake: None,
            at: at(1_000),
        },
        ProviderCommand::ReportAwake {
            report: report(1, 4),
            at: at(1_010),
        },
        ProviderCommand::MarkInactive {
            epoch: Epoch(1),
            last_heartbeat: at(1_020),
            at: at(1_060),
        },
        ProviderCommand::Resume {
            report: report(1, 5),
            availability: Availability::Available,
            at: at(1_070),
        },
        ProviderCommand::AgentStopped {
            epoch: Epoch(1),
            at: at(1_080),
        },
        ProviderCommand::Expire {
            after: Duration::from_secs(60),
            at: at(2_000),
        },
        register(2, Availability::Available, at(2_010)),
        ProviderCommand::Deregister {
            epoch: Epoch(2),
            at: at(2_020),
        },
        register_without_recipe(at(2_030)),
        ProviderCommand::ReportAsleep {
            report: report(3, 1),
            reason: SleepReason::Unreachable,
            for_wake: None,
            at: at(2_040),
        },
    ]
}
