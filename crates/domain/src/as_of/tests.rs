use super::*;
use crate::{
    Agent, AgentEvent, CommandId, Epoch, ModelName, Provider, ProviderEvent, ProviderId, ProviderSpec,
    RecipeKind, ReportId, ReportSeq, SessionId, SleepReason, Timestamp, Wake, WakeCause, WakeId, WakeSpec,
    provider::{InactiveReason, RegisteredAs, StableStatus, StatusName},
    wake::Failures,
};
use uuid::Uuid;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(1_764_000_000_000 + secs * 1_000)
}

fn id() -> ProviderId {
    "gpu-box/vllm".parse().expect("legal")
}

fn author(sequence: u64, cause: &str) -> Author {
    Author {
        sequence,
        at_ms: at(sequence),
        command_id: CommandId(Uuid::from_u128(sequence.into())),
        cause: cause.to_owned(),
        key: None,
        request_id: None,
    }
}

fn registered() -> ProviderEvent {
    let recipe = WakeSpec {
        kind: RecipeKind::Http,
        budget_ms: 70_000,
    };
    ProviderEvent::ProviderRegistered {
        id: id(),
        epoch: Epoch(1),
        seq: ReportSeq(0),
        spec: ProviderSpec::new(vec![ModelName::parse("qwen").expect("legal")], Some(recipe), true)
            .expect("legal"),
        status: RegisteredAs::Active,
        failures: Failures::default(),
        at_ms: at(0),
    }
}

fn slept(seq: u64) -> ProviderEvent {
    ProviderEvent::BackendSlept {
        report: ReportId {
            epoch: Epoch(1),
            seq: ReportSeq(seq),
        },
        reason: SleepReason::Idle,
        for_wake: None,
        failures: Failures::default(),
        at_ms: at(seq),
    }
}

fn requested() -> ProviderEvent {
    ProviderEvent::WakeRequested {
        wake: Wake {
            id: WakeId(Uuid::from_u128(7)),
            cause: WakeCause::Request {
                request_id: "r-1".to_owned(),
                model: ModelName::parse("qwen").expect("legal"),
                key: Some("k7mq2v9x".parse().expect("legal")),
            },
            requested_at_ms: at(3),
            deadline_ms: at(78),
        },
    }
}

fn fold(events: &[ProviderEvent]) -> Provider {
    events.iter().fold(Provider::default(), Provider::evolve)
}

#[test]
fn a_moment_is_a_sequence_or_a_time_with_its_zone() {
    for (raw, moment) in [
        ("120", Moment::Sequence(120)),
        ("2025-11-24T16:00:00Z", Moment::Time(at(0))),
        ("2025-11-24T17:00:01+01:00", Moment::Time(at(1))),
    ] {
        let parsed: Moment = raw.parse().expect("a moment");
        assert_eq!(parsed, moment, "{raw}");
        assert_eq!(parsed.to_string().parse(), Ok(moment));
    }
    for raw in ["", "-1", "yesterday", "2025-11-24", "1969-12-31T00:00:00Z"] {
        assert_eq!(raw.parse::<Moment>(), Err(InvalidMoment), "{raw}");
    }
}

#[test]
fn a_change_names_the_commit_that_led_to_the_last_value() {
    let before = fold(&[registered()]);
    let mut world = World::default();
    let known = Known {
        sequence: 2,
        state: before,
    };
    world.providers.insert(id(), known);
    let mut changes = Changes::since(&world);
    let mut events = vec![registered()];
    for (sequence, cause, event) in [(3, "report", slept(1)), (4, "request", requested())] {
        events.push(event.clone());
        let by = author(sequence, cause).of_events(&[event]);
        changes.provider(&id(), &fold(&events), by);
    }
    let changes = changes.end();
    let of = |field: &str| changes.iter().find(|change| change.field == field).expect(field);
    let status = of("status");
    assert_eq!((&status.from, &status.to), (&"active".into(), &"waking".into()));
    assert_eq!((status.by.sequence, &*status.by.cause), (4, "request"));
    assert_eq!(
        status.by.key.as_ref().map(ToString::to_string).as_deref(),
        Some("k7mq2v9x")
    );
    assert_eq!(status.by.request_id.as_deref(), Some("r-1"));
    assert!(changes.iter().all(|change| change.field != "updated_seq"));
}

#[test]
fn what_changes_and_changes_back_is_no_change() {
    let mut world = World::default();
    let known = Known {
        sequence: 2,
        state: fold(&[registered()]),
    };
    world.providers.insert(id(), known);
    let mut changes = Changes::since(&world);
    changes.provider(&id(), &fold(&[registered(), slept(1)]), author(3, "report"));
    changes.provider(&id(), &fold(&[registered()]), author(4, "report"));
    assert_eq!(changes.end(), []);
}

#[test]
fn a_row_that_is_new_or_gone_is_one_change() {
    let mut changes = Changes::since(&World::default());
    changes.provider(&id(), &fold(&[registered()]), author(2, "register"));
    let [change] = &changes.end()[..] else {
        panic!("one change")
    };
    assert_eq!(
        (change.kind, &*change.id, &*change.field),
        ("provider", "gpu-box/vllm", "")
    );
    assert!(change.from.is_null());
    assert_eq!(change.to["status"], "active");
}

#[test]
fn an_agent_is_away_when_all_that_it_published_was_inactive() {
    let connected = AgentEvent::AgentConnected {
        name: id().agent,
        session: SessionId(Uuid::from_u128(1)),
        epoch: Epoch(1),
        version: "0.1.0".to_owned(),
        at_ms: at(0),
    };
    let inactive = ProviderEvent::ProviderBecameInactive {
        epoch: Epoch(1),
        reason: InactiveReason::AgentStopped,
        was: StableStatus::Active,
        failures: Failures::default(),
        last_heartbeat_ms: None,
        at_ms: at(9),
    };
    let mut world = World::default();
    let agent = Known {
        sequence: 1,
        state: Agent::default().evolve(&connected),
    };
    world.agents.insert(id().agent, agent);
    for (events, status, since) in [
        (vec![], PastAgentStatus::Connected, None),
        (vec![registered()], PastAgentStatus::Connected, None),
        (vec![registered(), inactive], PastAgentStatus::Away, Some(at(9))),
    ] {
        let provider = Known {
            sequence: 2,
            state: fold(&events),
        };
        world.providers.insert(id(), provider);
        let agents = world.agents();
        assert_eq!((agents[0].status, agents[0].status_since_ms), (status, since));
        assert_eq!(agents[0].providers, usize::from(!events.is_empty()));
    }
    assert_eq!(world.providers()[0].status, StatusName::Inactive);
    assert_eq!(world.llms()[0].name, "gpu-box/qwen");
}
