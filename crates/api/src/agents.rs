//! The fold of the journal in memory: which key each agent has. The answers to the hub's NATS servers come from it.

use parking_lot::RwLock;
use reveille_domain::{
    Access, AdvanceReason, Agent, AgentEvent, AgentKey, AgentName, Epoch, Sessions, Timestamp,
};
use std::{
    collections::{BTreeMap, HashMap},
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
    /// Whether the last session was ended by a restore of the journal, so that its process may begin another.
    pub restored: bool,
    /// The journal sequence of that commit.
    pub sequence: u64,
}

/// All agents, and the agent of each key.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    table: RwLock<Table>,
    dropped: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    agents: BTreeMap<AgentName, Arc<AgentSnapshot>>,
    keys: HashMap<AgentKey, AgentName>,
}

impl Agents {
    /// The agent that has this key.
    pub(crate) fn of_key(&self, key: &str) -> Option<AgentName> {
        let key = AgentKey::parse(key).ok()?;
        self.table.read().keys.get(&key).cloned()
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
        let was_restored = table.agents.get(name).is_some_and(|before| before.restored);
        let known = AgentSnapshot {
            epoch: agent.epoch(),
            session,
            access: agent.access.clone(),
            restored: is_restored(events, was_restored),
            sequence,
        };
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

/// Whether a restore of the journal ended the last session, after these events.
fn is_restored(events: &[AgentEvent], before: bool) -> bool {
    events.iter().fold(before, |before, event| match event {
        AgentEvent::AgentConnected { .. } | AgentEvent::AgentRevoked { .. } => false,
        AgentEvent::AgentEpochAdvanced { reason, .. } => *reason == AdvanceReason::JournalRestored,
        AgentEvent::AgentTokenIssued { .. } | AgentEvent::AgentEnrolled { .. } => before,
    })
}
