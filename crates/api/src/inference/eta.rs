//! How long a wake takes, as far as earlier ones tell: figures that inform, and decide nothing.

use crate::registry::Known;
use reveille_domain::Wake;
use std::time::Duration;

/// How long the wake will still take, as far as earlier ones tell.
pub(crate) fn time_left(known: &Known, wake: &Wake) -> Option<Duration> {
    let usual = usual_wake(known)?;
    let elapsed = now_ms().saturating_sub(wake.requested_at_ms.as_millis());
    Some(usual.saturating_sub(Duration::from_millis(elapsed)))
}

/// How long the provider's wakes take: the median of those that it remembers and that succeeded.
pub(crate) fn usual_wake(known: &Known) -> Option<Duration> {
    let succeeded = known.provider.wakes.iter().filter(|wake| wake.failure.is_none());
    let mut took: Vec<_> = succeeded
        .map(|wake| wake.ended_at_ms.since(wake.requested_at_ms))
        .collect();
    took.sort_unstable();
    took.get(took.len() / 2).copied()
}

/// The wall clock, for figures that only inform.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
