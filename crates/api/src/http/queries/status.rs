//! How far this replica and the row store have read the journal.

use crate::http::{AppState, paging::JsonResult};
use axum::{Json, extract::State};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(in crate::http) struct ReplicaStatus {
    /// The last commit that this replica has folded.
    journal: u64,
    rows: Rows,
}

/// The row store, which answers the lists of LLMs, wakes and events.
#[derive(Debug, Serialize)]
struct Rows {
    /// The last commit that the rows include; null while they are unavailable.
    applied: Option<u64>,
    /// How many commits they are behind this replica.
    lag: Option<u64>,
}

pub(in crate::http) async fn status(State(state): State<AppState>) -> JsonResult<ReplicaStatus> {
    // Read before the rows, so that commits which arrive meanwhile don't count as lag.
    let journal = state.registry.applied();
    let applied = state.rows.applied().await.ok();
    let lag = applied.map(|applied| journal.saturating_sub(applied));
    Ok(Json(ReplicaStatus {
        journal,
        rows: Rows { applied, lag },
    }))
}
