//! The rows in memory: all LLM rows, and the wakes and events that are recent.

use super::{
    event::{EventPosition, EventRow, event_rows},
    llm::{LlmKey, LlmRow, llm_rows},
    page::{Page, RowsError},
    query::{EventQuery, LlmQuery, Rows, WakeQuery},
    row_source::{RowSource, SourceBody},
    wake::{WakePosition, WakeRow, wake_changes},
};
use crate::{
    ids::WakeId,
    names::{AgentName, ProviderId},
    provider::Provider,
    time::Timestamp,
};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// The most wakes that are held. The oldest ended ones are dropped first.
pub const MAX_HELD_WAKES: usize = 1_000;
/// The most events that are held. The oldest are dropped first.
pub const MAX_HELD_EVENTS: usize = 10_000;

/// The fold of the journal in memory.
///
/// It starts empty before the journal's first commit, or with a [`load`](Self::load) of each aggregate's last commit
/// and [`loaded`](Self::loaded) at the sequence where the reading stopped. [`apply`](Self::apply) then takes in each
/// commit. LLM rows are complete either way. Wakes are held while they are recent or a provider's state remembers
/// them; of wakes from before the load, [`recall`](Self::recall) takes in what the journal has of them. Events are held from the
/// first applied commit on, at most [`MAX_HELD_EVENTS`]: a query that reaches further back gets [`RowsError::NotHeld`] with the
/// first sequence that is held, and the older events are in the journal.
#[derive(Debug, Default)]
pub struct MemoryRows {
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    applied: u64,
    llms: BTreeMap<LlmKey, LlmRow>,
    wakes: HashMap<WakeId, WakeRow>,
    wakes_in_order: BTreeMap<WakePosition, ()>,
    events: VecDeque<EventRow>,
    /// Every event of later commits is held.
    events_after_seq: u64,
    /// How often everything was forgotten.
    resets: u64,
    heartbeats: HashMap<AgentName, Timestamp>,
}

/// Where rows were loaded, and until which reset that is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadedAt {
    /// The sequence up to which the journal was read; 0 before the load.
    pub seq: u64,
    resets: u64,
}

impl MemoryRows {
    /// Rows before the journal's first commit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the state of an aggregate's last commit, without its events.
    pub fn load(&self, commit: &RowSource) {
        let mut held = self.write();
        held.take_state(commit);
        if let SourceBody::Provider {
            state: Provider::Registered(provider),
            ..
        } = &commit.body
        {
            for wake in WakeRow::remembered(provider) {
                held.put_wake(wake);
            }
        }
    }

    /// Ends loading: every commit up to `seq` is reflected, and later ones are applied. A repetition, as after a
    /// reconnect, changes nothing.
    pub fn loaded(&self, seq: u64) {
        let mut held = self.write();
        if seq <= held.applied {
            return;
        }
        held.applied = seq;
        held.events_after_seq = seq;
        held.events.clear();
    }

    /// Takes in the next commit. An earlier one changes nothing.
    pub fn apply(&self, commit: &RowSource) {
        let mut held = self.write();
        if commit.stream_seq <= held.applied {
            return;
        }
        held.take_state(commit);
        if let SourceBody::Provider { id, events, .. } = &commit.body {
            for change in wake_changes(id, events, commit.stream_seq) {
                let before = held.wakes.get(&change.wake_id()).cloned();
                held.put_wake(change.after(before));
            }
        }
        held.events.extend(event_rows(commit));
        held.forget_old_events();
        held.applied = commit.stream_seq;
    }

    /// From where wakes can be recalled.
    #[must_use]
    pub fn loaded_at(&self) -> LoadedAt {
        let held = self.read();
        LoadedAt {
            seq: held.events_after_seq,
            resets: held.resets,
        }
    }

    /// Takes in wakes as the journal has them up to where the rows were loaded; what was applied since stays. Returns false,
    /// and changes nothing, if the rows were reset since `loaded_at`.
    pub fn recall(&self, loaded_at: LoadedAt, wakes: Vec<WakeRow>) -> bool {
        let mut held = self.write();
        if held.resets != loaded_at.resets {
            return false;
        }
        for wake in wakes {
            match held.wakes.get(&wake.wake_id).cloned() {
                Some(before) => held.put_wake(before.completed_by(wake)),
                // The end of one that isn't held was applied, and dropped since.
                None if wake.ended_at_ms.is_none() => {}
                None => held.put_wake(wake),
            }
        }
        true
    }

    /// Records the time of an agent's last heartbeat.
    pub fn set_last_heartbeat(&self, agent: &AgentName, at: Timestamp) {
        // Not the latest of all times: NATS's clock may have been set back.
        self.write().heartbeats.insert(agent.clone(), at);
    }

    /// The time of an agent's last heartbeat.
    #[must_use]
    pub fn last_heartbeat(&self, agent: &AgentName) -> Option<Timestamp> {
        self.read().heartbeats.get(agent).copied()
    }

    /// Forgets when an agent was heard.
    pub fn forget_heartbeat(&self, agent: &AgentName) {
        self.write().heartbeats.remove(agent);
    }

    /// Forgets everything, because the journal was replaced.
    pub fn reset(&self) {
        let mut held = self.write();
        *held = Held {
            resets: held.resets + 1,
            ..Held::default()
        };
    }

    // A panic under the lock leaves at worst half of a commit in the rows: better than no rows.
    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn take_state(&mut self, commit: &RowSource) {
        match (&commit.body, commit.provider()) {
            (SourceBody::Provider { id, state, .. }, _) => {
                self.llms.retain(|_, row| !belongs(row, id));
                let rows = llm_rows(state, commit.stream_seq);
                self.llms
                    .extend(rows.into_iter().map(|row| (LlmKey::of(&row), row)));
            }
            (SourceBody::Unreadable { .. }, Some(id)) => {
                for row in self.llms.values_mut().filter(|row| belongs(row, &id)) {
                    row.unreadable_since_seq.get_or_insert(commit.stream_seq);
                }
            }
            (SourceBody::Unreadable { .. } | SourceBody::EventsOnly, _) => {}
        }
    }

    fn put_wake(&mut self, wake: WakeRow) {
        self.wakes_in_order.insert(wake.position(), ());
        self.wakes.insert(wake.wake_id, wake);
        // Wakes in flight stay: each provider has at most one.
        while self.wakes.len() > MAX_HELD_WAKES {
            let ended = |position: &&WakePosition| {
                self.wakes
                    .get(&position.wake_id)
                    .is_none_or(|wake| wake.ended_at_ms.is_some())
            };
            let Some(oldest) = self.wakes_in_order.keys().find(ended).copied() else {
                return;
            };
            self.wakes_in_order.remove(&oldest);
            self.wakes.remove(&oldest.wake_id);
        }
    }

    /// Drops whole commits, so that the held events begin with the first of one.
    fn forget_old_events(&mut self) {
        while self.events.len() > MAX_HELD_EVENTS {
            let Some(oldest) = self.events.front().map(|event| event.stream_seq) else {
                return;
            };
            while self
                .events
                .front()
                .is_some_and(|event| event.stream_seq == oldest)
            {
                self.events.pop_front();
            }
            self.events_after_seq = oldest;
        }
    }

    fn has_reached(&self, min_seq: Option<u64>) -> Result<(), RowsError> {
        match min_seq {
            Some(seq) if seq > self.applied => Err(RowsError::Behind { at: self.applied }),
            Some(_) | None => Ok(()),
        }
    }

    fn with_heartbeat(&self, row: &LlmRow) -> LlmRow {
        LlmRow {
            last_heartbeat_ms: self.heartbeats.get(&row.agent).copied(),
            ..row.clone()
        }
    }
}

fn belongs(row: &LlmRow, id: &ProviderId) -> bool {
    row.agent == id.agent && row.provider == id.provider
}

#[async_trait]
impl Rows for MemoryRows {
    async fn llms(&self, query: &LlmQuery) -> Result<Page<LlmRow>, RowsError> {
        let held = self.read();
        let rows = held.llms.values().filter(|row| query.matches(row));
        let after = query.after.as_ref();
        let sort_key = |row: &&LlmRow, by| row.sort_key(by);
        let page = Page::sorted(rows, query.sort, after, query.limit, held.applied, sort_key)?;
        held.has_reached(query.min_seq)?;
        Ok(page.map(|row| held.with_heartbeat(row)))
    }

    async fn wakes(&self, query: &WakeQuery) -> Result<Page<WakeRow>, RowsError> {
        let held = self.read();
        let rows = held.wakes.values().filter(|row| query.matches(row));
        let after = query.after.as_ref();
        let sort_key = |row: &&WakeRow, by| row.sort_key(by);
        let page = Page::sorted(rows, query.sort, after, query.limit, held.applied, sort_key)?;
        held.has_reached(query.min_seq)?;
        Ok(page.map(WakeRow::clone))
    }

    async fn wake(&self, id: WakeId) -> Result<Option<WakeRow>, RowsError> {
        Ok(self.read().wakes.get(&id).cloned())
    }

    async fn events(&self, query: &EventQuery) -> Result<Page<EventRow>, RowsError> {
        let range = query.range()?;
        let held = self.read();
        held.has_reached(query.min_seq)?;
        let most = query.limit.rows() + 1;
        let first = held.events.partition_point(|row| row.position() <= range.after);
        let wanted = |row: &&EventRow| range.contains(row.position()) && query.matches(row);
        let wanted = held.events.range(first..).filter(wanted);
        let rows: Vec<_> = if query.sort.descending {
            wanted.rev().take(most).cloned().collect()
        } else {
            wanted.take(most).cloned().collect()
        };
        let begins_before = range.after < EventPosition::after_commit(held.events_after_seq);
        let reaches_back = begins_before && (!query.sort.descending || rows.len() < most);
        if reaches_back && held.events_after_seq > 0 {
            return Err(RowsError::NotHeld {
                from_seq: held.events_after_seq.saturating_add(1),
            });
        }
        Ok(Page::cut(rows, query.limit, held.applied, |row: &EventRow| {
            row.position().cursor()
        }))
    }

    async fn applied(&self) -> Result<u64, RowsError> {
        Ok(self.read().applied)
    }
}
