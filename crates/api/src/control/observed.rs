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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::snapshot_at;

    #[test]
    fn what_the_journal_says_is_observed_when_it_is_first_seen_whatever_its_own_time_is() {
        let (mut observed, snapshot) = (Observed::default(), snapshot_at("gpu-box/vllm", 7));
        let id = snapshot.provider.id.clone();
        let heard_at = |millis| {
            let mut later = (*snapshot).clone();
            later.provider.heard_at_ms = Timestamp::from_millis(millis);
            [Arc::new(later)]
        };
        // NATS's clock is set back in between.
        for (heard, now, first_seen) in [
            (5_000, 1, 1),
            (5_000, 2, 1),
            (9_000, 3, 3),
            (4_000, 4, 4),
            (4_000, 5, 4),
        ] {
            observed.look(&heard_at(heard), Duration::from_secs(now));
            assert_eq!(
                observed.heard_at(&id),
                Duration::from_secs(first_seen),
                "{heard} at {now}"
            );
            assert_eq!(
                observed.status_since(&id),
                Duration::from_secs(1),
                "it has not changed"
            );
        }
        observed.look(&[], Duration::from_secs(6));
        assert_eq!(observed.heard_at(&id), Duration::ZERO, "it is forgotten");
    }
}
