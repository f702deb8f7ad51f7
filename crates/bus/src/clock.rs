//! The time that all replicas share: NATS time, which is the stored time of a replica's own canary plus the monotonic
//! time since its receipt. It is late by at most the canary's travel time and never early; wall clocks play no part.

use reveille_domain::Timestamp;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A canary with a longer round trip is too inaccurate to set the clock.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Reading {
    stored_at: Timestamp,
    received: Instant,
}

/// A clock that shows NATS time once the first canary has come back.
#[derive(Debug, Clone)]
pub struct NatsClock {
    reading: Arc<watch::Sender<Option<Reading>>>,
}

impl Default for NatsClock {
    fn default() -> Self {
        Self {
            reading: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl NatsClock {
    /// Sets the clock by a canary that arrives now: `sent` is when it left, `stored_at` when the server stored it.
    pub(crate) fn canary(&self, sent: Instant, stored_at: Timestamp) {
        let received = Instant::now();
        if received.duration_since(sent) <= MAX_ROUND_TRIP {
            self.reading.send_replace(Some(Reading { stored_at, received }));
        }
    }

    /// The current time; `None` before the first canary.
    #[must_use]
    pub fn try_now(&self) -> Option<Timestamp> {
        self.reading
            .borrow()
            .map(|reading| reading.stored_at.plus(reading.received.elapsed()))
    }

    /// When the server stored the last canary that came back. Up to then, this replica has received every heartbeat.
    #[must_use]
    pub fn heard_until(&self) -> Option<Timestamp> {
        self.reading.borrow().map(|reading| reading.stored_at)
    }

    /// The time since the last canary came back; `None` before the first.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.reading.borrow().map(|reading| reading.received.elapsed())
    }

    /// The current time, as soon as it is known.
    pub async fn now(&self) -> Timestamp {
        let mut readings = self.reading.subscribe();
        loop {
            if let Some(now) = self.try_now() {
                return now;
            }
            if readings.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_canary_leaves_the_clock_alone() {
        let clock = NatsClock::default();
        let long_ago = Instant::now()
            .checked_sub(Duration::from_secs(2))
            .expect("uptime");
        clock.canary(long_ago, Timestamp::from_millis(1));
        assert_eq!(clock.try_now(), None);
        clock.canary(Instant::now(), Timestamp::from_millis(5_000));
        assert!(clock.try_now() >= Some(Timestamp::from_millis(5_000)));
    }
}
