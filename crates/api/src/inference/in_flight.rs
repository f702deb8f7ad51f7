//! How many requests of this replica each provider works on; a pool's choice depends on it.

use parking_lot::Mutex;
use reveille_domain::ProviderId;
use std::{collections::HashMap, sync::Arc};

/// Counts requests by provider: one reference for each, beside the map's own.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    counts: Mutex<HashMap<ProviderId, Arc<()>>>,
}

/// One request, counted until this is dropped.
#[derive(Debug)]
pub(super) struct InFlightGuard {
    _counted: Arc<()>,
}

impl InFlight {
    pub fn enter(&self, id: &ProviderId) -> InFlightGuard {
        let counted = self.counts.lock().entry(id.clone()).or_default().clone();
        InFlightGuard { _counted: counted }
    }

    pub fn of(&self, id: &ProviderId) -> usize {
        let counts = self.counts.lock();
        counts.get(id).map_or(0, |count| Arc::strong_count(count) - 1)
    }
}
