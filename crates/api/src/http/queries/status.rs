//! How far this replica and the row store have read the journal, and what waits here.

use crate::http::{AppState, paging::JsonResult};
use axum::{Json, extract::State};
use reveille_domain::ProviderId;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Serialize)]
pub(in crate::http) struct ReplicaStatus {
    /// The version of this replica's program.
    version: &'static str,
    /// The last commit that this replica has folded.
    journal: u64,
    rows: Rows,
    /// How many requests of this replica wait for each provider, to wake or to have a free slot; only providers for which any do.
    waiting: BTreeMap<ProviderId, usize>,
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
    let providers = state.registry.all();
    let waiting = providers.iter().filter_map(|snapshot| {
        let id = &snapshot.provider.id;
        // Those that wait for a wake by hand are in no queue.
        let queued = state.inference.queues.state(id).waiting;
        let requests = state.waker.waiting(id).max(queued);
        (requests > 0).then(|| (id.clone(), requests))
    });
    Ok(Json(ReplicaStatus {
        version: env!("CARGO_PKG_VERSION"),
        journal,
        rows: Rows { applied, lag },
        waiting: waiting.collect(),
    }))
}
