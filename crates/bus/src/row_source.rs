//! Journal entries as [`reveille_domain::rows`] describes them: the input of both row stores.

use crate::{
    commit::{self, AnyCommit},
    entry::JournalEntry,
    subjects::AggregateId,
};
use cqrs_es::Aggregate;
use reveille_domain::{
    Agent, Key,
    rows::{RawMessage, RecordedEvent, RowSource, SourceBody},
};
use serde_json::Value;

/// The fields of a key's event that rows and queries show. All others, such as the hash of its secret or what a newer
/// version writes, stay in the journal and in its archive.
const SHOWN_OF_KEYS: [&str; 4] = ["id", "terms", "previous_valid_until_ms", "at_ms"];
/// The field of an agent's event that they hide: the hash of a token's secret.
const HIDDEN_OF_AGENTS: &str = "secret";

impl JournalEntry {
    /// The commit for the row stores, without the message's bytes.
    #[must_use]
    pub fn row_source(&self) -> RowSource {
        let (aggregate_type, aggregate_id) = self.aggregate();
        let outline = commit::outline(&self.payload);
        let events = outline.as_ref().map_or_else(Vec::new, |outline| {
            let record = |(event_type, version, data)| RecordedEvent {
                event_type,
                version,
                data: shown(&aggregate_type, data),
            };
            outline.events.iter().cloned().map(record).collect()
        });
        RowSource {
            stream_seq: self.sequence,
            hash: self.hash.to_string(),
            subject: self.subject.clone(),
            aggregate_type,
            aggregate_id,
            first_event_seq: outline.as_ref().map_or(1, |outline| outline.first_event_seq),
            command_id: outline.as_ref().map(|outline| outline.command_id),
            at_ms: outline.as_ref().map_or(self.stored_at, |outline| outline.at),
            events,
            body: self.body(),
            raw: None,
        }
    }

    /// The commit with the message's bytes, for the archive in Postgres.
    #[must_use]
    pub fn archived(&self) -> RowSource {
        let raw = RawMessage {
            headers: self.headers_by_name(),
            payload: self.payload.to_vec(),
        };
        RowSource {
            raw: Some(raw),
            ..self.row_source()
        }
    }

    /// The headers sorted by name, so that a message is always written alike; the values of one name keep their order.
    pub(crate) fn headers_by_name(&self) -> Vec<(String, String)> {
        let headers = self.headers.iter().flat_map(|(name, values)| {
            values
                .iter()
                .map(move |value| (name.to_string(), value.as_str().to_owned()))
        });
        let mut headers: Vec<_> = headers.collect();
        headers.sort_by(|(one, _), (other, _)| one.cmp(other));
        headers
    }

    fn aggregate(&self) -> (String, String) {
        match AggregateId::of_subject(&self.subject) {
            Some(id) => (id.kind().to_owned(), id.id()),
            None => (String::new(), String::new()),
        }
    }

    fn body(&self) -> SourceBody {
        match &self.commit {
            Ok((AggregateId::Provider(id), AnyCommit::Provider(commit))) => SourceBody::Provider {
                id: id.clone(),
                events: commit.events.clone(),
                state: commit.state.clone(),
            },
            Ok((_, AnyCommit::Agent(_) | AnyCommit::Key(_))) => SourceBody::EventsOnly,
            Ok((AggregateId::Agent(_) | AggregateId::Key(_), AnyCommit::Provider(_))) => {
                SourceBody::Unreadable {
                    reason: "a provider's commit under the subject of another aggregate".to_owned(),
                }
            }
            Err(error) => SourceBody::Unreadable {
                reason: error.to_string(),
            },
        }
    }
}

/// An event's data without the hashes of secrets.
fn shown(aggregate_type: &str, data: Value) -> Value {
    match data {
        Value::Object(mut fields) if aggregate_type == Key::TYPE => {
            fields.retain(|name, _| SHOWN_OF_KEYS.contains(&name.as_str()));
            Value::Object(fields)
        }
        Value::Object(mut fields) if aggregate_type == Agent::TYPE => {
            fields.remove(HIDDEN_OF_AGENTS);
            Value::Object(fields)
        }
        _ if aggregate_type == Key::TYPE => Value::Null,
        data => data,
    }
}
