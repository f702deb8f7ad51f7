//! Pauses between attempts, while the database or the journal is away.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Doubling pauses, from 100 ms to 5 s.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self(FIRST)
    }

    pub(crate) const fn reset(&mut self) {
        self.0 = FIRST;
    }

    /// Says what is away and waits.
    pub(crate) async fn wait(&mut self, reason: &(dyn std::fmt::Display + Sync)) {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        let pause_ms = pause.as_millis();
        tracing::warn!(%reason, pause_ms, "the rows wait for the database, trying again");
        tokio::time::sleep(pause).await;
    }
}
