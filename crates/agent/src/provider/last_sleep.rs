//! What has become of the last attempt to put a backend to sleep. Its owner writes it; its session tells the hub and
//! `reveille agent pause`.

use parking_lot::Mutex;
use reveille_bus::heartbeats::StaysAwake;
use std::sync::Arc;
use tokio::sync::Notify;

/// The last attempt to put one backend to sleep.
#[derive(Debug, Clone, Default)]
pub struct LastSleep {
    state: Arc<Mutex<State>>,
    changes: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the attempts.
    attempt: u64,
    result: Option<SleepResult>,
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

    /// The backend is to sleep. Returns the number of the attempt.
    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        state.attempt += 1;
        state.result = Some(SleepResult::Pending);
        self.changes.notify_one();
        state.attempt
    }

    /// It is asleep, whatever has made it so.
    pub(super) fn is_asleep(&self) {
        let mut state = self.state.lock();
        if state.result.is_some() && state.result != Some(SleepResult::Asleep) {
            state.result = Some(SleepResult::Asleep);
            self.changes.notify_one();
        }
    }

    /// It is awake, whatever has made it so.
    pub(super) fn is_awake(&self) {
        let mut state = self.state.lock();
        if state.result == Some(SleepResult::Asleep) {
            state.result = None;
            self.changes.notify_one();
        }
    }

    /// This attempt has failed, unless something else has happened since.
    pub(super) fn failed(&self, attempt: u64, why: String) {
        let mut state = self.state.lock();
        if state.attempt == attempt && state.result == Some(SleepResult::Pending) {
            state.result = Some(SleepResult::Awake(why));
            self.changes.notify_one();
        }
    }

    /// The number of the last attempt.
    pub(super) fn attempt(&self) -> u64 {
        self.state.lock().attempt
    }

    /// Nobody wants it asleep any longer.
    pub(super) fn forget(&self) {
        if self.state.lock().result.take().is_some() {
            self.changes.notify_one();
        }
    }

    /// What has become of it; `None` if nobody has wanted it asleep since it was last woken.
    #[must_use]
    pub fn result(&self) -> Option<SleepResult> {
        self.state.lock().result.clone()
    }

    /// Why it stays awake, for the hub.
    #[must_use]
    pub fn stays_awake(&self) -> Option<StaysAwake> {
        let state = self.state.lock();
        match &state.result {
            Some(SleepResult::Awake(reason)) => Some(StaysAwake {
                attempt: state.attempt,
                reason: reason.clone(),
            }),
            Some(SleepResult::Pending | SleepResult::Asleep) | None => None,
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
        let first = last.begin();
        let second = last.begin();
        last.failed(first, "late".to_owned());
        assert_eq!(last.result(), Some(SleepResult::Pending));
        last.failed(second, "it works".to_owned());
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
}
