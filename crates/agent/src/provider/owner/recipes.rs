//! How the owner runs recipes: when one begins, what must end before, and what follows from its outcome.

use super::{Owner, sleep_state::Woken};
use crate::{
    child::Hint,
    config::{CancelWake, WakeConfig},
    output,
    provider::{
        activity::{Activity, Advance, stage},
        last_sleep::Attempt,
        reported_state::Signs,
    },
    recipe::{Before, Ended, Outcome, Run},
};
use futures::FutureExt;
use reveille_bus::wakes::WakeMessage;
use reveille_domain::{
    GROUP_STAGE, SleepReason, Stage, WakeFailure, WakeFailureKind, WakeId, WakeOutcome, provider::StatusName,
};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How long a backend that was woken for requests stays awake for the first of them, whatever `idle_after`, `min_awake` and its
/// group say. Otherwise a backend that may sleep before a request arrives would never answer one.
pub(super) const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// How much of what a failed command has printed the log has.
const LOGGED_LINES: usize = 5;
const LOGGED_BYTES: usize = 1024;
/// The target of those lines, by which `REVEILLE_LOG` can leave them out.
const PRINTED: &str = "reveille_agent::printed";

impl Owner {
    pub(super) fn wake(&mut self, wake: &WakeMessage) {
        let current = self.setup.epoch.get() == Some(wake.epoch) && wake.provider.provider == *self.name();
        if current && wake.awaited {
            self.await_requests(wake.wake_id);
        }
        if self.is_leaving() {
            // The next owner hears of it from the answer to its registration.
            return;
        }
        // Before it is registered, the wake may be long over; the answer to the registration has the wake in flight.
        if !current || wake.sequence < self.seen || self.reported.status().is_none() {
            debug!(wake.id = %wake.wake_id, "ignored an outdated wake");
            return;
        }
        self.seen = wake.sequence;
        self.demand.hear(wake, Instant::now());
        if self.setup.config.wake.is_none() {
            warn!(provider.name = %self.name(), "{} can't be woken: it has no wake recipe", self.name());
            return;
        }
        let cancelled = self.sleep.cancelled.as_ref();
        if cancelled.is_some_and(|(cancelled, _)| *cancelled == wake.wake_id) {
            // Whoever wants it now asks for the next one.
            return;
        }
        if !self.reported.wake_asked(wake.wake_id) {
            return;
        }
        match &mut self.activity {
            // What already runs serves this wake too.
            Activity::Checking { wake: id, .. }
            | Activity::Queued { wake: id, .. }
            | Activity::Waking { wake: id, .. } => *id = wake.wake_id,
            // A backend that runs both recipes at once may end up either way.
            Activity::Draining { .. } | Activity::Sleeping { .. } => self.sleep.pending = Some(wake.wake_id),
            Activity::Idle => self.look_or_wake(wake.wake_id),
            Activity::Ending { .. } => self.begin_wake(wake.wake_id),
        }
    }

    /// Requests wait for this wake. If one has joined just as the wake ended, this comes after its end.
    fn await_requests(&mut self, wake: WakeId) {
        self.sleep.awaited = Some(wake);
        let Some(woken) = self.sleep.last_woken.filter(|woken| woken.wake == wake) else {
            return;
        };
        if self.reported.is_up() {
            let until = woken.at + ARRIVAL_LIMIT;
            self.gate.expect_unless_entered(woken.entries, until);
        }
    }

    pub(super) fn look_or_wake(&mut self, wake: WakeId) {
        if !self.worth_a_check() {
            return self.begin_wake(wake);
        }
        info!(provider.name = %self.name(), wake.id = %wake, "asked to wake");
        let (began, check) = (Instant::now(), self.check(true).verdict);
        self.probing = None;
        self.activity = Activity::Checking { wake, began, check };
    }

    /// Whether to probe before running the recipe. A probe of a machine that is off, and the completion of a backend that has
    /// failed, may take their whole time-outs; but a running served backend isn't ended without a probe, and a member of the
    /// group may wait for this one's answer.
    fn worth_a_check(&self) -> bool {
        if self.sleep.failed_eviction.is_some() {
            return true;
        }
        self.suspicion.failed.is_none() && (!self.slow_probe || self.child.is_some())
    }

    /// Begins a wake if the owner of the machine allows it, once the groups have room.
    fn begin_wake(&mut self, wake: WakeId) {
        if self.refuse_wake(wake) {
            return;
        }
        if let Err(failure) = self.allowance.check() {
            return self.woken(wake, Outcome::of(failure));
        }
        let Some(group) = &self.group else {
            return self.run_wake(wake, None);
        };
        let turn = group.acquire(wake).boxed();
        let runs = self.child.is_some() || !self.activity.is_idle();
        let earlier = Some(self.end_what_runs()).filter(|_| runs);
        self.activity = Activity::Queued {
            wake,
            began: Instant::now(),
            earlier,
            turn,
        };
    }

    /// Leaves the queue of the groups, if its wake is there. Returns the wake, and how long it has waited.
    pub(super) fn leave_queue(&mut self) -> Option<(WakeId, Stage)> {
        let Activity::Queued { wake, began, .. } = &self.activity else {
            return None;
        };
        let left = (*wake, stage(GROUP_STAGE, *began));
        self.activity = std::mem::replace(&mut self.activity, Activity::Idle).after_queue();
        Some(left)
    }

    /// When the wake is no longer wanted that waits for its groups, or whose recipe may be ended for that.
    pub(super) fn end_of_demand(&self) -> Option<Instant> {
        match &self.activity {
            Activity::Queued { wake, .. } => self.demand.end_of(*wake),
            Activity::Waking { wake, .. } => match self.setup.config.cancel_wake {
                CancelWake::WhenUnwanted => self.demand.end_of(*wake),
                CancelWake::Never => None,
            },
            Activity::Idle
            | Activity::Checking { .. }
            | Activity::Draining { .. }
            | Activity::Sleeping { .. }
            | Activity::Ending { .. } => None,
        }
    }

    /// Ends the wake because nobody wants it any longer: no other backend sleeps for it. If its recipe runs, the backend is put to
    /// sleep again first.
    pub(super) fn withdraw_wake(&mut self) {
        let Some((wake, waited)) = self.leave_queue() else {
            return self.cancel_wake();
        };
        let why = "it only waited for its group, and nobody waited for it any longer";
        let failure = WakeFailure::new(WakeFailureKind::NotNeeded, GROUP_STAGE, why);
        self.woken(wake, Outcome::of(failure).after(Some(waited)));
    }

    fn cancel_wake(&mut self) {
        let Activity::Waking { wake, waited, .. } = &mut self.activity else {
            return;
        };
        let (wake, waited) = (*wake, waited.take());
        info!(provider.name = %self.name(), wake.id = %wake, "ends the wake of {}: nobody wants it any longer", self.name());
        self.sleep.cancelled = Some((wake, waited));
        self.gate.close();
        let sleep = self.setup.config.sleep.as_ref();
        let mut steps = sleep.map(|sleep| sleep.steps.clone()).unwrap_or_default();
        if self.serves() {
            // Its process ends with the recipe.
            steps = self.end_step().into_iter().collect();
        }
        let before = self.end_what_runs();
        let run = Run::sleep(self.setup.runner.clone(), steps, self.probe.clone(), before);
        self.activity = Activity::Sleeping {
            intent: SleepReason::Idle.into(),
            run,
        };
    }

    /// The backend of a wake that nobody wanted sleeps again, or doesn't. One that was `ordered` to sleep meanwhile is then put to sleep
    /// for that, if it is awake.
    pub(super) fn cancelled(
        &mut self,
        wake: WakeId,
        waited: Option<Stage>,
        ordered: Option<Attempt>,
        sleep: &Outcome,
    ) {
        match &sleep.failure {
            None => self.resource.release(),
            Some(failure) => {
                let (name, stage, reason) = (self.name(), &failure.stage, &failure.reason);
                warn!(provider.name = %name, "{name} could not be put to sleep: {stage}: {reason}");
                self.sleep.rest_wanted = self.sleep.rest_wanted.or(ordered);
            }
        }
        let why = "nobody waited for it any longer, so its recipe was ended (cancel_wake)";
        let failure = WakeFailure::new(WakeFailureKind::NotNeeded, "wake", why);
        self.woken(wake, Outcome::of(failure).after(waited));
        if sleep.failure.is_some() {
            // It may be up all the same, which a probe finds out at once.
            self.reported.doubt();
        }
    }

    fn run_wake(&mut self, wake: WakeId, waited: Option<Stage>) {
        let Some(recipe) = self.setup.config.wake.clone() else {
            return;
        };
        info!(provider.name = %self.name(), wake.id = %wake, "waking {}", self.name());
        self.allowance.take();
        self.resource.hold();
        let before = self.end_what_runs();
        let run = Run::wake(self.setup.runner.clone(), recipe, self.probe.clone(), before);
        self.activity = Activity::Waking { wake, waited, run };
    }

    /// Takes what runs, and returns a future that ends it.
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
                let was_up = self.reported.is_up();
                self.found(&verdict, Signs::default());
                match verdict {
                    Ok(()) => {
                        let stages = vec![stage];
                        self.woken(
                            wake,
                            Outcome {
                                stages,
                                failure: None,
                            },
                        );
                        if !was_up {
                            self.list(true);
                        }
                    }
                    Err(_) => self.begin_wake(wake),
                }
            }
            Advance::Turn(wake, waited, come) => {
                self.activity = Activity::Idle;
                if come.is_ok() && self.reported.status() != Some(StatusName::Waking) {
                    // If it is in flight after all, the next answer of control has it.
                    info!(provider.name = %self.name(), wake.id = %wake, "didn't wake: control no longer has the wake");
                    return;
                }
                let come = come
                    .map_err(|why| WakeFailure::new(WakeFailureKind::GroupBlocked, GROUP_STAGE, &why))
                    // The owner of the machine may have paused the agent meanwhile.
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
            Advance::Drained(intent) => self.begin_sleep(intent),
            // Nothing is worth waiting for at a backend that has failed, or that has to stop by now.
            Advance::NotDrained(intent) if intent.reason == SleepReason::Failed || self.is_stopping() => {
                self.begin_sleep(intent);
            }
            Advance::NotDrained(intent) => {
                self.activity = Activity::Idle;
                self.not_drained(intent);
            }
            Advance::Slept(intent, outcome) => {
                self.ending();
                self.slept(intent, &outcome);
            }
            Advance::Ended(Ended {
                served,
                printed,
                hint,
            }) => {
                self.log_printed(&printed, hint.as_ref());
                let was = std::mem::replace(&mut self.activity, Activity::Idle);
                if let Activity::Waking { wake, .. } = was {
                    let failure = WakeFailure::new(
                        WakeFailureKind::Recipe,
                        "recipe",
                        "the run of the recipe was aborted",
                    );
                    self.woken(wake, Outcome::of(failure));
                }
                match served {
                    Some(child) => (self.child, self.child_ended) = (Some(child), false),
                    None if self.serves() && self.child.is_none() => self.resource.release(),
                    None => {}
                }
                self.next_probe = Instant::now() + self.setup.config.probe.interval;
                if self.reported.availability().is_none() {
                    self.start_probe();
                }
            }
        }
    }

    /// The outcome of the run is known; its children are still ending.
    fn ending(&mut self) {
        if let Some(run) = std::mem::replace(&mut self.activity, Activity::Idle).into_run() {
            self.activity = Activity::Ending { run };
        }
    }

    pub(super) fn woken(&mut self, wake: WakeId, outcome: Outcome) {
        let name = self.name();
        let took_ms = outcome
            .stages
            .last()
            .map_or(0, |stage: &Stage| stage.started_after_ms + stage.took_ms);
        match &outcome.failure {
            None => info!(provider.name = %name, wake.id = %wake, took_ms, "woke {name}"),
            Some(WakeFailure {
                kind: WakeFailureKind::NotNeeded,
                reason,
                ..
            }) => info!(provider.name = %name, wake.id = %wake, took_ms, "didn't wake {name}: {reason}"),
            Some(failure) => warn!(
                provider.name = %name, wake.id = %wake, took_ms, wake.stage = failure.stage,
                "{name} did not wake: {}: {}", failure.stage, failure.reason
            ),
        }
        let was_up = self.reported.is_up();
        self.reported.wake_ended(wake, WakeOutcome::from(outcome));
        if !self.reported.is_up() {
            return;
        }
        self.recovered();
        self.sleep.last_woken = Some(Woken {
            wake,
            at: Instant::now(),
            entries: self.gate.entries(),
        });
        if self.sleep.awaited == Some(wake) {
            self.await_requests(wake);
        }
        if !was_up {
            self.list(true);
        }
    }

    /// Logs the last lines that a failed command has printed, and what to do about them. This log and the file that keeps the rest are
    /// the only places for them: a backend may print what it was asked.
    pub(super) fn log_printed(&self, printed: &str, hint: Option<&Hint>) {
        let name = self.name();
        // One by one, so that no line looks like one of the agent's own.
        for line in output::end_of(printed, LOGGED_LINES, LOGGED_BYTES) {
            warn!(target: PRINTED, { provider.name = %name }, "{name} printed: {line}");
        }
        match hint {
            Some(Hint::Answer { text, .. }) => {
                warn!(target: PRINTED, { provider.name = %name }, "{name} was answered: {text}");
            }
            Some(hint) => warn!(provider.name = %name, "hint for {name}: {hint}"),
            None => {}
        }
    }

    pub(super) fn serves(&self) -> bool {
        self.setup.config.wake.as_ref().is_some_and(WakeConfig::serves)
    }
}
