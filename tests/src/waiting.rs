//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// A deadline for what takes a moment on a quiet machine: it only guards against hanging, and never judges speed.
pub const SOON: Duration = Duration::from_secs(60);

/// How long between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until the condition gives something, and returns it.
///
/// # Panics
/// When it has given nothing within the time; `what` says in the message what was waited for.
pub async fn wait_until<T>(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(
            started.elapsed() < within,
            "waited {within:?} in vain until {what}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks for the whole time and wants the condition to hold at every look: for promises that something does *not*
/// happen.
///
/// # Panics
/// At the first look at which it doesn't hold.
pub async fn hold_for(what: &str, duration: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < duration {
        assert!(
            condition().await,
            "after {:?} it no longer held that {what}",
            started.elapsed()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
