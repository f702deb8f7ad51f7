//! What has become of the last attempt of an operator or a pause to put a backend to sleep. Its owner writes it; its session tells
//! the hub and `reveille agent pause`. That a backend can't sleep for want of use, or for its group, is nobody's wish.

use parking_lot::Mutex;
use reveille_bus::heartbeats::StaysAwake;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Notify, time::Instant};

/// How long the hub is told that an operator's attempt has failed: until whoever made it has seen it. Of a pause's it is told until
/// the pause ends.
const OPERATOR_TOLD_FOR: Duration = Duration::from_secs(600);

/// The last attempt to put one backend to sleep.
#[derive(Debug, Clone, Default)]
pub struct LastSleep {
    state: Arc<Mutex<State>>,
    changes: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the attempts.
    attempts: u64,
    /// `None` before the first, and once it no longer matters.
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    wanted_by: WantedBy,
    result: SleepResult,
    /// Since when that is the result.
    since: Instant,
}

/// The number of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt(u64);

/// Who wants the backend asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WantedBy {
    Operator,
    Pause,
}

/// What has become of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SleepResult {
    /// It is under way, or waits for a wake to end.
    Pending,
    Asleep,
    /// It stays awake, for this reason.
    Awake(String),
}

impl LastSleep {
    /// Notifies `changes` of each change.
    #[must_use]
    pub fn notifying(changes: Arc<Notify>) -> Self {
        Self {
            state: Arc::default(),
            changes,
        }
    }

    /// The backend is to sleep.
    pub(super) fn begin(&self, wanted_by: WantedBy) -> Attempt {
        let mut state = self.state.lock();
        state.attempts += 1;
        state.last = Some(Last {
            wanted_by,
            result: SleepResult::Pending,
            since: Instant::now(),
        });
        self.changes.notify_one();
        Attempt(state.attempts)
    }

    /// It is asleep, whatever has made it so.
    pub(super) fn is_asleep(&self) {
        self.turn(|last| last.result != SleepResult::Asleep, SleepResult::Asleep);
    }

    /// It is awake, whatever has made it so.
    pub(super) fn is_awake(&self) {
        self.forget_if(|last| last.result == SleepResult::Asleep);
    }

    /// This attempt has failed, unless something else has happened since.
    pub(super) fn failed(&self, attempt: Option<Attempt>, why: &str) {
        if attempt == Some(Attempt(self.state.lock().attempts)) {
            let why = SleepResult::Awake(why.to_owned());
            self.turn(|last| last.result == SleepResult::Pending, why);
        }
    }

    /// The pause is over that may have wanted it asleep.
    pub(super) fn pause_ended(&self) {
        self.forget_if(|last| last.wanted_by == WantedBy::Pause);
    }

    fn turn(&self, is_due: impl FnOnce(&Last) -> bool, result: SleepResult) {
        let mut state = self.state.lock();
        if let Some(last) = state.last.as_mut().filter(|last| is_due(last)) {
            (last.result, last.since) = (result, Instant::now());
            self.changes.notify_one();
        }
    }

    fn forget_if(&self, is_due: impl FnOnce(&mut Last) -> bool) {
        if self.state.lock().last.take_if(is_due).is_some() {
            self.changes.notify_one();
        }
    }

    /// What has become of it; `None` if no operator or pause has wanted it asleep since it was last woken.
    #[must_use]
    pub fn result(&self) -> Option<SleepResult> {
        let state = self.state.lock();
        state.last.as_ref().map(|last| last.result.clone())
    }

    /// Why it stays awake, for the hub.
    #[must_use]
    pub fn stays_awake(&self) -> Option<StaysAwake> {
        let state = self.state.lock();
        let last = state.last.as_ref()?;
        let is_told = match last.wanted_by {
            WantedBy::Operator => last.since.elapsed() < OPERATOR_TOLD_FOR,
            WantedBy::Pause => true,
        };
        match &last.result {
            SleepResult::Awake(reason) if is_told => Some(StaysAwake {
                attempt: state.attempts,
                reason: reason.clone(),
            }),
            SleepResult::Awake(_) | SleepResult::Pending | SleepResult::Asleep => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_for_its_own_attempt_and_until_the_backend_sleeps_or_is_woken() {
        let last = LastSleep::default();
        assert_eq!(last.result(), None);
        last.is_asleep();
        assert_eq!(last.result(), None, "nobody wanted that");
        last.failed(None, "nobody wanted that");
        assert_eq!(last.result(), None);
        let first = last.begin(WantedBy::Operator);
        let second = last.begin(WantedBy::Pause);
        last.failed(Some(first), "late");
        last.failed(None, "an idle one's");
        assert_eq!(last.result(), Some(SleepResult::Pending));
        last.failed(Some(second), "it works");
        let stays = last.stays_awake().expect("it does");
        assert_eq!((stays.attempt, stays.reason.as_str()), (2, "it works"));
        last.is_asleep();
        assert_eq!(
            (last.result(), last.stays_awake()),
            (Some(SleepResult::Asleep), None)
        );
        last.is_awake();
        assert_eq!(last.result(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_hub_is_told_of_an_operators_failure_for_ten_minutes_and_of_a_pauses_until_its_end() {
        let last = LastSleep::default();
        let advance = async |time| tokio::time::advance(time).await;
        let operators = last.begin(WantedBy::Operator);
        advance(OPERATOR_TOLD_FOR).await;
        last.failed(Some(operators), "it works");
        last.pause_ended();
        advance(OPERATOR_TOLD_FOR - Duration::from_secs(1)).await;
        assert!(last.stays_awake().is_some(), "since it failed");
        advance(Duration::from_secs(1)).await;
        assert_eq!(last.stays_awake(), None);
        let pauses = last.begin(WantedBy::Pause);
        last.failed(Some(pauses), "it works");
        advance(OPERATOR_TOLD_FOR * 10).await;
        assert!(last.stays_awake().is_some(), "the pause goes on");
        last.pause_ended();
        assert_eq!((last.result(), last.stays_awake()), (None, None));
    }
}
