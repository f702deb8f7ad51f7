//! What decides when the backend sleeps and wakes next.

use crate::provider::{groups::EvictionRequest, last_sleep::Attempt};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use reveille_domain::{Stage, WakeId};
use std::time::Duration;
use tokio::time::Instant;

/// How long an idle backend that couldn't be put to sleep is left alone, doubling up to the longest: each attempt locks out
/// requests.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct SleepState {
    /// The eviction request that failed, and why; it is refused once a probe finds the backend still there.
    pub failed_eviction: Option<(EvictionRequest, String)>,
    /// A wake that came during a sleep.
    pub pending: Option<WakeId>,
    /// The wake whose recipe was ended because nobody wanted it; its backend is being put to sleep again. And how long it waited for
    /// its groups.
    pub cancelled: Option<(WakeId, Option<Stage>)>,
    /// The attempt with which a pause or an operator wants the backend asleep as soon as nothing else is done with it.
    pub rest_wanted: Option<Attempt>,
    /// The latest wake that requests wait for.
    pub awaited: Option<WakeId>,
    /// The last wake that succeeded.
    pub last_woken: Option<Woken>,
    pub awake_since: Option<Instant>,
    /// After a failed sleep, idleness causes none before this.
    pub not_before: Option<Instant>,
    pauses: ExponentialBackoff,
}

/// A wake that succeeded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Woken {
    pub wake: WakeId,
    pub at: Instant,
    /// How many requests had passed the gate by then.
    pub entries: u64,
}

impl Default for SleepState {
    fn default() -> Self {
        Self {
            failed_eviction: None,
            pending: None,
            cancelled: None,
            rest_wanted: None,
            awaited: None,
            last_woken: None,
            awake_since: None,
            not_before: None,
            pauses: pauses(),
        }
    }
}

impl SleepState {
    pub(super) fn succeeded(&mut self) {
        (self.pauses, self.not_before) = (pauses(), None);
    }

    pub(super) fn failed(&mut self) {
        let pause = self.pauses.next().unwrap_or(LONGEST_PAUSE);
        self.not_before = Some(Instant::now() + pause);
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .build()
}
