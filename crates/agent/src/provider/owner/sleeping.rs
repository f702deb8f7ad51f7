//! How the owner puts its backend to sleep: when, and after which requests.

use super::Owner;
use crate::{
    config::{Action, Step},
    listeners::LocalPort,
    provider::{
        activity::Activity,
        last_sleep::{Attempt, WantedBy},
        reported_state::SleepIntent,
    },
    recipe::{Outcome, Run},
};
use futures::{FutureExt, future::OptionFuture};
use jiff::Zoned;
use reveille_domain::{Availability, SleepReason, counted, provider::StatusName};
use std::{fmt, time::Duration};
use tokio::{sync::oneshot, time::Instant};
use tracing::{info, warn};

/// How long requests may take to finish when an operator puts the backend to sleep. No other request is let in meanwhile.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Why a backend can't be put to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CannotSleep {
    NoSleepRecipe,
    NoWakeRecipe,
    /// Somebody else has started the served backend.
    NotOurs,
    BeingWoken,
    RecipeRuns,
}

impl fmt::Display for CannotSleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSleepRecipe => "it has no sleep recipe",
            Self::NoWakeRecipe => "it has no wake recipe, so nothing would wake it again",
            Self::NotOurs => {
                "this agent didn't start its backend, so it can't stop it: end that program once (a service with \
                 `systemctl disable --now`), and the next request starts it"
            }
            Self::BeingWoken => "it is being woken",
            Self::RecipeRuns => "one of its recipes is running",
        })
    }
}

impl Owner {
    // ── When ──

    /// How long the backend must be idle before it sleeps, and the earliest time for that; `None` while it can't sleep.
    pub(super) fn idle_limit(&self) -> Option<(Duration, Instant)> {
        let limit = self.setup.config.sleep.as_ref()?.idle_after?;
        // Until control has it as active, its answer may say that a request waits for it.
        let is_known = self.reported.is_up() && self.reported.status() == Some(StatusName::Active);
        self.can_sleep().ok().filter(|()| is_known)?;
        let awake_until = self.sleep.awake_since? + self.setup.config.min_awake();
        let others = [self.kept_warm(), self.sleep.not_before];
        let not_before = others.into_iter().flatten().fold(awake_until, Instant::max);
        Some((limit, not_before))
    }

    /// The end of the current `keep_warm` hours.
    pub(super) fn kept_warm(&self) -> Option<Instant> {
        let hours = &self.setup.config.sleep.as_ref()?.keep_warm;
        Some(Instant::now() + hours.left(&Zoned::now())?)
    }

    pub(super) fn can_sleep(&self) -> Result<(), CannotSleep> {
        let config = &self.setup.config;
        let steps = config.sleep.as_ref().is_some_and(|sleep| !sleep.steps.is_empty());
        if !steps && !self.serves() {
            return Err(CannotSleep::NoSleepRecipe);
        }
        if config.wake.is_none() {
            return Err(CannotSleep::NoWakeRecipe);
        }
        match &self.activity {
            Activity::Idle if steps || self.child.is_some() || self.end_step().is_some() => Ok(()),
            Activity::Idle => Err(CannotSleep::NotOurs),
            Activity::Checking { .. } | Activity::Queued { .. } | Activity::Waking { .. } => {
                Err(CannotSleep::BeingWoken)
            }
            Activity::Draining { .. } | Activity::Sleeping { .. } | Activity::Ending { .. } => {
                Err(CannotSleep::RecipeRuns)
            }
        }
    }

    /// An operator orders it to sleep. The order is carried out even if its sender is gone.
    pub(super) fn sleep_ordered(&mut self, reply: oneshot::Sender<Result<(), String>>) {
        let Err(why) = self.obey() else {
            let _ = reply.send(Ok(()));
            return;
        };
        let explained = self.explained(why);
        let is_stuck = why == CannotSleep::NotOurs;
        let attempt = is_stuck.then(|| self.last_sleep.begin(WantedBy::Operator));
        let last = self.last_sleep.clone();
        let explain = async move {
            let why = explained.await;
            last.failed(attempt, &why);
            let _ = reply.send(Err(why));
        };
        self.explaining.push(explain.boxed());
    }

    /// Why it can't sleep, with the program that is in the way.
    fn explained(&self, why: CannotSleep) -> impl Future<Output = String> + use<> {
        let port = self.probe.port().filter(|_| why == CannotSleep::NotOurs).cloned();
        async move {
            match OptionFuture::from(port.as_ref().map(LocalPort::taken))
                .await
                .flatten()
            {
                Some(taken) => format!("{taken}; {why}"),
                None => why.to_string(),
            }
        }
    }

    fn obey(&mut self) -> Result<(), CannotSleep> {
        let asleep =
            !self.reported.is_up() && self.reported.availability().is_some() && self.activity.is_idle();
        if asleep {
            return Ok(());
        }
        if let Activity::Draining { intent, .. } | Activity::Sleeping { intent, .. } = &mut self.activity {
            let attempt = intent.attempt.or(self.sleep.rest_wanted);
            let attempt = attempt.unwrap_or_else(|| self.last_sleep.begin(WantedBy::Operator));
            intent.attempt = Some(attempt);
            if intent.reason == SleepReason::Group {
                // The group may withdraw its request, but the operator doesn't.
                self.sleep.rest_wanted = Some(attempt);
            }
            return Ok(());
        }
        self.can_sleep()?;
        let attempt = self.last_sleep.begin(WantedBy::Operator);
        // An explicit order doesn't wait for requests that are expected: they may wake the backend again.
        self.drain(SleepIntent::ordered(attempt), Instant::now() + DRAIN_LIMIT);
        Ok(())
    }

    /// A pause wants it asleep with this attempt, or no longer does.
    pub(super) fn rest_ordered(&mut self, attempt: Option<Attempt>) {
        self.sleep.rest_wanted = attempt;
        if attempt.is_none() {
            self.last_sleep.pause_ended();
        }
    }

    /// Puts the backend to sleep if a pause wants that and nothing else is done with it. The owner of the machine has the last
    /// word, so this doesn't wait for requests that are expected either.
    fn rest(&mut self) {
        if !self.activity.is_idle() || self.reported.availability().is_none() {
            return;
        }
        let Some(attempt) = self.sleep.rest_wanted.take() else {
            return;
        };
        if !self.reported.is_up() {
            return;
        }
        match self.can_sleep() {
            Ok(()) => self.drain(SleepIntent::ordered(attempt), Instant::now() + DRAIN_LIMIT),
            Err(why) => {
                let (name, explained) = (self.name().clone(), self.explained(why));
                let last = self.last_sleep.clone();
                let explain = async move {
                    let why = explained.await;
                    warn!(provider.name = %name, "{name} stays awake: {why}");
                    last.failed(Some(attempt), &why);
                };
                self.explaining.push(explain.boxed());
            }
        }
    }

    /// Notes what has come of the last attempt to put it to sleep, as far as its state shows.
    fn note_sleep(&self) {
        match self.reported.availability() {
            Some(Availability::Unavailable) if self.activity.is_idle() => self.last_sleep.is_asleep(),
            Some(Availability::Available) => self.last_sleep.is_awake(),
            Some(Availability::Unavailable) | None => {}
        }
    }

    // ── How ──

    /// Closes the gate, and puts the backend to sleep when the last request has left.
    pub(super) fn drain(&mut self, intent: SleepIntent, until: Instant) {
        self.gate.close();
        self.probing = None;
        let waits_for = self.gate.in_flight();
        if waits_for > 0 {
            info!(
                provider.name = %self.name(), provider.in_flight = waits_for,
                "{} will sleep after {} in progress", self.name(), counted(waits_for, "request")
            );
        }
        self.activity = Activity::Draining {
            intent,
            gate: self.gate.clone(),
            until,
        };
    }

    pub(super) fn not_drained(&mut self, intent: SleepIntent) {
        warn!(
            provider.name = %self.name(), provider.in_flight = self.gate.in_flight(),
            "{} stays awake: its requests didn't finish in time", self.name()
        );
        let why = "its requests didn't finish in time";
        self.last_sleep.failed(intent.attempt, why);
        if let (Some(group), Some(request)) = (&self.group, self.eviction_for(intent)) {
            group.refuse(&request, "still worked on requests");
        }
    }

    /// Runs the sleep recipe. The gate is closed, and no request is inside, unless the backend has failed.
    pub(super) fn begin_sleep(&mut self, intent: SleepIntent) {
        info!(provider.name = %self.name(), "putting {} to sleep", self.name());
        let sleep = self.setup.config.sleep.as_ref();
        let mut steps = sleep.map(|sleep| sleep.steps.clone()).unwrap_or_default();
        if self.is_leaving() && self.child.is_some() {
            // Its process must end anyway.
            steps.clear();
        }
        // Without steps the served backend is stopped; with steps it sleeps in its process.
        let before = if steps.is_empty() {
            if self.child.is_none() {
                steps.extend(self.end_step());
            }
            self.end_what_runs()
        } else {
            async {}.boxed()
        };
        self.probing = None;
        let run = Run::sleep(self.setup.runner.clone(), steps, self.probe.clone(), before);
        self.activity = Activity::Sleeping { intent, run };
    }

    /// What puts a served backend to sleep that isn't a child, such as a container of an earlier run of the agent.
    pub(super) fn end_step(&self) -> Option<Step> {
        let end = self.setup.config.wake.as_ref()?.end()?;
        Some(Step {
            timeout: end.timeout,
            action: Action::Once(end.command.clone()),
        })
    }

    /// The sleep recipe has ended. Control hears of a sleep only now that it has happened.
    pub(super) fn slept(&mut self, intent: SleepIntent, outcome: &Outcome) {
        if let Some((wake, waited)) = self.sleep.cancelled.take() {
            return self.cancelled(wake, waited, intent.attempt, outcome);
        }
        let name = self.name();
        let Some(failure) = &outcome.failure else {
            info!(provider.name = %name, "{name} sleeps ({})", intent.reason);
            self.resource.release();
            self.sleep.succeeded();
            return self.reported.down(intent);
        };
        warn!(provider.name = %name, "{name} could not be put to sleep: {}: {}", failure.stage, failure.reason);
        self.sleep.failed();
        let why = format!("its sleep recipe failed: {}: {}", failure.stage, failure.reason);
        self.last_sleep.failed(intent.attempt, &why);
        self.sleep.failed_eviction = self.eviction_for(intent).map(|request| {
            let why = format!("could not be put to sleep: {}: {}", failure.stage, failure.reason);
            (request, why)
        });
        if intent.reason == SleepReason::Failed {
            // Awake or not, it is of no use before the next wake.
            return self.reported.down(intent);
        }
        self.reported.doubt();
    }

    // ── What had to wait ──

    /// Begins what had to wait: makes room for others, rests, and then wakes.
    pub(super) fn go_on(&mut self) {
        // First, since the requests of the group depend on it.
        self.settle_group();
        self.note_sleep();
        if self.is_leaving() {
            return self.go_on_leaving();
        }
        self.end_outdated_drain();
        self.make_room();
        self.rest();
        if self.activity.is_idle()
            && let Some(wake) = self.sleep.pending.take()
        {
            self.look_or_wake(wake);
        }
    }
}
