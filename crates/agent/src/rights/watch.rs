//! Notices that the owner of the machine has paused or resumed the agent: for its log, and to put to sleep what is awake.
//! Wakes don't depend on it: each looks for itself.

use super::{Rights, pause::Paused};
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, info};

/// How often it is looked: soon enough for somebody who waits for his GPU, and one small file is read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was last seen.
#[derive(Debug)]
pub(crate) struct PauseWatch {
    rights: Rights,
    looks: Interval,
    seen: Paused,
}

impl PauseWatch {
    /// Nothing was seen yet: an agent that starts paused notices it first of all.
    pub(crate) fn new(rights: Rights) -> Self {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            rights,
            looks,
            seen: Paused::No,
        }
    }

    /// Waits until what is awake is to be put to sleep (`true`), or no longer (`false`). May be dropped and called again.
    pub(crate) async fn sleep_wanted(&mut self) -> bool {
        loop {
            self.looks.tick().await;
            if let Some(wanted) = self.look(Timestamp::now()) {
                return wanted;
            }
        }
    }

    fn look(&mut self, now: Timestamp) -> Option<bool> {
        let was = std::mem::replace(&mut self.seen, self.rights.paused(now));
        if self.seen == was {
            return None;
        }
        match &self.seen {
            Paused::No => info!("this agent goes on: wakes begin again"),
            Paused::Yes(pause) => {
                info!("the owner of this machine has paused this agent {pause}: no wake begins");
            }
            Paused::Unreadable(why) => {
                error!("this agent counts as paused, because it can't be read whether it is: {why}");
            }
        }
        let wanted = |paused: &Paused| matches!(paused, Paused::Yes(pause) if pause.sleep());
        (wanted(&self.seen) || wanted(&was)).then_some(wanted(&self.seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Hours, rights::Pause, state_dir::StateDir};

    #[tokio::test]
    async fn each_pause_that_is_to_put_backends_to_sleep_is_noticed_once_and_so_is_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        let mut watch = PauseWatch::new(Rights::new(Some(state.clone()), Hours::default()));
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
