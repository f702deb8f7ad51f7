//! How far this replica and the rows have taken the journal in.

use crate::http::{AppState, paging::JsonResult};
use axum::{Json, extract::State};
use serde::Serialize;

/// How far everything is.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ReplicaStatus {
    /// The last commit of the journal that this replica has folded.
    journal: u64,
    rows: Rows,
}

/// What the lists of LLMs, wakes and events are answered from.
#[derive(Debug, Serialize)]
struct Rows {
    /// The last commit that they have taken in; null while they are not available.
    applied: Option<u64>,
    /// How many commits they are behind this replica.
    lag: Option<u64>,
}

pub(in crate::http) async fn status(State(state): State<AppState>) -> JsonResult<ReplicaStatus> {
    // Read before the rows: what they take in meanwhile is no lag.
    let journal = state.registry.applied();
    let applied = state.rows.applied().await.ok();
    let lag = applied.map(|applied| journal.saturating_sub(applied));
    Ok(Json(ReplicaStatus {
        journal,
        rows: Rows { applied, lag },
    }))
}
