//! Agents: listing them, enrolling a machine's key by a token, revoking it, and forgetting what an agent published.
//!
//! A token's secret is shown once. A machine that enrolls sends the public half of its key; the other half never leaves
//! it.

use super::{
    ApiError, AppState,
    body::read_small,
    extract::{Path, Query},
    paging::{Listed, Page},
    queries::past,
};
use crate::{
    agents::AgentSnapshot,
    commands::AgentCommandAt,
    config::AgentHub,
    control::enrollment::{ENROLL_CAUSE, enrollment},
    registry::{ProviderSnapshot, Registry},
    wakes::now_ms,
};
use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use reveille_bus::{
    CommandError, Executed,
    access::{JoinToken, NatsKey},
};
use reveille_domain::{
    AdvanceReason, Agent, AgentCommand, AgentEvent, AgentKey, AgentName, AgentRejection, Epoch,
    MAX_TOKEN_LIFETIME, SecretHash, Status, Timestamp, TokenId, WakeFailure,
    as_of::PastAgent,
    rows::{Sort, SortBy, SortKey, SortKind, SortValue},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tracing::info;
use uuid::Uuid;

/// The cause of an administrator's commits.
const CAUSE: &str = "operator";
/// The length of a token's random secret.
const SECRET_BYTES: usize = 32;
/// An agent without providers counts as connected for this long after a heartbeat.
const RECENT: Duration = Duration::from_secs(60);

/// An agent as this replica knows it.
#[derive(Debug, Serialize)]
pub(super) struct AgentRow {
    agent: AgentName,
    status: AgentStatus,
    /// Since when it has been away or revoked.
    status_since_ms: Option<Timestamp>,
    epoch: Epoch,
    /// When its current session began, and the version of its program.
    connected_at_ms: Option<Timestamp>,
    version: Option<String>,
    key: Option<AgentKey>,
    enrolled_at_ms: Option<Timestamp>,
    revoked_at_ms: Option<Timestamp>,
    /// Whether the next start of this hub admits it, even if it was revoked: it runs in the same process.
    admitted_at_start: bool,
    /// How many providers it publishes.
    providers: usize,
    /// How each wake would fail now, while the agent is paused or in quiet hours.
    wakes_refused: Option<WakeFailure>,
    /// The journal sequence of its last commit.
    updated_seq: u64,
}

/// Whether an agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum AgentStatus {
    Connected,
    /// It was connected.
    Away,
    /// Its key and tokens were revoked.
    Revoked,
    /// It has never connected, or not since it was forgotten.
    Invited,
}

impl AgentStatus {
    /// The status, and since when it has been away or revoked.
    fn of(
        known: &AgentSnapshot,
        published: &[Arc<ProviderSnapshot>],
        last_heartbeat: Option<Timestamp>,
    ) -> (Self, Option<Timestamp>) {
        if known.is_revoked() {
            return (Self::Revoked, known.access.revoked_at());
        }
        let inactive_since = |provider: &Arc<ProviderSnapshot>| match provider.provider.status {
            Status::Inactive { since_ms, .. } => Some(since_ms),
            Status::Active { .. }
            | Status::Hibernating { .. }
            | Status::Waking { .. }
            | Status::Down { .. } => None,
        };
        let away_since: Option<Vec<_>> = published.iter().map(inactive_since).collect();
        match away_since.map(|since| since.into_iter().max()) {
            None => (Self::Connected, None),
            Some(Some(since)) => (Self::Away, Some(since)),
            // It publishes nothing, so only its heartbeats show whether it is there.
            Some(None) if known.session.is_some() && last_heartbeat.is_some_and(is_recent) => {
                (Self::Connected, None)
            }
            Some(None)
                if known.session.is_none()
                    && matches!(known.ended_by, None | Some(AdvanceReason::Forgotten)) =>
            {
                (Self::Invited, None)
            }
            Some(None) => (Self::Away, last_heartbeat),
        }
    }
}

/// By the wall clock: this is only shown to people.
fn is_recent(heartbeat: Timestamp) -> bool {
    Timestamp::from_millis(now_ms()).since(heartbeat) < RECENT
}

impl AgentRow {
    fn of(registry: &Registry, agent: AgentName, known: &AgentSnapshot) -> Self {
        let session = known.session.as_ref();
        let published = registry.of_agent(&agent);
        let last_heartbeat = registry.rows().last_heartbeat(&agent);
        let (status, status_since_ms) = AgentStatus::of(known, &published, last_heartbeat);
        Self {
            status,
            status_since_ms,
            epoch: known.epoch,
            connected_at_ms: session.map(|(since, _)| *since),
            version: session.map(|(_, version)| version.clone()),
            key: known.access.key().cloned(),
            enrolled_at_ms: known.access.enrolled_at(),
            revoked_at_ms: known.access.revoked_at(),
            admitted_at_start: registry.agents().is_admitted_at_start(&agent),
            providers: published.len(),
            wakes_refused: registry.owner_refusals().of(&agent, known.epoch),
            updated_seq: known.sequence,
            agent,
        }
    }
}

/// What agents can be sorted by; equal ones are sorted by their names.
#[derive(Clone, Copy)]
pub(super) enum AgentSort {
    Name,
    /// When their current session began; those without one come first.
    Connected,
}

impl SortBy for AgentSort {
    const ALL: &'static [Self] = &[Self::Name, Self::Connected];
    const DEFAULT: Sort<Self> = Sort::ascending(Self::Name);
    fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Connected => "connected",
        }
    }
    fn kind(self) -> SortKind {
        match self {
            Self::Name => SortKind::Key,
            Self::Connected => SortKind::Number,
        }
    }
}

fn sort_key((name, known): &(AgentName, Arc<AgentSnapshot>), by: AgentSort) -> SortKey<AgentName> {
    let connected = known.session.as_ref().map(|(since, _)| *since);
    key(name, connected, by)
}

fn past_sort_key(row: &PastAgent, by: AgentSort) -> SortKey<AgentName> {
    key(&row.agent, row.connected_at_ms, by)
}

fn key(name: &AgentName, connected: Option<Timestamp>, by: AgentSort) -> SortKey<AgentName> {
    let value = match by {
        AgentSort::Name => SortValue::None,
        AgentSort::Connected => SortValue::Number(connected.unwrap_or_default().as_millis()),
    };
    SortKey {
        value,
        key: name.clone(),
    }
}

pub(super) async fn list(
    State(state): State<AppState>,
    Query(listed): Query<Listed<AgentSort>>,
) -> Result<Response, ApiError> {
    if let Some(at) = listed.at() {
        let world = past::world(&state, at).await?;
        return Ok(Json(listed.past(world.agents(), world.sequence, past_sort_key)?).into_response());
    }
    let registry = &state.registry;
    if !registry.is_ready() {
        return Err(ApiError::NotReady);
    }
    let listed_agents = || {
        let mut agents = registry.agents().all();
        agents.retain(|(_, known)| !known.is_forgotten);
        agents
    };
    let page = listed.page(&state, listed_agents, sort_key).await?;
    let page = Page::of(page, |(name, known)| AgentRow::of(registry, name, &known));
    Ok(Json(page).into_response())
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct IssueToken {
    /// How long the token is valid, in seconds.
    expires_in_s: Option<u64>,
    /// Whether the machine can only join over NATS: without an address for that, no token is issued.
    #[serde(default)]
    over_nats: bool,
}

/// A token; its secret is shown only here.
#[derive(Serialize)]
pub(super) struct IssuedToken {
    agent: AgentName,
    token_id: TokenId,
    secret: String,
    expires_at_ms: Timestamp,
    #[serde(flatten)]
    joins: Option<JoinsAt>,
}

/// Where the machine joins over NATS, and how it recognises the hub.
#[derive(Serialize)]
struct JoinsAt {
    nats: Vec<String>,
    ca_sha256: String,
}

pub(super) async fn issue_token(
    State(state): State<AppState>,
    Path(agent): Path<AgentName>,
    request: Request,
) -> Result<(StatusCode, Json<IssuedToken>), ApiError> {
    let IssueToken {
        expires_in_s,
        over_nats,
    } = read_small(&state, request).await?;
    if state.agent_hub.own_agent.as_ref() == Some(&agent) {
        return Err(own_agent(&agent));
    }
    if over_nats {
        joins_over_nats(&state.agent_hub)?;
    }
    let lifetime = expires_in_s.map_or(MAX_TOKEN_LIFETIME, Duration::from_secs);
    if lifetime.is_zero() {
        let reason = "it must be more than 0";
        return Err(ApiError::invalid("invalid_token", "expires_in_s", reason));
    }
    let token = TokenId(Uuid::now_v7());
    let secret: [u8; SECRET_BYTES] = rand::random();
    let hash = SecretHash::new(Sha256::digest(secret).into());
    let name = agent.clone();
    let command = Box::new(move |at: Timestamp| AgentCommand::IssueToken {
        name,
        token,
        secret: hash,
        expires_at: at.plus(lifetime),
        at,
    });
    let done = run(&state, &agent, CAUSE, command).await?;
    info!(agent.name = %agent, token.id = %token, journal.sequence = done.sequence, "issued a token for {agent}");
    let expires_at_ms = done.events.iter().find_map(|event| match event {
        AgentEvent::AgentTokenIssued { expires_at_ms, .. } => Some(*expires_at_ms),
        _ => None,
    });
    let issued = IssuedToken {
        agent,
        token_id: token,
        secret: BASE64.encode(secret),
        expires_at_ms: expires_at_ms.unwrap_or_default(),
        joins: state.agent_hub.joins.as_ref().map(|joins| JoinsAt {
            nats: joins.addresses.borrow().clone(),
            ca_sha256: joins.ca_sha256.clone(),
        }),
    };
    Ok((StatusCode::CREATED, Json(issued)))
}

/// Fails, with what to do, unless machines can join this hub over NATS now.
fn joins_over_nats(hub: &AgentHub) -> Result<(), ApiError> {
    let why = match &hub.joins {
        Some(joins) if joins.addresses.borrow().is_empty() => {
            "this hub has no address now at which another machine reaches it: connect it to a network, or start \
             `reveille up --agents` with --host NAME"
        }
        Some(_) => return Ok(()),
        None => {
            "this hub doesn't listen for agents of other machines: start it with `reveille up --agents`, or say with --hub URL \
             where the machine reaches its API"
        }
    };
    Err(ApiError::Conflict {
        code: "hub_not_reachable",
        message: format!("{why}. No token was made"),
    })
}

fn own_agent(agent: &AgentName) -> ApiError {
    ApiError::Conflict {
        code: "own_agent",
        message: format!(
            "{agent} is this hub's own agent, and a machine that joined by its name would take its place: choose another \
             name for that machine. No token was made"
        ),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enroll {
    agent: AgentName,
    token_id: TokenId,
    secret: String,
    /// The public half of the machine's key.
    key: String,
}

/// Where the machine finds the hub.
#[derive(Serialize)]
pub(super) struct Enrolled {
    agent: AgentName,
    nats_url: String,
    ca_pem: Option<String>,
}

pub(super) async fn enroll(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<Enrolled>, ApiError> {
    let Enroll {
        agent,
        token_id: token,
        secret,
        key,
    } = read_small(&state, request).await?;
    let key = Some(key).filter(|key| NatsKey::is_public_user_key(key));
    let key = key.and_then(|key| AgentKey::parse(&key).ok());
    let key = key
        .ok_or_else(|| ApiError::invalid("invalid_key", "key", "it is not the public key of a NATS user"))?;
    let command = enrollment(
        JoinToken {
            agent: agent.clone(),
            id: token,
            secret,
        },
        key,
    );
    let done = run(&state, &agent, ENROLL_CAUSE, command).await?;
    info!(agent.name = %agent, token.id = %token, journal.sequence = done.sequence, "enrolled {agent}");
    let hub = &state.agent_hub;
    Ok(Json(Enrolled {
        agent,
        nats_url: hub.nats_url(),
        ca_pem: hub.ca_pem.clone(),
    }))
}

#[derive(Serialize)]
pub(super) struct Revoked {
    agent: AgentName,
    /// False when there was nothing to revoke.
    revoked: bool,
    /// Whether the next start of this hub admits it again: it runs in the same process.
    admitted_at_start: bool,
    /// The journal sequence of its last commit.
    sequence: u64,
}

pub(super) async fn revoke(
    State(state): State<AppState>,
    Path(agent): Path<AgentName>,
) -> Result<Json<Revoked>, ApiError> {
    if state.registry.agents().get(&agent).is_none() {
        return Err(ApiError::NotFound {
            what: "agent",
            name: agent.to_string(),
        });
    }
    let name = agent.clone();
    let command = Box::new(move |at| AgentCommand::Revoke { name, at });
    let done = run(&state, &agent, CAUSE, command).await?;
    info!(agent.name = %agent, journal.sequence = done.sequence, "revoked {agent}");
    state
        .admin
        .stop_providers(&agent, CAUSE, done.state.epoch())
        .await;
    Ok(Json(Revoked {
        admitted_at_start: state.registry.agents().is_admitted_at_start(&agent),
        agent,
        revoked: !done.events.is_empty(),
        sequence: done.sequence,
    }))
}

#[derive(Serialize)]
pub(super) struct ForgottenAgent {
    agent: AgentName,
    /// How many providers were removed.
    providers: usize,
    /// Whether its key still works.
    has_key: bool,
}

/// Removes an agent that is away from the lists, with what it published. If it ever comes back, so do both.
pub(super) async fn forget(
    State(state): State<AppState>,
    Path(agent): Path<AgentName>,
) -> Result<Json<ForgottenAgent>, ApiError> {
    let registry = &state.registry;
    let published = registry.of_agent(&agent);
    let known = registry.agents().get(&agent);
    if known.is_none() && published.is_empty() {
        return Err(ApiError::NotFound {
            what: "agent",
            name: agent.to_string(),
        });
    }
    let connected = || ApiError::Conflict {
        code: "agent_connected",
        message: format!("{agent} is connected, and would publish its providers again: stop the agent first"),
    };
    let is_connected = match &known {
        Some(known) => {
            let last_heartbeat = registry.rows().last_heartbeat(&agent);
            AgentStatus::of(known, &published, last_heartbeat).0 == AgentStatus::Connected
        }
        None => !published
            .iter()
            .all(|known| matches!(known.provider.status, Status::Inactive { .. })),
    };
    if is_connected {
        return Err(connected());
    }
    let forgotten = match state.admin.forget_providers(&agent, CAUSE).await {
        Ok(forgotten) => forgotten,
        Err(CommandError::Bus(error)) => return Err(ApiError::Journal(error)),
        Err(CommandError::Rejected(_)) => return Err(connected()),
    };
    let mut sequence = forgotten.sequence;
    if let Some(known) = &known {
        let (name, to) = (agent.clone(), known.epoch.next());
        let command = Box::new(move |at| AgentCommand::Forget { name, to, at });
        let done = state.admin.agent(&agent, CAUSE, command).await.map_err(refused)?;
        sequence = sequence.max(done.sequence);
    }
    let providers = forgotten.providers;
    info!(agent.name = %agent, "forgot {providers} providers of {agent}");
    let until = Instant::now() + state.limits.timings.fold;
    registry.applied_to(sequence, until).await;
    // Its last one may be recent.
    registry.rows().forget_heartbeat(&agent);
    Ok(Json(ForgottenAgent {
        agent,
        providers,
        has_key: known.is_some_and(|known| known.access.key().is_some()),
    }))
}

/// Runs a command, and waits until this replica has folded its result: from then on it accepts a newly enrolled key.
async fn run(
    state: &AppState,
    agent: &AgentName,
    cause: &'static str,
    command: AgentCommandAt,
) -> Result<Executed<Agent>, ApiError> {
    let done = state.admin.agent(agent, cause, command).await.map_err(refused)?;
    let until = Instant::now() + state.limits.timings.fold;
    state.registry.applied_to(done.sequence, until).await;
    Ok(done)
}

fn refused(error: CommandError<AgentRejection>) -> ApiError {
    match error {
        CommandError::Rejected(rejection @ AgentRejection::TokenTooLong) => {
            ApiError::invalid("invalid_token", "expires_in_s", rejection.to_string())
        }
        CommandError::Rejected(
            rejection @ (AgentRejection::TokenUnknown
            | AgentRejection::TokenUsed
            | AgentRejection::TokenExpired),
        ) => ApiError::TokenRefused(rejection),
        CommandError::Rejected(rejection @ AgentRejection::SessionSuperseded { .. }) => ApiError::Conflict {
            code: "agent_conflict",
            message: rejection.to_string(),
        },
        CommandError::Bus(error) => ApiError::Journal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::JoinAddresses;
    use tokio::sync::watch;

    #[test]
    fn machines_join_over_nats_while_the_hub_has_an_address_for_them() {
        let (addresses, known) = watch::channel(vec![]);
        let hub = AgentHub {
            chosen_url: None,
            own_url: "nats://127.0.0.1:4222".to_owned(),
            ca_pem: None,
            joins: Some(JoinAddresses {
                addresses: known,
                ca_sha256: "AAAA".to_owned(),
            }),
            own_agent: None,
        };
        let refused = joins_over_nats(&hub).unwrap_err().to_string();
        assert!(refused.contains("no address now"), "{refused}");
        addresses.send_replace(vec!["192.0.2.1:8422".to_owned()]);
        assert!(joins_over_nats(&hub).is_ok());
    }
}
