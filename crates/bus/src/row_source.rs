//! A journal message in the words of [`reveille_domain::rows`]: what both row stores take in.

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

/// What rows and queries show of a key's event. Whatever else is in it, the hash of its secret or what a newer version
/// writes, stays in the journal and in its archive.
const SHOWN_OF_KEYS: [&str; 4] = ["id", "terms", "previous_valid_until_ms", "at_ms"];
/// What they don't show of an agent's: the hash of a token's secret.
const HIDDEN_OF_AGENTS: &str = "secret";

impl JournalEntry {
    /// The commit as the row stores take it in, without the message's own bytes.
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

    /// The commit with the message's own bytes, for the archive.
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

    /// The headers by name, so that a message is written alike each time; the values of one name keep their order.
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
                    reason: "a provider's commit under another's subject".to_owned(),
                }
            }
            Err(error) => SourceBody::Unreadable {
                reason: error.to_string(),
            },
        }
    }
}

/// An event's data as rows show it: without the hashes of secrets.
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
