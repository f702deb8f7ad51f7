//! Enrolling at the hub's NATS server: the address that agents use is all that a machine has to reach.

use super::pinned::{self, Unreachable};
use crate::failure::Failure;
use anyhow::{Context, anyhow};
use futures::{StreamExt, stream::FuturesUnordered};
use reveille_bus::{
    BusError, Connection, NatsAccess, NatsServer,
    access::{JoinToken, NatsKey, Role},
    enroll::{self, EnrollAnswer, TokenRefusal},
};
use std::{io::Write, time::Duration};
use tempfile::NamedTempFile;
use tokio::time::{Instant, timeout, timeout_at};

/// How long the hub may take to let the machine in: its server asks an API replica.
const ADMITTED_WITHIN: Duration = Duration::from_secs(15);

/// How long other addresses may still take once the hub has answered at one of them.
const OTHERS_WITHIN: Duration = Duration::from_millis(500);

/// A hub that this machine joins.
pub struct Hub {
    /// Its address, for people.
    pub shown: String,
    /// The URLs of its NATS servers, for the config.
    pub nats: String,
    /// The authority of the hub's own that the agent has to trust, in PEM.
    pub ca_pem: Option<String>,
}

/// Finds the hub at one of these addresses, and recognises it by its authority's fingerprint.
pub async fn find(addresses: &[String], fingerprint: &str) -> Result<Hub, Failure> {
    let looks = addresses
        .iter()
        .map(|address| pinned::authority(address, fingerprint));
    let looks = outcomes(looks).await;
    let (mut reached, mut failed) = (vec![], vec![]);
    let mut ca_pem = None;
    for (address, look) in addresses.iter().zip(looks) {
        match look {
            Some(Ok(authority)) => {
                ca_pem = Some(authority);
                reached.push(address.as_str());
            }
            Some(Err(unreachable)) => failed.push((address.as_str(), unreachable)),
            None => {}
        }
    }
    let Some(first) = reached.first() else {
        return Err(not_found(&failed));
    };
    let urls: Vec<_> = reached.iter().map(|address| format!("tls://{address}")).collect();
    Ok(Hub {
        shown: (*first).to_owned(),
        nats: urls.join(","),
        ca_pem,
    })
}

/// What became of each, in their order; `None` for those that took much longer than the first success.
async fn outcomes<T, E>(
    looks: impl Iterator<Item = impl Future<Output = Result<T, E>>>,
) -> Vec<Option<Result<T, E>>> {
    let mut running: FuturesUnordered<_> = looks
        .enumerate()
        .map(|(place, look)| async move { (place, look.await) })
        .collect();
    let mut outcomes: Vec<_> = (0..running.len()).map(|_| None).collect();
    let mut until = None;
    loop {
        let next = match until {
            None => running.next().await,
            Some(until) => timeout_at(until, running.next()).await.unwrap_or_default(),
        };
        let Some((place, outcome)) = next else {
            return outcomes;
        };
        if outcome.is_ok() {
            until.get_or_insert_with(|| Instant::now() + OTHERS_WITHIN);
        }
        outcomes[place] = Some(outcome);
    }
}

/// Enrolls the key at a hub that was found.
pub async fn enroll(hub: &Hub, token: &JoinToken, key: &NatsKey) -> Result<(), Failure> {
    // The connection reads the authority from a file.
    let ca_file = hub.ca_pem.as_deref().map(temporary).transpose()?;
    let server = NatsServer {
        url: hub.nats.clone(),
        ca: ca_file.as_ref().map(|file| file.path().to_owned()),
    };
    ask(server, token, key).await.map_err(|failure| match failure {
        Failure::Other(error) => error.context(format!("{} cannot join", token.agent)).into(),
        failure => failure,
    })
}

fn temporary(text: &str) -> Result<NamedTempFile, Failure> {
    let cannot = "cannot write a temporary file";
    let mut file = NamedTempFile::new().context(cannot)?;
    file.write_all(text.as_bytes()).context(cannot)?;
    Ok(file)
}

async fn ask(server: NatsServer, token: &JoinToken, key: &NatsKey) -> Result<(), Failure> {
    let access = NatsAccess {
        server,
        role: Role::Joining(key.public()),
        key: Some(key.clone()),
    };
    let options = access.named("reveille join").joining(token);
    let connection = match timeout(ADMITTED_WITHIN, Connection::try_open(&options)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(BusError::Refused)) => {
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
                TokenRefusal::TokenUsed => "the token was used already, and each works once",
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
        "Create a new one on the hub: `reveille agent token {}`",
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_drops_packets_holds_up_no_join() {
        let look = |after_ms: u64, outcome: Result<u64, &'static str>| async move {
            sleep(Duration::from_millis(after_ms)).await;
            outcome
        };
        let began = Instant::now();
        let looks = [
            look(15_000, Err("silent")),
            look(40, Err("refused")),
            look(300, Ok(1)),
            look(700, Ok(2)),
            look(900, Ok(3)),
        ];
        let looks = outcomes(looks.into_iter()).await;
        assert_eq!(
            looks,
            [None, Some(Err("refused")), Some(Ok(1)), Some(Ok(2)), None]
        );
        assert_eq!(began.elapsed(), Duration::from_millis(800));
        let all = outcomes([look(15_000, Err("silent")), look(1, Err("refused"))].into_iter()).await;
        assert!(
            all.iter().all(Option::is_some),
            "without a success each has its time"
        );
    }
}
