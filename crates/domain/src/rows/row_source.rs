//! What rows are derived from: one commit of the journal, free of how the journal encodes it.

use crate::{
    ids::CommandId,
    names::ProviderId,
    provider::{Provider, ProviderEvent},
    time::Timestamp,
};
use serde_json::Value;

/// One message of the journal: the events of one command and the state after them.
#[derive(Debug, Clone, PartialEq)]
pub struct RowSource {
    /// Its sequence in the journal.
    pub stream_seq: u64,
    /// The hash of its bytes. With the sequence it identifies the journal.
    pub hash: String,
    /// Its subject.
    pub subject: String,
    /// The aggregate's type, such as `provider`; empty when the subject names none.
    pub aggregate_type: String,
    /// The aggregate's id as the subject spells it, such as `gpu-box.vllm`.
    pub aggregate_id: String,
    /// The number of the first event among the aggregate's events, counted from 1.
    pub first_event_seq: u64,
    /// The command; unknown when the commit can't be read.
    pub command_id: Option<CommandId>,
    /// When it was committed.
    pub at_ms: Timestamp,
    /// Its events as they were written, unknown types included; none when the commit can't be read at all.
    pub events: Vec<RecordedEvent>,
    /// What it means.
    pub body: SourceBody,
    /// The message's own bytes, for the archive.
    pub raw: Option<RawMessage>,
}

/// What a commit means to this program.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly every commit is a provider's")]
pub enum SourceBody {
    /// A commit of a provider.
    Provider {
        /// The provider.
        id: ProviderId,
        /// Its events.
        events: Vec<ProviderEvent>,
        /// Its state after them.
        state: Provider,
    },
    /// A commit of an agent or a key: it has event rows only.
    EventsOnly,
    /// A commit that this program can't read, damaged or written by a newer one. The rows of its aggregate stay as they
    /// were, and are marked.
    Unreadable {
        /// Why.
        reason: String,
    },
}

/// One event as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedEvent {
    /// Its type, such as `WakeRequested`.
    pub event_type: String,
    /// The version of its data.
    pub version: String,
    /// Its data.
    pub data: Value,
}

/// A journal message as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A provider's aggregate id, as subjects and event rows spell it: `agent.provider`.
#[must_use]
pub fn provider_aggregate_id(id: &ProviderId) -> String {
    format!("{}.{}", id.agent, id.provider)
}

impl RowSource {
    /// The provider that the commit belongs to, readable or not.
    #[must_use]
    pub fn provider(&self) -> Option<ProviderId> {
        match &self.body {
            SourceBody::Provider { id, .. } => Some(id.clone()),
            SourceBody::Unreadable { .. } if self.aggregate_type == "provider" => {
                self.aggregate_id.replacen('.', "/", 1).parse().ok()
            }
            SourceBody::Unreadable { .. } | SourceBody::EventsOnly => None,
        }
    }
}
