//! Whether the process is alive, and whether it is ready.

use super::AppState;
use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Serialize;

/// What has to be true before requests can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    /// The fold includes everything that was in the journal at the start.
    pub registry: bool,
    /// The connection to NATS is up.
    pub nats: bool,
    /// The time that all replicas share is known.
    pub clock: bool,
    /// This replica answers for agents' keys, unless others do.
    pub agent_auth: bool,
}

impl Readiness {
    const fn is_ready(self) -> bool {
        self.registry && self.nats && self.clock && self.agent_auth
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Readiness>,
}

pub(super) async fn livez() -> impl IntoResponse {
    Json(Health {
        status: "alive",
        checks: None,
    })
}

pub(super) async fn readyz(State(state): State<AppState>) -> impl IntoResponse {
    let checks = (state.readiness)();
    let (code, status) = if checks.is_ready() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    (
        code,
        Json(Health {
            status,
            checks: Some(checks),
        }),
    )
}
