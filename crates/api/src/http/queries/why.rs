//! Why a request, a wake, a model or a provider is as it is.

use crate::{
    http::{ApiError, AppState, extract::Path, paging::JsonResult},
    keys::Caller,
    registry::ProviderSnapshot,
    wakes::{hide_models, now_ms, time_until_awake},
    why::{Member, Room, Why, of_model, of_provider, of_request, of_wake},
};
use axum::{Extension, Json, extract::State};
use reveille_domain::{
    GROUP_STAGE, KeyId, ModelName, ProviderId, Scope, Timestamp, WakeId,
    provider::StatusName,
    requests::{RequestQuery, RequestRecord},
    rows::{EventQuery, EventSort, PageLimit, Sort, WakeRow, provider_aggregate_id},
};
use std::sync::Arc;
use uuid::Uuid;

/// The event of a backend that is put to sleep.
const SLEPT: &str = "BackendSlept";
/// How many of a provider's last sleeps are looked through.
const LAST_SLEEPS: u32 = 20;

/// Answers for the request, the wake, the provider or the model that `id` names, in that order. Wakes, providers and models are for callers
/// that may query; a key sees its own requests, and with the scope `admin` all.
pub(in crate::http) async fn why(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> JsonResult<Why> {
    let sees_all = caller.require(&Scope::Admin).is_ok();
    let only = caller.key().cloned().filter(|_| !sees_all);
    let may_query = sees_all || caller.require(&Scope::Query).is_ok();
    let found = state.past_requests.request(&id).await?;
    if let Some(record) = found.iter().find(|record| only.is_none() || record.key == only) {
        return Ok(Json(request(&state, record, may_query).await));
    }
    let other = if may_query {
        other(&state, &id, only).await?
    } else {
        None
    };
    other.map(Json).ok_or(ApiError::NotFound {
        what: "request, wake, model or provider",
        name: id,
    })
}

async fn request(state: &AppState, record: &RequestRecord, may_query: bool) -> Why {
    let mut wake = match record.wake_id {
        // Without the rows the request has its own steps.
        Some(wake) => state.rows.wake(wake).await.unwrap_or_default(),
        None => None,
    };
    if let Some(failure) = wake.as_mut().and_then(|wake| wake.failure.as_mut())
        && !may_query
    {
        hide_models(failure);
    }
    of_request(record, wake.as_ref())
}

/// `only`: the key whose requests the caller may see.
async fn other(state: &AppState, id: &str, only: Option<KeyId>) -> Result<Option<Why>, ApiError> {
    if let Ok(wake) = Uuid::try_parse(id)
        && let Some(wake) = state.rows.wake(WakeId(wake)).await?
    {
        let query = RequestQuery {
            wake: Some(wake.wake_id),
            key: only,
            ..RequestQuery::default()
        };
        let mut waited = state.past_requests.requests(&query).await?.items;
        waited.reverse();
        return Ok(Some(of_wake(&wake, &waited, &room(state, &wake).await?)));
    }
    let now = now(state);
    if let Ok(provider) = id.parse::<ProviderId>()
        && let Some(snapshot) = state.registry.get(&provider)
    {
        return Ok(Some(of_provider(&member(state, &snapshot, None), now)));
    }
    let Ok(model) = ModelName::parse(id) else {
        return Ok(None);
    };
    let pool = state.registry.pool(id);
    let members = state.inference.explained(&pool);
    let members: Vec<_> = members
        .into_iter()
        .map(|(snapshot, place)| member(state, &snapshot, Some(place)))
        .collect();
    Ok((!members.is_empty()).then(|| of_model(&model, &members, now)))
}

fn now(state: &AppState) -> Timestamp {
    let unknown = || Timestamp::from_millis(now_ms());
    state.authenticator.now().unwrap_or_else(unknown)
}

fn member(state: &AppState, snapshot: &ProviderSnapshot, place: Option<String>) -> Member {
    let provider = snapshot.provider.clone();
    let (id, epoch) = (&provider.id, provider.epoch);
    let is_active = provider.status.name() == StatusName::Active;
    let stays_awake = state.registry.staying_awake().of(id, epoch).filter(|_| is_active);
    let failing = state.inference.failed_requests(snapshot);
    Member {
        place,
        refused: provider
            .spec
            .wake()
            .and_then(|_| state.registry.owner_refusals().of(&id.agent, epoch)),
        wakes_in: time_until_awake(snapshot),
        waiting: state.inference.queues.state(id).waiting,
        stays_awake: stays_awake.map(|stays| stays.reason),
        failing: failing.map(|failed| failed.last),
        provider,
    }
}

/// Which members of its group were put to sleep while the wake waited for room.
async fn room(state: &AppState, wake: &WakeRow) -> Result<Vec<Room>, ApiError> {
    if !wake.stages.iter().any(|stage| stage.name == GROUP_STAGE) {
        return Ok(vec![]);
    }
    let Some(own) = state.registry.get(&wake.provider) else {
        return Ok(vec![]);
    };
    let groups = own.provider.spec.groups();
    let shares = |other: &Arc<ProviderSnapshot>| {
        let provider = &other.provider;
        let is_other = provider.id != wake.provider && provider.id.agent == wake.provider.agent;
        is_other && provider.spec.groups().iter().any(|group| groups.contains(group))
    };
    let mut room = vec![];
    for other in state.registry.all().into_iter().filter(shares) {
        let id = &other.provider.id;
        let query = EventQuery {
            aggregate_type: Some("provider".to_owned()),
            aggregate_id: Some(provider_aggregate_id(id)),
            event_type: Some(SLEPT.to_owned()),
            sort: Sort::descending(EventSort),
            limit: PageLimit::new(LAST_SLEEPS),
            ..EventQuery::default()
        };
        let ended_at = wake.ended_at_ms.unwrap_or_else(|| now(state));
        let within = |at: &Timestamp| (wake.requested_at_ms..=ended_at).contains(at);
        let events = state.rows.events(&query).await?.items;
        let slept = events.into_iter().map(|event| event.at_ms).find(within);
        room.extend(slept.map(|slept_at| Room {
            provider: id.clone(),
            slept_at,
        }));
    }
    Ok(room)
}
