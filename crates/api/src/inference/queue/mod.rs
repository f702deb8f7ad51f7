//! Where requests wait for a slot at a provider: in each replica one queue per provider, bounded and fair.
//!
//! A replica has handed over at most as many requests to a provider as the provider's `max_concurrency` says; the others wait here.
//! The agent holds the same limit for all replicas together. A request may wait for several members of its pool at once, and goes to
//! the first that has a slot.
//!
//! A request joins the queue of a provider that sleeps when it comes, not when the provider is awake. What a provider offers is what
//! the fold says of it, and the queues hear of that before anybody sees it: so a wake changes nothing of the order, nobody that comes
//! as it ends overtakes those that waited for it, and a new limit counts at once.

mod classes;

use crate::registry::{ProviderObserver, ProviderSnapshot};
use classes::{Classes, Flow};
use reveille_bus::permits::{Offer, Permit, Permits, Queued};
use reveille_domain::{KeyId, Priority, ProviderId, provider::Registered, provider::StatusName};
use std::{collections::HashSet, sync::Arc};

pub(super) use reveille_bus::permits::NotQueued;
pub(crate) use reveille_bus::permits::QueuePosition;

/// How many requests a replica has handed over to a provider without `max_concurrency` at most. Two replicas fill what an agent takes
/// at once, and half of a replica's memory for the beginnings of responses is left for other providers.
const UNLIMITED_SLOTS: u32 = 2_048;

/// The queues of this replica.
pub(crate) type Queues = Permits<ProviderId, Classes>;
/// One of a provider's slots, until this is dropped.
pub(super) type Slot = Permit<ProviderId, Classes>;
/// A request's place in the queues that it has joined, until this is dropped.
pub(super) type Queueing = Queued<ProviderId, Classes>;
/// Looks at a request's place from elsewhere.
pub(crate) type QueueView = reveille_bus::permits::QueueView<ProviderId, Classes>;

/// Whose request it is, for the order in which requests have slots.
pub(crate) const fn flow(class: Priority, key: Option<KeyId>) -> Flow {
    Flow { class, key }
}

/// What a provider offers as the fold has it. One that is down may be back: without a recipe only the backend itself can tell.
fn offered(provider: &Registered) -> Offer {
    let limit = provider.spec.balancing().max_concurrency();
    Offer {
        permits: limit.unwrap_or(UNLIMITED_SLOTS) as usize,
        is_open: matches!(provider.status.name(), StatusName::Active | StatusName::Down),
    }
}

impl ProviderObserver for Queues {
    fn folded(&self, id: &ProviderId, provider: Option<&Registered>) {
        self.offer(id, provider.map(offered));
    }

    fn loaded(&self, all: &[Arc<ProviderSnapshot>]) {
        let published: HashSet<_> = all.iter().map(|snapshot| &snapshot.provider.id).collect();
        self.withdraw_except(|id| published.contains(id));
        for snapshot in all {
            self.offer(&snapshot.provider.id, Some(offered(&snapshot.provider)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{
        Registry,
        tests::{entry, snapshot_at},
    };
    use reveille_bus::Followed;
    use reveille_domain::{Balancing, Provider, Status, Timestamp, provider::Gone};

    fn id() -> ProviderId {
        "a/p".parse().expect("legal")
    }

    /// A registry that has been read, and the queues that observe it.
    fn observed() -> (Registry, Queues) {
        let (registry, queues) = (Registry::default(), Queues::new(16));
        registry.observe(Arc::new(queues.clone()));
        registry.follow(&Followed::CaughtUp { sequence: 1 });
        (registry, queues)
    }

    fn state(status: Option<Status>, limit: u32) -> Provider {
        let mut provider = snapshot_at("a/p", 1).provider.clone();
        if let Some(status) = status {
            provider.status = status;
        }
        let balancing = Balancing::new(1, 0, Some(limit)).expect("legal");
        provider.spec = provider.spec.with_balancing(balancing);
        Provider::Registered(provider)
    }

    const fn hibernating() -> Status {
        let since_ms = Timestamp::from_millis(1);
        Status::Hibernating { since_ms }
    }

    fn folds(registry: &Registry, sequence: u64, state: Provider) {
        registry.follow(&Followed::Commit(entry(&id(), sequence, state, vec![])));
    }

    fn comes(queues: &Queues, class: Priority) -> Queueing {
        queues.come(queues.ticket(), flow(class, None))
    }

    #[test]
    fn what_the_fold_says_of_a_provider_holds_at_once_for_those_that_wait() {
        let (registry, queues) = observed();
        assert_eq!(comes(&queues, Priority::Normal).join(&id()), Err(NotQueued::Gone));
        folds(&registry, 2, state(Some(hibernating()), 2));
        let mut waiting: Vec<_> = (0..6).map(|_| comes(&queues, Priority::Normal)).collect();
        for request in &waiting {
            request.join(&id()).expect("room");
        }
        let mut slots = vec![];
        let mut given = |waiting: &mut Vec<Queueing>| {
            slots.extend(waiting.iter_mut().filter_map(Queueing::permit_now));
            slots.len()
        };
        assert_eq!(given(&mut waiting), 0, "it sleeps");
        folds(&registry, 3, state(None, 2));
        assert_eq!(given(&mut waiting), 2, "it is awake");
        folds(&registry, 4, state(None, 3));
        assert_eq!(given(&mut waiting), 3, "its limit was raised");
        folds(&registry, 5, state(None, 1));
        folds(&registry, 6, state(Some(hibernating()), 9));
        assert_eq!(given(&mut waiting), 3, "it sleeps again");
        let gone = Gone {
            id: id(),
            epoch: reveille_domain::Epoch(1),
            last_seq: reveille_domain::ReportSeq(1),
            since_ms: Timestamp::from_millis(1),
            wakes: vec![],
            counts: reveille_domain::provider::WakeCounts::default(),
        };
        folds(&registry, 7, Provider::Gone(gone));
        assert!(
            waiting[5].joined().is_empty(),
            "nobody waits for what isn't published"
        );
    }

    #[test]
    fn another_journal_counts_once_it_is_read() {
        let (registry, queues) = observed();
        folds(&registry, 2, state(None, 1));
        let waits = comes(&queues, Priority::Normal);
        let has_slot = comes(&queues, Priority::Normal);
        for request in [&has_slot, &waits] {
            request.join(&id()).expect("room");
        }
        registry.follow(&Followed::Reset);
        assert_eq!(waits.joined(), [id()], "nothing is known yet");
        registry.follow(&Followed::CaughtUp { sequence: 1 });
        assert!(waits.joined().is_empty() && queues.offered(&id()).is_none());
    }

    #[test]
    fn classes_take_turns_by_weight() {
        let queues = Queues::new(100);
        let mut waiting = vec![];
        queues.offer(
            &id(),
            Some(Offer {
                permits: 0,
                is_open: true,
            }),
        );
        for class in [Priority::Low, Priority::Normal, Priority::High] {
            for _ in 0..20 {
                let request = comes(&queues, class);
                request.join(&id()).expect("room");
                waiting.push((class, request));
            }
        }
        queues.offer(
            &id(),
            Some(Offer {
                permits: 21,
                is_open: true,
            }),
        );
        let has_slot =
            |(class, request): &mut (Priority, Queueing)| request.permit_now().map(|slot| (*class, slot));
        let slots: Vec<_> = waiting.iter_mut().filter_map(has_slot).collect();
        let shares = Priority::ALL.map(|class| slots.iter().filter(|(has, _)| *has == class).count());
        assert_eq!(shares, [16, 4, 1]);
    }
}
