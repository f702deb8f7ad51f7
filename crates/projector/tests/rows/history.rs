//! Histories as control would write them: random commands that the domain decides on, committed one after the other.

use proptest::{collection::vec, prelude::*};
use reveille_domain::{
    Agent, AgentCommand, AgentName, Availability, CommandId, Epoch, KeyId, ModelName, PresetHash, PresetSpec,
    Provider, ProviderCommand, ProviderId, ProviderSpec, RecipeKind, ReportId, ReportSeq, SessionId,
    SleepReason, Stage, Timestamp, WakeCause, WakeFailure, WakeFailureKind, WakeId, WakeOutcome, WakeSpec,
    rows::{RawMessage, RecordedEvent, RowSource, SourceBody, provider_aggregate_id},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

/// The providers of a history. The first two belong to one agent and publish the same models, which the journal
/// doesn't forbid.
const PROVIDERS: [&str; 4] = ["gpu-box/ollama", "gpu-box/vllm", "attic/ollama", "a/b"];
const MODELS: [&str; 4] = ["qwen2.5:7b", "Qwen/Qwen3-8B", "モデル a/b", "Z"];
/// Text that a careless program might write into an event.
const DIRTY: &str = "line\nwith \u{0} and \u{1b}[31m";
/// How wakes end: half of them well.
const ENDS: [Option<WakeFailureKind>; 6] = [
    None,
    None,
    None,
    Some(WakeFailureKind::Recipe),
    Some(WakeFailureKind::NotAllowed),
    Some(WakeFailureKind::NotNeeded),
];

#[derive(Debug, Clone)]
pub(crate) struct Step {
    provider: usize,
    advance_ms: u64,
    action: Action,
}

#[derive(Debug, Clone)]
enum Action {
    Connect,
    Register {
        later: bool,
        recipe: bool,
        models: usize,
        up: Option<bool>,
    },
    RequestWake {
        operator: bool,
    },
    ReportWake {
        failure: Option<WakeFailureKind>,
    },
    ReportAsleep(SleepReason),
    ReportAwake,
    ExpireWake,
    MarkInactive,
    AgentStopped,
    Resume {
        up: bool,
    },
    Deregister,
    Expire,
    /// A commit that this program can't read.
    Unreadable,
    /// A message under a subject that names no aggregate.
    Foreign,
}

fn action() -> impl Strategy<Value = Action> {
    let register = (
        any::<bool>(),
        prop::bool::weighted(0.9),
        0..=MODELS.len(),
        any::<Option<bool>>(),
    );
    prop_oneof![
        1 => Just(Action::Connect),
        4 => register.prop_map(|(later, recipe, models, up)| Action::Register { later, recipe, models, up }),
        8 => any::<bool>().prop_map(|operator| Action::RequestWake { operator }),
        6 => prop::sample::select(&ENDS).prop_map(|failure| Action::ReportWake { failure }),
        4 => prop_oneof![Just(SleepReason::Idle), Just(SleepReason::Exited)].prop_map(Action::ReportAsleep),
        2 => Just(Action::ReportAwake),
        2 => Just(Action::ExpireWake),
        1 => Just(Action::MarkInactive),
        1 => Just(Action::AgentStopped),
        2 => any::<bool>().prop_map(|up| Action::Resume { up }),
        1 => Just(Action::Deregister),
        1 => Just(Action::Expire),
        1 => Just(Action::Unreadable),
        1 => Just(Action::Foreign),
    ]
}

/// Steps of a history.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..PROVIDERS.len(), prop_oneof![Just(0), 1..40_000u64], action());
    vec(
        step.prop_map(|(provider, advance_ms, action)| Step {
            provider,
            advance_ms,
            action,
        }),
        1..120,
    )
}

/// Runs the steps: each that changes something becomes a commit.
pub(crate) fn commits(steps: &[Step]) -> Vec<RowSource> {
    let mut history = History::default();
    for (number, step) in steps.iter().enumerate() {
        history.run(number as u64, step);
    }
    history.commits
}

/// A long history, the same each time.
pub(crate) fn some_history() -> Vec<RowSource> {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let steps = vec(steps(), 5)
        .new_tree(&mut runner)
        .expect("a history")
        .current();
    commits(&steps.concat())
}

#[derive(Default)]
struct History {
    now: u64,
    providers: HashMap<usize, Provider>,
    agents: HashMap<AgentName, Agent>,
    /// The number of the next event of each aggregate, less one.
    events: HashMap<String, u64>,
    commits: Vec<RowSource>,
}

impl History {
    fn run(&mut self, number: u64, step: &Step) {
        self.now += step.advance_ms;
        let id: ProviderId = PROVIDERS[step.provider].parse().expect("legal");
        match step.action {
            Action::Connect => self.connect(number, &id.agent),
            Action::Unreadable => {
                let event = json!({ "type": "ProviderTeleported", "data": { "to": "mars" } });
                let body = SourceBody::Unreadable {
                    reason: "it was written by a newer version".into(),
                };
                self.commit(number, "provider", provider_aggregate_id(&id), &[event], body);
            }
            Action::Foreign => {
                let body = SourceBody::Unreadable {
                    reason: "its subject names no aggregate".into(),
                };
                self.commit::<Value>(number, "", String::new(), &[], body);
            }
            _ => {
                let state = self.providers.entry(step.provider).or_default();
                let Some(command) =
                    command(state, &id, number, Timestamp::from_millis(self.now), &step.action)
                else {
                    return;
                };
                let Ok(events) = state.decide(&command) else {
                    return;
                };
                if events.is_empty() {
                    return;
                }
                *state = events.iter().fold(std::mem::take(state), Provider::evolve);
                let body = SourceBody::Provider {
                    id: id.clone(),
                    events: events.clone(),
                    state: state.clone(),
                };
                self.commit(number, "provider", provider_aggregate_id(&id), &events, body);
            }
        }
    }

    fn connect(&mut self, number: u64, name: &AgentName) {
        let agent = self.agents.entry(name.clone()).or_default();
        let command = AgentCommand::Connect {
            name: name.clone(),
            session: SessionId(uuid(number)),
            version: "0.1.0".into(),
            at: Timestamp::from_millis(self.now),
        };
        let events = agent.decide(&command).expect("a new session");
        *agent = events.iter().fold(std::mem::take(agent), Agent::evolve);
        self.commit(number, "agent", name.to_string(), &events, SourceBody::EventsOnly);
    }

    fn commit<E: Serialize>(&mut self, number: u64, kind: &str, id: String, events: &[E], body: SourceBody) {
        let stream_seq = self.commits.len() as u64 + 1;
        let events: Vec<RecordedEvent> = events.iter().map(recorded).collect();
        let subject = if kind.is_empty() {
            "reveille.events.stray".into()
        } else {
            format!("reveille.events.{kind}.{id}")
        };
        let so_far = self.events.entry(subject.clone()).or_default();
        let first_event_seq = *so_far + 1;
        *so_far += events.len() as u64;
        self.commits.push(RowSource {
            stream_seq,
            hash: format!("hash of {stream_seq}"),
            subject,
            aggregate_type: kind.to_owned(),
            aggregate_id: id,
            first_event_seq,
            command_id: (!kind.is_empty()).then(|| CommandId(uuid(number + 1_000_000))),
            at_ms: Timestamp::from_millis(self.now),
            events,
            body,
            raw: Some(RawMessage {
                headers: vec![
                    ("Reveille-Test".into(), DIRTY.into()),
                    ("Reveille-Test".into(), "again".into()),
                ],
                payload: format!("\u{0}payload of {stream_seq}").into_bytes(),
            }),
        });
    }
}

fn recorded<E: Serialize>(event: &E) -> RecordedEvent {
    let mut tagged = serde_json::to_value(event).expect("serializes");
    RecordedEvent {
        event_type: tagged["type"].as_str().expect("a type").to_owned(),
        version: "1".to_owned(),
        data: tagged.get_mut("data").map(Value::take).unwrap_or_default(),
    }
}

/// Ids in no order, so that wakes of the same moment are told apart by them alone.
fn uuid(number: u64) -> Uuid {
    Uuid::from_u128(u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 61 | u128::from(number))
}

fn command(
    state: &Provider,
    id: &ProviderId,
    number: u64,
    at: Timestamp,
    action: &Action,
) -> Option<ProviderCommand> {
    let availability = |up: bool| {
        if up {
            Availability::Available
        } else {
            Availability::Unavailable
        }
    };
    let epoch = state.epoch();
    let report = state.registered().map(|provider| ReportId {
        epoch,
        seq: provider.last_seq.next(),
    });
    let in_flight = state
        .registered()
        .and_then(|provider| provider.status.wake())
        .map(|wake| wake.id);
    Some(match *action {
        Action::Connect | Action::Unreadable | Action::Foreign => return None,
        Action::Register {
            later,
            recipe,
            models,
            up,
        } => ProviderCommand::Register {
            id: id.clone(),
            epoch: if later || epoch == Epoch(0) {
                epoch.next()
            } else {
                epoch
            },
            seq: ReportSeq(0),
            spec: spec(recipe, models),
            availability: up.map(availability),
            at,
        },
        Action::RequestWake { operator } => ProviderCommand::RequestWake {
            wake_id: WakeId(uuid(number)),
            cause: if operator {
                WakeCause::Operator { key: key(number) }
            } else {
                WakeCause::Request {
                    request_id: DIRTY.into(),
                    model: model(0),
                    key: key(number),
                }
            },
            overdue: in_flight.filter(|_| operator),
            allowed_at: None,
            at,
        },
        Action::ReportWake { failure } => ProviderCommand::ReportWake {
            wake_id: in_flight.unwrap_or(WakeId(uuid(number))),
            report: report?,
            outcome: outcome(failure),
            at,
        },
        Action::ReportAsleep(reason) => ProviderCommand::ReportAsleep {
            report: report?,
            reason,
            for_wake: None,
            at,
        },
        Action::ReportAwake => ProviderCommand::ReportAwake { report: report?, at },
        Action::ExpireWake => ProviderCommand::ExpireWake {
            wake_id: in_flight?,
            at,
        },
        Action::MarkInactive => ProviderCommand::MarkInactive {
            epoch,
            last_heartbeat: at,
            at,
        },
        Action::AgentStopped => ProviderCommand::AgentStopped { epoch, at },
        Action::Resume { up } => ProviderCommand::Resume {
            report: report?,
            availability: availability(up),
            at,
        },
        Action::Deregister => ProviderCommand::Deregister { epoch, at },
        Action::Expire => ProviderCommand::Expire {
            after: Duration::from_secs(20),
            at,
        },
    })
}

/// Every second wake is asked for with a key.
fn key(number: u64) -> Option<KeyId> {
    let id = KeyId::parse(&format!("key{number:05}"));
    number.is_multiple_of(2).then(|| id.expect("legal"))
}

fn model(index: usize) -> ModelName {
    ModelName::parse(MODELS[index]).expect("legal")
}

fn spec(recipe: bool, models: usize) -> ProviderSpec {
    let wake = recipe.then_some(WakeSpec {
        kind: RecipeKind::Http,
        budget_ms: 20_000,
    });
    let spec = ProviderSpec::new((0..models).map(model).collect(), wake, !recipe).expect("legal");
    // The last of several is a preset of the first.
    let preset = PresetSpec {
        model: model(0),
        hash: PresetHash::parse("0123456789ab").expect("legal"),
    };
    let presets = (models > 1).then(|| (model(models - 1), preset));
    spec.with_presets(presets.into_iter().collect())
        .expect("its models")
}

fn outcome(failure: Option<WakeFailureKind>) -> WakeOutcome {
    let stages = vec![Stage {
        name: DIRTY.into(),
        started_after_ms: 3,
        took_ms: 40,
    }];
    let Some(kind) = failure else {
        return WakeOutcome::Succeeded { stages };
    };
    let failure = WakeFailure {
        kind,
        stage: DIRTY.into(),
        reason: DIRTY.repeat(50),
    };
    WakeOutcome::Failed { failure, stages }
}
