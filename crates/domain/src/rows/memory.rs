//! The rows in memory: all LLM rows, and the wakes and events that are recent.

use super::{
    Committed, CommittedBody, EventPosition, EventQuery, EventRow, LlmKey, LlmQuery, LlmRow, Page, PageLimit,
    Place, RowKey, Rows, RowsError, Sort, SortBy, WakePosition, WakeQuery, WakeRow, event_rows, llm_rows,
    wake_changes,
};
use crate::{AgentName, Provider, ProviderId, Timestamp, WakeId};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// How many wakes are held; of the ended ones the oldest go first.
pub const MAX_HELD_WAKES: usize = 1_000;
/// How many events are held; the oldest go first.
pub const MAX_HELD_EVENTS: usize = 10_000;

/// The fold of the journal in memory.
///
/// It begins empty before the journal's first commit, or with [`load`](Self::load) of each aggregate's last commit
/// and [`loaded`](Self::loaded) at the sequence that was read up to; then [`apply`](Self::apply) takes each commit
/// in. LLM rows are complete either way. Of wakes it holds those that are recent or that a provider's state
/// remembers. Events are held from the first applied commit on, [`MAX_HELD_EVENTS`] at most: a query that reaches
/// further back answers [`RowsError::NotHeld`] with the first sequence it could answer, and whoever has the journal
/// reads the older ones there.
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
    heartbeats: HashMap<AgentName, Timestamp>,
}

impl MemoryRows {
    /// Rows before the journal's first commit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the last commit of an aggregate, whose earlier ones are not read: its state, not its events.
    pub fn load(&self, commit: &Committed) {
        let mut held = self.write();
        held.take_state(commit);
        if let CommittedBody::Provider {
            state: Provider::Registered(provider),
            ..
        } = &commit.body
        {
            for wake in WakeRow::remembered(provider) {
                held.put_wake(wake);
            }
        }
    }

    /// Ends loading: every commit up to `seq` is reflected, and later ones are applied. Saying it again, as after a
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

    /// Takes in the next commit. One that was taken in before changes nothing.
    pub fn apply(&self, commit: &Committed) {
        let mut held = self.write();
        if commit.stream_seq <= held.applied {
            return;
        }
        held.take_state(commit);
        if let CommittedBody::Provider { id, events, .. } = &commit.body {
            for change in wake_changes(id, events, commit.stream_seq) {
                let before = held.wakes.get(&change.wake_id()).cloned();
                held.put_wake(change.after(before));
            }
        }
        held.events.extend(event_rows(commit));
        held.forget_old_events();
        held.applied = commit.stream_seq;
    }

    /// Notes when an agent was last heard; an earlier time changes nothing.
    pub fn set_last_heartbeat(&self, agent: &AgentName, at: Timestamp) {
        let mut held = self.write();
        let last = held.heartbeats.entry(agent.clone()).or_default();
        *last = at.max(*last);
    }

    /// Forgets everything: the journal is another one than was read before.
    pub fn reset(&self) {
        *self.write() = Held::default();
    }

    // A panic while the lock was held leaves rows that are at worst half a commit old: better than none.
    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn take_state(&mut self, commit: &Committed) {
        match (&commit.body, commit.provider()) {
            (CommittedBody::Provider { id, state, .. }, _) => {
                self.llms.retain(|_, row| !belongs(row, id));
                let rows = llm_rows(state, commit.stream_seq);
                self.llms
                    .extend(rows.into_iter().map(|row| (LlmKey::of(&row), row)));
            }
            (CommittedBody::Unreadable { .. }, Some(id)) => {
                for row in self.llms.values_mut().filter(|row| belongs(row, &id)) {
                    row.unreadable_since_seq.get_or_insert(commit.stream_seq);
                }
            }
            (CommittedBody::Unreadable { .. } | CommittedBody::Agent { .. } | CommittedBody::Key, _) => {}
        }
    }

    fn put_wake(&mut self, wake: WakeRow) {
        self.wakes_in_order.insert(wake.position(), ());
        self.wakes.insert(wake.wake_id, wake);
        // Those in flight stay: there is at most one for each provider.
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

    /// Whole commits go, so that what is held begins with one.
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

    fn has_taken_in(&self, min_seq: Option<u64>) -> Result<(), RowsError> {
        match min_seq {
            Some(seq) if seq > self.applied => Err(RowsError::Behind { at: self.applied }),
            Some(_) | None => Ok(()),
        }
    }

    fn heard(&self, row: &LlmRow) -> LlmRow {
        LlmRow {
            last_heartbeat_ms: self.heartbeats.get(&row.agent).copied(),
            ..row.clone()
        }
    }
}

/// The rows after a place in an order, as many as a page can hold and one more.
fn after_place<'a, K: RowKey, R>(
    mut rows: Vec<(Place<K>, &'a R)>,
    sort: Sort<impl SortBy>,
    after: Option<&Place<K>>,
    limit: PageLimit,
) -> Vec<&'a R> {
    rows.retain(|(place, _)| after.is_none_or(|after| sort.order(place, after).is_gt()));
    rows.sort_by(|(one, _), (other, _)| sort.order(one, other));
    let rows = rows.into_iter().take(limit.rows() + 1);
    rows.map(|(_, row)| row).collect()
}

fn belongs(row: &LlmRow, id: &ProviderId) -> bool {
    row.agent == id.agent && row.provider == id.provider
}

#[async_trait]
impl Rows for MemoryRows {
    async fn llms(&self, query: &LlmQuery) -> Result<Page<LlmRow>, RowsError> {
        let after = query.after.as_ref();
        let after = after
            .map(|after| Place::parse(after, query.sort.by))
            .transpose()?;
        let held = self.read();
        held.has_taken_in(query.min_seq)?;
        let rows = held.llms.values().filter(|row| query.matches(row));
        let rows = rows.map(|row| (row.place(query.sort.by), row)).collect();
        let rows = after_place(rows, query.sort, after.as_ref(), query.limit);
        let rows = rows.into_iter().map(|row| held.heard(row)).collect();
        Ok(Page::cut(rows, query.limit, held.applied, |row: &LlmRow| {
            row.place(query.sort.by).cursor()
        }))
    }

    async fn wakes(&self, query: &WakeQuery) -> Result<Page<WakeRow>, RowsError> {
        let after = query.after.as_ref();
        let after = after
            .map(|after| Place::parse(after, query.sort.by))
            .transpose()?;
        let held = self.read();
        held.has_taken_in(query.min_seq)?;
        let rows = held.wakes.values().filter(|row| query.matches(row));
        let rows = rows.map(|row| (row.place(query.sort.by), row)).collect();
        let rows = after_place(rows, query.sort, after.as_ref(), query.limit);
        let rows = rows.into_iter().cloned().collect();
        Ok(Page::cut(rows, query.limit, held.applied, |row: &WakeRow| {
            row.place(query.sort.by).cursor()
        }))
    }

    async fn wake(&self, id: WakeId) -> Result<Option<WakeRow>, RowsError> {
        Ok(self.read().wakes.get(&id).cloned())
    }

    async fn events(&self, query: &EventQuery) -> Result<Page<EventRow>, RowsError> {
        let range = query.range()?;
        let held = self.read();
        held.has_taken_in(query.min_seq)?;
        let wanted = |row: &&EventRow| range.contains(row.position()) && query.matches(row);
        let most = query.limit.rows() + 1;
        let rows: Vec<_> = if query.sort.descending {
            held.events
                .iter()
                .rev()
                .filter(wanted)
                .take(most)
                .cloned()
                .collect()
        } else {
            let first = held.events.partition_point(|row| row.position() <= range.after);
            held.events
                .range(first..)
                .filter(wanted)
                .take(most)
                .cloned()
                .collect()
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
