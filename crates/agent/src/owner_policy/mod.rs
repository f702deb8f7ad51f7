//! What the owner of the machine allows: whether wakes may begin now, and how many a day. All of it comes from the
//! agent's config and state directory; neither the hub nor a key can change it.

mod pause;
mod report;
mod wake_history;
mod watch;

pub use pause::Pause;
pub use report::{PauseTaken, PutToSleep};
pub(crate) use watch::PauseWatch;

use crate::{config::Hours, state_dir::StateDir};
use jiff::{Timestamp, Zoned};
use parking_lot::RwLock;
use pause::{PauseState, local_time};
use reveille_domain::{PAUSED_STAGE, ProviderId, QUIET_HOURS_STAGE, WakeFailure, WakeFailureKind};
use std::sync::Arc;
use wake_history::WakeHistory;

/// The stages that refused wakes report, beside [`PAUSED_STAGE`] and [`QUIET_HOURS_STAGE`].
const OPEN_FILES_STAGE: &str = "open_files";
const MAX_PER_DAY_STAGE: &str = "max_per_day";

/// The policy for all providers of one agent.
#[derive(Debug, Clone, Default)]
pub struct OwnerPolicy {
    state: Option<StateDir>,
    quiet_hours: Arc<RwLock<Hours>>,
}

impl OwnerPolicy {
    /// `state` is where pauses and the wake history are kept; without it there are none.
    #[must_use]
    pub fn new(state: Option<StateDir>, quiet_hours: Hours) -> Self {
        let quiet_hours = Arc::new(RwLock::new(quiet_hours));
        Self { state, quiet_hours }
    }

    /// Uses other quiet hours from now on, for all providers.
    pub(crate) fn set_quiet_hours(&self, quiet_hours: Hours) {
        *self.quiet_hours.write() = quiet_hours;
    }

    /// The allowance of one provider, which may wake `max_per_day` times in 24 hours.
    pub(crate) fn of(&self, provider: &ProviderId, max_per_day: Option<u32>) -> WakeAllowance {
        let history = max_per_day.map(|max| WakeHistory::open(max, provider, self.state.clone()));
        WakeAllowance {
            policy: self.clone(),
            history,
        }
    }

    /// Why no provider may wake now, in a sentence.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.refused().map(|failure| failure.reason)
    }

    /// The same as the failure that each wake has now.
    pub(crate) fn refused(&self) -> Option<WakeFailure> {
        self.check_at(&Zoned::now()).err()
    }

    /// Why this provider may not wake now, in a sentence: it has used up its `max_per_day`.
    #[must_use]
    pub fn used_up(&self, provider: &ProviderId, max_per_day: Option<u32>) -> Option<String> {
        let history = self.of(provider, max_per_day).history;
        let checked = history?.read_only().check(Timestamp::now());
        checked.err().map(|why| format!("its owner {why}"))
    }

    fn check_at(&self, now: &Zoned) -> Result<(), WakeFailure> {
        match PauseState::at(self.state.as_ref(), now.timestamp()) {
            PauseState::Running => {}
            PauseState::Paused(pause) => {
                return refused(PAUSED_STAGE, &format!("has paused this agent {pause}"));
            }
            PauseState::Unknown(limit) => {
                let reason = format!("whether its owner has paused it can't be read: {limit}");
                return Err(WakeFailure::new(
                    WakeFailureKind::NotAllowed,
                    OPEN_FILES_STAGE,
                    &reason,
                ));
            }
            PauseState::Unreadable(_) => {
                return refused(
                    PAUSED_STAGE,
                    "has paused this agent, and until when can't be read",
                );
            }
        }
        let Some(left) = self.quiet_hours.read().left(now) else {
            return Ok(());
        };
        let until = now.timestamp().saturating_add(left).unwrap_or(Timestamp::MAX);
        let until = local_time(until, now.time_zone());
        refused(
            QUIET_HOURS_STAGE,
            &format!("lets nothing wake until {until} (agent.quiet_hours)"),
        )
    }
}

/// The policy for one provider.
#[derive(Debug)]
pub(crate) struct WakeAllowance {
    policy: OwnerPolicy,
    history: Option<WakeHistory>,
}

impl WakeAllowance {
    /// Fails when no wake may begin now.
    pub(crate) fn check(&mut self) -> Result<(), WakeFailure> {
        self.check_at(&Zoned::now())
    }

    /// Counts a wake that begins now.
    pub(crate) fn take(&mut self) {
        if let Some(history) = &mut self.history {
            history.add(Timestamp::now());
        }
    }

    fn check_at(&mut self, now: &Zoned) -> Result<(), WakeFailure> {
        self.policy.check_at(now)?;
        match self
            .history
            .as_mut()
            .map(|history| history.check(now.timestamp()))
        {
            Some(Err(why)) => refused(MAX_PER_DAY_STAGE, &why),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

fn refused(stage: &str, why: &str) -> Result<(), WakeFailure> {
    let reason = format!("its owner {why}");
    Err(WakeFailure::new(WakeFailureKind::NotAllowed, stage, &reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(now: &str) -> Zoned {
        format!("{now}[Europe/Berlin]").parse().unwrap()
    }

    fn refusal(allowance: &mut WakeAllowance, now: &str) -> Option<(String, String)> {
        let failure = allowance.check_at(&at(now)).err()?;
        assert_eq!(failure.kind, WakeFailureKind::NotAllowed);
        Some((failure.stage, failure.reason))
    }

    #[test]
    fn in_quiet_hours_a_refusal_says_until_when_by_the_clock_of_the_machine() {
        let hours = ["23:00-07:00", "06:30-07:15"].map(|window| window.parse().unwrap());
        let policy = OwnerPolicy::new(None, hours.into_iter().collect());
        let mut allowance = policy.of(&"box/p".parse().unwrap(), None);
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
        let policy = OwnerPolicy::new(Some(state.clone()), Hours::default());
        let mut allowance = policy.of(&"box/p".parse().unwrap(), Some(1));
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
            OwnerPolicy::new(Some(state.clone()), Hours::default()).of(&"box/p".parse().unwrap(), None);
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
