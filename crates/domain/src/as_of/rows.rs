//! Rows of the past.

use super::known::Known;
use crate::{
    Scopes,
    agent::{Agent, AgentKey, Sessions},
    ids::Epoch,
    key::Key,
    names::{AgentName, KeyId, KeyName, ModelName, ProviderId, ProviderName},
    provider::{InactiveReason, Provider, Registered, Status, StatusName, WakeCounts},
    rows::{LlmSort, SortKey},
    spec::WakeSpec,
    time::Timestamp,
    wake::{Failures, Wake, WakeRecord},
};
use serde::Serialize;

/// A provider as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PastProvider {
    /// Its id.
    pub id: ProviderId,
    /// Its agent.
    pub agent: AgentName,
    /// Its own name.
    pub provider: ProviderName,
    /// Its status.
    pub status: StatusName,
    /// Since when it had that status.
    pub since_ms: Timestamp,
    /// Why it was inactive.
    pub reason: Option<InactiveReason>,
    /// What it published.
    pub models: Vec<ModelName>,
    /// How it was woken, without the recipe's content.
    pub recipe: Option<WakeSpec>,
    /// Whether it had a sleep recipe.
    pub can_sleep: bool,
    /// Its share of the requests for its models.
    pub weight: u32,
    /// Its place among the members of its pools.
    pub priority: u32,
    /// Up to how many requests at a time.
    pub max_concurrency: Option<u32>,
    /// The session that it belonged to.
    pub epoch: Epoch,
    /// The wake in flight.
    pub wake: Option<Wake>,
    /// Failed wakes in a row.
    pub failures: Failures,
    /// How many wakes it had had.
    pub wakes: WakeCounts,
    /// The last few that had ended, latest last.
    pub last_wakes: Vec<WakeRecord>,
    /// The sequence of its last commit.
    pub updated_seq: u64,
}

impl PastProvider {
    /// The row of a provider; `None` if it wasn't published.
    #[must_use]
    pub fn of(known: &Known<Provider>) -> Option<Self> {
        let provider = known.state.registered()?;
        let reason = match &provider.status {
            Status::Inactive { reason, .. } => Some(*reason),
            Status::Active { .. }
            | Status::Hibernating { .. }
            | Status::Waking { .. }
            | Status::Down { .. } => None,
        };
        let balancing = provider.spec.balancing();
        Some(Self {
            id: provider.id.clone(),
            agent: provider.id.agent.clone(),
            provider: provider.id.provider.clone(),
            status: provider.status.name(),
            since_ms: provider.status.since(),
            reason,
            models: provider.spec.models().to_vec(),
            recipe: provider.spec.wake().copied(),
            can_sleep: provider.spec.can_sleep(),
            weight: balancing.weight(),
            priority: balancing.priority(),
            max_concurrency: balancing.max_concurrency(),
            epoch: provider.epoch,
            wake: provider.status.wake().cloned(),
            failures: provider.failures.clone(),
            wakes: provider.counts,
            last_wakes: provider.wakes.clone(),
            updated_seq: known.sequence,
        })
    }
}

impl PastProvider {
    /// Its position among providers.
    #[must_use]
    pub fn sort_key(&self, by: LlmSort) -> SortKey<ProviderId> {
        SortKey {
            value: by.value(self.status, self.since_ms),
            key: self.id.clone(),
        }
    }
}

/// Whether an agent was there, as far as the journal knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PastAgentStatus {
    /// It had a session, and not all of its providers were inactive.
    Connected,
    /// All of its providers were inactive, or its session had been ended.
    Away,
    /// Its key and tokens had been revoked.
    Revoked,
    /// It had never connected.
    Invited,
}

/// An agent as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PastAgent {
    /// Its name.
    pub agent: AgentName,
    /// Whether it was there.
    pub status: PastAgentStatus,
    /// Since when it had been away or revoked.
    pub status_since_ms: Option<Timestamp>,
    /// Its epoch.
    pub epoch: Epoch,
    /// When its session had begun.
    pub connected_at_ms: Option<Timestamp>,
    /// The version of its program.
    pub version: Option<String>,
    /// The public half of its key.
    pub key: Option<AgentKey>,
    /// When that was enrolled.
    pub enrolled_at_ms: Option<Timestamp>,
    /// When it was last revoked.
    pub revoked_at_ms: Option<Timestamp>,
    /// How many providers it published.
    pub providers: usize,
    /// The sequence of its last commit.
    pub updated_seq: u64,
}

impl PastAgent {
    /// The row of an agent that published these providers.
    #[must_use]
    pub fn of(name: &AgentName, known: &Known<Agent>, published: &[&Registered]) -> Self {
        let Agent { sessions, access } = &known.state;
        let inactive_since = |provider: &&Registered| match provider.status {
            Status::Inactive { since_ms, .. } => Some(since_ms),
            Status::Active { .. }
            | Status::Hibernating { .. }
            | Status::Waking { .. }
            | Status::Down { .. } => None,
        };
        let away_since: Option<Vec<_>> = published.iter().map(inactive_since).collect();
        let away_since = away_since.and_then(|since| since.into_iter().max());
        let is_revoked = access.key().is_none() && access.revoked_at().is_some();
        let (status, status_since_ms) = match (sessions, away_since) {
            (Sessions::Unknown | Sessions::Fenced(_), _) if is_revoked => {
                (PastAgentStatus::Revoked, access.revoked_at())
            }
            (Sessions::Unknown, _) => (PastAgentStatus::Invited, None),
            (Sessions::Fenced(fence), _) => (PastAgentStatus::Away, Some(fence.fenced_at_ms)),
            (Sessions::Connected(_), Some(since)) => (PastAgentStatus::Away, Some(since)),
            (Sessions::Connected(_), None) => (PastAgentStatus::Connected, None),
        };
        let session = match sessions {
            Sessions::Connected(session) => Some(session),
            Sessions::Unknown | Sessions::Fenced(_) => None,
        };
        Self {
            agent: name.clone(),
            status,
            status_since_ms,
            epoch: known.state.epoch(),
            connected_at_ms: session.map(|session| session.connected_at_ms),
            version: session.map(|session| session.version.clone()),
            key: access.key().cloned(),
            enrolled_at_ms: access.enrolled_at(),
            revoked_at_ms: access.revoked_at(),
            providers: published.len(),
            updated_seq: known.sequence,
        }
    }
}

/// A key as it was, without anything of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PastKey {
    /// Its id.
    pub id: KeyId,
    /// Its name.
    pub name: KeyName,
    /// What it permitted.
    pub scopes: Scopes,
    /// When it expires.
    pub expires_at_ms: Option<Timestamp>,
    /// When it was created.
    pub created_at_ms: Timestamp,
    /// When it had last got a new secret.
    pub rotated_at_ms: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at_ms: Option<Timestamp>,
}

impl PastKey {
    /// The row of a key; `None` if it had never been created.
    #[must_use]
    pub fn of(key: &Key) -> Option<Self> {
        let (id, policy, created_at_ms, rotated_at_ms, revoked_at_ms) = match key {
            Key::Unknown => return None,
            Key::Issued(key) => (&key.id, &key.policy, key.created_at_ms, key.rotated_at_ms, None),
            Key::Revoked(key) => (
                &key.id,
                &key.policy,
                key.created_at_ms,
                None,
                Some(key.revoked_at_ms),
            ),
        };
        Some(Self {
            id: id.clone(),
            name: policy.name.clone(),
            scopes: policy.scopes.clone(),
            expires_at_ms: policy.expires_at_ms,
            created_at_ms,
            rotated_at_ms,
            revoked_at_ms,
        })
    }
}
