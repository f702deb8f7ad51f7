//! Requests that were, and are; and what keys, models and providers used. A key without the scope `admin` sees its own alone.

use crate::{
    http::{
        ApiError, AppState,
        extract::{Path, Query, parsed},
        paging::{JsonResult, limit},
    },
    keys::Caller,
};
use axum::{Extension, Json, extract::State};
use reveille_domain::{
    KeyId, ModelName, ProviderId, Scope, Timestamp, WakeId,
    requests::{RequestQuery, RequestRecord, SLOW_MS, UsageQuery, UsageRow},
    rows::Cursor,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Filter {
    /// In milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "parsed")]
    since_ms: Option<u64>,
    #[serde(default, deserialize_with = "parsed")]
    model: Option<ModelName>,
    #[serde(default, deserialize_with = "parsed")]
    key: Option<KeyId>,
    #[serde(default, deserialize_with = "parsed")]
    provider: Option<ProviderId>,
    #[serde(default, deserialize_with = "parsed")]
    wake: Option<Uuid>,
    #[serde(default)]
    slow: bool,
    #[serde(default, deserialize_with = "parsed")]
    slow_ms: Option<u64>,
    #[serde(default)]
    failed: bool,
    after: Option<Cursor>,
    #[serde(default, rename = "limit", deserialize_with = "parsed")]
    rows: Option<u32>,
}

/// A page of a list that isn't of the journal.
#[derive(Debug, Serialize)]
pub(in crate::http) struct Listed<T> {
    data: Vec<T>,
    next: Option<Cursor>,
}

pub(in crate::http) async fn list(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Query(filter): Query<Filter>,
) -> JsonResult<Listed<Arc<RequestRecord>>> {
    let query = RequestQuery {
        since: filter.since_ms.map(Timestamp::from_millis),
        model: filter.model,
        key: visible(&caller, filter.key)?,
        provider: filter.provider,
        wake: filter.wake.map(WakeId),
        slow_ms: filter.slow_ms.or(filter.slow.then_some(SLOW_MS)),
        failed: filter.failed,
        after: filter.after,
        limit: limit(filter.rows),
    };
    let page = state.past_requests.requests(&query).await?;
    Ok(Json(Listed {
        data: page.items,
        next: page.next,
    }))
}

/// The last request with this id. Another key's doesn't exist for the caller.
pub(in crate::http) async fn one(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> JsonResult<Arc<RequestRecord>> {
    let only = visible(&caller, None)?;
    let found = state.past_requests.request(&id).await?;
    let mut found = found.into_iter();
    let one = found.find(|record| only.is_none() || record.key == only);
    one.map(Json).ok_or(ApiError::NotFound {
        what: "request",
        name: id,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UsageFilter {
    /// In milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "parsed")]
    since_ms: Option<u64>,
    #[serde(default, deserialize_with = "parsed")]
    key: Option<KeyId>,
    #[serde(default, deserialize_with = "parsed")]
    model: Option<ModelName>,
    #[serde(default, deserialize_with = "parsed")]
    provider: Option<ProviderId>,
    after: Option<Cursor>,
    #[serde(default, rename = "limit", deserialize_with = "parsed")]
    rows: Option<u32>,
}

pub(in crate::http) async fn usage(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Query(filter): Query<UsageFilter>,
) -> JsonResult<Listed<UsageRow>> {
    let query = UsageQuery {
        since: filter.since_ms.map(Timestamp::from_millis),
        key: visible(&caller, filter.key)?,
        model: filter.model,
        provider: filter.provider,
        after: filter.after,
        limit: limit(filter.rows),
    };
    let page = state.past_requests.usage(&query).await?;
    Ok(Json(Listed {
        data: page.items,
        next: page.next,
    }))
}

/// The key whose requests the caller gets, if it asks for those of `wanted`; `None` for all.
fn visible(caller: &Caller, wanted: Option<KeyId>) -> Result<Option<KeyId>, ApiError> {
    let Err(denied) = caller.require(&Scope::Admin) else {
        return Ok(wanted);
    };
    let own = caller.key().cloned();
    if wanted.is_some() && wanted != own {
        return Err(denied.into());
    }
    Ok(own)
}
