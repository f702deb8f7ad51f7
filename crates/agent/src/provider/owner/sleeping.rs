//! How a backend is put to sleep: when it may be, whom it waits for, and what its group makes of it.

use super::Owner;
use crate::{
    probe::Verdict,
    provider::{
        activity::Activity,
        belief::Departure,
        groups::{Membership, Room},
    },
    recipe::{Outcome, Run},
};
use futures::FutureExt;
use jiff::Zoned;
use reveille_domain::SleepReason;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long requests that are there may take to finish when somebody puts the backend to sleep. Nobody is let in
/// meanwhile.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// How long an idle backend that couldn't be put to sleep is left alone, doubling up to the longest: it is no use to lock
/// out requests again and again.
const FIRST_SLEEP_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_SLEEP_PAUSE: Duration = Duration::from_secs(600);

impl Owner {
    // ── When ──

    /// For how long nobody must have used the backend for it to be put to sleep, and not before when; `None` while it
    /// can't be.
    pub(super) fn idle_limit(&self) -> Option<(Duration, Instant)> {
        let limit = self.setup.config.sleep.as_ref()?.idle_after?;
        self.can_sleep().ok().filter(|()| self.belief.is_up())?;
        let awake_until = self.awake_since? + self.setup.config.min_awake();
        let others = [self.kept_warm(), self.no_sleep_before];
        let not_before = others.into_iter().flatten().fold(awake_until, Instant::max);
        Some((limit, not_before))
    }

    /// Until when it isn't put to sleep for being idle, because its config wants it warm now.
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
            Activity::Idle => Err("its backend was not started by this agent, so whoever did must end it"),
            Activity::Checking { .. } | Activity::Queued { .. } | Activity::Waking { .. } => {
                Err("it is being woken")
            }
            Activity::Draining { .. } | Activity::Sleeping { .. } | Activity::Ending { .. } => {
                Err("one of its recipes is running")
            }
        }
    }

    pub(super) fn sleep_ordered(&mut self) -> Result<(), &'static str> {
        let asleep = !self.belief.is_up() && self.belief.availability().is_some() && self.activity.is_idle();
        if asleep {
            return Ok(());
        }
        if let Activity::Draining { departure, .. } | Activity::Sleeping { departure, .. } = &self.activity {
            // Its group may no longer want it; whoever ordered this does.
            self.rest_wanted |= departure.reason == SleepReason::Group;
            return Ok(());
        }
        self.can_sleep()?;
        // Requests that are on their way don't hold it: whoever orders this knows what for, and they may wake it again.
        self.drain(SleepReason::Operator.into(), Instant::now() + DRAIN_LIMIT);
        Ok(())
    }

    /// Puts it to sleep if the owner of the machine wants that, it is awake, and nothing else is done with it.
    fn rest(&mut self) {
        if !self.rest_wanted || !self.activity.is_idle() || self.belief.availability().is_none() {
            return;
        }
        self.rest_wanted = false;
        if !self.belief.is_up() {
            return;
        }
        match self.can_sleep() {
            Ok(()) => self.drain(SleepReason::Operator.into(), Instant::now() + DRAIN_LIMIT),
            Err(why) => info!(provider.name = %self.name(), "{} stays awake: {why}", self.name()),
        }
    }

    // ── How ──

    /// Lets nobody in any more, and puts the backend to sleep when those who are there have left.
    fn drain(&mut self, departure: Departure, until: Instant) {
        self.gate.close();
        self.probing = None;
        let waits_for = self.gate.in_flight();
        if waits_for > 0 {
            info!(
                provider.name = %self.name(), provider.in_flight = waits_for,
                "{} is put to sleep when the requests that it works on ({waits_for}) have finished", self.name()
            );
        }
        self.activity = Activity::Draining {
            departure,
            gate: self.gate.clone(),
            until,
        };
    }

    pub(super) fn not_drained(&mut self, departure: Departure) {
        warn!(
            provider.name = %self.name(), provider.in_flight = self.gate.in_flight(),
            "{} stays awake: requests were still there when it was to be put to sleep", self.name()
        );
        if let (Some(group), Some(room)) = (&self.group, self.room_of(departure)) {
            group.stays(&room, "still worked on requests");
        }
    }

    /// The room that it was to be put to sleep for, while that one is wanted: another wake's turn may have come.
    fn room_of(&self, departure: Departure) -> Option<Room> {
        let wanted = self.group.as_ref().and_then(Membership::wanted);
        wanted.filter(|room| departure.for_wake == Some(room.for_wake))
    }

    /// Runs the sleep recipe. The gate is closed, and nobody is inside.
    pub(super) fn begin_sleep(&mut self, departure: Departure) {
        info!(provider.name = %self.name(), "putting {} to sleep", self.name());
        let sleep = self.setup.config.sleep.as_ref();
        let steps = sleep.map(|sleep| sleep.steps.clone()).unwrap_or_default();
        // Without steps its served backend is ended; with them it sleeps in its process.
        let before = if steps.is_empty() {
            self.end_what_runs()
        } else {
            async {}.boxed()
        };
        self.probing = None;
        let run = Run::sleep(self.setup.runner.clone(), steps, self.probe.clone(), before);
        self.activity = Activity::Sleeping { departure, run };
    }

    /// Control hears of it only now: what it is told has happened.
    pub(super) fn slept(&mut self, departure: Departure, outcome: &Outcome) {
        let name = self.name();
        let Some(failure) = &outcome.failure else {
            info!(provider.name = %name, "{name} sleeps ({:?})", departure.reason);
            self.vacancy.vacate();
            (self.failed_sleeps, self.no_sleep_before) = (0, None);
            return self.belief.down(departure);
        };
        warn!(provider.name = %name, "{name} could not be put to sleep: {}: {}", failure.stage, failure.reason);
        let doubled = FIRST_SLEEP_PAUSE.saturating_mul(2u32.saturating_pow(self.failed_sleeps));
        self.failed_sleeps = self.failed_sleeps.saturating_add(1);
        self.no_sleep_before = Some(Instant::now() + doubled.min(LONGEST_SLEEP_PAUSE));
        self.no_room = self.room_of(departure).map(|room| {
            let why = format!("could not be put to sleep: {}: {}", failure.stage, failure.reason);
            (room, why)
        });
        self.belief.doubt();
    }

    // ── For its group ──

    /// Goes on with what had to wait for something else: makes the room that is asked for, and then wakes.
    pub(super) fn go_on(&mut self) {
        // First, since what may be asked of it goes by how it stands.
        self.settle_group();
        self.make_room();
        self.rest();
        if self.activity.is_idle()
            && let Some(wake) = self.pending.take()
        {
            self.look_or_wake(wake);
        }
    }

    /// Room is asked for, or no longer is, or for another wake.
    pub(super) fn room_asked(&mut self) {
        let wanted = self.group.as_ref().and_then(Membership::wanted);
        if let Activity::Draining { departure, .. } = &self.activity
            && departure.reason == SleepReason::Group
            && departure.for_wake != wanted.map(|room| room.for_wake)
        {
            self.activity = Activity::Idle;
        }
    }

    /// Begins to make the room that is asked for, once it is known how the backend stands.
    fn make_room(&mut self) {
        let Some(group) = &self.group else { return };
        let Some(room) = group.wanted() else { return };
        let tried = self.no_room.as_ref().is_some_and(|(tried, _)| *tried == room);
        let unknown = self.belief.availability().is_none() || self.probing.is_some();
        if self.vacancy.is_vacant() || tried || unknown || group.has_answered(&room) {
            return;
        }
        if self.keeps_room_for_waiters() {
            return;
        }
        if let Activity::Queued { wake, .. } = self.activity {
            // It waits for its own turn, and may have something all the same: it gives that up first.
            self.pending = Some(wake);
            self.activity = Activity::Idle;
        }
        if !self.activity.is_idle() {
            return;
        }
        if let Err(why) = self.can_sleep() {
            // It may have ended since somebody looked.
            self.no_room = Some((room, format!("can't be put to sleep: {why}")));
            return self.start_probe();
        }
        let departure = Departure {
            reason: SleepReason::Group,
            for_wake: Some(room.for_wake),
        };
        self.drain(departure, room.until);
    }

    /// Whether its room is wanted, but none of those who waited for its wake has come yet.
    pub(super) fn keeps_room_for_waiters(&self) -> bool {
        let wanted = self.group.as_ref().is_some_and(|group| group.wanted().is_some());
        wanted && self.belief.is_up() && self.gate.is_expecting()
    }

    /// What a probe says of the room that the backend takes. Only a backend that says so itself sleeps; where nobody
    /// listens, something may still be starting, unless it was ended or its sleep recipe has been run.
    pub(super) fn look_for_room(&mut self, verdict: &Verdict) {
        let tried = self.no_room.take();
        match verdict {
            Verdict::Available => self.vacancy.hold(),
            Verdict::Unavailable(why) if why.asleep => self.vacancy.vacate(),
            Verdict::Unavailable(why) if why.refused => {
                let nothing_started = self.vacancy.is_unknown() || self.serves() && self.child.is_none();
                if nothing_started || tried.is_some() {
                    self.vacancy.vacate();
                }
            }
            Verdict::Unavailable(_) => {}
        }
        if let (Some(group), Some((room, why))) = (&self.group, tried)
            && !self.vacancy.is_vacant()
        {
            group.stays(&room, &why);
        }
    }

    /// Tells the group how the backend stands. It has room only when control knows that this backend sleeps.
    pub(super) fn settle_group(&self) {
        let Some(group) = &self.group else { return };
        if self.belief.is_up() {
            group.is_awake();
        } else if self.vacancy.is_vacant() && self.is_recorded_asleep() {
            group.sleeps();
        } else if !matches!(self.activity, Activity::Waking { .. } | Activity::Sleeping { .. }) {
            group.is_doubtful();
        }
    }
}
