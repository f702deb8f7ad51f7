//! Watches for pauses of the agent, to log them and to put awake backends to sleep. Wakes don't depend on it: each reads the
//! pause itself.

use super::pause::{Pause, PauseState};
use crate::state_dir::StateDir;
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, info};

/// How often the pause is read: one small file, and soon enough for a request that comes right after its end.
const READ_EVERY: Duration = Duration::from_millis(250);

/// The agent is paused, paused otherwise, or no longer paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PauseChange {
    /// Whether awake backends should be put to sleep (`true`), or no longer should; `None` if that hasn't changed.
    pub sleep: Option<bool>,
}

#[derive(Debug)]
pub(crate) struct PauseWatch {
    state: Option<StateDir>,
    ticks: Interval,
    last: PauseState,
    /// Whether the pause couldn't be read for want of files.
    is_blind: bool,
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
            is_blind: false,
        }
    }

    /// Whether the pause could be read, so that [`Self::current`] is it.
    pub(crate) const fn is_known(&self) -> bool {
        matches!(&self.last, PauseState::Running | PauseState::Paused(_))
    }

    /// The pause, as last read.
    pub(crate) const fn current(&self) -> Option<Pause> {
        match &self.last {
            PauseState::Paused(pause) => Some(*pause),
            PauseState::Running | PauseState::Unreadable(_) | PauseState::Unknown(_) => None,
        }
    }

    /// Waits for another pause, or the end of one. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> PauseChange {
        loop {
            self.ticks.tick().await;
            if let Some(change) = self.look(Timestamp::now()) {
                return change;
            }
        }
    }

    fn look(&mut self, now: Timestamp) -> Option<PauseChange> {
        let state = PauseState::at(self.state.as_ref(), now);
        self.take(state)
    }

    fn take(&mut self, state: PauseState) -> Option<PauseChange> {
        if let PauseState::Unknown(limit) = &state {
            if !std::mem::replace(&mut self.is_blind, true) {
                error!("whether this agent is paused can't be read, and stays as it was: {limit}");
            }
            return None;
        }
        self.is_blind = false;
        let was = std::mem::replace(&mut self.last, state);
        if self.last == was {
            return None;
        }
        match &self.last {
            PauseState::Running => info!("the pause of this agent is over: wakes may begin again"),
            PauseState::Paused(pause) => {
                info!("the owner of this machine paused this agent {pause}: no wake begins");
            }
            PauseState::Unknown(_) => {}
            PauseState::Unreadable(why) => {
                error!("this agent counts as paused, because its pause can't be read: {why}");
            }
        }
        let wanted = |state: &PauseState| matches!(state, PauseState::Paused(pause) if pause.sleep());
        let sleep = (wanted(&self.last) || wanted(&was)).then_some(wanted(&self.last));
        Some(PauseChange { sleep })
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
        let mut look = |second| watch.look(at(second)).map(|change| change.sleep);
        assert_eq!(look(0), None);
        pause(0, false);
        assert_eq!(look(0), Some(None), "it sleeps as before");
        pause(1, true);
        assert_eq!((look(1), look(2)), (Some(Some(true)), None));
        pause(2, true);
        assert_eq!(look(2), Some(Some(true)), "said again");
        assert_eq!((look(11), look(12)), (None, Some(Some(false))));
        pause(12, true);
        assert_eq!(look(12), Some(Some(true)));
        state.write("paused.json", b"?").unwrap();
        assert_eq!((look(13), look(14)), (Some(Some(false)), None));
        assert!(!watch.is_known(), "that is no end of a pause");
        Pause::lift(&state, at(14)).unwrap();
        assert_eq!(watch.look(at(14)).map(|change| change.sleep), Some(None));
        assert!(watch.is_known());
    }

    #[tokio::test]
    async fn a_pause_that_cannot_be_read_for_want_of_files_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        let mut watch = PauseWatch::new(Some(state.clone()));
        let now = Timestamp::from_second(0).unwrap();
        Pause::begin(now, None, true).write(&state).unwrap();
        let paused = watch.look(now).map(|change| change.sleep);
        assert_eq!(paused, Some(Some(true)));
        let no_files = std::io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let unknown = PauseState::unread(&state, &no_files);
        assert_eq!(watch.take(unknown), None);
        assert_eq!(watch.look(now), None, "it goes on");
        let broken = std::io::Error::other("a broken disk");
        assert!(matches!(
            PauseState::unread(&state, &broken),
            PauseState::Unreadable(_)
        ));
    }
}
