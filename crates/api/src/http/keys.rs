//! Keys: making, rotating, revoking and listing them, with the scope `admin`. A key itself is shown once: when it is made
//! or rotated.

use super::{
    ApiError, AppState,
    body::read_small,
    extract::{Path, Query},
    paging::{Listed, Page, folded},
};
use crate::{
    commands::KeyCommandAt,
    keys::{Denied, KeySnapshot, KeyState, MAX_KEYS, SecretKey},
};
use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use reveille_bus::{BusError, CommandError};
use reveille_domain::{
    KeyCommand, KeyId, KeyName, KeyRejection, Priority, Scope, Scopes, Timestamp,
    key::{KeyLimits, KeyPolicy, MAX_SCOPES, ProgressForm},
    rows::{Sort, SortBy, SortKey, SortKind, SortValue},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// A key without its secret, and what it has used in this replica.
#[derive(Debug, Serialize)]
pub(super) struct KeyRow {
    id: KeyId,
    /// `issued`, `expired`, `revoked` or `unreadable`.
    status: &'static str,
    name: Option<KeyName>,
    scopes: Vec<Scope>,
    expires_at_ms: Option<Timestamp>,
    #[serde(flatten)]
    limits: Option<KeyLimits>,
    progress: Option<ProgressForm>,
    /// How soon its requests have their turn where requests wait.
    priority: Option<Priority>,
    created_at_ms: Option<Timestamp>,
    rotated_at_ms: Option<Timestamp>,
    /// Until when the secret from before the last rotation is valid.
    previous_valid_until_ms: Option<Timestamp>,
    revoked_at_ms: Option<Timestamp>,
    /// When it was last used in this replica.
    last_used_ms: Option<Timestamp>,
    /// How many requests came with it in this replica since it started.
    requests: u64,
    /// The journal sequence of its last commit.
    updated_seq: u64,
}

/// A key that was just made or rotated; the key itself is shown only here.
#[derive(Debug, Serialize)]
struct Made {
    key: String,
    #[serde(flatten)]
    row: KeyRow,
}

impl KeyRow {
    fn of(known: &KeySnapshot, now: Option<Timestamp>) -> Self {
        let policy = match &known.state {
            KeyState::Issued(key) => Some(&key.policy),
            KeyState::Revoked(key) => Some(&key.policy),
            KeyState::Unreadable(_) => None,
        };
        let status = match &known.state {
            KeyState::Issued(key) if now.is_some_and(|now| key.policy.expired_at(now)) => "expired",
            KeyState::Issued(_) => "issued",
            KeyState::Revoked(_) => "revoked",
            KeyState::Unreadable(_) => "unreadable",
        };
        let mut row = Self {
            id: known.state.id().clone(),
            status,
            name: policy.map(|policy| policy.name.clone()),
            scopes: policy.map_or_else(Vec::new, |policy| policy.scopes.iter().cloned().collect()),
            expires_at_ms: policy.and_then(|policy| policy.expires_at_ms),
            limits: policy.map(|policy| policy.limits),
            progress: policy.and_then(|policy| policy.progress),
            priority: policy.map(|policy| policy.priority),
            created_at_ms: known.state.created_at(),
            rotated_at_ms: None,
            previous_valid_until_ms: None,
            revoked_at_ms: None,
            last_used_ms: known.limits.last_used(),
            requests: known.limits.requests(),
            updated_seq: known.sequence,
        };
        match &known.state {
            KeyState::Issued(key) => {
                row.rotated_at_ms = key.rotated_at_ms;
                row.previous_valid_until_ms = key.previous.map(|previous| previous.valid_until_ms);
            }
            KeyState::Revoked(key) => row.revoked_at_ms = Some(key.revoked_at_ms),
            KeyState::Unreadable(_) => {}
        }
        row
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: KeyName,
    scopes: Vec<Scope>,
    /// How long it is valid, in seconds; without it, until it is revoked.
    expires_in_s: Option<u64>,
    rate: Option<u32>,
    concurrency: Option<u32>,
    wakes_per_hour: Option<u32>,
    progress: Option<ProgressForm>,
    #[serde(default)]
    priority: Priority,
}

impl Create {
    fn policy(self) -> Result<impl FnOnce(Timestamp) -> KeyPolicy, ApiError> {
        let invalid = |message: String| ApiError::invalid("invalid_key", None, message);
        if self.scopes.len() > MAX_SCOPES {
            return Err(invalid(reveille_domain::key::InvalidScope::Count.to_string()));
        }
        let scopes: std::collections::BTreeSet<_> = self.scopes.into_iter().collect();
        let scopes = Scopes::try_from(scopes).map_err(|error| invalid(error.to_string()))?;
        let limits = KeyLimits::new(self.rate, self.concurrency, self.wakes_per_hour)
            .map_err(|error| invalid(error.to_string()))?;
        let expires_in = self.expires_in_s.map(Duration::from_secs);
        Ok(move |at: Timestamp| KeyPolicy {
            name: self.name,
            scopes,
            expires_at_ms: expires_in.map(|time| at.plus(time)),
            limits,
            progress: self.progress,
            priority: self.priority,
        })
    }
}

pub(super) async fn create(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let policy = read_small::<Create>(&state, request).await?.policy()?;
    if state.authenticator.keys().count() >= MAX_KEYS {
        return Err(ApiError::Conflict {
            code: "too_many_keys",
            message: format!("there are already {MAX_KEYS} keys, revoked ones included"),
        });
    }
    let secret = SecretKey::generate().map_err(no_randomness)?;
    let (id, hash) = (secret.id().clone(), secret.hash());
    let command = move |at| KeyCommand::Create {
        id,
        policy: policy(at),
        secret: hash,
        at,
    };
    let row = row_after(&state, secret.id(), "create", Box::new(command)).await?;
    Ok((StatusCode::CREATED, Json(Made::of(&secret, row))).into_response())
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Rotate {
    /// How long the old secret stays valid, in seconds.
    #[serde(default)]
    grace_s: u64,
}

pub(super) async fn rotate(
    State(state): State<AppState>,
    Path(id): Path<KeyId>,
    request: Request,
) -> Result<Response, ApiError> {
    let Rotate { grace_s } = read_small(&state, request).await?;
    let secret = SecretKey::generate_for(id).map_err(no_randomness)?;
    let hash = secret.hash();
    let command = move |at| KeyCommand::Rotate {
        secret: hash,
        grace: Duration::from_secs(grace_s),
        at,
    };
    let row = row_after(&state, secret.id(), "rotate", Box::new(command)).await?;
    Ok(Json(Made::of(&secret, row)).into_response())
}

pub(super) async fn revoke(
    State(state): State<AppState>,
    Path(id): Path<KeyId>,
) -> Result<Json<KeyRow>, ApiError> {
    let command = Box::new(|at| KeyCommand::Revoke { at });
    row_after(&state, &id, "revoke", command).await.map(Json)
}

/// What keys can be sorted by; equal ones are sorted by their ids.
#[derive(Clone, Copy)]
pub(super) enum KeySort {
    Id,
    /// When they were made; unreadable ones come first.
    Created,
}

impl SortBy for KeySort {
    const ALL: &'static [Self] = &[Self::Id, Self::Created];
    const DEFAULT: Sort<Self> = Sort::ascending(Self::Id);
    fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Created => "created",
        }
    }
    fn kind(self) -> SortKind {
        match self {
            Self::Id => SortKind::Key,
            Self::Created => SortKind::Number,
        }
    }
}

fn sort_key(known: &Arc<KeySnapshot>, by: KeySort) -> SortKey<KeyId> {
    let value = match by {
        KeySort::Id => SortValue::None,
        KeySort::Created => SortValue::Number(known.state.created_at().unwrap_or_default().as_millis()),
    };
    SortKey {
        value,
        key: known.state.id().clone(),
    }
}

pub(super) async fn list(
    State(state): State<AppState>,
    Query(listed): Query<Listed<KeySort>>,
) -> Result<Json<Page<KeyRow>>, ApiError> {
    if listed.at().is_some() {
        let message = "keys are listed as they are now; `reveille diff` shows what has changed";
        return Err(ApiError::invalid("invalid_query", "at", message));
    }
    let authenticator = &state.authenticator;
    let page = listed
        .page(&state, || authenticator.keys().all(), sort_key)
        .await?;
    let now = authenticator.now();
    Ok(Json(Page::of(page, |known| KeyRow::of(&known, now))))
}

/// Runs a command, and returns the key's row once this replica has folded the result.
async fn row_after(
    state: &AppState,
    id: &KeyId,
    cause: &'static str,
    command: KeyCommandAt,
) -> Result<KeyRow, ApiError> {
    let done = state.admin.key(id, cause, command).await;
    let done = done.map_err(|error| refused(id, error))?;
    folded(state, Some(done.sequence)).await?;
    let known = state.authenticator.keys().get(id.as_str());
    let known = known.ok_or_else(|| unknown(id))?;
    Ok(KeyRow::of(&known, state.authenticator.now()))
}

impl Made {
    fn of(secret: &SecretKey, row: KeyRow) -> Self {
        let key = secret.expose().to_owned();
        Self { key, row }
    }
}

fn unknown(id: &KeyId) -> ApiError {
    ApiError::NotFound {
        what: "key",
        name: id.to_string(),
    }
}

fn refused(id: &KeyId, error: CommandError<KeyRejection>) -> ApiError {
    match error {
        CommandError::Rejected(KeyRejection::NotFound) => unknown(id),
        CommandError::Rejected(rejection @ (KeyRejection::IdTaken | KeyRejection::Revoked)) => {
            ApiError::Conflict {
                code: "key_conflict",
                message: rejection.to_string(),
            }
        }
        CommandError::Rejected(
            rejection @ (KeyRejection::Expired
            | KeyRejection::ExpiresBeforeItBegins
            | KeyRejection::GraceTooLong),
        ) => ApiError::invalid("invalid_key", None, rejection.to_string()),
        CommandError::Bus(BusError::Unreadable { .. }) => Denied::Unreadable { key: id.clone() }.into(),
        CommandError::Bus(error) => ApiError::Journal(error),
    }
}

fn no_randomness(error: impl std::fmt::Display) -> ApiError {
    ApiError::Journal(BusError::Unavailable(format!(
        "the system has no randomness: {error}"
    )))
}
