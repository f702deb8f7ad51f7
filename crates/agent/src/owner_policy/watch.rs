//! Watches for pauses of the agent, to log them and to put awake backends to sleep. Wakes don't depend on it: each reads the
//! pause itself.

use super::pause::PauseState;
use crate::state_dir::StateDir;
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, info};

/// How often the pause is read: one small file, and soon enough for somebody who waits for the GPU.
const READ_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct PauseWatch {
    state: Option<StateDir>,
    ticks: Interval,
    last: PauseState,
}

impl PauseWatch {
    /// Assumes that the agent isn't paused, so that one which starts paused notices at once.
    pub(crate) fn new(state: Option<StateDir>) -> Self {
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            state,
            ticks,
            last: PauseState::Running,
        }
    }

    /// Waits until awake backends should be put to sleep (`true`), or no longer should (`false`). Cancel-safe.
    pub(crate) async fn sleep_wanted(&mut self) -> bool {
        loop {
            self.ticks.tick().await;
            if let Some(wanted) = self.look(Timestamp::now()) {
                return wanted;
            }
        }
    }

    fn look(&mut self, now: Timestamp) -> Option<bool> {
        let was = std::mem::replace(&mut self.last, PauseState::at(self.state.as_ref(), now));
        if self.last == was {
            return None;
        }
        match &self.last {
            PauseState::Running => info!("the pause of this agent is over: wakes may begin again"),
            PauseState::Paused(pause) => {
                info!("the owner of this machine paused this agent {pause}: no wake begins");
            }
            PauseState::Unreadable(why) => {
                error!("this agent counts as paused, because its pause can't be read: {why}");
            }
        }
        let wanted = |state: &PauseState| matches!(state, PauseState::Paused(pause) if pause.sleep());
        (wanted(&self.last) || wanted(&was)).then_some(wanted(&self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner_policy::Pause;

    #[tokio::test]
    async fn each_pause_that_is_to_put_backends_to_sleep_is_noticed_once_and_so_is_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        let mut watch = PauseWatch::new(Some(state.clone()));
        let at = |second| Timestamp::from_second(second).unwrap();
        let pause = |second, sleep| {
            let lasts = Some(Duration::from_secs(10));
            Pause::begin(at(second), lasts, sleep).write(&state).unwrap();
        };
        assert_eq!(watch.look(at(0)), None);
        pause(0, false);
        assert_eq!(watch.look(at(0)), None);
        pause(1, true);
        assert_eq!((watch.look(at(1)), watch.look(at(2))), (Some(true), None));
        pause(2, true);
        assert_eq!(watch.look(at(2)), Some(true), "said again");
        assert_eq!((watch.look(at(11)), watch.look(at(12))), (None, Some(false)));
        pause(12, true);
        assert_eq!(watch.look(at(12)), Some(true));
        state.write("paused.json", b"?").unwrap();
        assert_eq!((watch.look(at(13)), watch.look(at(14))), (Some(false), None));
        Pause::lift(&state, at(14)).unwrap();
        assert_eq!(watch.look(at(14)), None);
    }
}
