//! How many wakes the owner of the machine allows: in any 24 hours, at most what the config says.
//!
//! Nobody but the config decides that: whoever may ask for wakes, or has got hold of the hub, can't have a machine
//! started more often. Only recipes that are run count, by a clock that nobody sets. The count begins with the agent.

use reveille_domain::{WakeFailure, WakeFailureKind};
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What a refused wake gives as its stage.
const STAGE: &str = "max_per_day";

/// The wakes of the last 24 hours, as far as they are counted.
#[derive(Debug)]
pub(super) struct Allowance {
    most: Option<u32>,
    begun: VecDeque<Instant>,
}

impl Allowance {
    pub(super) const fn new(most: Option<u32>) -> Self {
        Self {
            most,
            begun: VecDeque::new(),
        }
    }

    /// Whether one more wake is allowed.
    pub(super) fn check(&mut self, now: Instant) -> Result<(), WakeFailure> {
        let Some(most) = self.most else { return Ok(()) };
        while self
            .begun
            .front()
            .is_some_and(|begun| now.duration_since(*begun) >= DAY)
        {
            self.begun.pop_front();
        }
        match self.begun.front() {
            Some(oldest) if self.begun.len() >= most as usize => {
                let minutes = (DAY - now.duration_since(*oldest)).as_secs().div_ceil(60);
                let reason = format!(
                    "its owner allows no more than {most} wakes in 24 hours (provider.wake.max_per_day); the next one is \
                     possible in {} h {} min",
                    minutes / 60,
                    minutes % 60
                );
                Err(WakeFailure::new(WakeFailureKind::NotAllowed, STAGE, &reason))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// One wake begins.
    pub(super) fn take(&mut self, now: Instant) {
        if self.most.is_some() {
            self.begun.push_back(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_24_hours_have_more_wakes_than_are_allowed() {
        let (start, hour) = (Instant::now(), Duration::from_secs(3_600));
        let mut allowance = Allowance::new(Some(2));
        let mut taken = |hours: u32| {
            let now = start + hour * hours;
            let checked = allowance.check(now).map_err(|failure| failure.reason);
            checked.map(|()| allowance.take(now))
        };
        assert_eq!((taken(0), taken(10)), (Ok(()), Ok(())));
        let refused = taken(11).unwrap_err();
        assert!(refused.ends_with("in 13 h 0 min"), "{refused}");
        assert!(
            taken(23).is_err(),
            "a refused wake doesn't count, and none is given back early"
        );
        assert_eq!((taken(24), taken(34)), (Ok(()), Ok(())));
        assert!(taken(35).is_err());
        let mut unbounded = Allowance::new(None);
        assert!((0..10_000).all(|_| {
            unbounded.take(start);
            unbounded.check(start).is_ok()
        }));
        assert!(unbounded.begun.is_empty(), "what isn't bounded isn't counted");
    }
}
