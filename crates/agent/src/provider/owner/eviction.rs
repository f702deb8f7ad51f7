//! How the owner gives its room to other members of its group. `groups` decides which member has to.

use super::Owner;
use crate::{
    probe::Verdict,
    provider::{
        activity::Activity,
        groups::{EvictionRequest, Membership},
        reported_state::SleepIntent,
    },
};
use reveille_domain::SleepReason;

impl Owner {
    /// The eviction request behind `intent`, if it is still the current one.
    pub(super) fn eviction_for(&self, intent: SleepIntent) -> Option<EvictionRequest> {
        let wanted = self.group.as_ref().and_then(Membership::eviction);
        wanted.filter(|request| intent.for_wake == Some(request.for_wake))
    }

    /// Ends a drain for an eviction request that is no longer the current one.
    pub(super) fn end_outdated_drain(&mut self) {
        let wanted = self.group.as_ref().and_then(Membership::eviction);
        if let Activity::Draining { intent, .. } = &self.activity
            && intent.reason == SleepReason::Group
            && intent.for_wake != wanted.map(|request| request.for_wake)
        {
            self.activity = Activity::Idle;
        }
    }

    /// Begins to make room for others, once the state of the backend is known.
    pub(super) fn make_room(&mut self) {
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
        if let Some((wake, _)) = self.leave_queue() {
            // It queues for its own wake, but may use the resource all the same, and gives that up first.
            self.sleep.pending = Some(wake);
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
            for_wake: Some(request.for_wake),
            ..SleepReason::Group.into()
        };
        self.drain(intent, request.until);
    }

    /// Whether others want its room, but the first of the requests that it was woken for hasn't come yet.
    pub(super) fn keeps_room_for_arrivals(&self) -> bool {
        let wanted = self.group.as_ref().and_then(Membership::eviction);
        wanted.is_some() && self.reported.is_up() && self.gate.is_expecting()
    }

    /// Draws from a probe whether the backend uses the shared resource. If the backend says that it sleeps, it doesn't, nor does
    /// the hub itself. If the connection is refused, or another server answers, it may still be starting, unless it was stopped
    /// or its sleep recipe has run.
    pub(super) fn update_resource(&mut self, verdict: &Verdict) {
        let tried = self.sleep.failed_eviction.take();
        match verdict {
            Ok(()) => self.resource.hold(),
            Err(why) if why.asleep => self.resource.release(),
            // Nothing of this provider was ever awake, as far as is known.
            Err(why) if why.is_hub_itself() && self.resource.is_unknown() => self.resource.release(),
            Err(why) if why.refused || why.stranger => {
                let nothing_started = self.resource.is_unknown() || self.serves() && self.child.is_none();
                if nothing_started || tried.is_some() || self.is_stopping() {
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
