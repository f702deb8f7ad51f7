//! The pauses between attempts while the database or the journal is unavailable.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::{fmt::Display, time::Duration};

const LONGEST: Duration = Duration::from_secs(5);
const DOUBLING: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(LONGEST)
    .without_max_times();

/// Doubling pauses, from 100 ms to 5 s.
pub(crate) struct Backoff(ExponentialBackoff);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(DOUBLING.build())
    }

    /// Logs the reason and waits.
    pub(crate) async fn wait(&mut self, reason: &(dyn Display + Sync)) {
        let pause = self.0.next().unwrap_or(LONGEST);
        tracing::warn!(%reason, pause_ms = pause.as_millis(), "the database or the journal is unavailable, trying again");
        tokio::time::sleep(pause).await;
    }
}
