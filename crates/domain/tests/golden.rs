//! Events and states as journals contain them. What was written once must be readable for ever, so a snapshot here changes
//! only by addition, and a change of meaning is a new version with its own snapshots.

use reveille_domain::{
    AdvanceReason, Agent, AgentEvent, AgentKey, AgentName, Balancing, Capability, Epoch, ExtraPath, Failures,
    GroupName, Key, KeyEvent, KeyId, KeyName, ModelDetails, ModelName, PresetHash, PresetSpec, Provider,
    ProviderEvent, ProviderId, ProviderSpec, RecipeKind, ReportId, ReportSeq, SecretHash, SessionId,
    SleepReason, Stage, Timestamp, TokenId, Wake, WakeCause, WakeFailure, WakeFailureKind, WakeId,
    WakeOutcome, WakeSpec,
    key::{KeyLimits, KeyPolicy, Priority, ProgressForm},
    provider::{InactiveReason, RegisteredAs, StableStatus},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeSet, fmt::Debug, fs, path::Path};
use uuid::Uuid;

const fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(1_764_000_000_000 + secs * 1000)
}

const fn wake_id(wake: u128) -> WakeId {
    WakeId(Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + wake))
}

const fn report(seq: u64) -> ReportId {
    ReportId {
        epoch: Epoch(3),
        seq: ReportSeq(seq),
    }
}

fn id() -> ProviderId {
    "gpu-box/vllm".parse().expect("legal")
}

fn model() -> ModelName {
    ModelName::parse("Qwen/Qwen3-8B").expect("legal")
}

fn spec() -> ProviderSpec {
    let wake = WakeSpec {
        kind: RecipeKind::Http,
        budget_ms: 70_000,
    };
    ProviderSpec::new(vec![model()], Some(wake), true).expect("legal")
}

fn stages() -> Vec<Stage> {
    vec![Stage {
        name: "step 1 http".into(),
        started_after_ms: 2,
        took_ms: 31,
    }]
}

fn failure() -> WakeFailure {
    WakeFailure::new(
        WakeFailureKind::Recipe,
        "step 1 http",
        "the controller answered 500",
    )
}

fn failures(count: u32, held_until_ms: Option<Timestamp>) -> Failures {
    Failures {
        count,
        held_until_ms,
        last: Some(failure()),
    }
}

fn registered(spec: ProviderSpec, status: RegisteredAs) -> ProviderEvent {
    ProviderEvent::ProviderRegistered {
        id: id(),
        epoch: Epoch(3),
        seq: ReportSeq(0),
        spec,
        status,
        failures: Failures::default(),
        at_ms: at(0),
    }
}

fn requested(wake: u128, secs: u64, cause: WakeCause) -> ProviderEvent {
    let wake = Wake {
        id: wake_id(wake),
        cause,
        requested_at_ms: at(secs),
        deadline_ms: at(secs + 75),
    };
    ProviderEvent::WakeRequested { wake }
}

fn by_request() -> WakeCause {
    WakeCause::Request {
        request_id: "req-0199".into(),
        model: model(),
        key: None,
    }
}

fn succeeded(report: Option<ReportId>) -> ProviderEvent {
    ProviderEvent::WakeSucceeded {
        wake_id: wake_id(1),
        report,
        stages: stages(),
        at_ms: at(20),
    }
}

fn failed(report: Option<ReportId>) -> ProviderEvent {
    ProviderEvent::WakeFailed {
        wake_id: wake_id(1),
        report,
        failure: failure(),
        stages: stages(),
        failures: failures(2, Some(at(21))),
        at_ms: at(20),
    }
}

fn inactive(reason: InactiveReason, last_heartbeat_ms: Option<Timestamp>) -> ProviderEvent {
    ProviderEvent::ProviderBecameInactive {
        epoch: Epoch(3),
        reason,
        was: StableStatus::Active,
        failures: Failures::default(),
        last_heartbeat_ms,
        at_ms: at(40),
    }
}

fn connected(session: u128, epoch: u64) -> AgentEvent {
    AgentEvent::AgentConnected {
        name: AgentName::parse("gpu-box").expect("legal"),
        session: SessionId(wake_id(session).0),
        epoch: Epoch(epoch),
        version: "0.1.0".into(),
        at_ms: at(0),
    }
}

fn key_id() -> KeyId {
    KeyId::parse("k7mq2v9x").expect("legal")
}

fn key_events() -> Vec<(&'static str, KeyEvent)> {
    let scopes = ["infer:Qwen/Qwen3-8B", "infer:*", "query", "admin"].map(|it| it.parse().expect("legal"));
    let created = |expires_at_ms, limits, progress, priority| KeyEvent::KeyCreated {
        id: key_id(),
        policy: KeyPolicy {
            name: KeyName::parse("the laptop").expect("legal"),
            scopes: BTreeSet::from(scopes.clone()).try_into().expect("some"),
            expires_at_ms,
            limits,
            progress,
            priority,
        },
        secret: SecretHash::new([0x0a; 32]),
        at_ms: at(0),
    };
    let limits = KeyLimits::new(Some(600), Some(8), Some(0)).expect("legal");
    let rotated = |previous_valid_until_ms| KeyEvent::KeyRotated {
        secret: SecretHash::new([0xb0; 32]),
        previous_valid_until_ms,
        at_ms: at(10),
    };
    vec![
        (
            "key_created",
            created(Some(at(1_000)), limits, None, Priority::Normal),
        ),
        (
            "key_created_without_limits",
            created(None, KeyLimits::default(), None, Priority::Normal),
        ),
        (
            "key_created_with_progress",
            created(
                None,
                KeyLimits::default(),
                Some(ProgressForm::Delta),
                Priority::Normal,
            ),
        ),
        (
            "key_created_low",
            created(None, KeyLimits::default(), None, Priority::Low),
        ),
        ("key_rotated", rotated(Some(at(70)))),
        ("key_rotated_at_once", rotated(None)),
        ("key_revoked", KeyEvent::KeyRevoked { at_ms: at(20) }),
    ]
}

fn registered_in_a_group() -> ProviderEvent {
    let groups = vec![GroupName::parse("gpu0").expect("legal")];
    ProviderEvent::ProviderRegistered {
        id: id(),
        epoch: Epoch(3),
        seq: ReportSeq(1),
        spec: spec().in_groups(groups).expect("few"),
        status: RegisteredAs::Hibernating,
        failures: Failures::default(),
        at_ms: at(0),
    }
}

fn registered_with_extra_paths() -> ProviderEvent {
    let path = ExtraPath::parse("/sdapi/v1/txt2img").expect("legal");
    registered(
        spec().with_extra_paths(vec![path]).expect("few"),
        RegisteredAs::Active,
    )
}

fn registered_with_details() -> ProviderEvent {
    let details = ModelDetails {
        created: Some(1_764_000_000),
        context_length: Some(262_144),
        capabilities: ["tools", "vision"]
            .map(|name| Capability::parse(name).expect("legal"))
            .into(),
    };
    let detailed = spec()
        .with_details([(model(), details)].into())
        .expect("its model");
    registered(detailed.with_latest_tag(true), RegisteredAs::Active)
}

fn registered_with_a_preset() -> ProviderEvent {
    let bot = ModelName::parse("support-bot").expect("legal");
    let preset = PresetSpec {
        model: model(),
        hash: PresetHash::parse("0123456789ab").expect("legal"),
    };
    let spec = ProviderSpec::new(vec![model(), bot.clone()], None, false).expect("legal");
    let spec = spec.with_presets([(bot, preset)].into()).expect("its models");
    registered(spec, RegisteredAs::Active)
}

fn registered_with_balancing() -> ProviderEvent {
    let balancing = Balancing::new(3, 10, Some(4)).expect("legal");
    registered(spec().with_balancing(balancing), RegisteredAs::Active)
}

fn provider_events() -> Vec<(&'static str, ProviderEvent)> {
    let bare = ProviderSpec::new(vec![], None, false).expect("legal");
    vec![
        (
            "provider_registered",
            registered(spec(), RegisteredAs::Hibernating),
        ),
        (
            "provider_registered_without_recipe",
            registered(bare.clone(), RegisteredAs::Active),
        ),
        ("provider_registered_down", registered(bare, RegisteredAs::Down)),
        ("provider_registered_in_a_group", registered_in_a_group()),
        ("provider_registered_with_a_preset", registered_with_a_preset()),
        ("provider_registered_with_balancing", registered_with_balancing()),
        ("provider_registered_with_details", registered_with_details()),
        (
            "provider_registered_with_extra_paths",
            registered_with_extra_paths(),
        ),
        (
            "provider_registered_waking",
            registered(spec(), RegisteredAs::Waking),
        ),
        ("wake_requested", requested(1, 10, by_request())),
        (
            "wake_requested_by_operator",
            requested(1, 10, WakeCause::Operator { key: None }),
        ),
        (
            "wake_requested_with_key",
            requested(
                1,
                10,
                WakeCause::Request {
                    request_id: "req-0199".into(),
                    model: model(),
                    key: Some(key_id()),
                },
            ),
        ),
        (
            "wake_requested_by_operator_with_key",
            requested(1, 10, WakeCause::Operator { key: Some(key_id()) }),
        ),
        ("wake_succeeded", succeeded(Some(report(1)))),
        ("wake_succeeded_by_registration", succeeded(None)),
        ("wake_failed", failed(Some(report(1)))),
        ("wake_failed_unreported", failed(None)),
        (
            "wake_timed_out",
            ProviderEvent::WakeTimedOut {
                wake_id: wake_id(1),
                failure: WakeFailure::new(
                    WakeFailureKind::TimedOut,
                    "deadline",
                    "no outcome was reported within 75000 ms",
                ),
                failures: failures(1, None),
                at_ms: at(85),
            },
        ),
        (
            "backend_slept",
            ProviderEvent::BackendSlept {
                report: report(2),
                reason: SleepReason::FoundAsleep,
                for_wake: None,
                failures: Failures::default(),
                at_ms: at(60),
            },
        ),
        (
            "backend_slept_for_its_group",
            ProviderEvent::BackendSlept {
                report: report(2),
                reason: SleepReason::Group,
                for_wake: Some(wake_id(7)),
                failures: Failures::default(),
                at_ms: at(60),
            },
        ),
        (
            "backend_went_down",
            ProviderEvent::BackendWentDown {
                report: report(2),
                reason: SleepReason::Unreachable,
                at_ms: at(60),
            },
        ),
        (
            "backend_awoke",
            ProviderEvent::BackendAwoke {
                report: report(3),
                at_ms: at(61),
            },
        ),
        ("provider_lost", inactive(InactiveReason::AgentLost, Some(at(10)))),
        ("provider_stopped", inactive(InactiveReason::AgentStopped, None)),
        (
            "provider_resumed",
            ProviderEvent::ProviderResumed {
                report: report(4),
                status: StableStatus::Hibernating,
                at_ms: at(62),
            },
        ),
        (
            "provider_resumed_down",
            ProviderEvent::ProviderResumed {
                report: report(4),
                status: StableStatus::Down,
                at_ms: at(62),
            },
        ),
        (
            "provider_deregistered",
            ProviderEvent::ProviderDeregistered {
                epoch: Epoch(3),
                at_ms: at(63),
            },
        ),
        (
            "provider_expired",
            ProviderEvent::ProviderExpired { at_ms: at(64) },
        ),
    ]
}

fn provider_states() -> Vec<(&'static str, Provider)> {
    let after = |events: &[ProviderEvent]| events.iter().fold(Provider::default(), Provider::evolve);
    let hibernating = || registered(spec(), RegisteredAs::Hibernating);
    let expired = ProviderEvent::ProviderExpired { at_ms: at(64) };
    let bare = ProviderSpec::new(vec![model()], None, false).expect("legal");
    vec![
        ("provider_state_unregistered", Provider::default()),
        (
            "provider_state_active",
            after(&[registered(spec(), RegisteredAs::Active)]),
        ),
        (
            "provider_state_woken",
            after(&[
                hibernating(),
                requested(1, 10, by_request()),
                succeeded(Some(report(1))),
            ]),
        ),
        (
            "provider_state_hibernating_held",
            after(&[
                hibernating(),
                requested(1, 10, by_request()),
                failed(Some(report(1))),
            ]),
        ),
        (
            "provider_state_waking",
            after(&[hibernating(), requested(1, 10, by_request())]),
        ),
        (
            "provider_state_down",
            after(&[registered(bare, RegisteredAs::Down)]),
        ),
        (
            "provider_state_inactive",
            after(&[
                registered(spec(), RegisteredAs::Active),
                inactive(InactiveReason::AgentLost, Some(at(10))),
            ]),
        ),
        (
            "provider_state_gone",
            after(&[
                hibernating(),
                requested(1, 10, by_request()),
                succeeded(Some(report(1))),
                inactive(InactiveReason::AgentLost, Some(at(10))),
                expired,
            ]),
        ),
    ]
}

/// Compares with the committed snapshot, and reads the snapshot itself back.
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    insta::assert_json_snapshot!(name, value);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/snapshots/golden__{name}.snap"));
    let snapshot = fs::read_to_string(path).expect("committed");
    let (_, json) = snapshot
        .trim_start_matches("---\n")
        .split_once("---\n")
        .expect("a header");
    assert_eq!(
        &serde_json::from_str::<T>(json).expect("reads back"),
        value,
        "{name}"
    );
}

#[test]
fn provider_events_are_written_and_read_as_ever() {
    for (name, event) in provider_events() {
        golden(name, &event);
    }
}

#[test]
fn provider_states_are_written_and_read_as_ever() {
    for (name, state) in provider_states() {
        golden(name, &state);
    }
}

#[test]
fn agent_events_and_states_are_written_and_read_as_ever() {
    let (first, second) = (connected(1, 1), connected(2, 2));
    golden("agent_connected", &second);
    golden("agent_state_unknown", &Agent::default());
    golden(
        "agent_state_connected",
        &Agent::default().evolve(&first).evolve(&second),
    );
    let advanced = AgentEvent::AgentEpochAdvanced {
        name: AgentName::parse("gpu-box").expect("legal"),
        epoch: Epoch(1_000_002),
        reason: AdvanceReason::JournalRestored,
        at_ms: at(70),
    };
    golden("agent_epoch_advanced", &advanced);
    let forgotten = AgentEvent::AgentEpochAdvanced {
        name: AgentName::parse("gpu-box").expect("legal"),
        epoch: Epoch(4),
        reason: AdvanceReason::Forgotten,
        at_ms: at(75),
    };
    golden("agent_forgotten", &forgotten);
    golden(
        "agent_state_fenced",
        &Agent::default().evolve(&first).evolve(&second).evolve(&advanced),
    );
}

#[test]
fn agent_keys_are_written_and_read_as_ever() {
    let name = AgentName::parse("gpu-box").expect("legal");
    let token = TokenId(Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0301));
    let key = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let key = AgentKey::parse(key).expect("legal");
    let issued = AgentEvent::AgentTokenIssued {
        name: name.clone(),
        token,
        secret: SecretHash::new([7; 32]),
        expires_at_ms: at(970),
        at_ms: at(70),
    };
    let enrolled = |token| AgentEvent::AgentEnrolled {
        name: name.clone(),
        key: key.clone(),
        token,
        replaces: None,
        at_ms: at(80),
    };
    let by_token = enrolled(Some(token));
    let revoked_without = AgentEvent::AgentRevoked {
        name: name.clone(),
        key: None,
        at_ms: at(90),
    };
    let revoked = AgentEvent::AgentRevoked {
        name: name.clone(),
        key: Some(key.clone()),
        at_ms: at(90),
    };
    let replacing = AgentEvent::AgentEnrolled {
        name: name.clone(),
        key: AgentKey::parse(&format!("U{}", "A".repeat(55))).expect("legal"),
        token: None,
        replaces: Some(key.clone()),
        at_ms: at(85),
    };
    golden("agent_token_issued", &issued);
    golden("agent_enrolled_by_token", &by_token);
    golden("agent_enrolled_by_its_hub", &enrolled(None));
    golden("agent_enrolled_in_place_of_a_key", &replacing);
    golden("agent_revoked", &revoked_without);
    golden("agent_revoked_with_its_key", &revoked);
    let known = Agent::default().evolve(&issued).evolve(&by_token);
    golden("agent_state_enrolled", &known);
    let connected = known.evolve(&connected(1, 1));
    golden("agent_state_revoked", &connected.clone().evolve(&revoked_without));
    golden("agent_state_revoked_with_its_key", &connected.evolve(&revoked));
}

#[test]
fn key_events_and_states_are_written_and_read_as_ever() {
    let events = key_events();
    for (name, event) in &events {
        golden(name, event);
    }
    let after = |names: &[&str]| {
        let of = |name| &events.iter().find(|(other, _)| other == name).expect("there").1;
        names
            .iter()
            .fold(Key::default(), |key, name| key.evolve(of(name)))
    };
    golden("key_state_unknown", &Key::default());
    golden("key_state_issued", &after(&["key_created_without_limits"]));
    golden("key_state_rotated", &after(&["key_created", "key_rotated"]));
    golden(
        "key_state_revoked",
        &after(&["key_created", "key_rotated", "key_revoked"]),
    );
    let written: BTreeSet<_> = events.iter().map(|(_, event)| <&str>::from(event)).collect();
    assert_eq!(written.len(), 3, "a new event needs a snapshot, and this number");
}

#[test]
fn reported_outcomes_are_written_and_read_as_ever() {
    golden("outcome_succeeded", &WakeOutcome::Succeeded { stages: stages() });
    golden(
        "outcome_failed",
        &WakeOutcome::Failed {
            failure: failure(),
            stages: stages(),
        },
    );
}

#[test]
fn the_words_inside_are_written_as_ever() {
    let kinds = [
        WakeFailureKind::Recipe,
        WakeFailureKind::Unavailable,
        WakeFailureKind::TimedOut,
        WakeFailureKind::AgentLost,
        WakeFailureKind::AgentStopped,
        WakeFailureKind::Withdrawn,
        WakeFailureKind::Died,
        WakeFailureKind::NotAllowed,
        WakeFailureKind::GroupBlocked,
        WakeFailureKind::NotNeeded,
    ];
    golden("words_failure_kinds", &kinds.to_vec());
    let reasons = [
        SleepReason::Idle,
        SleepReason::Operator,
        SleepReason::Group,
        SleepReason::FoundAsleep,
        SleepReason::Exited,
        SleepReason::Unreachable,
        SleepReason::Crashed,
        SleepReason::Failed,
    ];
    golden("words_sleep_reasons", &reasons.to_vec());
    let recipes = [
        RecipeKind::Http,
        RecipeKind::Command,
        RecipeKind::Serve,
        RecipeKind::Steps,
    ];
    golden("words_recipe_kinds", &recipes.to_vec());
}

#[test]
fn every_event_has_a_snapshot() {
    let written: BTreeSet<_> = provider_events()
        .iter()
        .map(|(_, event)| <&str>::from(event))
        .collect();
    assert_eq!(
        written.len(),
        12,
        "a new event needs a snapshot, and this number: {written:?}"
    );
}

#[test]
fn an_absent_option_and_a_field_from_the_future_are_read() {
    let json = r#"{"type":"WakeFailed","data":{"wake_id":"01990000-0000-7000-8000-000000000001",
        "failure":{"kind":"agent_lost","stage":"agent","reason":"silent","hint":"new"},"stages":[],
        "failures":{"count":0},"at_ms":1764000020000,"later":true}}"#;
    let event: ProviderEvent = serde_json::from_str(json).expect("reads");
    assert!(matches!(event, ProviderEvent::WakeFailed { at_ms, .. } if at_ms == at(20)));
}

#[test]
fn an_unknown_event_is_an_error_and_not_another_one() {
    let json = r#"{"type":"BackendExploded","data":{"at_ms":1}}"#;
    serde_json::from_str::<ProviderEvent>(json).expect_err("unknown");
}
