//! One commit of the journal, free of how the journal encodes it: what both implementations of the port take in.

use crate::{Agent, AgentEvent, CommandId, Provider, ProviderEvent, ProviderId, Timestamp};
use serde_json::Value;

/// One message of the journal: the events of one command and the state after them.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Its sequence in the journal.
    pub stream_seq: u64,
    /// The hash of its bytes; with the sequence it tells whether a journal is the one that was read before.
    pub hash: String,
    /// The subject it stands under.
    pub subject: String,
    /// The aggregate's type, such as `provider`; empty when the subject names none.
    pub aggregate_type: String,
    /// The aggregate's id as the subject spells it, such as `gpu-box.vllm`.
    pub aggregate_id: String,
    /// The aggregate's own sequence of the first event; 1 for the first it ever had.
    pub first_event_seq: u64,
    /// The command; unknown when the commit can't be read.
    pub command_id: Option<CommandId>,
    /// When it was committed.
    pub at_ms: Timestamp,
    /// Its events as they were written, of unknown types too; none when the commit can't be read at all.
    pub events: Vec<RecordedEvent>,
    /// What it means.
    pub body: CommittedBody,
    /// The message's own bytes, for whoever archives them.
    pub raw: Option<RawMessage>,
}

/// What a commit means to this program.
#[derive(Debug, Clone, PartialEq)]
pub enum CommittedBody {
    /// A commit of a provider.
    Provider {
        /// The provider.
        id: ProviderId,
        /// Its events.
        events: Vec<ProviderEvent>,
        /// Its state after them.
        state: Provider,
    },
    /// A commit of an agent.
    Agent {
        /// Its events.
        events: Vec<AgentEvent>,
        /// Its state after them.
        state: Agent,
    },
    /// A commit of a key. No row but those of its events comes from it.
    Key,
    /// This program can't read it: damaged, or written by a newer one. Rows of its aggregate stay as they were and
    /// say so.
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

impl Committed {
    /// The provider that the commit belongs to, readable or not.
    #[must_use]
    pub fn provider(&self) -> Option<ProviderId> {
        match &self.body {
            CommittedBody::Provider { id, .. } => Some(id.clone()),
            CommittedBody::Unreadable { .. } if self.aggregate_type == "provider" => {
                self.aggregate_id.replacen('.', "/", 1).parse().ok()
            }
            CommittedBody::Unreadable { .. } | CommittedBody::Agent { .. } | CommittedBody::Key => None,
        }
    }
}
