//! How many requests of this replica wait for each provider, and which wakes are wanted without a wait.

use super::WakeError;
use parking_lot::Mutex;
use reveille_domain::{ProviderId, WakeId};
use std::collections::HashMap;

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
    /// The last wake that a caller has asked for without waiting for it.
    ordered: Option<WakeId>,
}

impl Waiters {
    pub fn new(limit: usize) -> Self {
        let waiting = Mutex::default();
        Self { limit, waiting }
    }

    /// Counts one more that waits.
    pub fn enter(&self, id: &ProviderId) -> Result<(), WakeError> {
        let limit = self.limit;
        let mut waiting = self.waiting.lock();
        let count = &mut waiting.entry(id.clone()).or_default().count;
        if *count >= limit {
            let provider = id.clone();
            return Err(WakeError::QueueFull { provider, limit });
        }
        *count += 1;
        Ok(())
    }

    /// Counts one less. Returns whether it was the last.
    pub fn leave(&self, id: &ProviderId) -> bool {
        let mut waiting = self.waiting.lock();
        let Some(of_provider) = waiting.get_mut(id) else {
            return false;
        };
        of_provider.count -= 1;
        let was_last = of_provider.count == 0;
        if was_last {
            of_provider.announced = None;
            if of_provider.ordered.is_none() {
                waiting.remove(id);
            }
        }
        was_last
    }

    pub fn count(&self, id: &ProviderId) -> usize {
        self.waiting.lock().get(id).map_or(0, |waiting| waiting.count)
    }

    /// A caller wants `wake`, but doesn't wait for it.
    pub fn order(&self, id: &ProviderId, wake: WakeId) {
        self.waiting.lock().entry(id.clone()).or_default().ordered = Some(wake);
    }

    /// Whether somebody in this replica wants `wake`.
    pub fn want(&self, id: &ProviderId, wake: WakeId) -> bool {
        let waiting = self.waiting.lock();
        waiting
            .get(id)
            .is_some_and(|waiting| waiting.count > 0 || waiting.ordered == Some(wake))
    }

    /// Whether the agent still has to hear that requests wait for `wake`; from now on it has.
    pub fn announce(&self, id: &ProviderId, wake: WakeId) -> bool {
        let mut waiting = self.waiting.lock();
        waiting
            .get_mut(id)
            .is_some_and(|waiting| waiting.count > 0 && waiting.announced.replace(wake) != Some(wake))
    }
}
