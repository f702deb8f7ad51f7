//! What the handlers share.

use super::Readiness;
use crate::{
    commands::Admin,
    config::AgentHub,
    history::{EventFeed, Past},
    inference::{BodyBudget, Inference, Relay, Startup, Timings},
    keys::Authenticator,
    metrics::Metrics,
    registry::Registry,
    requests::Recorder,
    wakes::Waker,
};
use reveille_bus::HubId;
use reveille_domain::{ModelName, requests::PastRequests, rows::Rows};
use std::{ops::Deref, sync::Arc};
use tokio_util::sync::CancellationToken;

/// What HTTP requests may take.
#[derive(Debug, Clone)]
pub(crate) struct HttpLimits {
    /// The largest request body, in bytes.
    pub body_bytes: usize,
    /// What all held request bodies of the process may take, in bytes.
    pub held_body_bytes: usize,
    /// How many requests may wait for one provider.
    pub waiting: usize,
    pub timings: Timings,
}

/// The memory for held request bodies, in bytes, unless it takes more for [`HELD_BODIES`] of the largest.
const HELD_BODY_BYTES: usize = 512 * 1024 * 1024;
/// How many bodies of the largest size there is memory for at least.
const HELD_BODIES: usize = 4;

impl HttpLimits {
    /// The usual limits, with request bodies of up to `body_bytes`, and as many requests as may wait for one provider.
    pub fn of(body_bytes: usize, waiting: usize) -> Self {
        Self {
            body_bytes,
            held_body_bytes: HELD_BODY_BYTES.max(body_bytes.saturating_mul(HELD_BODIES)),
            waiting,
            timings: Timings::default(),
        }
    }
}

/// The rest of the process, as the handlers use it.
pub(crate) struct AppServices {
    pub registry: Registry,
    pub waker: Arc<dyn Waker>,
    pub relay: Arc<dyn Relay>,
    pub admin: Arc<dyn Admin>,
    pub metrics: Metrics,
    pub rows: Arc<dyn Rows>,
    pub feed: Arc<dyn EventFeed>,
    pub past: Arc<dyn Past>,
    pub readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    /// The hub's id; `None` until the journal was found.
    pub hub_id: Box<dyn Fn() -> Option<HubId> + Send + Sync>,
    pub authenticator: Authenticator,
    pub agent_hub: AgentHub,
    /// The model of a request that names none.
    pub default_model: Option<ModelName>,
    /// Cancelled once the agent of the same process has published its providers.
    pub own_agent: CancellationToken,
    /// Remembers the requests of this replica.
    pub recorder: Recorder,
    /// Finds those of whatever time.
    pub past_requests: Arc<dyn PastRequests>,
}

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AppState {
    inner: Arc<Shared>,
}

pub(crate) struct Shared {
    services: AppServices,
    pub(super) inference: Inference,
    pub(super) startup: Startup,
    pub(super) bodies: BodyBudget,
    pub(super) limits: HttpLimits,
}

impl AppState {
    pub fn new(services: AppServices, limits: HttpLimits) -> Self {
        let startup = Startup::new(
            services.registry.clone(),
            services.own_agent.clone(),
            limits.timings.startup,
        );
        let inference = Inference::new(
            services.registry.clone(),
            services.waker.clone(),
            services.relay.clone(),
            services.metrics.clone(),
            limits.timings.clone(),
            startup.clone(),
            limits.waiting,
        );
        Self {
            inner: Arc::new(Shared {
                services,
                inference,
                startup,
                bodies: BodyBudget::new(limits.held_body_bytes),
                limits,
            }),
        }
    }
}

impl Deref for AppState {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.inner
    }
}

impl Deref for Shared {
    type Target = AppServices;
    fn deref(&self) -> &AppServices {
        &self.services
    }
}
