//! `/metrics`.

use super::{ApiError, AppState};
use crate::registry::ProviderSnapshot;
use axum::{extract::State, http::header, response::IntoResponse};
use prometheus_client::{
    encoding::text::encode,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use reveille_bus::relay::RelayStats;
use reveille_domain::Status;
use std::{collections::HashSet, sync::Arc};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn page(State(state): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    let mut page = Registry::with_prefix("reveille");
    let relay = state.relay.stats();
    state.metrics.register(&mut page, relay.dropped);
    register_gauges(&mut page, &state, relay);
    let mut text = String::new();
    // Writing to memory does not fail.
    encode(&mut text, &page).map_err(|_| ApiError::NotReady)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

fn register_gauges(page: &mut Registry, state: &AppState, relay: RelayStats) {
    let all = state.registry.all();
    let providers = Family::<[(&'static str, String); 1], Gauge>::default();
    for snapshot in &all {
        let status = snapshot.provider.status.name().to_string();
        providers.get_or_create(&[("status", status)]).inc();
    }
    page.register("providers", "Published providers", providers);
    let is_there =
        |snapshot: &&Arc<ProviderSnapshot>| !matches!(snapshot.provider.status, Status::Inactive { .. });
    let agents: HashSet<_> = all
        .iter()
        .filter(is_there)
        .map(|snapshot| &snapshot.provider.id.agent)
        .collect();
    let waiters = all
        .iter()
        .map(|snapshot| state.waker.waiting(&snapshot.provider.id))
        .sum();
    let mut register = |name, help, value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        page.register(name, help, gauge);
    };
    let help = "Agents with a provider that is not inactive";
    register("connected_agents", help, agents.len());
    let is_suspect = |snapshot: &&Arc<ProviderSnapshot>| {
        let failed = state.inference.failed_requests(snapshot);
        failed.is_some_and(|failed| failed.suspect)
    };
    let help = "Providers at which this replica's last request failed";
    register("suspect_providers", help, all.iter().filter(is_suspect).count());
    let help = "Requests of this replica that agents work on";
    register("relayed_requests", help, relay.in_flight);
    register(
        "wake_waiters",
        "Requests of this replica that wait for a wake",
        waiters,
    );
    let help = "Requests of this replica that wait for a slot at a provider, those for a wake included";
    register("queue_waiting", help, state.inference.queues.waiting());
    let help = "Records of requests that this replica had no room for while NATS was away";
    let lost = state.recorder.lost();
    register(
        "lost_request_records",
        help,
        usize::try_from(lost).unwrap_or(usize::MAX),
    );
    let help = "Aggregates whose last commit this replica can't read";
    register("unreadable_aggregates", help, state.registry.unreadable());
}
