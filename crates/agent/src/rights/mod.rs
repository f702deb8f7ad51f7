//! What the owner of the machine decides by himself, whoever asks for wakes: whether any may begin now, when none do, and
//! how many there may be. All of it is in the config and in the state directory of his machine, and neither the hub nor
//! a key has a say in it.

mod begun;
mod pause;
mod watch;

pub use pause::Pause;
pub(crate) use watch::PauseWatch;

use crate::{config::Hours, state_dir::StateDir};
use begun::Begun;
use jiff::{Timestamp, Zoned, tz::TimeZone};
use pause::Paused;
use reveille_domain::{ProviderId, WakeFailure, WakeFailureKind};

/// What refused wakes give as their stages.
const PAUSED_STAGE: &str = "paused";
const QUIET_HOURS_STAGE: &str = "quiet_hours";
const MAX_PER_DAY_STAGE: &str = "max_per_day";

/// The rights of the owner of one agent's machine.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    state: Option<StateDir>,
    quiet_hours: Hours,
}

impl Rights {
    /// With the agent's state directory, where pauses and the wakes of a day are kept, and its quiet hours.
    #[must_use]
    pub const fn new(state: Option<StateDir>, quiet_hours: Hours) -> Self {
        Self { state, quiet_hours }
    }

    /// What is allowed of one provider, which may begin `max_per_day` wakes in 24 hours.
    pub(crate) fn of(&self, provider: &ProviderId, max_per_day: Option<u32>) -> Allowance {
        let begun = max_per_day.map(|most| Begun::open(most, provider, self.state.clone()));
        Allowance {
            rights: self.clone(),
            begun,
        }
    }

    /// Why nothing at all may be woken now, in a sentence; `None` when something may.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.check_at(&Zoned::now()).err().map(|failure| failure.reason)
    }

    /// Why no wake of this provider may begin now, in a sentence: it has begun `max_per_day`.
    #[must_use]
    pub fn used_up(&self, provider: &ProviderId, max_per_day: Option<u32>) -> Option<String> {
        let checked = self
            .of(provider, max_per_day)
            .begun?
            .apart()
            .check(Timestamp::now());
        checked.err().map(|why| format!("its owner {why}"))
    }

    fn check_at(&self, now: &Zoned) -> Result<(), WakeFailure> {
        match self.paused(now.timestamp()) {
            Paused::No => {}
            Paused::Yes(pause) => return refused(PAUSED_STAGE, &format!("has paused this agent {pause}")),
            Paused::Unreadable(_) => {
                return refused(
                    PAUSED_STAGE,
                    "has paused this agent, and until when can't be read",
                );
            }
        }
        let Some(left) = self.quiet_hours.left(now) else {
            return Ok(());
        };
        let until = now.timestamp().saturating_add(left).unwrap_or(Timestamp::MAX);
        let until = local(until, now.time_zone());
        refused(
            QUIET_HOURS_STAGE,
            &format!("lets nothing wake until {until} (agent.quiet_hours)"),
        )
    }

    fn paused(&self, now: Timestamp) -> Paused {
        self.state
            .as_ref()
            .map_or(Paused::No, |state| Paused::at(state, now))
    }
}

/// What the owner of the machine allows of one provider.
#[derive(Debug)]
pub(crate) struct Allowance {
    rights: Rights,
    begun: Option<Begun>,
}

impl Allowance {
    /// Whether a wake may begin now.
    pub(crate) fn check(&mut self) -> Result<(), WakeFailure> {
        self.check_at(&Zoned::now())
    }

    /// One wake begins.
    pub(crate) fn take(&mut self) {
        if let Some(begun) = &mut self.begun {
            begun.add(Timestamp::now());
        }
    }

    fn check_at(&mut self, now: &Zoned) -> Result<(), WakeFailure> {
        self.rights.check_at(now)?;
        let begun = self.begun.as_mut();
        begun
            .map_or(Ok(()), |begun| begun.check(now.timestamp()))
            .or_else(|why| refused(MAX_PER_DAY_STAGE, &why))
    }
}

fn refused(stage: &str, why: &str) -> Result<(), WakeFailure> {
    let reason = format!("its owner {why}");
    Err(WakeFailure::new(WakeFailureKind::NotAllowed, stage, &reason))
}

/// A time as the clock on the wall of that zone shows it, and how far that is from UTC: who reads it may be elsewhere.
fn local(at: Timestamp, zone: &TimeZone) -> String {
    let at = at.to_zoned(zone.clone());
    let seconds = if at.second() == 0 { "" } else { ":%S" };
    at.strftime(&format!("%Y-%m-%d %H:%M{seconds} %:z")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(now: &str) -> Zoned {
        format!("{now}[Europe/Berlin]").parse().unwrap()
    }

    fn refusal(allowance: &mut Allowance, now: &str) -> Option<(String, String)> {
        let failure = allowance.check_at(&at(now)).err()?;
        assert_eq!(failure.kind, WakeFailureKind::NotAllowed);
        Some((failure.stage, failure.reason))
    }

    #[test]
    fn in_quiet_hours_a_refusal_says_until_when_by_the_clock_of_the_machine() {
        let hours = ["23:00-07:00", "06:30-07:15"].map(|window| window.parse().unwrap());
        let rights = Rights::new(None, hours.into_iter().collect());
        let mut allowance = rights.of(&"box/p".parse().unwrap(), None);
        assert_eq!(refusal(&mut allowance, "2026-11-23T22:59:59"), None);
        let (stage, reason) = refusal(&mut allowance, "2026-11-23T23:00:01").unwrap();
        assert_eq!(stage, "quiet_hours");
        assert!(
            reason.contains("until 2026-11-24 07:15 +01:00 (agent.quiet_hours)"),
            "{reason}"
        );
        assert_eq!(refusal(&mut allowance, "2026-11-24T07:15"), None);
    }

    #[test]
    fn a_pause_goes_before_everything_else_and_ends_by_itself_or_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        let rights = Rights::new(Some(state.clone()), Hours::default());
        let mut allowance = rights.of(&"box/p".parse().unwrap(), Some(1));
        assert_eq!(refusal(&mut allowance, "2026-11-23T12:00"), None);
        let since = at("2026-11-23T12:00").timestamp();
        let pause = Pause::begin(since, Some(Duration::from_secs(3600)), false);
        pause.write(&state).unwrap();
        let (stage, reason) = refusal(&mut allowance, "2026-11-23T12:59:59").unwrap();
        assert_eq!(stage, "paused");
        assert!(
            reason.starts_with("its owner has paused this agent until 2026-11-23 "),
            "{reason}"
        );
        assert_eq!(refusal(&mut allowance, "2026-11-23T13:00"), None, "it is over");

        Pause::begin(since, None, true).write(&state).unwrap();
        let (_, reason) = refusal(&mut allowance, "2027-11-23T12:00").unwrap();
        assert!(reason.ends_with("until `reveille agent resume`"), "{reason}");
        assert!(Pause::lift(&state, since).unwrap());
        assert_eq!(refusal(&mut allowance, "2026-11-23T12:00"), None);
        assert!(!Pause::lift(&state, since).unwrap());
    }

    #[test]
    fn a_pause_that_cannot_be_read_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        let mut allowance =
            Rights::new(Some(state.clone()), Hours::default()).of(&"box/p".parse().unwrap(), None);
        for content in ["", "{", "{}", "{\"since\":\"soon\"}"] {
            state.write("paused.json", content.as_bytes()).unwrap();
            let (stage, _) = refusal(&mut allowance, "2026-11-23T12:00").unwrap();
            assert_eq!(stage, "paused", "{content}");
        }
        assert!(
            Pause::lift(&state, Timestamp::now()).unwrap(),
            "it is lifted as any other"
        );
        assert_eq!(refusal(&mut allowance, "2026-11-23T12:00"), None);
    }
}
