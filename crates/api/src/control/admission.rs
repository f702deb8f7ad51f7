//! Admits agents: authenticates their connections where the hub's NATS servers ask for keys, and ends those whose keys were revoked.
//! The journal records which keys are valid; each replica answers by its own fold.

use crate::{
    commands::{Admin, Commands},
    registry::Registry,
};
use backon::{ConstantBuilder, Retryable};
use reveille_bus::{
    Connection, Reason, Refusals, SubjectKind,
    access::{AuthRequests, ConnectionRevoker, JoinToken},
};
use reveille_domain::{AgentCommand, AgentKey, AgentName};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The cause of the commit that trusts an agent of the hub's own machine.
const TRUST_CAUSE: &str = "operator";
/// The cause of the commits by which the providers of an ended agent are inactive.
const ENDED_CAUSE: &str = "stop";
/// Connections are checked this often even if no key was revoked: this replica may have missed a revocation.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// The pause before a failed attempt is repeated.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Records these agents with their keys, without a token; tries until it succeeds.
pub(crate) async fn trust(commands: &Commands, trusted: Vec<(AgentName, AgentKey)>) {
    for (agent, key) in trusted {
        let record = || async {
            let (name, key) = (agent.clone(), key.clone());
            let command = move |at| AgentCommand::Trust { name, key, at };
            commands.agent(&agent, TRUST_CAUSE, Box::new(command)).await
        };
        let every = ConstantBuilder::new().with_delay(RETRY_AFTER).without_max_times();
        let recorded = record.retry(every).notify(
            |error, _| warn!(agent.name = %agent, %error, "can't record the key of {agent} yet, trying again"),
        );
        let _ = recorded.await;
    }
}

/// Records that these agents have stopped, if the journal still has their keys: otherwise other machines have taken their names.
pub(crate) async fn end(commands: &Commands, registry: &Registry, ended: Vec<(AgentName, AgentKey)>) {
    for (agent, key) in ended {
        let known = registry.agents().get(&agent);
        if let Some(known) = known.filter(|known| known.access.key() == Some(&key)) {
            commands.stop_providers(&agent, ENDED_CAUSE, known.epoch).await;
        }
    }
}

/// Answers the hub's servers until `shutdown`.
pub(crate) async fn answer(
    mut requests: AuthRequests,
    registry: &Registry,
    refusals: &Refusals,
    shutdown: &CancellationToken,
) {
    while let Some(Some(request)) = shutdown.run_until_cancelled(requests.next()).await {
        let (key, host) = (request.key().to_owned(), request.host().to_owned());
        if !registry.is_ready() {
            request.refuse("the journal is being read").await;
        } else if request.asks_whether_revoked() {
            match registry.agents().of_former_key(&key) {
                Some(agent) => {
                    if refusals
                        .count(SubjectKind::Connections, Reason::UnknownKey)
                        .is_some()
                    {
                        info!(agent.name = %agent, client.host = host, "told {host} that its key of {agent} was revoked");
                    }
                    request.dismiss(&agent).await;
                }
                None => request.refuse("this key was not revoked").await,
            }
        } else if let Some(token) = request.join_token() {
            // A token that is used or has expired gets in too, and is told so when it asks.
            if knows(registry, &token) {
                debug!(agent.name = %token.agent, client.host = host, "a machine asks to join as {}", token.agent);
                request.admit_joining().await;
            } else {
                if let Some(so_far) = refusals.count(SubjectKind::Connections, Reason::UnknownKey) {
                    info!(
                        client.host = host,
                        refused.so_far = so_far,
                        "refused a connection from {host}: it has no token of this hub"
                    );
                }
                request.refuse("the token is unknown").await;
            }
        } else if let Some(agent) = registry.agents().of_key(&key) {
            debug!(agent.name = %agent, client.host = host, "admitted {agent}");
            request.admit(&agent).await;
        } else {
            if let Some(so_far) = refusals.count(SubjectKind::Connections, Reason::UnknownKey) {
                info!(
                    client.host = host,
                    nats.key = key,
                    refused.so_far = so_far,
                    "refused a connection from {host}: its key belongs to no agent"
                );
            }
            request.refuse("this key belongs to no agent").await;
        }
    }
}

/// Whether the journal has this token.
fn knows(registry: &Registry, token: &JoinToken) -> bool {
    let agent = registry.agents().get(&token.agent);
    agent.is_some_and(|known| known.access.knows_token(token.id, &token.hash()))
}

/// Ends the connections of agents whose keys were revoked, for as long as this is polled; `system` is a connection with
/// the hub's system key.
pub(crate) async fn revoke_connections(system: &Connection, registry: &Registry) {
    let revoker = ConnectionRevoker::new(system.client());
    let mut dropped = registry.agents().dropped();
    let mut pause = CHECK_EVERY;
    loop {
        tokio::select! {
            changed = dropped.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
        if !registry.is_ready() {
            continue;
        }
        let is_valid = |agent: &_, key: &str| registry.agents().of_key(key).as_ref() == Some(agent);
        pause = match revoker.sweep(is_valid).await {
            Ok(0) => CHECK_EVERY,
            Ok(ended) => {
                info!(ended, "ended {ended} connections of agents with revoked keys");
                CHECK_EVERY
            }
            Err(error) => {
                warn!(%error, "can't check the connections of agents, trying again");
                RETRY_AFTER
            }
        };
    }
}
