//! One row for each model that a provider publishes.

use super::{Cursor, RowKey, RowsError};
use crate::{
    AgentName, Epoch, Failures, ModelName, Provider, ProviderName, Timestamp, WakeFailure, WakeId,
    WakeRecord,
    provider::{StatusName, WakeCounts},
};
use serde::{Deserialize, Serialize};

/// One model of one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LlmRow {
    /// `agent/model`.
    pub name: String,
    /// The agent that publishes it.
    pub agent: AgentName,
    /// The provider it belongs to.
    pub provider: ProviderName,
    /// Its public name.
    pub model: ModelName,
    /// What kind of LLM it is.
    pub kind: LlmKind,
    /// Its provider's status.
    pub status: StatusName,
    /// Since when it has that status.
    pub since_ms: Timestamp,
    /// The session that speaks for its provider.
    pub epoch: Epoch,
    /// The wake in flight.
    pub wake_id: Option<WakeId>,
    /// When the wake in flight ends as timed out.
    pub wake_deadline_ms: Option<Timestamp>,
    /// Whether its provider has a wake recipe.
    pub can_wake: bool,
    /// Whether its provider has a sleep recipe.
    pub can_sleep: bool,
    /// All its provider's wakes, counted.
    pub wakes: WakeCounts,
    /// The wake that ended last.
    pub last_wake: Option<LastWake>,
    /// Failed wakes in a row and the hold they bring.
    pub failures: Failures,
    /// When its agent was last heard; no part of the journal, so it is always a little late.
    pub last_heartbeat_ms: Option<Timestamp>,
    /// The journal sequence of the commit that the row comes from.
    pub updated_seq: u64,
    /// The first later commit of its provider that this program could not read; the row shows what was before it.
    pub unreadable_since_seq: Option<u64>,
}

/// The kinds of LLMs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LlmKind {
    /// Served by a backend on a provider machine.
    #[default]
    Virtual,
}

impl LlmKind {
    /// The kind as it is written everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Virtual => "virtual",
        }
    }
}

/// A wake that has ended, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWake {
    /// Its id.
    pub id: WakeId,
    /// From its request to its end.
    pub took_ms: u64,
    /// Why it failed; absent when it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<WakeFailure>,
}

impl From<&WakeRecord> for LastWake {
    fn from(wake: &WakeRecord) -> Self {
        let took = wake.ended_at_ms.since(wake.requested_at_ms);
        Self {
            id: wake.id,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            failure: wake.failure.as_ref().map(WakeFailure::bounded),
        }
    }
}

/// The rows of a provider as the commit `seq` left it: one for each model, none when it isn't published.
#[must_use]
pub fn llm_rows(provider: &Provider, seq: u64) -> Vec<LlmRow> {
    let Some(provider) = provider.registered() else {
        return vec![];
    };
    let row = |model: &ModelName| LlmRow {
        name: format!("{}/{model}", provider.id.agent),
        agent: provider.id.agent.clone(),
        provider: provider.id.provider.clone(),
        model: model.clone(),
        kind: LlmKind::Virtual,
        status: provider.status.name(),
        since_ms: provider.status.since(),
        epoch: provider.epoch,
        wake_id: provider.status.wake().map(|wake| wake.id),
        wake_deadline_ms: provider.status.wake().map(|wake| wake.deadline_ms),
        can_wake: provider.spec.wake().is_some(),
        can_sleep: provider.spec.can_sleep(),
        wakes: provider.counts,
        last_wake: provider.wakes.last().map(LastWake::from),
        failures: Failures {
            last: provider.failures.last.as_ref().map(WakeFailure::bounded),
            ..provider.failures.clone()
        },
        last_heartbeat_ms: None,
        updated_seq: seq,
        unreadable_since_seq: None,
    };
    provider.spec.models().iter().map(row).collect()
}

/// What orders LLM rows: agent, model, provider, each by its bytes. The provider stands in it because the journal
/// doesn't forbid that two providers of an agent name the same model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LlmKey {
    /// The agent.
    pub agent: AgentName,
    /// The model.
    pub model: ModelName,
    /// The provider.
    pub provider: ProviderName,
}

impl LlmKey {
    /// The key of `row`.
    #[must_use]
    pub fn of(row: &LlmRow) -> Self {
        Self {
            agent: row.agent.clone(),
            model: row.model.clone(),
            provider: row.provider.clone(),
        }
    }
}

impl RowKey for LlmKey {
    /// Model names hold anything printable, so the text is written as hex.
    fn cursor(&self) -> Cursor {
        let text = format!("{}/{}/{}", self.agent, self.provider, self.model);
        Cursor::new(text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    fn parse(cursor: &Cursor) -> Result<Self, RowsError> {
        let read = || {
            let bytes = cursor.as_str().as_bytes().chunks(2).map(|pair| {
                let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
                u8::from_str_radix(pair, 16).ok()
            });
            let text = String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()?;
            let mut parts = text.splitn(3, '/');
            Some(Self {
                agent: AgentName::parse(parts.next()?).ok()?,
                provider: ProviderName::parse(parts.next()?).ok()?,
                model: ModelName::parse(parts.next()?).ok()?,
            })
        };
        read().ok_or(RowsError::BadCursor)
    }
}
