//! Where one request may still go, and how long it may still wait for a slot.

use super::{Options, choice::Reach};
use reveille_domain::ProviderId;
use std::time::Duration;

/// What a request's attempts so far have left it.
#[derive(Debug)]
pub(super) struct Leeway {
    pub reach: Reach,
    /// The members that don't get the request again.
    pub tried: Vec<ProviderId>,
    /// The members that aren't woken for it again, since a wake has failed for it. It may wait for their slots once they are awake.
    pub wake_failed: Vec<ProviderId>,
    /// How long it has waited for slots in this replica and at agents, wakes apart.
    pub slot_waited: Duration,
}

impl Leeway {
    /// Of a request that has just come.
    pub const fn whole() -> Self {
        Self {
            reach: Reach::All,
            tried: vec![],
            wake_failed: vec![],
            slot_waited: Duration::ZERO,
        }
    }

    /// The members that another attempt doesn't begin with.
    pub fn ruled_out(&self) -> Vec<ProviderId> {
        self.tried.iter().chain(&self.wake_failed).cloned().collect()
    }

    /// How long it may still wait for a slot, if less than for anything else.
    pub fn slot_wait(&self, options: &Options) -> Option<Duration> {
        let most = options.queue_wait?;
        Some(most.saturating_sub(self.slot_waited))
    }
}
