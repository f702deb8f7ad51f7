//! How the owner puts its backend to sleep: when, after which requests, and for whom.

use super::Owner;
use crate::{
    probe::Verdict,
    provider::{
        activity::Activity,
        groups::{EvictionRequest, Membership},
        reported_state::SleepIntent,
    },
    recipe::{Outcome, Run},
};
use futures::FutureExt;
use jiff::Zoned;
use reveille_domain::{SleepReason, provider::StatusName};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long requests may take to finish when an operator puts the backend to sleep. No other request is let in meanwhile.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

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

    fn can_sleep(&self) -> Result<(), &'static str> {
        let config = &self.setup.config;
        let steps = config.sleep.as_ref().is_some_and(|sleep| !sleep.steps.is_empty());
        if !steps && !self.serves() {
            return Err("it has no sleep recipe");
        }
        if config.wake.is_none() {
            return Err("it has no wake recipe, so nothing would wake it again");
        }
        match &self.activity {
            Activity::Idle if steps || self.child.is_some() => Ok(()),
            Activity::Idle => Err("this agent didn't start its backend, so it can't stop it"),
            Activity::Checking { .. } | Activity::Queued { .. } | Activity::Waking { .. } => {
                Err("it is being woken")
            }
            Activity::Draining { .. } | Activity::Sleeping { .. } | Activity::Ending { .. } => {
                Err("one of its recipes is running")
            }
        }
    }

    pub(super) fn sleep_ordered(&mut self) -> Result<(), &'static str> {
        let asleep =
            !self.reported.is_up() && self.reported.availability().is_some() && self.activity.is_idle();
        if asleep {
            return Ok(());
        }
        if let Activity::Draining { intent, .. } | Activity::Sleeping { intent, .. } = &self.activity {
            // The group may withdraw its request, but the operator doesn't.
            self.sleep.rest_wanted |= intent.reason == SleepReason::Group;
            return Ok(());
        }
        self.can_sleep()?;
        // An explicit order doesn't wait for requests that are expected: they may wake the backend again.
        self.drain(SleepReason::Operator.into(), Instant::now() + DRAIN_LIMIT);
        Ok(())
    }

    /// Puts the backend to sleep if a pause wants that and nothing else is done with it. The owner of the machine has the last
    /// word, so this doesn't wait for requests that are expected either.
    fn rest(&mut self) {
        if !self.sleep.rest_wanted || !self.activity.is_idle() || self.reported.availability().is_none() {
            return;
        }
        self.sleep.rest_wanted = false;
        if !self.reported.is_up() {
            return;
        }
        match self.can_sleep() {
            Ok(()) => self.drain(SleepReason::Operator.into(), Instant::now() + DRAIN_LIMIT),
            Err(why) => info!(provider.name = %self.name(), "{} stays awake: {why}", self.name()),
        }
    }

    // ── How ──

    /// Closes the gate, and puts the backend to sleep when the last request has left.
    fn drain(&mut self, intent: SleepIntent, until: Instant) {
        self.gate.close();
        self.probing = None;
        let waits_for = self.gate.in_flight();
        if waits_for > 0 {
            info!(
                provider.name = %self.name(), provider.in_flight = waits_for,
                "{} will sleep when its {waits_for} requests have finished", self.name()
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
        if let (Some(group), Some(request)) = (&self.group, self.eviction_for(intent)) {
            group.refuse(&request, "still worked on requests");
        }
    }

    /// The eviction request behind `intent`, if it is still the current one.
    fn eviction_for(&self, intent: SleepIntent) -> Option<EvictionRequest> {
        let wanted = self.group.as_ref().and_then(Membership::eviction);
        wanted.filter(|request| intent.for_wake == Some(request.for_wake))
    }

    /// Runs the sleep recipe. The gate is closed, and no request is inside.
    pub(super) fn begin_sleep(&mut self, intent: SleepIntent) {
        info!(provider.name = %self.name(), "putting {} to sleep", self.name());
        let sleep = self.setup.config.sleep.as_ref();
        let steps = sleep.map(|sleep| sleep.steps.clone()).unwrap_or_default();
        // Without steps the served backend is stopped; with steps it sleeps in its process.
        let before = if steps.is_empty() {
            self.end_what_runs()
        } else {
            async {}.boxed()
        };
        self.probing = None;
        let run = Run::sleep(self.setup.runner.clone(), steps, self.probe.clone(), before);
        self.activity = Activity::Sleeping { intent, run };
    }

    /// The sleep recipe has ended. Control hears of a sleep only now that it has happened.
    pub(super) fn slept(&mut self, intent: SleepIntent, outcome: &Outcome) {
        let name = self.name();
        let Some(failure) = &outcome.failure else {
            info!(provider.name = %name, "{name} sleeps ({:?})", intent.reason);
            self.resource.release();
            self.sleep.succeeded();
            return self.reported.down(intent);
        };
        warn!(provider.name = %name, "{name} could not be put to sleep: {}: {}", failure.stage, failure.reason);
        self.sleep.failed();
        self.sleep.failed_eviction = self.eviction_for(intent).map(|request| {
            let why = format!("could not be put to sleep: {}: {}", failure.stage, failure.reason);
            (request, why)
        });
        self.reported.doubt();
    }

    // ── For its group ──

    /// Begins what had to wait: makes room for others, rests, and then wakes.
    pub(super) fn go_on(&mut self) {
        // First, since the requests of the group depend on it.
        self.settle_group();
        self.end_outdated_drain();
        self.make_room();
        self.rest();
        if self.activity.is_idle()
            && let Some(wake) = self.sleep.pending.take()
        {
            self.look_or_wake(wake);
        }
    }

    /// Ends a drain for an eviction request that is no longer the current one.
    fn end_outdated_drain(&mut self) {
        let wanted = self.group.as_ref().and_then(Membership::eviction);
        if let Activity::Draining { intent, .. } = &self.activity
            && intent.reason == SleepReason::Group
            && intent.for_wake != wanted.map(|request| request.for_wake)
        {
            self.activity = Activity::Idle;
        }
    }

    /// Begins to make room for others, once the state of the backend is known.
    fn make_room(&mut self) {
        let Some(group) = &self.group else { return };
        let Some(request) = group.eviction() else { return };
        let tried = self
            .sleep
            .failed_eviction
            .as_ref()
            .is_some_and(|(tried, _)| *tried == request);
        let unknown = self.reported.availability().is_none() || self.probing.is_some();
        if self.resource.is_free() || tried || unknown || group.has_refused(&request) {
            return;
        }
        if self.keeps_room_for_arrivals() {
            return;
        }
        if let Activity::Queued { wake, .. } = self.activity {
            // It queues for its own wake, but may use the resource all the same, and gives that up first.
            self.sleep.pending = Some(wake);
            self.activity = Activity::Idle;
        }
        if !self.activity.is_idle() {
            return;
        }
        if let Err(why) = self.can_sleep() {
            // The backend may have ended since the last probe.
            self.sleep.failed_eviction = Some((request, format!("can't be put to sleep: {why}")));
            return self.start_probe();
        }
        let intent = SleepIntent {
            reason: SleepReason::Group,
            for_wake: Some(request.for_wake),
        };
        self.drain(intent, request.until);
    }

    /// Whether others want its room, but the first of the requests that it was woken for hasn't come yet.
    pub(super) fn keeps_room_for_arrivals(&self) -> bool {
        let wanted = self.group.as_ref().and_then(Membership::eviction);
        wanted.is_some() && self.reported.is_up() && self.gate.is_expecting()
    }

    /// Draws from a probe whether the backend uses the shared resource. If the backend says that it sleeps, it doesn't. If
    /// the connection is refused, it may still be starting, unless it was stopped or its sleep recipe has run.
    pub(super) fn update_resource(&mut self, verdict: &Verdict) {
        let tried = self.sleep.failed_eviction.take();
        match verdict {
            Ok(()) => self.resource.hold(),
            Err(why) if why.asleep => self.resource.release(),
            Err(why) if why.refused => {
                let nothing_started = self.resource.is_unknown() || self.serves() && self.child.is_none();
                if nothing_started || tried.is_some() {
                    self.resource.release();
                }
            }
            Err(_) => {}
        }
        if let (Some(group), Some((request, why))) = (&self.group, tried)
            && !self.resource.is_free()
        {
            group.refuse(&request, &why);
        }
    }

    /// Reports the state of the backend to the group. Its room is free only once the journal has the backend asleep.
    pub(super) fn settle_group(&self) {
        let Some(group) = &self.group else { return };
        let sleeps = self.resource.is_free();
        if self.reported.is_up() {
            group.is_awake();
        } else if sleeps && self.is_recorded_asleep() {
            group.sleeps();
        } else if matches!(self.activity, Activity::Waking { .. } | Activity::Sleeping { .. }) {
            // Its outcome decides.
        } else if sleeps {
            group.is_unrecorded();
            // An earlier session may have left it awake in the journal.
            if self.reported.is_unpublished()
                && let Some(request) = group.eviction()
            {
                group.refuse(&request, "can't be published, so it isn't recorded as asleep");
            }
        } else {
            group.is_doubtful();
        }
    }
}
