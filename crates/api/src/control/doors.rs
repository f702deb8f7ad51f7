//! Who of the agents comes in and who has to go, where the hub asks for keys. The journal says whose key is good; each
//! replica answers for what it has folded.

use crate::{commands::Commands, registry::Registry};
use reveille_bus::{
    Connection, Reason, Refusals, SubjectKind,
    access::{Callout, ConnectionRevoker},
};
use reveille_domain::{AgentCommand, AgentKey, AgentName};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// What stands in the commit that lets an agent of the hub's own machine in.
const TRUSTS: &str = "operator";
/// Connections are looked through this often even if no key has stopped being good: a replica may have been away when
/// one did.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The pause before a look that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Has these agents known by these keys, without a token; tries until it is so.
pub(crate) async fn trust(commands: &Commands, trusted: Vec<(AgentName, AgentKey)>) {
    for (agent, key) in trusted {
        loop {
            let (name, key) = (agent.clone(), key.clone());
            let command = |at| AgentCommand::Trust { name, key, at };
            match commands.agent(&agent, TRUSTS, command).await {
                Ok(_) => break,
                Err(error) => warn!(agent.name = %agent, %error, "{agent} can't be let in yet, trying again"),
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Answers the hub's servers until `shutdown`.
pub(crate) async fn answer(
    mut callout: Callout,
    registry: &Registry,
    refusals: &Refusals,
    shutdown: &CancellationToken,
) {
    while let Some(Some(request)) = shutdown.run_until_cancelled(callout.next()).await {
        let (key, host) = (request.key().to_owned(), request.host().to_owned());
        if !registry.is_ready() {
            request.refuse("the journal is being read").await;
        } else if let Some(agent) = registry.identities().of_key(&key) {
            debug!(agent.name = %agent, client.host = host, "let {agent} in");
            request.admit(&agent).await;
        } else {
            if let Some(so_far) = refusals.count(SubjectKind::Connections, Reason::UnknownKey) {
                info!(
                    client.host = host,
                    nats.key = key,
                    refused.so_far = so_far,
                    "refused a connection from {host}: no agent is known by its key"
                );
            }
            request.refuse("no agent is known by this key").await;
        }
    }
}

/// Ends the connections of agents whose keys are no longer good, until `shutdown`; `system` is a connection with the
/// hub's system key.
pub(crate) async fn keep(system: &Connection, registry: &Registry, shutdown: &CancellationToken) {
    let revoker = ConnectionRevoker::new(system.client());
    let mut dropped = registry.identities().dropped();
    let mut pause = LOOK_EVERY;
    loop {
        tokio::select! {
            changed = dropped.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        if !registry.is_ready() {
            continue;
        }
        let known = |agent: &_, key: &str| registry.identities().of_key(key).as_ref() == Some(agent);
        pause = match revoker.sweep(known).await {
            Ok(0) => LOOK_EVERY,
            Ok(ended) => {
                info!(
                    ended,
                    "ended {ended} connections of agents whose keys are no longer good"
                );
                LOOK_EVERY
            }
            Err(error) => {
                warn!(%error, "can't look through the connections of agents, trying again");
                RETRY_AFTER
            }
        };
    }
}
