//! How many requests of this replica each provider works on; a pool's choice depends on it.

use parking_lot::Mutex;
use reveille_domain::ProviderId;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Counts requests by provider.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    counts: Mutex<HashMap<ProviderId, Arc<AtomicUsize>>>,
}

/// One request, counted until this is dropped.
#[derive(Debug)]
pub(super) struct InFlightGuard(Arc<AtomicUsize>);

impl InFlight {
    pub fn enter(&self, id: &ProviderId) -> InFlightGuard {
        let count = self.counts.lock().entry(id.clone()).or_default().clone();
        count.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(count)
    }

    pub fn of(&self, id: &ProviderId) -> usize {
        let counts = self.counts.lock();
        counts.get(id).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
