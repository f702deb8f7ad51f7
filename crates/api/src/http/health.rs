//! Whether the process is alive, and whether it is ready.

use super::AppState;
use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Serialize;

/// What has to be true before all requests can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// The fold includes everything that was in the journal at the start.
    pub registry: bool,
    /// The connection to NATS is up.
    pub nats: bool,
    /// The time that all replicas share is known.
    pub clock: bool,
    /// This replica answers for agents' keys, unless others do.
    pub agent_auth: bool,
    /// The agent of the same process has published its providers, or there is none to wait for.
    pub agent: bool,
    /// Why the journal can't be used, can't be read now, or takes no commits.
    pub trouble: Option<String>,
}

/// The same, as a client sees it.
#[derive(Serialize)]
struct Checks {
    registry: bool,
    nats: bool,
    clock: bool,
    agent_auth: bool,
    agent: bool,
    journal: bool,
}

impl Readiness {
    const fn checks(&self) -> Checks {
        Checks {
            registry: self.registry,
            nats: self.nats,
            clock: self.clock,
            agent_auth: self.agent_auth,
            agent: self.agent,
            journal: self.trouble.is_none(),
        }
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    /// Why, where a check alone doesn't say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Checks>,
}

pub(super) async fn livez() -> impl IntoResponse {
    Json(Health {
        status: "alive",
        reason: None,
        checks: None,
    })
}

pub(super) async fn readyz(State(state): State<AppState>) -> impl IntoResponse {
    let readiness = (state.readiness)();
    let checks = readiness.checks();
    let is_ready =
        checks.registry && checks.nats && checks.clock && checks.agent_auth && checks.agent && checks.journal;
    let (code, status) = if is_ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    (
        code,
        Json(Health {
            status,
            reason: readiness.trouble,
            checks: Some(checks),
        }),
    )
}
