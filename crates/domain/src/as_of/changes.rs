//! What has changed between two moments, field by field, and by which commit.

use super::{
    known::Known,
    rows::{PastAgent, PastKey, PastProvider},
    world::World,
};
use crate::{
    agent::Agent,
    ids::CommandId,
    key::Key,
    names::{AgentName, KeyId, ProviderId},
    provider::{Provider, ProviderEvent},
    time::Timestamp,
    wake::WakeCause,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Fields that change with every commit, and those that count what others of the row show.
const NOT_SHOWN: [&str; 3] = ["updated_seq", "status_since_ms", "last_wakes"];

/// Who changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Author {
    /// The commit.
    pub sequence: u64,
    /// When it was decided.
    pub at_ms: Timestamp,
    /// Its command.
    pub command_id: CommandId,
    /// What led to it: a control verb of the agent, a sweep, a request, an operator.
    pub cause: String,
    /// Whose key it was, if a wake was requested with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// The request that a wake was requested for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Author {
    /// This author with what the events tell of it.
    #[must_use]
    pub fn of_events(self, events: &[ProviderEvent]) -> Self {
        let cause = events.iter().rev().find_map(|event| match event {
            ProviderEvent::WakeRequested { wake } => Some(&wake.cause),
            _ => None,
        });
        let request_id = match cause {
            Some(WakeCause::Request { request_id, .. }) => Some(request_id.clone()),
            Some(WakeCause::Operator { .. }) | None => None,
        };
        Self {
            key: cause.and_then(WakeCause::key).cloned(),
            request_id,
            ..self
        }
    }
}

/// A field that has another value than before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// `agent`, `provider` or `key`.
    pub kind: &'static str,
    /// The aggregate's id, such as `gpu-box/vllm`.
    pub id: String,
    /// The field of its row; empty when the whole row is new or gone.
    pub field: String,
    /// The value before; null if there was none.
    pub from: Value,
    /// The value after; null if there is none.
    pub to: Value,
    /// Who changed it last.
    pub by: Author,
}

/// Follows the rows from one moment to another.
#[derive(Debug, Default)]
pub struct Changes {
    rows: BTreeMap<(&'static str, String), Row>,
}

#[derive(Debug, Default)]
struct Row {
    before: BTreeMap<String, Value>,
    now: BTreeMap<String, Value>,
    authors: BTreeMap<String, Author>,
    last: Option<Author>,
}

impl Changes {
    /// Begins with everything as it was.
    #[must_use]
    pub fn since(world: &World) -> Self {
        let mut changes = Self::default();
        for (name, known) in &world.agents {
            changes.begin("agent", name.to_string(), fields(Some(agent(name, &known.state))));
        }
        for (id, known) in &world.providers {
            changes.begin("provider", id.to_string(), fields(PastProvider::of(known)));
        }
        for (id, known) in &world.keys {
            changes.begin("key", id.to_string(), fields(PastKey::of(&known.state)));
        }
        changes
    }

    fn begin(&mut self, kind: &'static str, id: String, fields: BTreeMap<String, Value>) {
        let row = Row {
            before: fields.clone(),
            now: fields,
            ..Row::default()
        };
        self.rows.insert((kind, id), row);
    }

    /// Takes in the next commit of an agent.
    pub fn agent(&mut self, name: &AgentName, state: &Agent, by: Author) {
        self.take("agent", name.to_string(), fields(Some(agent(name, state))), by);
    }

    /// Takes in the next commit of a provider.
    pub fn provider(&mut self, id: &ProviderId, state: &Provider, by: Author) {
        let known = Known {
            sequence: by.sequence,
            state: state.clone(),
        };
        self.take("provider", id.to_string(), fields(PastProvider::of(&known)), by);
    }

    /// Takes in the next commit of a key.
    pub fn key(&mut self, id: &KeyId, state: &Key, by: Author) {
        self.take("key", id.to_string(), fields(PastKey::of(state)), by);
    }

    fn take(&mut self, kind: &'static str, id: String, now: BTreeMap<String, Value>, by: Author) {
        let row = self.rows.entry((kind, id)).or_default();
        for name in row.now.keys().chain(now.keys()) {
            if row.now.get(name) != now.get(name) {
                row.authors.insert(name.clone(), by.clone());
            }
        }
        row.now = now;
        row.last = Some(by);
    }

    /// The fields that differ at the end, by kind and id. A row that is new or gone is one change.
    #[must_use]
    pub fn end(self) -> Vec<Change> {
        self.rows
            .into_iter()
            .flat_map(|((kind, id), row)| row.changes(kind, &id))
            .collect()
    }
}

impl Row {
    fn changes(mut self, kind: &'static str, id: &str) -> Vec<Change> {
        let change = |field: &str, from: Value, to: Value, by: Author| Change {
            kind,
            id: id.to_owned(),
            field: field.to_owned(),
            from,
            to,
            by,
        };
        if self.before.is_empty() != self.now.is_empty() {
            let whole = |fields: BTreeMap<String, Value>| match fields.is_empty() {
                true => Value::Null,
                false => fields.into_iter().collect(),
            };
            let by = self.last.into_iter();
            let (from, to) = (whole(self.before), whole(self.now));
            return by.map(|by| change("", from.clone(), to.clone(), by)).collect();
        }
        let mut changes = vec![];
        for (name, to) in self.now {
            let from = self.before.remove(&name).unwrap_or_default();
            if let Some(by) = self.authors.remove(&name).filter(|_| from != to) {
                changes.push(change(&name, from, to, by));
            }
        }
        changes
    }
}

/// How many providers it has isn't the agent's own.
fn agent(name: &AgentName, state: &Agent) -> PastAgent {
    let known = Known {
        sequence: 0,
        state: state.clone(),
    };
    PastAgent::of(name, &known, &[])
}

fn fields(row: Option<impl Serialize>) -> BTreeMap<String, Value> {
    let row = row.and_then(|row| serde_json::to_value(row).ok());
    let Some(Value::Object(fields)) = row else {
        return BTreeMap::new();
    };
    fields
        .into_iter()
        .filter(|(name, _)| !NOT_SHOWN.contains(&name.as_str()))
        .collect()
}
