//! `max_per_day`: how many wakes a provider may begin in any 24 hours.
//!
//! Only the config decides that, so somebody who may ask for wakes, or has taken over the hub, can't start a machine more
//! often. Only recipes that run count. The history is kept in the state directory, by the machine's own clock, since no
//! other clock runs while it is off. After that clock was set back, wakes lie in the future: they count as having begun just
//! now, so that none is forgotten and none counts for more than 24 hours.

use crate::state_dir::{StateDir, provider_file};
use jiff::Timestamp;
use reveille_domain::{ProviderId, counted};
use std::{collections::VecDeque, time::Duration};
use tracing::warn;

const FILE: &str = "wakes.json";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The wakes of the last 24 hours.
#[derive(Debug)]
pub(super) struct WakeHistory {
    max: u32,
    /// When they began, oldest first; at most `max`.
    times: VecDeque<Timestamp>,
    state: Option<StateDir>,
    file: String,
}

impl WakeHistory {
    /// Reads the history of earlier runs; without a state directory there is none.
    pub(super) fn open(max: u32, provider: &ProviderId, state: Option<StateDir>) -> Self {
        let file = provider_file(provider, FILE);
        let read = state.as_ref().map(|state| {
            let content = state.read(&file)?.unwrap_or_else(|| b"[]".to_vec());
            Ok::<_, std::io::Error>(serde_json::from_slice(&content)?)
        });
        let times = read.transpose().unwrap_or_else(|error| {
            warn!(provider.name = %provider, %error, "can't read the wake history of {provider}: wakes before this start don't count");
            None
        });
        Self {
            max,
            times: times.unwrap_or_default(),
            state,
            file,
        }
    }

    /// The same history, which no longer writes anything.
    pub(super) fn read_only(self) -> Self {
        Self { state: None, ..self }
    }

    /// Fails, in words, when no wake may begin at `now`.
    pub(super) fn check(&mut self, now: Timestamp) -> Result<(), String> {
        self.prune(now);
        let max = self.max;
        match self.times.front() {
            Some(oldest) if self.times.len() >= max as usize => {
                let minutes = DAY.saturating_sub(age(*oldest, now)).as_secs().div_ceil(60);
                Err(format!(
                    "allows no more than {} in 24 hours (provider.wake.max_per_day); the next one is possible in {} h {} min",
                    counted(max, "wake"),
                    minutes / 60,
                    minutes % 60
                ))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Adds a wake that begins at `now`.
    pub(super) fn add(&mut self, now: Timestamp) {
        self.times.push_back(now);
        self.prune(now);
        self.save();
    }

    /// Drops wakes that no longer count. When there are more than `max`, the latest ones decide when the next may begin.
    fn prune(&mut self, now: Timestamp) {
        let mut set_back = false;
        for time in self.times.iter_mut().filter(|time| **time > now) {
            *time = now;
            set_back = true;
        }
        let surplus = self.times.len().saturating_sub(self.max as usize);
        self.times.drain(..surplus);
        self.times.retain(|time| age(*time, now) < DAY);
        if set_back {
            self.save();
        }
    }

    fn save(&self) {
        let Some(state) = &self.state else { return };
        let saved = serde_json::to_vec(&self.times)
            .map_err(Into::into)
            .and_then(|times| state.write(&self.file, &times));
        if let Err(error) = saved {
            warn!(%error, "can't write {}: these wakes don't count after the next start", self.file);
        }
    }
}

fn age(time: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(time)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3_600).unwrap()
    }

    fn provider() -> ProviderId {
        "box/p".parse().unwrap()
    }

    fn take(history: &mut WakeHistory, hours: i64) -> Result<(), String> {
        history.check(hour(hours)).map(|()| history.add(hour(hours)))
    }

    #[test]
    fn no_24_hours_have_more_wakes_than_are_allowed() {
        let mut history = WakeHistory::open(2, &provider(), None);
        let mut taken = |hours| take(&mut history, hours);
        assert_eq!((taken(0), taken(10)), (Ok(()), Ok(())));
        let refused = taken(11).unwrap_err();
        assert!(refused.ends_with("in 13 h 0 min"), "{refused}");
        assert!(
            taken(23).is_err(),
            "a refused wake doesn't count, and none is given back early"
        );
        assert_eq!((taken(24), taken(34)), (Ok(()), Ok(())));
        assert!(taken(35).is_err());
    }

    #[test]
    fn the_wakes_before_a_restart_count() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        let open = |most| WakeHistory::open(most, &provider(), Some(state.clone()));
        for hours in 0..3 {
            assert_eq!(take(&mut open(3), hours), Ok(()));
        }
        assert!(take(&mut open(3), 3).is_err());
        for other in ["box/other", "other/p"].map(|id| id.parse().unwrap()) {
            assert_eq!(
                take(&mut WakeHistory::open(1, &other, Some(state.clone())), 3),
                Ok(())
            );
        }

        // Fewer are allowed now: the two latest decide.
        let refused = take(&mut open(2), 24).unwrap_err();
        assert!(refused.ends_with("in 1 h 0 min"), "{refused}");
        assert_eq!(take(&mut open(2), 25), Ok(()));
        assert!(take(&mut open(2), 25).is_err());
        let kept = state.read("box.p.wakes.json").unwrap().unwrap();
        let kept: Vec<Timestamp> = serde_json::from_slice(&kept).unwrap();
        assert_eq!(kept, [hour(2), hour(25)], "no more than are allowed");
    }

    #[test]
    fn a_clock_that_was_put_back_neither_locks_out_nor_lets_in() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        let open = || WakeHistory::open(2, &provider(), Some(state.clone()));
        assert_eq!(take(&mut open(), 90_000), Ok(()));
        assert_eq!(take(&mut open(), 90_001), Ok(()));
        // Ten years back. Each time the agent is started anew, which doesn't begin the wait again.
        for hours in [0, 1, 23] {
            assert!(take(&mut open(), hours).is_err(), "{hours}");
        }
        let mut later = open();
        assert_eq!((take(&mut later, 24), take(&mut later, 24)), (Ok(()), Ok(())));
        assert!(take(&mut later, 24).is_err());
        // And within one run.
        assert!(take(&mut later, 20).is_err());
        assert!(take(&mut later, 43).is_err());
        assert_eq!(take(&mut later, 44), Ok(()));
    }

    #[test]
    fn a_damaged_file_counts_for_nothing_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        state.write("box.p.wakes.json", b"{").unwrap();
        let open = || WakeHistory::open(1, &provider(), Some(state.clone()));
        assert_eq!(take(&mut open(), 0), Ok(()));
        assert!(take(&mut open(), 1).is_err());
    }
}
