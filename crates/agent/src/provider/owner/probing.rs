//! How the owner probes its backend, and lists its models.

use super::Owner;
use crate::{models, probe::Verdict};
use futures::{FutureExt, future::BoxFuture};
use reveille_domain::ModelName;
use tokio::time::Instant;
use tracing::{info, warn};

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
        if self.reported.is_up() && (!was_up || self.models.is_empty()) {
            self.discover();
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

    pub(super) fn discover(&mut self) {
        if self.setup.config.models.is_none() && self.discovering.is_none() {
            let client = self.setup.runner.client.clone();
            self.discovering = Some(models::discover(client, self.setup.config.clone()).boxed());
        }
    }

    pub(super) fn discovered(&mut self, found: Option<Vec<ModelName>>) {
        self.discovering = None;
        let Some(models) = found.filter(|models| *models != self.models) else {
            return;
        };
        info!(provider.name = %self.name(), provider.models = models.len(), "the backend of {} lists other models than before", self.name());
        if let Err(error) = self.setup.memory.remember(self.name(), &models) {
            warn!(provider.name = %self.name(), %error, "can't remember the models of {}", self.name());
        }
        self.models = models;
        self.reported.unregistered();
    }
}
