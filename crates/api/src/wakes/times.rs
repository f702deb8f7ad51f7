//! How long a provider's wakes take, by those of its last few wakes that succeeded. Without any, there is no estimate.

use crate::registry::ProviderSnapshot;
use reveille_domain::{Status, Wake, WakeRecord, provider::DEADLINE_MARGIN};
use std::time::Duration;

/// How long a provider's wakes take, from the request to the available backend, without the wait for its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WakeTimes {
    /// Half of the wakes took no longer.
    pub p50: Duration,
    /// 95 % of the wakes took no longer; of the few remembered ones, that is the longest.
    pub p95: Duration,
}

impl WakeTimes {
    /// `None` if no remembered wake has succeeded. Times that no wake can take don't count: NATS's clock was set meanwhile.
    pub fn of(snapshot: &ProviderSnapshot) -> Option<Self> {
        let longest = snapshot.provider.spec.wake()?.budget() + DEADLINE_MARGIN;
        let succeeded = snapshot
            .provider
            .wakes
            .iter()
            .filter(|wake| wake.failure.is_none() && wake.ended_at_ms >= wake.requested_at_ms);
        let mut took: Vec<_> = succeeded
            .map(WakeRecord::took_by_itself)
            .filter(|took| *took <= longest)
            .collect();
        took.sort_unstable();
        // By the nearest-rank method.
        let percentile = |percent: usize| {
            took.get((took.len() * percent).div_ceil(100).checked_sub(1)?)
                .copied()
        };
        Some(Self {
            p50: percentile(50)?,
            p95: percentile(95)?,
        })
    }

    /// How much longer a wake takes that began `elapsed` ago: the median first, and once that has passed, the 95th
    /// percentile. `None` after that.
    pub fn left_after(&self, elapsed: Duration) -> Option<Duration> {
        [self.p50, self.p95]
            .into_iter()
            .find_map(|usual| usual.checked_sub(elapsed).filter(|left| !left.is_zero()))
    }
}

/// How long the wake will still take.
pub(crate) fn time_left(snapshot: &ProviderSnapshot, wake: &Wake) -> Option<Duration> {
    let elapsed = now_ms().saturating_sub(wake.requested_at_ms.as_millis());
    WakeTimes::of(snapshot)?.left_after(Duration::from_millis(elapsed))
}

/// How long it takes until the provider is awake; `None` if it is awake already or can't be woken now.
pub(crate) fn time_until_awake(snapshot: &ProviderSnapshot) -> Option<Duration> {
    match &snapshot.provider.status {
        Status::Hibernating { .. } => WakeTimes::of(snapshot).map(|times| times.p50),
        Status::Waking { wake } => time_left(snapshot, wake),
        Status::Active { .. } | Status::Down { .. } | Status::Inactive { .. } => None,
    }
}

/// The wall clock, for estimates.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_from_the_usual_time_and_then_from_the_longest() {
        let seconds = Duration::from_secs;
        let times = WakeTimes {
            p50: seconds(20),
            p95: seconds(60),
        };
        for (elapsed, left) in [
            (0, Some(20)),
            (15, Some(5)),
            (20, Some(40)),
            (59, Some(1)),
            (60, None),
        ] {
            assert_eq!(times.left_after(seconds(elapsed)), left.map(seconds), "{elapsed}");
        }
    }
}
