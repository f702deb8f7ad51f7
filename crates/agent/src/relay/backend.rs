//! A backend, as requests are relayed to it.

use crate::{
    config::ProviderConfig,
    http1::{Client, SendError},
    provider::Handle,
    tls,
};
use reveille_bus::relay::{FaultCode, RelayFault};
use reveille_domain::{AgentName, ModelName, ProviderId, named};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::timeout;

/// How long a request that found no backend waits for its owner's report, beyond the time of a probe.
const SETTLE_MARGIN: Duration = Duration::from_secs(8);
/// How many names of presets are remembered of a provider before those of earlier configs are forgotten.
const MAX_PRESET_NAMES: usize = 1024;

pub(super) struct Backend {
    pub config: ProviderConfig,
    pub handle: Handle,
    pub client: Client,
    /// The names of the presets that it has, or had before a reload. The backend itself may answer to any name.
    preset_names: BTreeSet<ModelName>,
}

impl Backend {
    /// In place of the one `before`.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(config: ProviderConfig, handle: Handle, before: Option<&Self>) -> Result<Self, rustls::Error> {
        let mut preset_names = before
            .map(|before| before.preset_names.clone())
            .filter(|names| names.len() < MAX_PRESET_NAMES)
            .unwrap_or_default();
        preset_names.extend(config.presets.iter().map(|preset| preset.name.clone()));
        Ok(Self {
            client: Client::of_backend(&config)?,
            config,
            handle,
            preset_names,
        })
    }

    /// Whether a name without a meaning now is a preset's, whose system prompt a request for it would lack.
    pub fn lost_preset(&self, agent: &AgentName, asked: &str) -> bool {
        let id = ProviderId::new(agent.clone(), self.config.name.clone());
        named(&self.preset_names.iter(), true, &id, asked).is_some()
    }

    /// What to do about a request that got no answer, if `http` and `https` were mixed up.
    pub async fn scheme_hint(&self, error: &SendError) -> Option<&'static str> {
        let base_url = &self.config.base_url;
        if !error.is_garbled(base_url.is_https()) {
            return None;
        }
        tls::other_scheme(&base_url.address("/").ok()?).await
    }

    /// The fault for a request that got no connection, so that it may be sent again when the backend is awake: with the report that
    /// tells control that it isn't, if there is one.
    pub async fn unreached(&self, reason: &str) -> RelayFault {
        let message = format!("the backend can't be reached: {reason}");
        let settled_within = self.config.probe.timeout + SETTLE_MARGIN;
        match timeout(settled_within, self.handle.unreachable()).await {
            Ok(Some(report)) => RelayFault::asleep(&message, report),
            Ok(None) | Err(_) => RelayFault::new(FaultCode::BackendUnavailable, &message),
        }
    }
}
