//! A backend, as requests are relayed to it.

use crate::{
    config::ProviderConfig,
    http1::{Client, SendError},
    provider::Handle,
    tls,
};
use reveille_bus::relay::{FaultCode, RelayFault};
use std::time::Duration;
use tokio::time::timeout;

/// How long a request that found no backend waits for its owner's report, beyond the time of a probe.
const SETTLE_MARGIN: Duration = Duration::from_secs(8);

pub(super) struct Backend {
    pub config: ProviderConfig,
    pub handle: Handle,
    pub client: Client,
}

impl Backend {
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
