//! When this replica's sweeps first saw what the fold has of each provider, in listened time. The journal's own times are
//! NATS time, whose clock may have been set in between.

use crate::registry::ProviderSnapshot;
use reveille_domain::{ProviderId, Timestamp};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// What was observed of all providers.
#[derive(Debug, Default)]
pub(super) struct Observed(HashMap<ProviderId, Observation>);

/// A value in the fold, and when it was first seen.
type FirstSeen = (Timestamp, Duration);

#[derive(Debug)]
struct Observation {
    heard: FirstSeen,
    status: FirstSeen,
}

impl Observed {
    /// Observes all providers at `now`, and forgets the others.
    pub(super) fn look(&mut self, all: &[Arc<ProviderSnapshot>], now: Duration) {
        let ids: HashSet<_> = all.iter().map(|snapshot| &snapshot.provider.id).collect();
        self.0.retain(|id, _| ids.contains(id));
        for snapshot in all {
            let provider = &snapshot.provider;
            let (heard, status) = (provider.heard_at_ms, provider.status.since());
            let observation = self.0.entry(provider.id.clone()).or_insert(Observation {
                heard: (heard, now),
                status: (status, now),
            });
            for (seen, current) in [(&mut observation.heard, heard), (&mut observation.status, status)] {
                if seen.0 != current {
                    *seen = (current, now);
                }
            }
        }
    }

    /// When the journal's last event in which the provider's agent was heard was first seen.
    pub(super) fn heard_at(&self, id: &ProviderId) -> Duration {
        self.0.get(id).map_or(Duration::ZERO, |seen| seen.heard.1)
    }

    /// When the provider's status was first seen.
    pub(super) fn status_since(&self, id: &ProviderId) -> Duration {
        self.0.get(id).map_or(Duration::ZERO, |seen| seen.status.1)
    }
}
