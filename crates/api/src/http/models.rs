//! `/v1/models`, answered from memory: sleeping models are listed, and listing wakes none. A model can be loaded and unloaded by
//! its name.

use super::{
    ApiError, AppState, body, error_response::family::ANTHROPIC_VERSION, extract::Path, request_id::RequestId,
};
use crate::{
    inference::{InferenceError, Missing, Pools, pool_for, pools_for, sees_model},
    keys::Caller,
    registry::ProviderSnapshot,
    wakes::{WakeTimes, time_until_awake},
};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use reveille_domain::{
    Capability, ModelDetails, ModelName, PresetHash, ProviderId, Scope, Timestamp, WakeCause, WakeId,
    provider::StatusName,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::Instant;

/// OpenAI's model object, with the status in llama.cpp's terms and in ours.
#[derive(Debug, Serialize)]
pub(super) struct Model {
    id: String,
    object: &'static str,
    /// Unix seconds.
    created: u64,
    owned_by: &'static str,
    /// In tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u64>,
    /// The same by vLLM's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<u64>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    capabilities: BTreeSet<Capability>,
    status: ModelStatus,
    reveille: Pool,
}

#[derive(Debug, Serialize)]
struct ModelStatus {
    value: &'static str,
}

/// What a preset is, as far as its caller may know.
#[derive(Debug, Serialize)]
struct ShownPreset {
    /// The model that answers, for a caller that may use that itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelName>,
    hash: PresetHash,
}

/// The providers of the model.
#[derive(Debug, Serialize)]
struct Pool {
    /// The preset that it is. Its model is that of the first provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<ShownPreset>,
    status: StatusName,
    providers: Vec<Member>,
    /// The wake in flight with the earliest deadline, if no provider is awake.
    wake: Option<Waking>,
    /// How long a request would wait now; absent without earlier wakes to estimate it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_ms: Option<u64>,
    /// How long the wakes of its providers take, if there have been any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wake_times: Vec<Times>,
}

#[derive(Debug, Serialize)]
struct Member {
    id: ProviderId,
    status: StatusName,
    since_ms: Timestamp,
    can_wake: bool,
    /// The preset that it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<ShownPreset>,
}

impl ShownPreset {
    fn of(name: &str, snapshot: &ProviderSnapshot, caller: &Caller) -> Option<Self> {
        let preset = snapshot.preset(name)?;
        Some(Self {
            model: sees_model(caller, snapshot, preset).then(|| preset.model.clone()),
            hash: preset.hash.clone(),
        })
    }
}

/// How long a provider's last few wakes took.
#[derive(Debug, Serialize)]
struct Times {
    provider: ProviderId,
    p50_ms: u64,
    p95_ms: u64,
}

#[derive(Debug, Serialize)]
struct Waking {
    wake_id: WakeId,
    provider: ProviderId,
    requested_at_ms: Timestamp,
    deadline_ms: Timestamp,
}

#[derive(Debug, Serialize)]
pub(super) struct List {
    object: &'static str,
    data: Vec<Model>,
}

/// Anthropic's model object.
#[derive(Debug, Serialize)]
struct AnthropicModel {
    r#type: &'static str,
    display_name: String,
    created_at: String,
    id: String,
}

/// Anthropic's list, in one page.
#[derive(Debug, Serialize)]
struct AnthropicList {
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
    data: Vec<AnthropicModel>,
}

/// All models of this caller. Clients that list the models once, when they start, may start together with this replica.
pub(super) async fn listed(state: &AppState, caller: &Caller) -> Result<Pools, InferenceError> {
    state.startup.over().await;
    match state.startup.missing() {
        // Those of other machines are listed without our own agent's, but not before the journal is read.
        Some(missing @ Missing::Journal) => Err(InferenceError::NotReady(missing)),
        Some(Missing::OwnAgent) | None => Ok(pools_for(&state.registry, caller)),
    }
}

/// In OpenAI's form, or in Anthropic's for its clients.
pub(super) async fn list(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let pools = listed(&state, &caller).await?;
    if headers.contains_key(ANTHROPIC_VERSION) {
        let data: Vec<_> = pools
            .into_iter()
            .map(|(model, pool)| AnthropicModel::new(model, &pool))
            .collect();
        let id = |model: &AnthropicModel| model.id.clone();
        let list = AnthropicList {
            first_id: data.first().map(id),
            last_id: data.last().map(id),
            has_more: false,
            data,
        };
        return Ok(Json(list).into_response());
    }
    let data = pools
        .into_iter()
        .map(|(model, pool)| Model::new(model, &pool, &caller));
    let list = List {
        object: "list",
        data: data.collect(),
    };
    Ok(Json(list).into_response())
}

pub(super) async fn one(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let shown = |id: String, pool: &[Arc<ProviderSnapshot>]| {
        if headers.contains_key(ANTHROPIC_VERSION) {
            Json(AnthropicModel::new(id, pool)).into_response()
        } else {
            Json(Model::new(id, pool, &caller)).into_response()
        }
    };
    let model = ModelName::parse(&id)
        .map_err(|error| ApiError::invalid("invalid_model", "model", error.to_string()))?;
    let pool_for = |model: &ModelName| pool_for(&state.registry, &state.startup, &caller, model);
    if pool_for(&model).is_err() {
        state.startup.over().await;
    }
    let pool = pool_for(&model);
    // Some clients end every path with a slash, and some models' names end with one too.
    if pool.is_err()
        && let Some(short) = id.strip_suffix('/')
        && let Ok(model) = ModelName::parse(short)
        && let Ok(pool) = pool_for(&model)
    {
        return Ok(shown(short.to_owned(), &pool));
    }
    Ok(shown(id, &pool?))
}

/// Unix seconds as a text.
pub(super) fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or_default();
    jiff::Timestamp::from_second(seconds)
        .unwrap_or_default()
        .to_string()
}

/// The body of both commands.
#[derive(Deserialize)]
struct Named {
    model: String,
}

/// `load` and `unload`, as llama.cpp's router has them: by the name of a model.
pub(super) async fn command(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    Path(command): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let is_load = match command.as_str() {
        "load" => true,
        "unload" => false,
        _ => return Err(ApiError::MethodNotAllowed),
    };
    if !is_load {
        // Others may be using it.
        caller.require(&Scope::Admin)?;
    }
    let Named { model } = body::read_small(&state, request).await?;
    let model = ModelName::parse(&model)
        .map_err(|error| ApiError::invalid("invalid_model", "model", error.to_string()))?;
    let find = || pool_for(&state.registry, &state.startup, &caller, &model);
    let longest = Instant::now() + state.limits.timings.wait;
    let pool = state.startup.wait_for(longest, find).await?;
    if is_load {
        let cause = WakeCause::Request {
            request_id: id.as_str().to_owned(),
            model,
            key: caller.key().cloned(),
        };
        load(&state, &state.inference.in_order(&pool), &cause).await?;
    } else {
        unload(&state, &pool).await?;
    }
    Ok(Json(json!({ "success": true })))
}

/// Begins the wake that a request would, if any: of the first of the pool that can be woken, unless it is awake. It counts as one
/// of a request by this caller.
async fn load(state: &AppState, pool: &[Arc<ProviderSnapshot>], cause: &WakeCause) -> Result<(), ApiError> {
    let mut refused = None;
    for snapshot in pool {
        match state.waker.begin(&snapshot.provider.id, cause.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_about_one_provider() => _ = refused.get_or_insert(error),
            Err(error) => return Err(error.into()),
        }
    }
    refused.map_or(Ok(()), |error| Err(error.into()))
}

/// Puts all that are awake to sleep. One that can't be doesn't keep the others awake; the first error is the caller's.
async fn unload(state: &AppState, pool: &[Arc<ProviderSnapshot>]) -> Result<(), ApiError> {
    let is_awake = |snapshot: &&Arc<ProviderSnapshot>| {
        matches!(
            snapshot.provider.status.name(),
            StatusName::Active | StatusName::Waking
        )
    };
    let mut done = Ok(());
    for snapshot in pool.iter().filter(is_awake) {
        let slept = state.waker.sleep(&snapshot.provider.id).await;
        done = done.and(slept);
    }
    Ok(done?)
}

impl AnthropicModel {
    fn new(id: String, pool: &[Arc<ProviderSnapshot>]) -> Self {
        Self {
            r#type: "model",
            display_name: id.clone(),
            created_at: rfc3339(common(&id, pool).created.unwrap_or_default()),
            id,
        }
    }
}

impl Model {
    fn new(id: String, pool: &[Arc<ProviderSnapshot>], caller: &Caller) -> Self {
        let best = pool
            .iter()
            .map(|snapshot| snapshot.provider.status.name())
            .min_by_key(|status| rank(*status));
        let status = best.unwrap_or(StatusName::Inactive);
        let waking = pool
            .iter()
            .filter_map(|snapshot| Some((snapshot, snapshot.provider.status.wake()?)));
        let first = waking
            .min_by_key(|(_, wake)| wake.deadline_ms)
            .filter(|_| status == StatusName::Waking);
        let is_awake = status == StatusName::Active;
        let until_awake = pool.iter().filter_map(|snapshot| time_until_awake(snapshot));
        let times = |snapshot: &Arc<ProviderSnapshot>| {
            let times = WakeTimes::of(snapshot)?;
            Some(Times {
                provider: snapshot.provider.id.clone(),
                p50_ms: millis(times.p50),
                p95_ms: millis(times.p95),
            })
        };
        let member = |snapshot: &Arc<ProviderSnapshot>| Member::of(&id, snapshot, caller);
        let reveille = Pool {
            preset: pool
                .first()
                .and_then(|snapshot| ShownPreset::of(&id, snapshot, caller)),
            status,
            providers: pool.iter().map(member).collect(),
            wake: first.map(|(snapshot, wake)| Waking {
                wake_id: wake.id,
                provider: snapshot.provider.id.clone(),
                requested_at_ms: wake.requested_at_ms,
                deadline_ms: wake.deadline_ms,
            }),
            eta_ms: until_awake.min().filter(|_| !is_awake).map(millis),
            wake_times: pool.iter().filter_map(times).collect(),
        };
        let details = common(&id, pool);
        Self {
            id,
            object: "model",
            created: details.created.unwrap_or_default(),
            owned_by: "reveille",
            context_length: details.context_length,
            max_model_len: details.context_length,
            capabilities: details.capabilities,
            status: ModelStatus {
                value: loaded(status),
            },
            reveille,
        }
    }
}

/// What holds for a model at whichever provider of its pool a request comes to; what one of them doesn't tell is left out of
/// account. It was created when the first of them was, or, as long as none tells that, since one has its status.
pub(super) fn common(asked: &str, pool: &[Arc<ProviderSnapshot>]) -> ModelDetails {
    let told = pool
        .iter()
        .filter_map(|snapshot| snapshot.provider.spec.details(snapshot.named(asked)?));
    let since = pool.iter().map(|snapshot| snapshot.provider.status.since());
    let abilities = told.clone().map(|details| &details.capabilities);
    let abilities = abilities.filter(|capabilities| !capabilities.is_empty()).cloned();
    let created = told.clone().filter_map(|details| details.created).min();
    ModelDetails {
        created: created.or_else(|| since.map(|since| since.as_millis() / 1000).min()),
        context_length: told.filter_map(|details| details.context_length).min(),
        capabilities: abilities.reduce(|all, own| &all & &own).unwrap_or_default(),
    }
}

impl Member {
    fn of(model: &str, snapshot: &ProviderSnapshot, caller: &Caller) -> Self {
        let provider = &snapshot.provider;
        Self {
            preset: ShownPreset::of(model, snapshot, caller),
            id: provider.id.clone(),
            status: provider.status.name(),
            since_ms: provider.status.since(),
            can_wake: provider.spec.wake().is_some(),
        }
    }
}

/// A pool is as awake as its most awake member.
const fn rank(status: StatusName) -> u8 {
    match status {
        StatusName::Active => 0,
        StatusName::Waking => 1,
        StatusName::Hibernating => 2,
        StatusName::Down => 3,
        StatusName::Inactive => 4,
    }
}

const fn loaded(status: StatusName) -> &'static str {
    match status {
        StatusName::Active => "loaded",
        StatusName::Waking => "loading",
        StatusName::Hibernating => "sleeping",
        StatusName::Down | StatusName::Inactive => "unloaded",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
