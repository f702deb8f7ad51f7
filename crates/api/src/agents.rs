//! The fold of the journal in memory: which key each agent has. The answers to the hub's NATS servers come from it.

use parking_lot::RwLock;
use reveille_domain::{
    Access, AdvanceReason, Agent, AgentEvent, AgentKey, AgentName, Epoch, Sessions, Timestamp,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use tokio::sync::watch;

/// An agent as its last commit left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentSnapshot {
    /// Its epoch; 0 before its first session.
    pub epoch: Epoch,
    /// When its current session began, and the version of its program.
    pub session: Option<(Timestamp, String)>,
    pub access: Access,
    /// What ended the last session, if no later one did: after a restore of the journal its process may begin another.
    pub ended_by: Option<AdvanceReason>,
    /// Whether it was forgotten, and neither invited nor here since: it isn't listed.
    pub is_forgotten: bool,
    /// The journal sequence of that commit.
    pub sequence: u64,
}

impl AgentSnapshot {
    /// Whether its key was revoked, and it has no other.
    pub(crate) fn is_revoked(&self) -> bool {
        self.ended_by == Some(AdvanceReason::Revoked) && self.access.key().is_none()
    }
}

/// All agents, and the agent of each key.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    table: RwLock<Table>,
    dropped: watch::Sender<u64>,
    /// The agents that each start of this process admits, revoked ones too.
    admitted_at_start: RwLock<BTreeSet<AgentName>>,
}

#[derive(Debug, Default)]
struct Table {
    agents: BTreeMap<AgentName, Arc<AgentSnapshot>>,
    keys: HashMap<AgentKey, AgentName>,
    /// The keys that were revoked or replaced.
    former: HashMap<AgentKey, AgentName>,
}

impl Agents {
    /// The agent that has this key.
    pub(crate) fn of_key(&self, key: &str) -> Option<AgentName> {
        let key = AgentKey::parse(key).ok()?;
        self.table.read().keys.get(&key).cloned()
    }

    /// The agent that had this key until it was revoked or replaced.
    pub(crate) fn of_former_key(&self, key: &str) -> Option<AgentName> {
        let key = AgentKey::parse(key).ok()?;
        self.table.read().former.get(&key).cloned()
    }

    pub(crate) fn get(&self, agent: &AgentName) -> Option<Arc<AgentSnapshot>> {
        self.table.read().agents.get(agent).cloned()
    }

    /// All agents, by name.
    pub(crate) fn all(&self) -> Vec<(AgentName, Arc<AgentSnapshot>)> {
        let table = self.table.read();
        table
            .agents
            .iter()
            .map(|(name, known)| (name.clone(), known.clone()))
            .collect()
    }

    /// Whether the agent's key was revoked, and it has no other.
    pub(crate) fn is_revoked(&self, agent: &AgentName) -> bool {
        self.get(agent).is_some_and(|known| known.is_revoked())
    }

    /// Each start of this process admits these agents.
    pub(crate) fn admit_at_start(&self, agents: impl IntoIterator<Item = AgentName>) {
        self.admitted_at_start.write().extend(agents);
    }

    /// Whether the next start of this process admits the agent, even if it was revoked.
    pub(crate) fn is_admitted_at_start(&self, agent: &AgentName) -> bool {
        self.admitted_at_start.read().contains(agent)
    }

    /// Changes whenever a key was revoked or replaced.
    pub(crate) fn dropped(&self) -> watch::Receiver<u64> {
        self.dropped.subscribe()
    }

    /// Takes in an agent's state after these events.
    pub(crate) fn take(&self, name: &AgentName, agent: &Agent, events: &[AgentEvent], sequence: u64) {
        let session = match &agent.sessions {
            Sessions::Unknown | Sessions::Fenced(_) => None,
            Sessions::Connected(session) => Some((session.connected_at_ms, session.version.clone())),
        };
        let mut table = self.table.write();
        let before = table.agents.get(name);
        let (ended_before, forgotten_before) =
            before.map_or((None, false), |before| (before.ended_by, before.is_forgotten));
        let known = AgentSnapshot {
            epoch: agent.epoch(),
            session,
            access: agent.access.clone(),
            ended_by: ended_by(events, ended_before),
            is_forgotten: is_forgotten(events, forgotten_before),
            sequence,
        };
        let former = known.access.former_keys().iter().cloned();
        table.former.retain(|_, agent| agent != name);
        table.former.extend(former.map(|key| (key, name.clone())));
        let key = known.access.key().cloned();
        let before = table.agents.insert(name.clone(), Arc::new(known));
        let before = before.and_then(|before| before.access.key().cloned());
        if before == key {
            return;
        }
        let replaced = before.is_some_and(|before| table.keys.remove(&before).is_some());
        if let Some(key) = key {
            table.keys.insert(key, name.clone());
        }
        drop(table);
        if replaced {
            self.dropped.send_modify(|times| *times += 1);
        }
    }

    pub(crate) fn reset(&self) {
        *self.table.write() = Table::default();
    }
}

/// What has ended the last session without a later one, after these events.
fn ended_by(events: &[AgentEvent], before: Option<AdvanceReason>) -> Option<AdvanceReason> {
    events.iter().fold(before, |before, event| match event {
        AgentEvent::AgentConnected { .. } => None,
        AgentEvent::AgentRevoked { .. } => Some(AdvanceReason::Revoked),
        AgentEvent::AgentEpochAdvanced { reason, .. } => Some(*reason),
        AgentEvent::AgentTokenIssued { .. } | AgentEvent::AgentEnrolled { .. } => before,
    })
}

/// Whether the agent is forgotten after these events.
fn is_forgotten(events: &[AgentEvent], before: bool) -> bool {
    events.iter().fold(before, |before, event| match event {
        AgentEvent::AgentEpochAdvanced { reason, .. } => before || *reason == AdvanceReason::Forgotten,
        AgentEvent::AgentRevoked { .. } => before,
        AgentEvent::AgentConnected { .. }
        | AgentEvent::AgentTokenIssued { .. }
        | AgentEvent::AgentEnrolled { .. } => false,
    })
}
