//! Providers, from memory; and waking them or putting them to sleep by hand.

use super::{Answered, Page, Published, folded, limit};
use crate::{
    http::{
        ApiError, AppState,
        extract::{Path, Query, parsed},
        name_provider,
    },
    keys::Caller,
    registry::Known,
};
use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use reveille_domain::{
    AgentName, Epoch, Failures, ModelName, ProviderId, ProviderName, Status, Timestamp, Wake, WakeCause,
    WakeId, WakeRecord, WakeSpec,
    provider::{InactiveReason, StatusName, WakeCounts},
    rows::{self, LlmSort, SortKey},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// A provider as this replica knows it.
#[derive(Debug, Serialize)]
pub(super) struct Provider {
    id: ProviderId,
    agent: AgentName,
    provider: ProviderName,
    status: StatusName,
    since_ms: Timestamp,
    /// Why it is inactive.
    reason: Option<InactiveReason>,
    models: Vec<ModelName>,
    /// How it is woken, without what its recipe says.
    recipe: Option<WakeSpec>,
    can_sleep: bool,
    epoch: Epoch,
    /// The wake in flight.
    wake: Option<Wake>,
    /// How many requests wait for it in this replica.
    waiting: usize,
    failures: Failures,
    wakes: WakeCounts,
    /// The last few that ended, latest last.
    last_wakes: Vec<WakeRecord>,
    /// The journal sequence of its last commit.
    updated_seq: u64,
}

impl Published {
    fn matches(&self, known: &Known) -> bool {
        let provider = &known.provider;
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

pub(super) async fn list(
    State(state): State<AppState>,
    Query(filter): Query<Published>,
) -> Answered<Page<Provider>> {
    let fleet = &state.inner.fleet;
    folded(&state, filter.min_seq).await?;
    let applied = fleet.applied();
    let mut known = fleet.all();
    known.retain(|known| filter.matches(known));
    let (sort, limit) = (filter.sort.unwrap_or_default(), limit(filter.rows));
    let page = rows::Page::sorted(known, sort, filter.after.as_ref(), limit, applied, sort_key)?;
    Ok(Json(Page::of(page, |known| Provider::of(&state, &known))))
}

fn sort_key(known: &Arc<Known>, by: LlmSort) -> SortKey<ProviderId> {
    let provider = &known.provider;
    let (status, since) = (provider.status.name(), provider.status.since());
    SortKey {
        value: by.value(status, since),
        key: provider.id.clone(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadAfter {
    #[serde(default, deserialize_with = "parsed")]
    min_seq: Option<u64>,
}

pub(super) async fn one(
    State(state): State<AppState>,
    Path((agent, provider)): Path<(AgentName, ProviderName)>,
    Query(after): Query<ReadAfter>,
) -> Answered<Provider> {
    folded(&state, after.min_seq).await?;
    let id = ProviderId::new(agent, provider);
    let known = state.inner.fleet.get(&id);
    known
        .map(|known| Json(Provider::of(&state, &known)))
        .ok_or_else(|| ApiError::NotFound {
            what: "provider",
            name: id.to_string(),
        })
}

impl Provider {
    fn of(state: &AppState, known: &Known) -> Self {
        let provider = &known.provider;
        let reason = match &provider.status {
            Status::Inactive { reason, .. } => Some(*reason),
            Status::Active { .. } | Status::Hibernating { .. } | Status::Waking { .. } => None,
        };
        Self {
            id: provider.id.clone(),
            agent: provider.id.agent.clone(),
            provider: provider.id.provider.clone(),
            status: provider.status.name(),
            since_ms: provider.status.since(),
            reason,
            models: provider.spec.models().to_vec(),
            recipe: provider.spec.wake().copied(),
            can_sleep: provider.spec.can_sleep(),
            epoch: provider.epoch,
            wake: provider.status.wake().cloned(),
            waiting: state.inner.fleet.waiting(&provider.id),
            failures: provider.failures.clone(),
            wakes: provider.counts,
            last_wakes: provider.wakes.clone(),
            updated_seq: known.sequence,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    #[serde(default)]
    wait: bool,
    /// In seconds; what a request would wait unless given.
    #[serde(default, deserialize_with = "parsed")]
    timeout: Option<u64>,
}

/// How a provider stands after an order by hand.
#[derive(Debug, Serialize)]
struct Standing {
    provider: ProviderId,
    status: StatusName,
    /// The wake that was begun, joined or waited for.
    wake_id: Option<WakeId>,
    deadline_ms: Option<Timestamp>,
}

pub(super) async fn wake(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Path((agent, provider)): Path<(AgentName, ProviderName)>,
    Query(wait): Query<Wait>,
) -> Result<Response, ApiError> {
    let id = ProviderId::new(agent, provider);
    let fleet = &state.inner.fleet;
    let cause = WakeCause::Operator {
        key: caller.key().cloned(),
    };
    if wait.wait {
        let longest = state.inner.limits.timings.wait;
        let wait = wait
            .timeout
            .map_or(longest, |seconds| Duration::from_secs(seconds).min(longest));
        let woken = fleet.ensure_awake(&id, cause, Instant::now() + wait).await?;
        return Ok(standing(id, StatusName::Active, woken.wake_id, None));
    }
    let begun = fleet.begin(&id, cause).await?;
    Ok(match begun.wake {
        None => standing(id, StatusName::Active, None, None),
        Some(wake) => standing(id, StatusName::Waking, Some(wake.id), Some(wake.deadline_ms)),
    })
}

pub(super) async fn sleep(
    State(state): State<AppState>,
    Path((agent, provider)): Path<(AgentName, ProviderName)>,
) -> Result<Response, ApiError> {
    let id = ProviderId::new(agent, provider);
    state.inner.fleet.sleep(&id).await?;
    let status = state
        .inner
        .fleet
        .get(&id)
        .map_or(StatusName::Active, |known| known.provider.status.name());
    Ok((
        StatusCode::ACCEPTED,
        Json(Standing {
            provider: id,
            status,
            wake_id: None,
            deadline_ms: None,
        }),
    )
        .into_response())
}

/// 200 when it is awake, 202 while it wakes.
fn standing(
    id: ProviderId,
    status: StatusName,
    wake_id: Option<WakeId>,
    deadline_ms: Option<Timestamp>,
) -> Response {
    let code = if status == StatusName::Active {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let standing = Standing {
        provider: id,
        status,
        wake_id,
        deadline_ms,
    };
    let mut response = (code, Json(&standing)).into_response();
    name_provider(response.headers_mut(), Some(&standing.provider), wake_id);
    response
}
