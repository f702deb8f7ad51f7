//! How many requests of this replica each provider works on: what a pool's choice goes by.

use reveille_domain::ProviderId;
use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Counts requests by provider.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    counts: RwLock<HashMap<ProviderId, Arc<AtomicUsize>>>,
}

/// One request; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl InFlight {
    /// Counts one more request of the provider.
    pub fn enter(&self, id: &ProviderId) -> Counted {
        let known = self
            .counts
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned();
        let count = known.unwrap_or_else(|| {
            let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
            counts.entry(id.clone()).or_default().clone()
        });
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }

    /// How many requests the provider works on.
    pub fn of(&self, id: &ProviderId) -> usize {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        counts.get(id).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
