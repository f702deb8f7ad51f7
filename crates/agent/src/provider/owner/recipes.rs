//! What the owner does with recipes: when one begins, what must be gone before it, and what follows from its end.

use super::{Owner, Woken};
use crate::{
    config::WakeConfig,
    probe::Verdict,
    provider::activity::{Activity, Advance},
    recipe::{Before, Outcome, Run},
};
use futures::FutureExt;
use reveille_bus::wakes::WakeMessage;
use reveille_domain::{
    GROUP_STAGE, Stage, WakeFailure, WakeFailureKind, WakeId, WakeOutcome, provider::StatusName,
};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How long a backend that was woken for requests waits for the first of them, whatever `idle_after`, `min_awake` and its
/// group say. Without that, a backend that may sleep sooner than a request arrives would never answer anybody.
pub(super) const EXPECTED_WITHIN: Duration = Duration::from_secs(30);

impl Owner {
    pub(super) fn wake(&mut self, wake: &WakeMessage) {
        let current = self.setup.epoch.get() == Some(wake.epoch) && wake.provider.provider == *self.name();
        if current && wake.awaited {
            self.await_requests(wake.wake_id);
        }
        // While it isn't registered, the wake may be long over: the answer to its registration tells of one in flight.
        if !current || wake.sequence < self.seen || self.belief.status().is_none() {
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
        match &mut self.activity {
            // What runs already serves this wake too.
            Activity::Checking { wake: id, .. }
            | Activity::Queued { wake: id, .. }
            | Activity::Waking { wake: id, .. } => *id = wake.wake_id,
            // A backend that is told to sleep and to wake at once may do either.
            Activity::Draining { .. } | Activity::Sleeping { .. } => self.pending = Some(wake.wake_id),
            Activity::Idle => self.look_or_wake(wake.wake_id),
            Activity::Ending { .. } => self.begin_wake(wake.wake_id),
        }
    }

    /// Requests wait for a wake. One of them may have joined when it had just ended, so this may come after its end.
    fn await_requests(&mut self, wake: WakeId) {
        self.awaited = Some(wake);
        let Some(woken) = self.last_woken.filter(|woken| woken.wake == wake) else {
            return;
        };
        if self.belief.is_up() && self.gate.entries() == woken.entries {
            self.gate.expect(woken.at + EXPECTED_WITHIN);
        }
    }

    pub(super) fn look_or_wake(&mut self, wake: WakeId) {
        if !self.worth_a_check() {
            return self.begin_wake(wake);
        }
        info!(provider.name = %self.name(), wake.id = %wake, "asked to wake");
        let (began, check) = (Instant::now(), self.check());
        self.probing = None;
        self.activity = Activity::Checking { wake, began, check };
    }

    /// Whether to look first if the backend is up, rather than run the recipe at once. A machine that is off may
    /// take the probe's whole time-out to say nothing; a served backend that runs isn't ended without a look, and somebody
    /// may wait to hear whether room can be made.
    fn worth_a_check(&self) -> bool {
        !self.slow_probe || self.child.is_some() || self.no_room.is_some()
    }

    /// Begins a wake, as soon as its owner allows it and its group has room.
    fn begin_wake(&mut self, wake: WakeId) {
        if let Err(failure) = self.allowance.check() {
            return self.woken(wake, Outcome::of(failure));
        }
        let Some(group) = &self.group else {
            return self.run_wake(wake, None);
        };
        let turn = group.take_turn(wake).boxed();
        let earlier = self.end_what_runs();
        let turn = async move {
            earlier.await;
            turn.await
        };
        self.activity = Activity::Queued {
            wake,
            began: Instant::now(),
            turn: turn.boxed(),
        };
    }

    /// Control has no wake in flight: one that waits for its group's room gives up its turn.
    pub(super) fn leave_queue(&mut self) {
        if let Activity::Queued { wake, .. } = &self.activity {
            info!(provider.name = %self.name(), wake.id = %wake, "no longer waiting for room: the wake has ended");
            self.activity = Activity::Idle;
        }
    }

    fn run_wake(&mut self, wake: WakeId, waited: Option<Stage>) {
        let Some(recipe) = self.setup.config.wake.clone() else {
            return;
        };
        info!(provider.name = %self.name(), wake.id = %wake, "waking {}", self.name());
        self.allowance.take();
        self.vacancy.hold();
        let before = self.end_what_runs();
        let run = Run::wake(self.setup.runner.clone(), recipe, self.probe.clone(), before);
        self.activity = Activity::Waking { wake, waited, run };
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
            Advance::Turn(wake, waited, come) => {
                self.activity = Activity::Idle;
                if come.is_ok() && self.belief.status() != Some(StatusName::Waking) {
                    // Should it be in flight after all, the next answer of control tells of it.
                    info!(provider.name = %self.name(), wake.id = %wake, "not waking: control no longer has the wake");
                    return;
                }
                let come = come
                    .map_err(|why| WakeFailure::new(WakeFailureKind::GroupBlocked, GROUP_STAGE, &why))
                    // Its owner may have changed his mind meanwhile.
                    .and_then(|()| self.allowance.check());
                match come {
                    Ok(()) => self.run_wake(wake, Some(waited)),
                    Err(failure) => self.woken(wake, Outcome::of(failure).after(Some(waited))),
                }
            }
            Advance::Woken(wake, outcome) => {
                self.ending();
                self.woken(wake, outcome);
            }
            Advance::Drained(departure) => self.begin_sleep(departure),
            Advance::NotDrained(departure) => {
                self.activity = Activity::Idle;
                self.not_drained(departure);
            }
            Advance::Slept(departure, outcome) => {
                self.ending();
                self.slept(departure, &outcome);
            }
            Advance::Ended(child) => {
                let was = std::mem::replace(&mut self.activity, Activity::Idle);
                if let Activity::Waking { wake, .. } = was {
                    let failure =
                        WakeFailure::new(WakeFailureKind::Recipe, "recipe", "the recipe's run broke off");
                    self.woken(wake, Outcome::of(failure));
                }
                match child {
                    Some(child) => (self.child, self.child_ended) = (Some(child), false),
                    None if self.serves() && self.child.is_none() => self.vacancy.vacate(),
                    None => {}
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
        self.broke_off &= !self.belief.is_up();
        if !self.belief.is_up() {
            return;
        }
        self.last_woken = Some(Woken {
            wake,
            at: Instant::now(),
            entries: self.gate.entries(),
        });
        if self.awaited == Some(wake) {
            self.await_requests(wake);
        }
        if !was_up {
            self.discover();
        }
    }

    pub(super) fn serves(&self) -> bool {
        self.setup.config.wake.as_ref().is_some_and(WakeConfig::serves)
    }
}
