//! The time that all replicas share, and the time for which one replica has listened.
//!
//! **NATS time** is the stored time of a replica's own canary plus the monotonic time since its receipt. It is late by at
//! most the canary's travel time and never early; wall clocks of replicas play no part. It stamps what happens.
//!
//! **Listened time** decides what must not depend on anybody's wall clock: silence, and the deadlines of wakes. It counts
//! the monotonic time while canaries come back, and nothing else. It neither jumps when NATS's clock is set, nor grows
//! while the hub sleeps, is frozen, or can't reach NATS.

use reveille_domain::Timestamp;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tracing::warn;

/// A canary with a longer round trip is too inaccurate to set the clock.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);
/// A replica whose canaries have been missing for this long is deaf: from then on its listened time stops.
const DEAF_AFTER: Duration = Duration::from_secs(4);
/// Two canaries whose stored times differ from the monotonic clock by more than this show a step of NATS's clock, or that
/// this machine slept. Travel times explain up to [`MAX_ROUND_TRIP`].
const STEP: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
struct Reading {
    stored_at: Timestamp,
    received: Instant,
    /// The listened time at the receipt.
    listened: Duration,
    /// The listened time since which nothing was missed.
    unbroken_since: Duration,
}

impl Reading {
    /// The listened time, which stops when canaries are missing.
    fn listened(&self, now: Instant) -> Duration {
        self.listened + now.duration_since(self.received).min(DEAF_AFTER)
    }

    /// By how much the stored time of a later canary differs from what the monotonic clock explains, and whether it is
    /// ahead.
    fn unexplained(&self, received: Instant, stored_at: Timestamp) -> (Duration, bool) {
        let expected = self.stored_at.plus(received.duration_since(self.received));
        let ahead = stored_at.since(expected);
        (ahead.max(expected.since(stored_at)), !ahead.is_zero())
    }
}

/// What a replica has heard up to its last canary, in listened time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hearing {
    /// Up to here the replica has received everything that was sent to it.
    pub until: Duration,
    /// For so long, up to then, it has missed nothing: since it started, or was deaf, or reconnected, or since NATS's clock
    /// was set.
    pub unbroken: Duration,
}

/// A clock that shows NATS time and listened time once the first canary has come back. Clones share it.
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
    /// Sets the clock by a canary that arrives at `received`: `sent` is when it left, `stored_at` when the server stored it.
    pub(crate) fn canary(&self, sent: Instant, received: Instant, stored_at: Timestamp) {
        if received.duration_since(sent) > MAX_ROUND_TRIP {
            return;
        }
        self.reading.send_modify(|reading| {
            let Some(last) = reading else {
                *reading = Some(Reading {
                    stored_at,
                    received,
                    listened: Duration::ZERO,
                    unbroken_since: Duration::ZERO,
                });
                return;
            };
            let listened = last.listened(received);
            let (step, ahead) = last.unexplained(received, stored_at);
            if step > STEP {
                let (seconds, way) = (step.as_secs_f64(), if ahead { "forward" } else { "back" });
                warn!(
                    clock.step_s = seconds,
                    clock.forward = ahead,
                    "NATS's clock went {way} by {seconds:.1} s: it was set, or this machine slept. No agent counts as \
                     silent and no wake as overdue because of that"
                );
            }
            if step > STEP || received.duration_since(last.received) > DEAF_AFTER {
                last.unbroken_since = listened;
            }
            (last.stored_at, last.received, last.listened) = (stored_at, received, listened);
        });
    }

    /// The replica may have missed something just now.
    pub(crate) fn interrupted(&self) {
        self.reading.send_if_modified(|reading| {
            if let Some(last) = reading {
                last.unbroken_since = last.listened(Instant::now());
            }
            false
        });
    }

    /// The current NATS time; `None` before the first canary.
    #[must_use]
    pub fn try_now(&self) -> Option<Timestamp> {
        self.reading
            .borrow()
            .map(|reading| reading.stored_at.plus(reading.received.elapsed()))
    }

    /// For how long this replica has listened; zero before the first canary.
    #[must_use]
    pub fn listened(&self) -> Duration {
        let reading = *self.reading.borrow();
        reading.map_or(Duration::ZERO, |reading| reading.listened(Instant::now()))
    }

    /// What this replica has heard; `None` before the first canary.
    #[must_use]
    pub fn hearing(&self) -> Option<Hearing> {
        self.reading.borrow().map(|reading| Hearing {
            until: reading.listened,
            unbroken: reading.listened.saturating_sub(reading.unbroken_since),
        })
    }

    /// The time since the last canary came back; `None` before the first.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.reading.borrow().map(|reading| reading.received.elapsed())
    }

    /// Whether canaries come back.
    #[must_use]
    pub fn is_hearing(&self) -> bool {
        self.age().is_some_and(|age| age <= DEAF_AFTER)
    }

    /// The current NATS time, as soon as it is known.
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

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// A clock, and canaries that come back at these moments after its start with these stored times.
    fn heard(canaries: &[(u64, u64)]) -> (NatsClock, Instant) {
        let (clock, start) = (NatsClock::default(), Instant::now());
        for (after, stored_at) in canaries {
            let received = start + ms(*after);
            clock.canary(received, received, at(*stored_at));
        }
        (clock, start)
    }

    fn hearing(canaries: &[(u64, u64)]) -> (Duration, Duration) {
        let hearing = heard(canaries).0.hearing().expect("a canary");
        (hearing.until, hearing.unbroken)
    }

    #[test]
    fn a_slow_canary_leaves_the_clock_alone() {
        let (clock, now) = (NatsClock::default(), Instant::now());
        clock.canary(now, now + ms(2_000), at(1));
        assert_eq!(clock.try_now(), None);
        clock.canary(now, now, at(5_000));
        assert!(clock.try_now() >= Some(at(5_000)));
    }

    #[test]
    fn listened_time_passes_with_the_canaries() {
        assert_eq!(hearing(&[(0, 50_000), (1_000, 51_000)]), (ms(1_000), ms(1_000)));
        // Some travel longer than others.
        let jitter = [(0, 50_000), (1_900, 51_000), (2_100, 52_000)];
        assert_eq!(hearing(&jitter), (ms(2_100), ms(2_100)));
    }

    #[test]
    fn a_step_of_natss_clock_is_no_listened_time_and_breaks_the_hearing() {
        for step in [3_600_000_i64, 3_000, -3_000, -3_600_000] {
            let after = 10_000_000_u64.saturating_add_signed(step);
            let canaries = [(0, 10_000_000), (1_000, after + 1_000), (2_000, after + 2_000)];
            assert_eq!(hearing(&canaries), (ms(2_000), ms(1_000)), "{step}");
            let (clock, _) = heard(&canaries);
            assert!(clock.try_now() >= Some(at(after + 2_000)), "NATS time follows");
        }
    }

    #[test]
    fn while_nothing_is_heard_listened_time_stops() {
        // A minute in which the hub was frozen or NATS away; the clocks agree on it.
        let canaries = [(0, 50_000), (60_000, 110_000), (61_000, 111_000)];
        assert_eq!(hearing(&canaries), (DEAF_AFTER + ms(1_000), ms(1_000)));
        let (clock, start) = heard(&[(0, 50_000)]);
        let reading = clock.reading.borrow().expect("a canary");
        assert_eq!(reading.listened(start + ms(3_000)), ms(3_000));
        assert_eq!(reading.listened(start + ms(60_000)), DEAF_AFTER);
    }

    #[test]
    fn an_interruption_breaks_the_hearing_and_nothing_else() {
        let (clock, start) = heard(&[(0, 50_000), (1_000, 51_000)]);
        clock.interrupted();
        let hearing = clock.hearing().expect("a canary");
        assert_eq!((hearing.until, hearing.unbroken), (ms(1_000), Duration::ZERO));
        clock.canary(start + ms(3_000), start + ms(3_000), at(53_000));
        assert_eq!(clock.hearing().expect("a canary").until, ms(3_000));
    }
}
