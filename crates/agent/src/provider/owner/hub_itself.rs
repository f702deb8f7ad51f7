//! A provider whose backend is the hub itself: it publishes nothing, nothing wakes it, and no request is let in.

use super::Owner;
use crate::{
    probe::{Unavailable, Verdict},
    recipe::Outcome,
};
use reveille_domain::{ProviderSpec, WakeFailure, WakeFailureKind, WakeId, provider::StatusName};
use tracing::{error, info};

/// The stage of a wake at which this is found.
const CHECK_STAGE: &str = "check";

impl Owner {
    /// Takes over whether a probe has found the hub itself. Only something else that answers shows that it is no longer: a hub
    /// that is just being restarted doesn't answer either.
    pub(super) fn note_hub_itself(&mut self, verdict: &Verdict) {
        let found = match verdict {
            Ok(()) => None,
            Err(Unavailable { is_hub: None, .. }) => return,
            Err(why) => why.is_hub_itself().then(|| why.reason.clone()),
        };
        if self.hub_itself.is_some() == found.is_some() {
            return;
        }
        let name = self.name();
        match &found {
            Some(why) => {
                error!(provider.name = %name, "{name} is refused, and its models aren't published: {why}");
            }
            None => info!(provider.name = %name, "the backend of {name} is no longer the hub itself"),
        }
        self.hub_itself = found;
        if self.hub_itself.is_none() {
            self.reopen_listing();
        }
    }

    /// Publishes the provider again if it was refused since, or is no longer. What has become of a wake comes first.
    pub(super) fn publish_refusal(&mut self) {
        let is_published = self.reported.status().is_some() && self.asking.is_none();
        let differs = self.published_as_hub != self.hub_itself.is_some();
        if is_published && differs && !self.reported.owes_outcome() {
            self.reported.register_again();
        }
    }

    /// Whether the journal has the provider as one that is down, because its backend is the hub itself.
    pub(super) fn is_recorded_as_hub(&self) -> bool {
        let is_down = self.reported.status() == Some(StatusName::Down);
        is_down && self.published_as_hub && self.hub_itself.is_some()
    }

    /// What a refused provider publishes: that it exists.
    pub(super) fn refused_spec(&self) -> Option<ProviderSpec> {
        self.hub_itself.as_ref()?;
        let spec = ProviderSpec::new(vec![], None, false).ok()?;
        spec.in_groups(self.setup.config.exclusive.clone()).ok()
    }

    /// Ends a wake that no recipe could bring to an end. Returns whether it has.
    pub(super) fn refuse_wake(&mut self, wake: WakeId) -> bool {
        let Some(why) = &self.hub_itself else { return false };
        let failure = WakeFailure::new(WakeFailureKind::Unavailable, CHECK_STAGE, why);
        self.woken(wake, Outcome::of(failure));
        true
    }
}
