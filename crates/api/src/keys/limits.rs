//! What a key has used in this replica: requests per minute, requests under way, and when it was used last.

use super::Denied;
use governor::{DefaultDirectRateLimiter, RateLimiter, clock::Clock};
use reveille_domain::{KeyId, Timestamp, key::KeyLimits};
use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// A key's limits, and what is left of them in this replica.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    rate: Option<(u32, DefaultDirectRateLimiter)>,
    concurrency: Option<(u32, Arc<AtomicU32>)>,
    requests: AtomicU64,
    last_used_ms: AtomicU64,
}

impl Limits {
    pub(super) fn of(limits: &KeyLimits) -> Self {
        let rate = limits.rate.map(|rate| {
            let quota = governor::Quota::per_minute(rate);
            (rate.get(), RateLimiter::direct(quota))
        });
        Self {
            rate,
            concurrency: limits.concurrency.map(|most| (most.get(), Arc::default())),
            ..Self::default()
        }
    }

    /// Counts a request of `key` at `now`; the permit counts until it is dropped.
    pub(super) fn enter(&self, key: &KeyId, now: Option<Timestamp>) -> Result<Option<Permit>, Denied> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(now) = now {
            self.last_used_ms.fetch_max(now.as_millis(), Ordering::Relaxed);
        }
        // The concurrency first: its refusal uses up nothing.
        let take = |(limit, under_way): &(u32, _)| {
            let (key, limit) = (key.clone(), *limit);
            Permit::take(under_way, limit).ok_or(Denied::Concurrency { key, limit })
        };
        let permit = self.concurrency.as_ref().map(take).transpose()?;
        if let Some((limit, rate)) = &self.rate
            && let Err(not_yet) = rate.check()
        {
            return Err(Denied::Rate {
                key: key.clone(),
                limit: *limit,
                retry_after: not_yet.wait_time_from(rate.clock().now()),
            });
        }
        Ok(permit)
    }

    /// How many requests used the key, refused ones included.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// When the last one came.
    pub(crate) fn last_used(&self) -> Option<Timestamp> {
        let last = self.last_used_ms.load(Ordering::Relaxed);
        (last > 0).then(|| Timestamp::from_millis(last))
    }
}

/// One of a key's requests under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicU32>);

impl Permit {
    fn take(under_way: &Arc<AtomicU32>, limit: u32) -> Option<Self> {
        let one_more = |count: u32| (count < limit).then_some(count + 1);
        let taken = under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.is_ok().then(|| Self(under_way.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key() -> KeyId {
        KeyId::parse("k7mq2v9x").expect("legal")
    }

    #[test]
    fn a_rate_is_refused_beyond_its_burst_and_says_for_how_long() {
        let limits = Limits::of(&KeyLimits::new(Some(3), None, None).expect("legal"));
        for _ in 0..3 {
            assert!(limits.enter(&key(), None).is_ok());
        }
        let Err(Denied::Rate {
            limit, retry_after, ..
        }) = limits.enter(&key(), None)
        else {
            panic!("refused")
        };
        assert_eq!(limit, 3);
        assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(20));
        assert_eq!(limits.requests(), 4, "refused ones count");
    }

    #[test]
    fn places_are_given_back_and_a_refused_one_costs_no_rate() {
        let limits = Limits::of(&KeyLimits::new(Some(2), Some(1), None).expect("legal"));
        let held = limits.enter(&key(), None).expect("taken");
        for _ in 0..5 {
            let refused = limits.enter(&key(), None).map(|_| ());
            assert!(
                matches!(refused, Err(Denied::Concurrency { limit: 1, .. })),
                "{refused:?}"
            );
        }
        drop(held);
        assert!(
            limits.enter(&key(), None).is_ok(),
            "a place, and the second of two"
        );
    }

    #[test]
    fn a_key_without_limits_is_counted_and_never_refused() {
        let limits = Limits::of(&KeyLimits::default());
        for second in 1..=100 {
            let now = Timestamp::from_millis(second);
            assert!(limits.enter(&key(), Some(now)).expect("taken").is_none());
        }
        assert_eq!(
            (limits.requests(), limits.last_used()),
            (100, Some(Timestamp::from_millis(100)))
        );
    }
}
