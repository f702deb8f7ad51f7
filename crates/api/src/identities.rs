//! The fold of the journal in memory: by which key each agent is known. Servers of the hub ask it who may come in.

use reveille_domain::{Access, Agent, AgentKey, AgentName, Epoch, Sessions, Timestamp};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tokio::sync::watch;

/// An agent as its last commit left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownAgent {
    /// Its epoch; 0 before its first session.
    pub epoch: Epoch,
    /// When its current session began, and the version of its program; none when it has no session.
    pub session: Option<(Timestamp, String)>,
    /// By which key it is known.
    pub access: Access,
    /// The journal sequence of that commit.
    pub sequence: u64,
}

/// All agents, and whose each key is.
#[derive(Debug, Default)]
pub struct Identities {
    table: RwLock<Table>,
    dropped: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    agents: BTreeMap<AgentName, Arc<KnownAgent>>,
    keys: HashMap<AgentKey, AgentName>,
}

impl Identities {
    /// Whose key this is.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Option<AgentName> {
        let key = AgentKey::parse(key).ok()?;
        self.read().keys.get(&key).cloned()
    }

    /// One agent.
    #[must_use]
    pub fn get(&self, agent: &AgentName) -> Option<Arc<KnownAgent>> {
        self.read().agents.get(agent).cloned()
    }

    /// All agents, by name.
    #[must_use]
    pub fn all(&self) -> Vec<(AgentName, Arc<KnownAgent>)> {
        let table = self.read();
        table
            .agents
            .iter()
            .map(|(name, known)| (name.clone(), known.clone()))
            .collect()
    }

    /// Changes whenever a key has stopped being good.
    #[must_use]
    pub fn dropped(&self) -> watch::Receiver<u64> {
        self.dropped.subscribe()
    }

    pub(crate) fn take(&self, name: &AgentName, agent: &Agent, sequence: u64) {
        let session = match &agent.sessions {
            Sessions::Unknown | Sessions::Fenced(_) => None,
            Sessions::Connected(session) => Some((session.connected_at_ms, session.version.clone())),
        };
        let known = KnownAgent {
            epoch: agent.epoch(),
            session,
            access: agent.access.clone(),
            sequence,
        };
        let mut table = self.write();
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
        *self.write() = Table::default();
    }

    // Each change leaves the table whole, so a panic elsewhere while the lock is held doesn't matter.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}
