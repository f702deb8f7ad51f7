//! How the owner probes its backend.

use super::Owner;
use crate::{probe::Verdict, provider::reported_state::Signs};
use futures::{FutureExt, future::BoxFuture};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// When a backend that broke off a request is looked at again, after a look that wasn't clear: one that is just ending may take a
/// last connection.
const LOOK_AFTER_BREAK: Duration = Duration::from_secs(1);

/// A probe under way.
pub(super) struct Look {
    pub began: Instant,
    /// Whether it asks for a completion too, because requests fail.
    pub verifies: bool,
    /// Whether it would do for a backend that comes up.
    pub is_whole: bool,
    pub verdict: BoxFuture<'static, Verdict>,
}

impl Owner {
    pub(super) fn start_probe(&mut self) {
        if self.activity.is_idle() {
            // A backend that has no list isn't asked for it again.
            self.probing = Some(self.check(self.listing.is_current()));
        }
    }

    /// Probes because of something that has just happened: what a probe under way finds may be older. That one goes on all the
    /// same, since it would never end if each request that fails began another.
    pub(super) fn look_again(&mut self) {
        if self.probing.is_some() {
            self.must_look_again = true;
        } else {
            self.start_probe();
        }
    }

    /// Probes the backend. One that is up may have been replaced by another server, which is looked for if this `identifies`.
    pub(super) fn check(&self, identifies: bool) -> Look {
        let (probe, was_up) = (self.probe.clone(), self.reported.is_up());
        let doubts = self.is_doubtful().then(|| self.completions());
        let verifies = doubts.is_some();
        let verdict = async move {
            match doubts {
                Some(completions) => probe.check_doubted(&completions).await,
                None if was_up && identifies => probe.check_and_identify().await,
                None if was_up => probe.check().await,
                None => probe.check_and_verify().await,
            }
        };
        Look {
            began: Instant::now(),
            verifies,
            is_whole: !was_up,
            verdict: verdict.boxed(),
        }
    }

    pub(super) fn probed(&mut self, mut verdict: Verdict) {
        let Some(look) = self.probing.take() else { return };
        self.next_probe = Instant::now() + self.setup.config.probe.interval;
        let was_up = self.reported.is_up();
        let again = std::mem::take(&mut self.must_look_again);
        if verdict.is_ok() && !was_up && !look.is_whole {
            // It has gone since this probe began, so what answered may be another server.
            return self.start_probe();
        }
        if let Err(why) = &verdict
            && why.no_files
        {
            return self.could_not_look(&why.reason);
        }
        self.unlooked = false;
        if verdict.as_ref().is_err_and(|why| why.failed) && self.gate.heard_since(look.began) {
            // A request gets an answer all the same.
            verdict = Ok(());
        }
        match &verdict {
            Err(why) if why.failed && was_up => return self.has_failed(why),
            Ok(()) if look.verifies => self.trust(),
            Ok(()) | Err(_) => {}
        }
        self.found(&verdict, self.signs(&look));
        if self.suspicion.broke_off && self.reported.is_up() {
            let soon = LOOK_AFTER_BREAK.min(self.setup.config.probe.interval);
            self.next_probe = Instant::now() + soon;
        }
        self.refused.append(&mut self.unconfirmed);
        if self.reported.is_up() {
            self.list(!was_up);
        }
        if again && verdict.is_ok() {
            self.start_probe();
        }
    }

    /// The agent couldn't ask its backend, so everything stays as it was. People are told once.
    fn could_not_look(&mut self, why: &str) {
        if !std::mem::replace(&mut self.unlooked, true) {
            warn!(provider.name = %self.name(), "{} can't be probed, and counts as before: {why}", self.name());
        }
    }

    /// Takes over what a probe found.
    pub(super) fn found(&mut self, verdict: &Verdict, signs: Signs) {
        let was = self.reported.availability();
        self.slow_probe = matches!(verdict, Err(why) if !why.asleep && !why.refused && !why.stranger);
        self.reported.probed(verdict, signs);
        self.update_resource(verdict);
        self.note_hub_itself(verdict);
        self.suspicion.unreachable &= !signs.heard;
        if verdict.is_ok() {
            (self.suspicion.broke_off, self.suspicion.unreachable) = (false, false);
        }
        let changed = was != self.reported.availability();
        match verdict {
            Ok(()) => {
                self.suspicion.stranger = None;
                if changed {
                    info!(provider.name = %self.name(), "{} is available", self.name());
                    self.recovered();
                }
            }
            Err(why) if why.stranger => self.found_stranger(&why.reason),
            Err(why) if changed => {
                info!(provider.name = %self.name(), "{} is not available: {}", self.name(), why.reason);
            }
            Err(_) => {}
        }
        // Requests may try a backend that is down, but not another server.
        let stranger = verdict.as_ref().err().filter(|why| why.stranger);
        let stranger = stranger.filter(|_| self.setup.config.wake.is_none());
        let refusal = self
            .hub_itself
            .as_deref()
            .or(stranger.map(|why| why.reason.as_str()));
        self.gate.refuse(refusal);
    }
}
