//! When each wake in flight is overdue. NATS's clock only says what was left of a wake when this replica first saw it; from
//! then on its listened time counts, which no setting of a clock and no sleep of the hub moves.

use crate::registry::ProviderSnapshot;
use parking_lot::Mutex;
use reveille_bus::NatsClock;
use reveille_domain::{Wake, WakeId};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// The deadlines of the wakes in flight, in listened time.
#[derive(Debug)]
pub(super) struct Deadlines {
    clock: NatsClock,
    due: Mutex<HashMap<WakeId, Duration>>,
}

impl Deadlines {
    pub(super) fn new(clock: NatsClock) -> Self {
        Self {
            clock,
            due: Mutex::default(),
        }
    }

    /// How much time the wake has left, zero once it's overdue; `None` before the time is known.
    pub(super) fn time_left(&self, wake: &Wake) -> Option<Duration> {
        let now = self.clock.try_now()?;
        let listened = self.clock.listened();
        let first_seen = || {
            // Never more than a whole wake has: the clock may have been set back since it was requested.
            let allowed = wake.deadline_ms.since(wake.requested_at_ms);
            listened + wake.deadline_ms.since(now).min(allowed)
        };
        let due = *self.due.lock().entry(wake.id).or_insert_with(first_seen);
        Some(due.saturating_sub(listened))
    }

    /// Forgets the wakes that aren't in flight any more.
    pub(super) fn forget_ended(&self, all: &[Arc<ProviderSnapshot>]) {
        let wakes = all.iter().filter_map(|snapshot| snapshot.provider.status.wake());
        let in_flight: HashSet<_> = wakes.map(|wake| wake.id).collect();
        self.due.lock().retain(|id, _| in_flight.contains(id));
    }
}
