//! How many requests of this replica wait for each provider.

use super::WakeError;
use parking_lot::Mutex;
use reveille_domain::{ProviderId, WakeId};
use std::{collections::HashMap, sync::Arc};

/// Counts waiting requests, up to a limit for each provider.
pub(super) struct Waiters {
    limit: usize,
    waiting: Mutex<HashMap<ProviderId, Waiting>>,
}

#[derive(Default)]
struct Waiting {
    count: usize,
    /// The wake that the provider's agent knows they wait for.
    announced: Option<WakeId>,
}

/// Counts one waiter, until it is dropped.
pub(super) struct WaiterSlot {
    waiters: Arc<Waiters>,
    id: ProviderId,
}

impl Waiters {
    pub fn new(limit: usize) -> Arc<Self> {
        let waiting = Mutex::default();
        Arc::new(Self { limit, waiting })
    }

    pub fn enter(self: &Arc<Self>, id: &ProviderId) -> Result<WaiterSlot, WakeError> {
        let limit = self.limit;
        let mut waiting = self.waiting.lock();
        let count = &mut waiting.entry(id.clone()).or_default().count;
        if *count >= limit {
            let provider = id.clone();
            return Err(WakeError::QueueFull { provider, limit });
        }
        *count += 1;
        Ok(WaiterSlot {
            waiters: self.clone(),
            id: id.clone(),
        })
    }

    pub fn count(&self, id: &ProviderId) -> usize {
        self.waiting.lock().get(id).map_or(0, |waiting| waiting.count)
    }

    /// Whether the agent still has to hear that requests wait for `wake`; from now on it has.
    pub fn announce(&self, id: &ProviderId, wake: WakeId) -> bool {
        let mut waiting = self.waiting.lock();
        waiting
            .get_mut(id)
            .is_some_and(|waiting| waiting.announced.replace(wake) != Some(wake))
    }
}

impl Drop for WaiterSlot {
    fn drop(&mut self) {
        let mut waiting = self.waiters.waiting.lock();
        if let Some(Waiting { count, .. }) = waiting.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}
