//! What requests make the owner suspect, and how it finds out whether the backend has failed: it answers its probe, but no
//! completion.

use super::{Owner, probing::Look};
use crate::{
    config::VerifyConfig,
    probe::{Probe, Unavailable},
    provider::{handle::Symptom, reported_state::Signs},
    verify::Verify,
};
use reveille_domain::{ModelName, SleepReason};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long requests may take to finish at a backend that has failed. None of them has heard anything while it was verified.
const FAILED_DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How long nobody must have heard anything of an answer before callers that leave are a sign: a few may leave together.
const LEFT_SILENCE: Duration = Duration::from_secs(30);

/// What is suspected since the backend was last found available.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// It broke off a request.
    pub broke_off: bool,
    /// A request couldn't reach it.
    pub unreachable: bool,
    /// Why it counts as failed, until a completion succeeds.
    pub failed: Option<String>,
    /// Why another server is there instead, as people were told.
    pub stranger: Option<String>,
}

impl Owner {
    pub(super) fn suspect(&mut self, symptom: Symptom) {
        match symptom {
            Symptom::BrokeOff => self.suspicion.broke_off = true,
            Symptom::Unreachable => self.suspicion.unreachable = true,
            Symptom::Failing | Symptom::HubItself => {}
        }
        self.look_again();
    }

    /// What requests show when `look` ends.
    pub(super) fn signs(&self, look: &Look) -> Signs {
        let patient = self.gate.silent_for() < self.setup.config.longest_silence();
        Signs {
            busy: self.gate.is_connected() && patient,
            heard: self.gate.heard_since(look.began),
            broke_off: self.suspicion.broke_off,
            unreachable: self.suspicion.unreachable,
        }
    }

    /// Whether the backend answers its probe, as far as is known, but hardly any request.
    pub(super) fn is_doubtful(&self) -> bool {
        let (silent, limit) = (self.gate.silent_for(), self.setup.config.longest_silence());
        let is_left = || self.health.is_left() && silent >= LEFT_SILENCE;
        self.reported.is_up() && (self.health.is_doubtful() || silent >= limit || is_left())
    }

    /// The completions that show whether it works: `verify` of the config, or else what the last request asked for, and the same
    /// of another model, since a model may be broken alone.
    pub(super) fn completions(&self) -> Vec<Verify> {
        let config = &self.setup.config;
        let verify = |verify: &VerifyConfig| Verify::new(self.client.clone(), config, verify);
        if let Some(configured) = config.wake.as_ref().and_then(|wake| wake.verify.as_ref()) {
            return vec![verify(configured)];
        }
        let Some(asked) = self.health.last_asked() else {
            return Vec::new();
        };
        let models: Vec<&ModelName> = match &config.models {
            Some(models) => models.iter().map(|model| &model.id).collect(),
            None => self.listing.listed.models.keys().collect(),
        };
        let mut models: Vec<&str> = models.into_iter().map(ModelName::as_str).collect();
        if let Some(model) = asked.model.as_deref() {
            models.retain(|other| *other != model);
            models.insert(0, model);
        }
        let of_model = |model| verify(&VerifyConfig::of_one_token(asked.path, Some(model)));
        models.into_iter().take(2).map(of_model).collect()
    }

    /// Another server answers. People are told once, whatever the probes in between have found.
    pub(super) fn found_stranger(&mut self, why: &str) {
        if self.suspicion.stranger.as_deref() == Some(why) {
            return;
        }
        self.suspicion.stranger = Some(why.to_owned());
        let name = self.name();
        if self.setup.config.wake.is_none() {
            warn!(provider.name = %name, "{name} is not available: {why}");
        } else {
            // It may be another provider's turn on the port. If not, the next wake fails and says so.
            info!(provider.name = %name, "{name} is not available: {why}");
        }
    }

    /// A completion has shown that the backend works, whatever its requests show.
    pub(super) fn trust(&mut self) {
        self.health.verified();
        self.gate.forget_silence();
    }

    /// The backend is available again: nothing that was suspected before counts any longer.
    pub(super) fn recovered(&mut self) {
        self.health.succeeded();
        self.gate.forget_silence();
        if std::mem::take(&mut self.suspicion).failed.is_some() {
            self.probe = Probe::new(self.client.clone(), &self.setup.config);
        }
    }

    /// The backend was available, but its requests and a completion of the agent's own have failed. It is put to sleep if that is
    /// possible, so that the next wake starts it afresh. Until a completion succeeds, it isn't available.
    pub(super) fn has_failed(&mut self, found: &Unavailable) {
        let mut why = self.health.failures();
        if why.is_empty() {
            let silent = self.gate.silent_for().as_secs_f64();
            why = format!("requests waited for {silent:.0} s without any part of an answer");
        }
        why = format!(
            "{why}, and so did a completion that verified it ({})",
            found.reason
        );
        warn!(provider.name = %self.name(), "{} has failed: {why}", self.name());
        self.probe = self.probe.verified_by(self.completions());
        self.suspicion.failed = Some(why);
        match self.can_sleep() {
            Ok(()) => self.drain(SleepReason::Failed.into(), Instant::now() + FAILED_DRAIN_LIMIT),
            Err(_) => self.reported.down(SleepReason::Failed),
        }
    }
}
