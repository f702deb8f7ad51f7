//! Enrolling at the hub's NATS server: the address that agents use is all that a machine has to reach.

use super::pinned::{self, Unreachable};
use crate::failure::Failure;
use anyhow::{Context, anyhow};
use futures::future::join_all;
use reveille_bus::{
    BusError, Connection, NatsAccess, NatsServer,
    access::{JoinToken, NatsKey, Role},
    enroll::{self, EnrollAnswer, TokenRefusal},
};
use std::{fs, path::Path, time::Duration};
use tokio::time::timeout;

/// How long the hub may take to let the machine in: its server asks an API replica.
const ADMITTED_WITHIN: Duration = Duration::from_secs(15);

/// A hub that has enrolled this machine.
pub struct Hub {
    /// Its address, for people.
    pub shown: String,
    /// The URLs of its NATS servers, for the config.
    pub nats: String,
    /// Whether the agent has to trust the hub's own authority.
    pub has_ca: bool,
}

/// Finds the hub at one of these addresses, recognises it by its authority's fingerprint, writes the authority's certificate to
/// `ca_file`, and enrolls the key.
pub async fn enroll(
    addresses: &[String],
    fingerprint: &str,
    ca_file: &Path,
    token: &JoinToken,
    key: &NatsKey,
) -> Result<Hub, Failure> {
    let looks = addresses
        .iter()
        .map(|address| pinned::authority(address, fingerprint));
    let looks = join_all(looks).await;
    let (mut reached, mut failed) = (vec![], vec![]);
    let mut pem = None;
    for (address, look) in addresses.iter().zip(looks) {
        match look {
            Ok(authority) => {
                pem = Some(authority);
                reached.push(address.as_str());
            }
            Err(unreachable) => failed.push((address.as_str(), unreachable)),
        }
    }
    let Some(pem) = pem else {
        return Err(not_found(&failed));
    };
    fs::write(ca_file, pem).with_context(|| format!("cannot write {}", ca_file.display()))?;
    let urls: Vec<_> = reached.iter().map(|address| format!("tls://{address}")).collect();
    let nats = urls.join(",");
    ask(&nats, ca_file, token, key)
        .await
        .map_err(|failure| match failure {
            Failure::Other(error) => error.context(format!("{} cannot join", token.agent)).into(),
            failure => failure,
        })?;
    Ok(Hub {
        shown: reached
            .first()
            .map(|address| (*address).to_owned())
            .unwrap_or_default(),
        nats,
        has_ca: true,
    })
}

async fn ask(nats: &str, ca_file: &Path, token: &JoinToken, key: &NatsKey) -> Result<(), Failure> {
    let access = NatsAccess {
        server: NatsServer {
            url: nats.to_owned(),
            ca: Some(ca_file.to_owned()),
        },
        role: Role::Joining(key.public()),
        key: Some(key.clone()),
    };
    let options = access.named("reveille join").joining(token);
    let connection = match timeout(ADMITTED_WITHIN, Connection::try_open(&options)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(BusError::Unavailable(reason))) if reason.contains("authorization violation") => {
            return Err(anyhow!(
                "the hub doesn't know the token: it was revoked, newer ones have replaced it, or the hub isn't ready yet. {}",
                new_token(token)
            )
            .into());
        }
        Ok(Err(error)) => return Err(anyhow!("the connection to the hub failed: {error}").into()),
        Err(_) => {
            return Err(anyhow!(
                "the hub didn't let this machine in within {} s: check that `reveille up --agents` is ready there, then run \
                 the same command again",
                ADMITTED_WITHIN.as_secs()
            )
            .into());
        }
    };
    match enroll::ask(&connection, key, token).await {
        Ok(EnrollAnswer::Enrolled) => Ok(()),
        Ok(EnrollAnswer::Refused { code }) => {
            let why = match code {
                TokenRefusal::TokenUsed => "the token was used already, by another machine",
                TokenRefusal::TokenExpired => "the token has expired",
                TokenRefusal::TokenUnknown => "the token is unknown",
            };
            Err(anyhow!("{why}. {}", new_token(token)).into())
        }
        Ok(EnrollAnswer::Unavailable { reason }) => {
            Err(anyhow!("the hub can't enroll anyone now ({reason}): run the same command again soon").into())
        }
        Err(error) => Err(anyhow!("the hub didn't answer ({error}): run the same command again").into()),
    }
}

fn new_token(token: &JoinToken) -> String {
    format!(
        "Create a new one on the hub: `reveille agent-token create {}`",
        token.agent
    )
}

/// The error that names every address that was tried, and what to do about the most telling reason.
fn not_found(failed: &[(&str, Unreachable)]) -> Failure {
    let mut text = "cannot reach the hub:".to_owned();
    for (address, reason) in failed {
        text += &format!("\n  {address}: {reason}");
    }
    let telling = failed.iter().max_by_key(|(_, reason)| reason.weight());
    if let Some((_, reason)) = telling {
        text += &format!("\n{}", reason.remedy());
    }
    anyhow!(text).into()
}
