//! What the journal holds and what was told of it, read as an outsider would: as JSON, without our own types.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;
use tokio::task::AbortHandle;

use crate::wait_until;

/// The stream that is the only source of truth.
pub const JOURNAL: &str = "REVEILLE_EVENTS";
/// Where accepted commits are told to everybody.
pub const FACTS: &str = "reveille.facts.>";

/// Carries the journal's sequence on a fact.
const SEQUENCE: &str = "Nats-Sequence";

/// One commit: the events of one command.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Its place in the journal.
    pub sequence: u64,
    /// `reveille.events.…` when read from the journal, `reveille.facts.…` when heard.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its bytes as they are stored.
    pub payload: Bytes,
    /// The same, parsed.
    pub body: Value,
}

impl Commit {
    pub(crate) fn new(sequence: u64, subject: &str, headers: HeaderMap, payload: Bytes) -> Self {
        let body = serde_json::from_slice(&payload).expect("a commit is JSON");
        Self {
            sequence,
            subject: subject.to_owned(),
            headers,
            payload,
            body,
        }
    }

    /// Types of its events, in order.
    pub fn types(&self) -> Vec<&str> {
        self.events().filter_map(|event| event["type"].as_str()).collect()
    }

    /// The data of its first event of this type.
    pub fn data(&self, event_type: &str) -> Option<&Value> {
        self.events()
            .find(|event| event["type"] == event_type)
            .map(|event| &event["data"])
    }

    /// Its events: objects of `type`, `version` and `data`.
    pub fn events(&self) -> impl Iterator<Item = &Value> {
        self.body["events"].as_array().into_iter().flatten()
    }
}

/// Every commit of the journal, in order. None when there is no journal yet.
pub async fn read_journal(client: &async_nats::Client) -> Vec<Commit> {
    let context = jetstream::new(client.clone());
    let Ok(stream) = context.get_stream(JOURNAL).await else {
        return Vec::new();
    };
    let state = &stream.cached_info().state;
    let mut commits = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        let message = stream
            .get_raw_message(sequence)
            .await
            .expect("the journal has no gap");
        commits.push(Commit::new(
            sequence,
            &message.subject,
            message.headers,
            message.payload,
        ));
    }
    commits
}

/// A plain NATS subscriber that remembers every fact from when it was made.
#[derive(Debug)]
pub struct Facts {
    heard: Arc<Mutex<Vec<Commit>>>,
    listener: AbortHandle,
}

impl Facts {
    /// Subscribes; what is committed after this returns is heard.
    pub async fn listen(client: async_nats::Client) -> Self {
        let mut subscription = client.subscribe(FACTS).await.expect("a subscription");
        client.flush().await.expect("the server has the subscription");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let remembered = heard.clone();
        let listener = tokio::spawn(async move {
            // The connection lives as long as somebody listens.
            let _client = client;
            while let Some(message) = subscription.next().await {
                let headers = message.headers.unwrap_or_default();
                let sequence = headers
                    .get(SEQUENCE)
                    .and_then(|value| value.as_str().parse().ok());
                let commit = Commit::new(sequence.unwrap_or(0), &message.subject, headers, message.payload);
                remembered
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(commit);
            }
        });
        Self {
            heard,
            listener: listener.abort_handle(),
        }
    }

    /// What was heard up to now, in order.
    pub fn all(&self) -> Vec<Commit> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The commits up to now that hold an event of this type.
    pub fn with(&self, event_type: &str) -> Vec<Commit> {
        self.all()
            .into_iter()
            .filter(|commit| commit.data(event_type).is_some())
            .collect()
    }

    /// Waits for a commit with an event of this type, and returns the first.
    pub async fn wait_for(&self, event_type: &str, within: Duration) -> Commit {
        let what = format!("{event_type} was told");
        wait_until(&what, within, async || self.with(event_type).into_iter().next()).await
    }
}

impl Drop for Facts {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
