//! One row for each model that a provider publishes.

use super::{
    page::{Cursor, RowsError},
    sort::{RowKey, Sort, SortBy, SortKey, SortKind, SortValue},
};
use crate::{
    ids::{Epoch, WakeId},
    names::{AgentName, ModelName, ProviderName},
    provider::{Provider, StatusName, WakeCounts},
    spec::PresetSpec,
    time::Timestamp,
    wake::{Failures, WakeFailure, WakeRecord},
};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

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
    /// What it is a preset of, if it is no model of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<PresetSpec>,
    /// What kind of LLM it is.
    pub kind: LlmKind,
    /// Its provider's status.
    pub status: StatusName,
    /// Since when it has that status.
    pub since_ms: Timestamp,
    /// The session that its provider belongs to.
    pub epoch: Epoch,
    /// The wake in flight.
    pub wake_id: Option<WakeId>,
    /// When the wake in flight ends as timed out.
    pub wake_deadline_ms: Option<Timestamp>,
    /// Whether its provider has a wake recipe.
    pub can_wake: bool,
    /// Whether its provider has a sleep recipe.
    pub can_sleep: bool,
    /// How many wakes its provider has had.
    pub wakes: WakeCounts,
    /// The wake that ended last.
    pub last_wake: Option<LastWake>,
    /// Failed wakes in a row, and the backoff that follows from them.
    pub failures: Failures,
    /// The last heartbeat of its agent. It isn't in the journal, so it always lags a little.
    pub last_heartbeat_ms: Option<Timestamp>,
    /// The journal sequence of the commit that the row comes from.
    pub updated_seq: u64,
    /// The first later commit of its provider that this program can't read. The row shows the state before it.
    pub unreadable_since_seq: Option<u64>,
}

/// The kinds of LLMs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum LlmKind {
    /// Served by a backend on a provider machine.
    #[default]
    Virtual,
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

/// The rows of a provider after the commit `seq`: one for each model, none when it isn't published.
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
        preset: provider.spec.preset(model).cloned(),
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

/// Identifies and orders LLM rows: by agent, model and provider, each by its bytes. The provider is needed because two
/// providers of one agent may publish the same model.
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
    /// As hexadecimal digits, because model names contain any printable text.
    fn cursor(&self) -> Cursor {
        let text = format!("{}/{}/{}", self.agent, self.provider, self.model);
        Cursor::new(hex::encode(text))
    }

    fn parse(cursor: &Cursor) -> Result<Self, RowsError> {
        let parse = || {
            let text = String::from_utf8(hex::decode(cursor.as_str()).ok()?).ok()?;
            let mut parts = text.splitn(3, '/');
            Some(Self {
                agent: AgentName::parse(parts.next()?).ok()?,
                provider: ProviderName::parse(parts.next()?).ok()?,
                model: ModelName::parse(parts.next()?).ok()?,
            })
        };
        parse().ok_or(RowsError::BadCursor)
    }
}

/// What LLM rows and providers can be sorted by. Their keys break ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum LlmSort {
    /// Their keys: an LLM's agent, model and provider; a provider's id.
    Name,
    /// The status, as a word.
    Status,
    /// Since when they have that status.
    Since,
}

impl SortBy for LlmSort {
    const ALL: &'static [Self] = &[Self::Name, Self::Status, Self::Since];
    const DEFAULT: Sort<Self> = Sort::ascending(Self::Name);
    fn as_str(self) -> &'static str {
        self.into()
    }
    fn kind(self) -> SortKind {
        match self {
            Self::Name => SortKind::Key,
            Self::Status => SortKind::Word,
            Self::Since => SortKind::Number,
        }
    }
}

impl LlmSort {
    /// The value that decides.
    #[must_use]
    pub fn value(self, status: StatusName, since: Timestamp) -> SortValue {
        match self {
            Self::Name => SortValue::None,
            Self::Status => SortValue::Word(status.to_string()),
            Self::Since => SortValue::Number(since.as_millis()),
        }
    }
}

impl LlmRow {
    /// Its position among LLM rows.
    #[must_use]
    pub fn sort_key(&self, by: LlmSort) -> SortKey<LlmKey> {
        SortKey {
            value: by.value(self.status, self.since_ms),
            key: LlmKey::of(self),
        }
    }
}
