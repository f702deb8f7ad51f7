//! What the owner does with recipes: when one begins, what must be gone before it, and what follows from its end.

use super::Owner;
use crate::{
    config::WakeConfig,
    probe::Verdict,
    provider::activity::{Activity, Advance},
    recipe::{Before, Outcome, Run},
};
use futures::FutureExt;
use reveille_bus::wakes::WakeMessage;
use reveille_domain::{SleepReason, Stage, WakeFailure, WakeFailureKind, WakeId, WakeOutcome};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

impl Owner {
    pub(super) fn wake(&mut self, wake: &WakeMessage) {
        let current = self.setup.epoch.get() == Some(wake.epoch) && wake.provider.provider == *self.name();
        if !current || wake.sequence < self.seen {
            debug!(wake.id = %wake.wake_id, "ignored an old wake");
            return;
        }
        self.seen = wake.sequence;
        if self.setup.config.wake.is_none() {
            warn!(provider.name = %self.name(), "{} has no wake recipe and was asked to wake", self.name());
            return;
        }
        if !self.belief.wake_asked(wake.wake_id) {
            return;
        }
        let worth_a_check = self.worth_a_check();
        match &mut self.activity {
            // What runs already serves this wake too.
            Activity::Checking { wake: id, .. } | Activity::Waking { wake: id, .. } => *id = wake.wake_id,
            Activity::Idle if worth_a_check => {
                info!(provider.name = %self.setup.config.name, wake.id = %wake.wake_id, "asked to wake");
                let (began, check) = (Instant::now(), self.check());
                self.probing = None;
                self.activity = Activity::Checking {
                    wake: wake.wake_id,
                    began,
                    check,
                };
            }
            Activity::Idle | Activity::Sleeping { .. } | Activity::Ending { .. } => {
                self.begin_wake(wake.wake_id);
            }
        }
    }

    /// Whether to look first if the backend is up, rather than run the recipe at once. A machine that is off may
    /// take the probe's whole time-out to say nothing; a served backend that runs isn't ended without a look.
    fn worth_a_check(&self) -> bool {
        !self.slow_probe || self.child.is_some()
    }

    fn begin_wake(&mut self, wake: WakeId) {
        let Some(recipe) = self.setup.config.wake.clone() else {
            return;
        };
        if let Err(failure) = self.allowance.take(Instant::now()) {
            let refused = Outcome {
                stages: vec![],
                failure: Some(failure),
            };
            return self.woken(wake, refused);
        }
        info!(provider.name = %self.name(), wake.id = %wake, "waking {}", self.name());
        let before = self.end_what_runs();
        let run = Run::wake(self.setup.runner.clone(), recipe, self.probe.clone(), before);
        self.activity = Activity::Waking { wake, run };
    }

    /// Takes what runs, and ends it when awaited.
    pub(super) fn end_what_runs(&mut self) -> Before {
        self.probing = None;
        let run = std::mem::replace(&mut self.activity, Activity::Idle).into_run();
        let child = self.child.take();
        self.child_ended = false;
        async move {
            if let Some(run) = run {
                run.stop().await;
            }
            if let Some(child) = child {
                child.stop().await;
            }
        }
        .boxed()
    }

    pub(super) fn advance(&mut self, advance: Advance) {
        match advance {
            Advance::Checked(wake, verdict, stage) => {
                self.activity = Activity::Idle;
                self.found(&verdict);
                match verdict {
                    Verdict::Available => self.woken(
                        wake,
                        Outcome {
                            stages: vec![stage],
                            failure: None,
                        },
                    ),
                    Verdict::Unavailable(_) => self.begin_wake(wake),
                }
            }
            Advance::Woken(wake, outcome) => {
                self.ending();
                self.woken(wake, outcome);
            }
            Advance::Slept(reason, outcome) => {
                self.ending();
                self.slept(reason, &outcome);
            }
            Advance::Ended(child) => {
                let was = std::mem::replace(&mut self.activity, Activity::Idle);
                if let Activity::Waking { wake, .. } = was {
                    let failure =
                        WakeFailure::new(WakeFailureKind::Recipe, "recipe", "the recipe's run broke off");
                    self.woken(
                        wake,
                        Outcome {
                            stages: vec![],
                            failure: Some(failure),
                        },
                    );
                }
                if child.is_some() {
                    (self.child, self.child_ended) = (child, false);
                }
                self.next_probe = Instant::now() + self.setup.config.probe.interval;
                if self.belief.availability().is_none() {
                    self.start_probe();
                }
            }
        }
    }

    /// The run's outcome is known; it goes on ending what it has left.
    fn ending(&mut self) {
        if let Some(run) = std::mem::replace(&mut self.activity, Activity::Idle).into_run() {
            self.activity = Activity::Ending { run };
        }
    }

    fn woken(&mut self, wake: WakeId, outcome: Outcome) {
        let name = self.name();
        let took_ms = outcome
            .stages
            .last()
            .map_or(0, |stage: &Stage| stage.started_after_ms + stage.took_ms);
        match &outcome.failure {
            None => info!(provider.name = %name, wake.id = %wake, took_ms, "woke {name}"),
            Some(failure) => warn!(
                provider.name = %name, wake.id = %wake, took_ms, wake.stage = failure.stage,
                "{name} did not wake: {}: {}", failure.stage, failure.reason
            ),
        }
        let was_up = self.belief.is_up();
        self.belief.wake_ended(wake, WakeOutcome::from(outcome));
        if self.belief.is_up() && !was_up {
            self.discover();
        }
    }

    /// After how long without requests the backend is put to sleep; `None` while it can't be.
    pub(super) fn idle_limit(&self) -> Option<Duration> {
        let limit = self.setup.config.sleep.as_ref()?.idle_after?;
        self.can_sleep().ok().filter(|()| self.belief.is_up())?;
        Some(limit)
    }

    fn can_sleep(&self) -> Result<(), &'static str> {
        let config = &self.setup.config;
        let steps = config.sleep.as_ref().is_some_and(|sleep| !sleep.steps.is_empty());
        let served = self.child.is_some() && !self.child_ended;
        if !steps && !served {
            return Err(if config.wake.as_ref().is_some_and(WakeConfig::serves) {
                "its backend was not started by this agent"
            } else {
                "it has no sleep recipe"
            });
        }
        if config.wake.is_none() {
            return Err("it has no wake recipe, so nothing would wake it again");
        }
        if self.activity.is_idle() {
            Ok(())
        } else {
            Err("one of its recipes is running")
        }
    }

    pub(super) fn sleep_ordered(&mut self) -> Result<(), &'static str> {
        if !self.belief.is_up() && self.belief.availability().is_some() && self.activity.is_idle() {
            return Ok(());
        }
        self.can_sleep()?;
        if !self.gate.close_if_idle(Duration::ZERO) {
            return Err("requests are in flight");
        }
        self.begin_sleep(SleepReason::Operator);
        Ok(())
    }

    /// Control hears of it before the recipe has ended: a request that comes meanwhile cancels it by a wake.
    pub(super) fn begin_sleep(&mut self, reason: SleepReason) {
        info!(provider.name = %self.name(), "putting {} to sleep", self.name());
        self.belief.down(reason);
        let steps = self
            .setup
            .config
            .sleep
            .as_ref()
            .map(|sleep| sleep.steps.clone())
            .unwrap_or_default();
        // Without steps its served backend is ended; with them it sleeps in its process.
        let before = if steps.is_empty() {
            self.end_what_runs()
        } else {
            async {}.boxed()
        };
        self.probing = None;
        let run = Run::sleep(self.setup.runner.clone(), steps, before);
        self.activity = Activity::Sleeping { reason, run };
    }

    fn slept(&mut self, reason: SleepReason, outcome: &Outcome) {
        let name = self.name();
        match &outcome.failure {
            None => info!(provider.name = %name, "{name} sleeps ({reason:?})"),
            Some(failure) => {
                warn!(provider.name = %name, "{name} could not be put to sleep: {}: {}", failure.stage, failure.reason);
                self.belief.doubt();
            }
        }
    }
}
