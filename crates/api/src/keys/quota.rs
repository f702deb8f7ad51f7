//! How many wakes each key has started within the last hour, in the whole cluster: counted from the journal, where every
//! wake's cause names its key. A wake that was withdrawn before anything was run has cost nobody anything, and doesn't count.
//!
//! Two replicas that decide at the same moment don't see each other's decision: a key may then start one wake too many in
//! each. Both refuse the next one.

use super::Denied;
use futures::StreamExt;
use parking_lot::{Mutex, MutexGuard};
use reveille_bus::{BusError, Journal, commit::AnyCommit};
use reveille_domain::{KeyId, ProviderEvent, Timestamp, WakeFailureKind, WakeId, key::MAX_WAKES_PER_HOUR};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// The period over which a key's wakes are counted.
const WINDOW: Duration = Duration::from_secs(60 * 60);
/// How many withdrawn wakes are remembered.
const MAX_WITHDRAWN: usize = 1_024;

/// The wakes of all keys. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quota {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    counts: Mutex<Counts>,
    /// Whether the last hour of the journal was counted since the fold began.
    counted: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Counts {
    /// The wakes that each key has started, oldest first.
    started: HashMap<KeyId, VecDeque<(Timestamp, WakeId)>>,
    /// The last wakes that were withdrawn: the fold may have their end before the count of the last hour has their beginning.
    withdrawn: VecDeque<WakeId>,
    /// Wakes that are being requested.
    reserved: HashMap<KeyId, u32>,
    /// How often the counts were reset.
    resets: u64,
}

impl Quota {
    /// Counts the wakes that these events began, each once, and no longer those that they withdrew.
    pub(crate) fn take(&self, events: &[ProviderEvent]) {
        for event in events {
            match event {
                ProviderEvent::WakeRequested { wake } => {
                    if let Some(key) = wake.cause.key() {
                        self.lock().note(key, wake.requested_at_ms, wake.id);
                    }
                }
                ProviderEvent::WakeFailed { wake_id, failure, .. }
                    if failure.kind == WakeFailureKind::NotNeeded =>
                {
                    self.lock().withdraw(*wake_id);
                }
                _ => {}
            }
        }
    }

    /// Counts the hour of the journal before `now`. If the journal is replaced meanwhile, it has to be counted again.
    pub(crate) async fn count(&self, journal: &Journal, now: Timestamp) -> Result<(), BusError> {
        let resets = self.lock().resets;
        let window = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
        let since = Timestamp::from_millis(now.as_millis().saturating_sub(window));
        let mut entries = std::pin::pin!(journal.read_since(since).await?);
        while let Some(entry) = entries.next().await {
            if let Ok((_, AnyCommit::Provider(commit))) = entry?.commit {
                self.take(&commit.events);
            }
        }
        self.counted(resets);
        Ok(())
    }

    pub(super) fn counted(&self, resets: u64) {
        let counts = self.lock();
        if counts.resets == resets {
            self.inner.counted.send_replace(true);
        }
    }

    /// Waits until the journal's last hour needs to be counted.
    pub(crate) async fn uncounted(&self) {
        // The sender lives as long as this.
        let _ = self.inner.counted.subscribe().wait_for(|counted| !counted).await;
    }

    pub(super) fn reset(&self) {
        let mut counts = self.lock();
        counts.started.clear();
        counts.withdrawn.clear();
        counts.resets += 1;
        self.inner.counted.send_replace(false);
    }

    /// Reserves one wake, if `key` has started fewer than `limit` within the hour before `now`.
    pub(super) fn reserve(&self, key: &KeyId, limit: u32, now: Timestamp) -> Result<Reservation, Denied> {
        if !*self.inner.counted.borrow() {
            return Err(Denied::NotReady);
        }
        let mut counts = self.lock();
        let reserved = counts.reserved.get(key).copied().unwrap_or(0);
        let started = counts.started.entry(key.clone()).or_default();
        // Nor those from before NATS's clock was set back by more than that.
        started.retain(|(at, _)| now.since(*at) < WINDOW && at.since(now) < WINDOW);
        let taken = started.len().saturating_add(reserved as usize);
        if taken >= limit as usize {
            let oldest = started.front();
            let left = oldest.map(|(at, _)| WINDOW.saturating_sub(now.since(*at)));
            return Err(Denied::Wakes {
                key: key.clone(),
                limit,
                retry_after: left.unwrap_or(WINDOW),
            });
        }
        *counts.reserved.entry(key.clone()).or_default() += 1;
        Ok(Reservation {
            quota: self.clone(),
            key: key.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.inner.counts.lock()
    }
}

impl Counts {
    fn note(&mut self, key: &KeyId, at: Timestamp, wake: WakeId) {
        if self.withdrawn.contains(&wake) {
            return;
        }
        let started = self.started.entry(key.clone()).or_default();
        if started.iter().any(|(_, known)| *known == wake) {
            return;
        }
        let place = started.partition_point(|(other, _)| *other <= at);
        started.insert(place, (at, wake));
        if started.len() > MAX_WAKES_PER_HOUR as usize {
            started.pop_front();
        }
    }

    fn withdraw(&mut self, wake: WakeId) {
        if self.withdrawn.contains(&wake) {
            return;
        }
        for started in self.started.values_mut() {
            started.retain(|(_, known)| *known != wake);
        }
        self.withdrawn.push_back(wake);
        if self.withdrawn.len() > MAX_WITHDRAWN {
            self.withdrawn.pop_front();
        }
    }
}

/// A reserved wake, until this is dropped: by then the wake is counted, or there was none.
#[derive(Debug)]
pub(crate) struct Reservation {
    quota: Quota,
    key: KeyId,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut counts = self.quota.lock();
        if let Some(reserved) = counts.reserved.get_mut(&self.key) {
            *reserved -= 1;
            if *reserved == 0 {
                counts.reserved.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_domain::{Failures, Wake, WakeCause, WakeFailure};
    use uuid::Uuid;

    fn key() -> KeyId {
        KeyId::parse("k7mq2v9x").expect("legal")
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(1_764_000_000_000 + secs * 1000)
    }

    fn started(number: u128, secs: u64) -> [ProviderEvent; 1] {
        let wake = Wake {
            id: WakeId(Uuid::from_u128(number)),
            cause: WakeCause::Operator { key: Some(key()) },
            requested_at_ms: at(secs),
            deadline_ms: at(secs + 60),
        };
        [ProviderEvent::WakeRequested { wake }]
    }

    fn ended(number: u128, kind: WakeFailureKind) -> [ProviderEvent; 1] {
        [ProviderEvent::WakeFailed {
            wake_id: WakeId(Uuid::from_u128(number)),
            report: None,
            failure: WakeFailure::new(kind, "group", "nobody waits"),
            stages: vec![],
            failures: Failures::default(),
            at_ms: at(1),
        }]
    }

    fn counted() -> Quota {
        let quota = Quota::default();
        quota.counted(0);
        quota
    }

    fn refused(quota: &Quota, limit: u32, secs: u64) -> Option<Duration> {
        match quota.reserve(&key(), limit, at(secs)) {
            Ok(_) => None,
            Err(Denied::Wakes { retry_after, .. }) => Some(retry_after),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn wakes_count_for_an_hour() {
        let quota = counted();
        quota.take(&started(1, 0));
        quota.take(&started(2, 600));
        assert_eq!(refused(&quota, 3, 700), None);
        assert_eq!(refused(&quota, 2, 700), Some(Duration::from_secs(2_900)));
        assert_eq!(refused(&quota, 2, 3_599), Some(Duration::from_secs(1)));
        assert_eq!(refused(&quota, 2, 3_600), None);
    }

    #[test]
    fn a_wake_that_is_read_twice_counts_once() {
        let quota = counted();
        for _ in 0..3 {
            quota.take(&started(1, 0));
        }
        assert_eq!(refused(&quota, 2, 1), None);
    }

    #[test]
    fn a_wake_that_was_withdrawn_does_not_count_in_whatever_order_its_events_are_read() {
        let (begun, withdrawn) = (started(1, 0), ended(1, WakeFailureKind::NotNeeded));
        for order in [
            [&begun, &withdrawn].as_slice(),
            &[&withdrawn, &begun],
            &[&begun, &withdrawn, &begun, &withdrawn],
        ] {
            let quota = counted();
            for events in order {
                quota.take(*events);
            }
            assert_eq!(refused(&quota, 1, 2), None);
        }
        let quota = counted();
        quota.take(&begun);
        quota.take(&ended(1, WakeFailureKind::GroupBlocked));
        quota.take(&ended(2, WakeFailureKind::NotNeeded));
        assert!(refused(&quota, 1, 2).is_some(), "any other end counts");
    }

    #[test]
    fn what_is_being_asked_for_counts_until_it_is_known() {
        let quota = counted();
        let asked = quota.reserve(&key(), 1, at(0)).expect("leave");
        assert!(refused(&quota, 1, 0).is_some());
        drop(asked);
        assert_eq!(refused(&quota, 1, 0), None, "no wake came of it");
        let asked = quota.reserve(&key(), 1, at(0)).expect("leave");
        quota.take(&started(1, 0));
        drop(asked);
        assert!(refused(&quota, 1, 0).is_some());
    }

    #[test]
    fn a_key_that_may_start_none_starts_none() {
        assert!(refused(&counted(), 0, 0).is_some());
    }

    #[test]
    fn nothing_is_started_before_the_last_hour_is_counted_nor_after_it_is_forgotten() {
        let quota = Quota::default();
        let not_yet = |quota: &Quota| matches!(quota.reserve(&key(), 5, at(0)), Err(Denied::NotReady));
        assert!(not_yet(&quota));
        quota.counted(0);
        assert_eq!(refused(&quota, 5, 0), None);
        quota.reset();
        assert!(not_yet(&quota));
        quota.counted(0);
        assert!(not_yet(&quota), "what was counted of another journal");
        quota.counted(1);
        assert_eq!(refused(&quota, 5, 0), None);
    }

    #[test]
    fn what_is_remembered_of_a_key_is_bounded() {
        let quota = counted();
        for number in 0..u128::from(MAX_WAKES_PER_HOUR) * 2 {
            quota.take(&started(number, 0));
            quota.take(&ended(u128::MAX - number, WakeFailureKind::NotNeeded));
        }
        let counts = quota.lock();
        assert_eq!(counts.started[&key()].len(), MAX_WAKES_PER_HOUR as usize);
        assert_eq!(counts.withdrawn.len(), MAX_WITHDRAWN);
    }
}
