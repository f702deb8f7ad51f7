//! Revoking connections: finds the agents' connections on all servers of the hub and ends those whose key is no longer
//! valid. The servers answer only a client of their system account.

use super::auth_requests::agent_of_user;
use crate::{error::BusError, messages};
use async_nats::{Client, Message};
use futures::StreamExt;
use reveille_domain::AgentName;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long to wait for the servers' answers: their number is unknown.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// How many connections a server lists per page.
const PAGE: usize = 1024;
/// How many pages are read. Connections behind them are reached once others have ended.
const MAX_PAGES: usize = 64;

/// Ends connections whose key is no longer valid.
#[derive(Debug, Clone)]
pub struct ConnectionRevoker {
    client: Client,
}

#[derive(Deserialize)]
struct Listing {
    server: ServerId,
    data: Connections,
}

#[derive(Deserialize)]
struct ServerId {
    id: String,
}

#[derive(Deserialize)]
struct Connections {
    #[serde(default)]
    connections: Vec<ConnectionInfo>,
}

#[derive(Deserialize)]
struct ConnectionInfo {
    cid: u64,
    #[serde(default)]
    authorized_user: String,
}

impl ConnectionRevoker {
    /// Works over a connection that was made with the hub's system key.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
        }
    }

    /// Ends every agent connection for which `is_valid` rejects the agent's name and public key. Returns how many.
    ///
    /// # Errors
    /// When NATS isn't available. Some connections may have been ended by then.
    pub async fn sweep(&self, is_valid: impl Fn(&AgentName, &str) -> bool) -> Result<usize, BusError> {
        let mut ended = 0;
        for page in 0..MAX_PAGES {
            let listed = self.page(page * PAGE, &is_valid, &mut ended).await?;
            if listed < PAGE {
                break;
            }
        }
        Ok(ended)
    }

    /// Asks all servers for a page of their connections and ends those that aren't valid, as each server answers. Returns
    /// how many connections the longest page has.
    async fn page(
        &self,
        offset: usize,
        is_valid: impl Fn(&AgentName, &str) -> bool,
        ended: &mut usize,
    ) -> Result<usize, BusError> {
        let page = json!({"auth": true, "sort": "cid", "limit": PAGE, "offset": offset});
        let inbox = self.client.new_inbox();
        let mut answers = messages::subscribe(&self.client, inbox.clone(), None).await?;
        self.client
            .publish_with_reply("$SYS.REQ.SERVER.PING.CONNZ", inbox, page.to_string().into())
            .await
            .map_err(BusError::unavailable)?;
        let until = Instant::now() + ANSWERS_WITHIN;
        let mut longest = 0;
        while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
            let Some((server, connections)) = listed(&answer) else {
                continue;
            };
            longest = longest.max(connections.len());
            for connection in connections {
                let revoked =
                    agent_of_user(&connection.authorized_user).filter(|(agent, key)| !is_valid(agent, key));
                if revoked.is_some() {
                    self.end(&server, connection.cid).await?;
                    *ended += 1;
                }
            }
        }
        Ok(longest)
    }

    async fn end(&self, server: &str, cid: u64) -> Result<(), BusError> {
        let which = json!({"cid": cid}).to_string();
        // A server ignores a request without a reply subject.
        let inbox = self.client.new_inbox();
        self.client
            .publish_with_reply(format!("$SYS.REQ.SERVER.{server}.KICK"), inbox, which.into())
            .await
            .map_err(BusError::unavailable)
    }
}

fn listed(answer: &Message) -> Option<(String, Vec<ConnectionInfo>)> {
    let listing: Listing = serde_json::from_slice(&answer.payload).ok()?;
    Some((listing.server.id, listing.data.connections))
}
