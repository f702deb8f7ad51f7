//! How the owner probes its backend.

use super::Owner;
use crate::probe::Verdict;
use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;
use tracing::info;

impl Owner {
    pub(super) fn start_probe(&mut self) {
        if self.activity.is_idle() {
            self.probing = Some(self.check());
        }
    }

    pub(super) fn check(&self) -> BoxFuture<'static, Verdict> {
        let (probe, was_up) = (self.probe.clone(), self.reported.is_up());
        async move {
            if was_up {
                probe.check().await
            } else {
                probe.check_and_verify().await
            }
        }
        .boxed()
    }

    pub(super) fn probed(&mut self, verdict: &Verdict) {
        self.probing = None;
        self.next_probe = Instant::now() + self.setup.config.probe.interval;
        let was_up = self.reported.is_up();
        self.found(verdict);
        self.refused.append(&mut self.unconfirmed);
        if self.reported.is_up() {
            self.list(!was_up);
        }
    }

    /// Takes over what a probe found.
    pub(super) fn found(&mut self, verdict: &Verdict) {
        let was = self.reported.availability();
        self.slow_probe = matches!(verdict, Err(why) if !why.asleep && !why.refused);
        self.reported
            .probed(verdict, self.gate.in_flight() > 0, self.broke_off);
        self.update_resource(verdict);
        if verdict.is_ok() {
            self.broke_off = false;
        }
        if was != self.reported.availability() {
            match verdict {
                Ok(()) => info!(provider.name = %self.name(), "{} is available", self.name()),
                Err(why) => {
                    info!(provider.name = %self.name(), "{} is not available: {}", self.name(), why.reason);
                }
            }
        }
    }
}
