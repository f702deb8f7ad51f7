//! Providers, from memory; and waking them or putting them to sleep by hand.

use super::{Published, past};
use crate::{
    http::{
        ApiError, AppState,
        error_response::name_provider,
        extract::{Path, Query, parsed},
        paging::{JsonResult, Page, folded, limit},
    },
    inference::{FailedRequests, InferenceError},
    keys::Caller,
    registry::{Overruled, ProviderSnapshot},
};
use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use reveille_bus::heartbeats::StaysAwake;
use reveille_domain::{
    AgentName, Epoch, Failures, ModelName, ProviderId, ProviderName, Status, Timestamp, Wake, WakeCause,
    WakeFailure, WakeId, WakeRecord, WakeSpec,
    provider::{InactiveReason, StatusName, WakeCounts},
    rows::{self, LlmSort, SortKey},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// A provider as this replica knows it.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ProviderRow {
    id: ProviderId,
    agent: AgentName,
    provider: ProviderName,
    status: StatusName,
    since_ms: Timestamp,
    /// Why it is inactive.
    reason: Option<InactiveReason>,
    models: Vec<ModelName>,
    /// Those of them by whose names it gets no requests, because they mean something else at another provider.
    overruled: Vec<Overruled>,
    /// How it is woken, without the recipe's content.
    recipe: Option<WakeSpec>,
    can_sleep: bool,
    /// Its share of the requests for its models, and up to how many at a time.
    weight: u32,
    priority: u32,
    max_concurrency: Option<u32>,
    epoch: Epoch,
    /// The wake in flight.
    wake: Option<Wake>,
    /// How many requests wait in this replica for it to wake.
    waiting: usize,
    /// How many requests wait in this replica's queue for a slot, those for a wake included.
    queued: usize,
    /// How many requests this replica has handed over to it.
    handed_over: usize,
    failures: Failures,
    /// How a wake would fail now, while its agent is paused or in quiet hours.
    wakes_refused: Option<WakeFailure>,
    /// Why its backend stays awake although it was to sleep.
    stays_awake: Option<StaysAwake>,
    wakes: WakeCounts,
    /// The last few that ended, latest last.
    last_wakes: Vec<WakeRecord>,
    /// The last requests of this replica that failed there in a row, until one succeeds.
    failed_requests: Option<FailedRequests>,
    /// The journal sequence of its last commit.
    updated_seq: u64,
}

impl Published {
    fn matches(&self, snapshot: &ProviderSnapshot) -> bool {
        let provider = &snapshot.provider;
        let id = &provider.id;
        self.agent.as_ref().is_none_or(|agent| *agent == id.agent)
            && self.provider.as_ref().is_none_or(|name| *name == id.provider)
            && self
                .model
                .as_ref()
                .is_none_or(|model| provider.spec.models().contains(model))
            && self.status.is_none_or(|status| status == provider.status.name())
    }
}

pub(in crate::http) async fn list(
    State(state): State<AppState>,
    Query(filter): Query<Published>,
) -> Result<Response, ApiError> {
    if let Some(at) = filter.at {
        return Ok(past::providers(&state, at, &filter).await?.into_response());
    }
    folded(&state, filter.min_seq).await?;
    let applied = state.registry.applied();
    let mut snapshot = state.registry.all();
    snapshot.retain(|snapshot| filter.matches(snapshot));
    let (sort, limit) = (filter.sort.unwrap_or_default(), limit(filter.rows));
    let page = rows::Page::sorted(snapshot, sort, filter.after.as_ref(), limit, applied, sort_key)?;
    let page = Page::of(page, |snapshot| ProviderRow::of(&state, &snapshot));
    Ok(Json(page).into_response())
}

fn sort_key(snapshot: &Arc<ProviderSnapshot>, by: LlmSort) -> SortKey<ProviderId> {
    let provider = &snapshot.provider;
    let (status, since) = (provider.status.name(), provider.status.since());
    SortKey {
        value: by.value(status, since),
        key: provider.id.clone(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ReadAfter {
    #[serde(default, deserialize_with = "parsed")]
    min_seq: Option<u64>,
}

pub(in crate::http) async fn one(
    State(state): State<AppState>,
    Path((agent, provider)): Path<(AgentName, ProviderName)>,
    Query(after): Query<ReadAfter>,
) -> JsonResult<ProviderRow> {
    folded(&state, after.min_seq).await?;
    let id = ProviderId::new(agent, provider);
    let snapshot = state.registry.get(&id);
    snapshot
        .map(|snapshot| Json(ProviderRow::of(&state, &snapshot)))
        .ok_or_else(|| ApiError::NotFound {
            what: "provider",
            name: id.to_string(),
        })
}

impl ProviderRow {
    fn of(state: &AppState, snapshot: &ProviderSnapshot) -> Self {
        let provider = &snapshot.provider;
        let queue = state.inference.queues.state(&provider.id);
        let reason = match &provider.status {
            Status::Inactive { reason, .. } => Some(*reason),
            Status::Active { .. }
            | Status::Hibernating { .. }
            | Status::Waking { .. }
            | Status::Down { .. } => None,
        };
        Self {
            id: provider.id.clone(),
            agent: provider.id.agent.clone(),
            provider: provider.id.provider.clone(),
            status: provider.status.name(),
            since_ms: provider.status.since(),
            reason,
            models: provider.spec.models().to_vec(),
            overruled: state.registry.overruled(snapshot),
            recipe: provider.spec.wake().copied(),
            can_sleep: provider.spec.can_sleep(),
            weight: provider.spec.balancing().weight(),
            priority: provider.spec.balancing().priority(),
            max_concurrency: provider.spec.balancing().max_concurrency(),
            epoch: provider.epoch,
            wake: provider.status.wake().cloned(),
            waiting: state.waker.waiting(&provider.id),
            queued: queue.waiting,
            handed_over: queue.taken,
            failures: provider.failures.clone(),
            wakes_refused: provider.spec.wake().and_then(|_| {
                let refusals = state.registry.owner_refusals();
                refusals.of(&provider.id.agent, provider.epoch)
            }),
            stays_awake: match provider.status.name() {
                StatusName::Active => state.registry.staying_awake().of(&provider.id, provider.epoch),
                StatusName::Hibernating | StatusName::Waking | StatusName::Down | StatusName::Inactive => {
                    None
                }
            },
            wakes: provider.counts,
            last_wakes: provider.wakes.clone(),
            failed_requests: state.inference.failed_requests(snapshot),
            updated_seq: snapshot.sequence,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Wait {
    #[serde(default)]
    wait: bool,
    /// In seconds; by default as long as a request waits.
    #[serde(default, deserialize_with = "parsed")]
    timeout: Option<u64>,
}

/// A provider's status after a manual wake or sleep.
#[derive(Debug, Serialize)]
struct StatusAfter {
    provider: ProviderId,
    status: StatusName,
    /// The wake that was requested, joined or waited for.
    wake_id: Option<WakeId>,
    deadline_ms: Option<Timestamp>,
}

/// Waits a moment for a provider that may only be missing because this replica, or the agent beside it, has just started.
async fn once_published(state: &AppState, id: &ProviderId) -> Result<(), InferenceError> {
    let find = || match state.startup.missing() {
        Some(missing) if state.registry.get(id).is_none() => Err(InferenceError::NotReady(missing)),
        Some(_) | None => Ok(()),
    };
    let longest = Instant::now() + state.limits.timings.wait;
    state.startup.wait_for(longest, find).await
}

pub(in crate::http) async fn wake(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Path((agent, provider)): Path<(AgentName, ProviderName)>,
    Query(wait): Query<Wait>,
) -> Result<Response, ApiError> {
    let id = ProviderId::new(agent, provider);
    once_published(&state, &id).await?;
    let cause = WakeCause::Operator {
        key: caller.key().cloned(),
    };
    let (status, wake_id, deadline_ms) = if wait.wait {
        let longest = state.limits.timings.wait;
        let wait = wait
            .timeout
            .map_or(longest, |seconds| Duration::from_secs(seconds).min(longest));
        let until = Instant::now() + wait;
        let woken = state.waker.ensure_awake(&id, cause, until).await?;
        (StatusName::Active, woken.wake_id, None)
    } else {
        match state.waker.begin(&id, cause).await?.wake {
            None => (StatusName::Active, None, None),
            Some(wake) => (StatusName::Waking, Some(wake.id), Some(wake.deadline_ms)),
        }
    };
    let code = if status == StatusName::Active {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let after = StatusAfter {
        provider: id,
        status,
        wake_id,
        deadline_ms,
    };
    let mut response = (code, Json(&after)).into_response();
    name_provider(response.headers_mut(), Some(&after.provider), wake_id);
    Ok(response)
}

pub(in crate::http) async fn sleep(
    State(state): State<AppState>,
    Path((agent, provider)): Path<(AgentName, ProviderName)>,
) -> Result<Response, ApiError> {
    let id = ProviderId::new(agent, provider);
    once_published(&state, &id).await?;
    state.waker.sleep(&id).await?;
    let status = state
        .registry
        .get(&id)
        .map_or(StatusName::Active, |snapshot| snapshot.provider.status.name());
    let after = StatusAfter {
        provider: id,
        status,
        wake_id: None,
        deadline_ms: None,
    };
    Ok((StatusCode::ACCEPTED, Json(after)).into_response())
}
