//! An audit finds each forgery at its commit and by its code, and nothing in what the rules have decided.
//!
//! The forgeries are the most careful ones: whoever makes them writes the hashes, numbers and states anew, unless these are
//! what is forged.

use crate::events::{agent, agent_key, at, client_key, create_key, provider_key};
use cqrs_es::Aggregate;
use reveille_bus::{
    AggregateId,
    archive::{ArchivedCommit, AuditBreach, JournalAudit, ParsedCommit, Verifier},
    commit::{Commit, CommitHash},
};
use reveille_domain::{
    AdvanceReason, Agent, AgentCommand, AgentEvent, AgentKey, Availability, CommandId, Epoch, Failures,
    GroupName, Key, KeyCommand, KeyEvent, ModelName, Provider, ProviderCommand, ProviderEvent, ProviderId,
    ProviderSpec, RecipeKind, ReportId, ReportSeq, SecretHash, SessionId, SleepReason, Stage, TokenId, Wake,
    WakeCause, WakeId, WakeOutcome, WakeSpec,
    audit::Invariant,
    provider::{InactiveReason, RegisteredAs, StableStatus},
};
use std::{collections::BTreeSet, time::Duration};
use uuid::Uuid;

const AGENT_KEYS: [&str; 2] = [
    "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
    "UAXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
];
/// The provider beside `gpu-box/vllm`, in the same group.
const OTHER: &str = "gpu-box/ollama";

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + number)
}

fn wake(number: u128) -> WakeId {
    WakeId(uuid(number))
}

fn report(epoch: u64, seq: u64) -> ReportId {
    ReportId {
        epoch: Epoch(epoch),
        seq: ReportSeq(seq),
    }
}

fn other_key() -> AggregateId {
    AggregateId::Provider(OTHER.parse().unwrap())
}

/// A journal that is being written.
#[derive(Clone, Default)]
struct Written {
    commits: Vec<ArchivedCommit>,
}

impl Written {
    fn last<A: Aggregate>(&self, id: &AggregateId) -> Option<(Commit<A>, CommitHash)> {
        let of_id = |commit: &&ArchivedCommit| commit.subject == id.subject();
        let last = self.commits.iter().rfind(of_id)?;
        Some((
            Commit::decode(&last.payload).unwrap(),
            CommitHash::of(&last.payload),
        ))
    }

    /// Commits whatever events, as if they had been decided.
    fn commit<A: Aggregate + Clone>(&mut self, id: &AggregateId, events: &[A::Event]) -> u64 {
        let last = self.last::<A>(id);
        let mut state = last
            .as_ref()
            .map(|(last, _)| last.state.clone())
            .unwrap_or_default();
        for event in events {
            state.apply(event.clone());
        }
        let sequence = self.commits.len() as u64 + 1;
        let commit = Commit {
            aggregate_version: last.as_ref().map_or(1, |(last, _)| last.aggregate_version + 1),
            first_event_seq: last.as_ref().map_or(1, |(last, _)| last.last_event_seq() + 1),
            prev: last.as_ref().map(|(_, hash)| *hash),
            command_id: CommandId(uuid(10_000 + u128::from(sequence))),
            at: at(sequence),
            cause: "test".to_owned(),
            recent_command_ids: last.map(|(last, _)| last.command_id).into_iter().collect(),
            events: events.to_vec(),
            state,
        };
        self.store(sequence, id, &commit)
    }

    fn store<A: Aggregate>(&mut self, sequence: u64, id: &AggregateId, commit: &Commit<A>) -> u64 {
        let payload = commit.encode().unwrap();
        self.commits
            .push(ArchivedCommit::new(sequence, id.subject(), vec![], payload, None));
        sequence
    }

    fn agent(&mut self, command: &AgentCommand) -> u64 {
        let last = self.last::<Agent>(&agent_key());
        let state = last.map(|(last, _)| last.state).unwrap_or_default();
        self.commit::<Agent>(&agent_key(), &state.decide(command).unwrap())
    }

    fn provider(&mut self, id: &AggregateId, command: &ProviderCommand) -> u64 {
        let last = self.last::<Provider>(id);
        let state = last.map(|(last, _)| last.state).unwrap_or_default();
        let events = state.decide(command).unwrap();
        assert!(!events.is_empty(), "{command:?} changes nothing");
        self.commit::<Provider>(id, &events)
    }

    fn key(&mut self, command: &KeyCommand) -> u64 {
        let last = self.last::<Key>(&client_key());
        let state = last.map(|(last, _)| last.state).unwrap_or_default();
        self.commit::<Key>(&client_key(), &state.decide(command).unwrap())
    }

    /// Changes the text of the commit at `sequence`.
    fn change(&mut self, sequence: u64, from: &str, to: &str) -> u64 {
        let commit = &mut self.commits[usize::try_from(sequence).unwrap() - 1];
        let text = String::from_utf8(commit.payload.to_vec()).unwrap();
        assert!(text.contains(from), "{text}");
        commit.payload = text.replacen(from, to, 1).into_bytes().into();
        sequence
    }

    fn audited(&self) -> (JournalAudit, Vec<AuditBreach>) {
        let mut audit = JournalAudit::default();
        let commits = self.commits.iter().cloned().map(ParsedCommit::from);
        let breaches = commits.flat_map(|commit| audit.take(commit)).collect();
        (audit, breaches)
    }
}

fn spec() -> ProviderSpec {
    let recipe = WakeSpec {
        kind: RecipeKind::Http,
        budget_ms: 70_000,
    };
    ProviderSpec::new(vec![ModelName::parse("qwen3-8b").unwrap()], Some(recipe), true)
        .and_then(|spec| spec.in_groups(vec![GroupName::parse("gpu0").unwrap()]))
        .unwrap()
}

fn connect(session: u128) -> AgentCommand {
    AgentCommand::Connect {
        name: agent(),
        session: SessionId(uuid(session)),
        version: "0.1.0".to_owned(),
        at: at(0),
    }
}

fn token(number: u128) -> TokenId {
    TokenId(uuid(500 + number))
}

fn issue(number: u128) -> AgentCommand {
    AgentCommand::IssueToken {
        name: agent(),
        token: token(number),
        secret: SecretHash::new([3; 32]),
        expires_at: at(100),
        at: at(0),
    }
}

fn register(id: &AggregateId, epoch: u64, seq: u64) -> ProviderCommand {
    let AggregateId::Provider(id) = id else {
        panic!("{id} is no provider")
    };
    ProviderCommand::Register {
        id: id.clone(),
        epoch: Epoch(epoch),
        seq: ReportSeq(seq),
        spec: spec(),
        availability: Some(Availability::Unavailable),
        at: at(0),
    }
}

fn request(number: u128) -> ProviderCommand {
    ProviderCommand::RequestWake {
        wake_id: wake(number),
        cause: WakeCause::Operator { key: None },
        overdue: None,
        allowed_at: None,
        at: at(10),
    }
}

fn stages() -> Vec<Stage> {
    ["group", "step 1 http"]
        .map(|name| Stage {
            name: name.to_owned(),
            started_after_ms: 0,
            took_ms: 10,
        })
        .to_vec()
}

fn succeed(number: u128, report: ReportId) -> ProviderCommand {
    ProviderCommand::ReportWake {
        wake_id: wake(number),
        report,
        outcome: WakeOutcome::Succeeded { stages: stages() },
        at: at(20),
    }
}

fn sleep(report: ReportId) -> ProviderCommand {
    ProviderCommand::ReportAsleep {
        report,
        reason: SleepReason::Group,
        for_wake: None,
        at: at(1_000),
    }
}

/// What happens in a day: two sessions of an agent, its token, a key, and two members of a group that take turns. At the end
/// both are asleep in the session with epoch 2, and the provider has accepted report 3 of it.
fn a_day() -> Written {
    let (mut day, [a, b]) = (Written::default(), [provider_key(), other_key()]);
    day.agent(&issue(1));
    day.agent(&AgentCommand::Enroll {
        name: agent(),
        token: token(1),
        secret: SecretHash::new([3; 32]),
        key: AgentKey::parse(AGENT_KEYS[0]).unwrap(),
        at: at(50),
    });
    day.agent(&connect(1));
    day.key(&create_key(&client_key()));
    day.provider(&a, &register(&a, 1, 1));
    day.provider(&b, &register(&b, 1, 1));
    day.provider(&a, &request(1));
    day.provider(&a, &succeed(1, report(1, 2)));
    day.provider(&a, &sleep(report(1, 3)));
    day.provider(&b, &request(2));
    day.provider(&b, &succeed(2, report(1, 2)));
    day.agent(&connect(2));
    day.provider(&b, &register(&b, 2, 1));
    day.provider(&a, &register(&a, 2, 1));
    day.provider(&a, &request(3));
    day.provider(&a, &succeed(3, report(2, 2)));
    day.provider(&a, &sleep(report(2, 3)));
    day.key(&KeyCommand::Rotate {
        secret: SecretHash::new([1; 32]),
        grace: Duration::from_secs(60),
        at: at(10),
    });
    day
}

#[test]
fn what_the_rules_have_decided_is_sound() {
    let day = a_day();
    let (audit, breaches) = day.audited();
    assert_eq!(breaches, []);
    let audited = audit.audited();
    assert_eq!((audited.commits, audited.events, audited.wakes), (18, 18, 3));
    assert_eq!(audit.last_states().aggregates(), 4);
    // A rule that is never applied proves nothing.
    for rule in Invariant::ALL {
        assert_eq!(audit.checks(*rule) > 0, *rule != Invariant::Rows, "{rule}");
    }
}

/// A forgery: the code by which it is found, and what makes it and tells its commit.
type Forgery = (&'static str, fn(&mut Written) -> u64);

fn forged_event(day: &mut Written, event: ProviderEvent) -> u64 {
    day.commit::<Provider>(&provider_key(), &[event])
}

fn requested(number: u128) -> ProviderEvent {
    ProviderEvent::WakeRequested {
        wake: Wake {
            id: wake(number),
            cause: WakeCause::Operator { key: None },
            requested_at_ms: at(10),
            deadline_ms: at(85),
        },
    }
}

fn succeeded(number: u128, report: ReportId) -> ProviderEvent {
    ProviderEvent::WakeSucceeded {
        wake_id: wake(number),
        report: Some(report),
        stages: stages(),
        at_ms: at(20),
    }
}

fn slept(report: ReportId) -> ProviderEvent {
    ProviderEvent::BackendSlept {
        report,
        reason: SleepReason::Idle,
        for_wake: None,
        failures: Failures::default(),
        at_ms: at(30),
    }
}

fn registered(id: &str, epoch: u64, seq: u64) -> ProviderEvent {
    ProviderEvent::ProviderRegistered {
        id: id.parse().unwrap(),
        epoch: Epoch(epoch),
        seq: ReportSeq(seq),
        spec: spec(),
        status: RegisteredAs::Hibernating,
        failures: Failures::default(),
        at_ms: at(30),
    }
}

fn inactive(epoch: u64) -> ProviderEvent {
    ProviderEvent::ProviderBecameInactive {
        epoch: Epoch(epoch),
        reason: InactiveReason::AgentStopped,
        was: StableStatus::Hibernating,
        failures: Failures::default(),
        last_heartbeat_ms: None,
        at_ms: at(30),
    }
}

fn enrolled(number: u128, at_s: u64) -> AgentEvent {
    AgentEvent::AgentEnrolled {
        name: agent(),
        key: AgentKey::parse(AGENT_KEYS[1]).unwrap(),
        token: Some(token(number)),
        replaces: None,
        at_ms: at(at_s),
    }
}

const FORGERIES: &[Forgery] = &[
    ("one-wake", |day| {
        forged_event(day, requested(10));
        forged_event(day, requested(11))
    }),
    ("one-wake", |day| forged_event(day, requested(3))),
    ("wake-end", |day| forged_event(day, succeeded(3, report(2, 4)))),
    ("wake-end", |day| {
        forged_event(day, requested(10));
        forged_event(day, succeeded(11, report(2, 4)))
    }),
    ("wake-end", |day| {
        forged_event(day, requested(10));
        forged_event(day, slept(report(2, 4)))
    }),
    ("wake-end", |day| {
        forged_event(day, requested(10));
        let (epoch, at_ms) = (Epoch(2), at(40));
        forged_event(day, ProviderEvent::ProviderDeregistered { epoch, at_ms })
    }),
    ("epoch", |day| forged_event(day, registered("gpu-box/vllm", 1, 9))),
    ("epoch", |day| forged_event(day, inactive(1))),
    ("epoch", |day| {
        let connected = AgentEvent::AgentConnected {
            name: agent(),
            session: SessionId(uuid(9)),
            epoch: Epoch(2),
            version: "0.1.0".to_owned(),
            at_ms: at(0),
        };
        day.commit::<Agent>(&agent_key(), &[connected])
    }),
    ("epoch", |day| {
        let connected = AgentEvent::AgentConnected {
            name: agent(),
            session: SessionId(uuid(1)),
            epoch: Epoch(3),
            version: "0.1.0".to_owned(),
            at_ms: at(0),
        };
        day.commit::<Agent>(&agent_key(), &[connected])
    }),
    ("epoch", |day| {
        let advanced = AgentEvent::AgentEpochAdvanced {
            name: agent(),
            epoch: Epoch(1),
            reason: AdvanceReason::JournalRestored,
            at_ms: at(0),
        };
        day.commit::<Agent>(&agent_key(), &[advanced])
    }),
    ("issued", |day| forged_event(day, inactive(7))),
    ("issued", |day| {
        let (epoch, at_ms) = (Epoch(u64::MAX), at(40));
        forged_event(day, ProviderEvent::ProviderDeregistered { epoch, at_ms })
    }),
    ("report", |day| {
        let (report, at_ms) = (report(2, 3), at(40));
        forged_event(day, ProviderEvent::BackendAwoke { report, at_ms })
    }),
    ("report", |day| {
        let (report, at_ms) = (report(3, 1), at(40));
        forged_event(day, ProviderEvent::BackendAwoke { report, at_ms })
    }),
    ("sequence", |day| {
        let last = day.commits.last_mut().unwrap();
        last.sequence += 1;
        last.sequence
    }),
    ("sequence", |day| {
        let last = day.commits.last_mut().unwrap();
        last.sequence -= 1;
        last.sequence
    }),
    ("chain", |day| {
        // The commit that was changed can still be read: the next one of its subject tells.
        day.change(16, "\"cause\":\"", "\"cause\":\"x");
        17
    }),
    ("chain", |day| {
        day.commits.remove(15);
        let renumbered = day.commits.iter_mut().skip(15);
        renumbered.for_each(|commit| commit.sequence -= 1);
        16
    }),
    ("numbers", |day| {
        day.change(18, "\"aggregate_version\":2", "\"aggregate_version\":3")
    }),
    ("numbers", |day| {
        day.change(18, "\"first_event_seq\":2", "\"first_event_seq\":1")
    }),
    ("fold", |day| day.change(17, "\"succeeded\":2", "\"succeeded\":3")),
    ("command", |day| {
        let (mut again, _) = day.last::<Key>(&client_key()).unwrap();
        again.prev = Some(CommitHash::of(&day.commits.last().unwrap().payload));
        again.aggregate_version += 1;
        again.first_event_seq += 1;
        again.state = again.state.evolve(&again.events[0]);
        day.store(19, &client_key(), &again)
    }),
    ("command", |day| {
        let [ids, none] = [
            "\"recent_command_ids\":[\"",
            "\"recent_command_ids\":[],\"x\":[\"",
        ];
        day.change(18, ids, none)
    }),
    ("readable", |day| forged_event(day, registered(OTHER, 2, 9))),
    ("readable", |day| day.change(18, "\"v\":1", "\"v\":2")),
    ("readable", |day| {
        day.commits.last_mut().unwrap().subject = "reveille.events.lock.a".to_owned();
        18
    }),
    ("group", |day| {
        let (report, at_ms) = (report(2, 2), at(40));
        let awoke = ProviderEvent::BackendAwoke { report, at_ms };
        day.commit::<Provider>(&other_key(), &[awoke]);
        forged_event(day, requested(10));
        forged_event(day, succeeded(10, self::report(2, 4)))
    }),
    ("group", |day| {
        let (report, at_ms) = (report(2, 2), at(40));
        let awoke = ProviderEvent::BackendAwoke { report, at_ms };
        day.commit::<Provider>(&other_key(), &[awoke, inactive(2)]);
        forged_event(day, requested(10));
        forged_event(day, succeeded(10, self::report(2, 4)))
    }),
    ("status", |day| {
        let (report, at_ms) = (report(2, 4), at(40));
        let status = StableStatus::Active;
        forged_event(
            day,
            ProviderEvent::ProviderResumed {
                report,
                status,
                at_ms,
            },
        )
    }),
    ("status", |day| forged_event(day, slept(report(2, 4)))),
    ("status", |day| {
        let at_ms = at(40);
        forged_event(day, ProviderEvent::ProviderExpired { at_ms })
    }),
    ("enrollment", |day| {
        day.commit::<Agent>(&agent_key(), &[enrolled(1, 60)])
    }),
    ("enrollment", |day| {
        day.commit::<Agent>(&agent_key(), &[enrolled(2, 60)])
    }),
    ("enrollment", |day| {
        day.agent(&issue(2));
        day.commit::<Agent>(&agent_key(), &[enrolled(2, 100)])
    }),
    ("key", |day| {
        day.key(&KeyCommand::Revoke { at: at(20) });
        let rotated = KeyEvent::KeyRotated {
            secret: SecretHash::new([9; 32]),
            previous_valid_until_ms: None,
            at_ms: at(30),
        };
        day.commit::<Key>(&client_key(), &[rotated])
    }),
    ("key", |day| {
        let KeyCommand::Create {
            id,
            policy,
            secret,
            at,
        } = create_key(&client_key())
        else {
            panic!("it creates a key")
        };
        let created = KeyEvent::KeyCreated {
            id,
            policy,
            secret,
            at_ms: at,
        };
        day.commit::<Key>(&client_key(), &[created])
    }),
    ("key", |day| {
        let rotated = KeyEvent::KeyRotated {
            secret: SecretHash::new([9; 32]),
            previous_valid_until_ms: None,
            at_ms: at(1_000),
        };
        day.commit::<Key>(&client_key(), &[rotated])
    }),
];

#[test]
fn each_forgery_is_found_by_its_code_at_its_commit_and_nothing_else_is() {
    let mut codes = BTreeSet::new();
    for (number, (code, forge)) in FORGERIES.iter().enumerate() {
        let mut day = a_day();
        let sequence = forge(&mut day);
        let (_, breaches) = day.audited();
        let found: Vec<_> = breaches
            .iter()
            .map(|breach| (breach.invariant.code(), breach.sequence))
            .collect();
        assert_eq!(found, [(*code, sequence)], "forgery {number}: {breaches:#?}");
        codes.insert(*code);
    }
    // Rows are compared where they are.
    let all = Invariant::ALL.iter().filter(|rule| **rule != Invariant::Rows);
    assert_eq!(codes, all.map(|rule| rule.code()).collect());
}

#[test]
fn an_audit_goes_on_behind_a_breach() {
    let mut day = a_day();
    day.change(4, "\"v\":1", "\"v\":2");
    day.change(17, "\"succeeded\":2", "\"succeeded\":3");
    let later = forged_event(&mut day, requested(3));
    let (audit, breaches) = day.audited();
    let found: Vec<_> = breaches
        .iter()
        .map(|breach| (breach.invariant, breach.sequence))
        .collect();
    assert_eq!(
        found,
        [
            (Invariant::Readable, 4),
            (Invariant::Fold, 17),
            // The key's next commit has the hash of what was there before.
            (Invariant::Chain, 18),
            (Invariant::OneWake, later)
        ]
    );
    assert_eq!(audit.audited().commits, later);
    // The first fault is what `journal verify` tells.
    let mut verifier = Verifier::default();
    let first = day.commits.iter().find_map(|commit| verifier.take(commit).err());
    assert_eq!(first.unwrap().sequence, 4);
}

#[test]
fn a_breach_says_what_is_wrong_in_a_sentence() {
    let mut day = a_day();
    forged_event(&mut day, requested(10));
    forged_event(&mut day, requested(11));
    let breach = &day.audited().1[0];
    let id: ProviderId = "gpu-box/vllm".parse().unwrap();
    assert_eq!(breach.subject, AggregateId::Provider(id).subject());
    assert_eq!(
        breach.what,
        format!(
            "WakeRequested begins wake {} while wake {} is in flight",
            wake(11),
            wake(10)
        )
    );
}
