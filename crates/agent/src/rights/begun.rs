//! How many wakes the owner of the machine allows: in any 24 hours, at most what the config says.
//!
//! Nobody but the config decides that: whoever may ask for wakes, or has got hold of the hub, can't have a machine
//! started more often. Only recipes that are run count. When they began is kept in the state directory, by the machine's
//! own clock: no other one goes on while it is off. A clock that was put back has begun wakes in the future. They count
//! as having begun just now, so that none is forgotten, and none is held against anybody for more than 24 hours.

use crate::state_dir::{StateDir, provider_file};
use jiff::Timestamp;
use reveille_domain::ProviderId;
use std::{collections::VecDeque, time::Duration};
use tracing::warn;

const FILE: &str = "wakes.json";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The wakes of the last 24 hours, as far as they are counted.
#[derive(Debug)]
pub(super) struct Begun {
    most: u32,
    /// When they began, oldest first; no more than are allowed.
    times: VecDeque<Timestamp>,
    state: Option<StateDir>,
    file: String,
}

impl Begun {
    /// Those that were begun before; without a state directory there are none.
    pub(super) fn open(most: u32, provider: &ProviderId, state: Option<StateDir>) -> Self {
        let file = provider_file(provider, FILE);
        let read = state.as_ref().map(|state| {
            let content = state.read(&file)?.unwrap_or_else(|| b"[]".to_vec());
            Ok::<_, std::io::Error>(serde_json::from_slice(&content)?)
        });
        let times = read.transpose().unwrap_or_else(|error| {
            warn!(provider.name = %provider, %error, "can't read the wakes of {provider} before this start: they don't count");
            None
        });
        Self {
            most,
            times: times.unwrap_or_default(),
            state,
            file,
        }
    }

    /// The same, from which nothing is written any more.
    pub(super) fn apart(self) -> Self {
        Self { state: None, ..self }
    }

    /// Whether one more wake is allowed; else why not.
    pub(super) fn check(&mut self, now: Timestamp) -> Result<(), String> {
        self.tidy(now);
        let most = self.most;
        match self.times.front() {
            Some(oldest) if self.times.len() >= most as usize => {
                let minutes = DAY.saturating_sub(age(*oldest, now)).as_secs().div_ceil(60);
                Err(format!(
                    "allows no more than {most} wakes in 24 hours (provider.wake.max_per_day); the next one is possible in \
                     {} h {} min",
                    minutes / 60,
                    minutes % 60
                ))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// One more begins.
    pub(super) fn add(&mut self, now: Timestamp) {
        self.times.push_back(now);
        self.tidy(now);
        self.keep();
    }

    /// Drops what no longer counts. Should there be more than are allowed, the later ones decide when the next may begin.
    fn tidy(&mut self, now: Timestamp) {
        let mut put_back = false;
        for time in self.times.iter_mut().filter(|time| **time > now) {
            *time = now;
            put_back = true;
        }
        let surplus = self.times.len().saturating_sub(self.most as usize);
        self.times.drain(..surplus);
        self.times.retain(|time| age(*time, now) < DAY);
        if put_back {
            self.keep();
        }
    }

    fn keep(&self) {
        let Some(state) = &self.state else { return };
        let kept = serde_json::to_vec(&self.times)
            .map_err(Into::into)
            .and_then(|times| state.write(&self.file, &times));
        if let Err(error) = kept {
            warn!(%error, "can't write {}: its wakes are forgotten at the next start", self.file);
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

    fn take(begun: &mut Begun, hours: i64) -> Result<(), String> {
        begun.check(hour(hours)).map(|()| begun.add(hour(hours)))
    }

    #[test]
    fn no_24_hours_have_more_wakes_than_are_allowed() {
        let mut begun = Begun::open(2, &provider(), None);
        let mut taken = |hours| take(&mut begun, hours);
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
        let open = |most| Begun::open(most, &provider(), Some(state.clone()));
        for hours in 0..3 {
            assert_eq!(take(&mut open(3), hours), Ok(()));
        }
        assert!(take(&mut open(3), 3).is_err());
        for other in ["box/other", "other/p"].map(|id| id.parse().unwrap()) {
            assert_eq!(take(&mut Begun::open(1, &other, Some(state.clone())), 3), Ok(()));
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
        let open = || Begun::open(2, &provider(), Some(state.clone()));
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
        let open = || Begun::open(1, &provider(), Some(state.clone()));
        assert_eq!(take(&mut open(), 0), Ok(()));
        assert!(take(&mut open(), 1).is_err());
    }
}
