//! Letting agents in. A server of the hub asks about every connection that its config doesn't know (NATS's auth callout),
//! and an API replica answers by what the journal says of that key. So agents come and go without a change of any server.

use super::{jwt::AuthRequestClaims, nats_key::NatsKey, role::Role};
use crate::{
    error::BusError,
    refusals::{Reason, Refusals, SubjectKind},
    subjects,
};
use async_nats::{Client, Subject, Subscriber};
use futures::StreamExt;
use reveille_domain::AgentName;
use tracing::{debug, warn};

/// All replicas share the questions.
const QUEUE_GROUP: &str = "reveille-callout";
/// How an agent's connection is named on its server, before the agent's name and its public key.
const AGENT_USER: &str = "agent";

/// What the servers ask.
pub struct Callout {
    client: Client,
    subscription: Subscriber,
    issuer: NatsKey,
    refusals: Refusals,
}

/// Somebody who wants in, and has proven to hold a key.
pub struct AuthRequest {
    client: Client,
    issuer: NatsKey,
    claims: AuthRequestClaims,
    key: String,
    reply: Subject,
}

impl Callout {
    /// Joins the replicas that answer; `issuer` is the account key that the servers' configs name.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn subscribe(client: &Client, issuer: NatsKey) -> Result<Self, BusError> {
        let subscription = client
            .queue_subscribe(subjects::CALLOUT, QUEUE_GROUP.to_owned())
            .await
            .map_err(BusError::unavailable)?;
        Ok(Self {
            client: client.clone(),
            subscription,
            issuer,
            refusals: Refusals::default(),
        })
    }

    /// Counts in `refusals` whom it doesn't let in.
    #[must_use]
    pub fn counting(mut self, refusals: &Refusals) -> Self {
        self.refusals = refusals.clone();
        self
    }

    /// The next who has proven to hold a key; the others are refused here. `None` at the end.
    pub async fn next(&mut self) -> Option<AuthRequest> {
        loop {
            let message = self.subscription.next().await?;
            let (Some(claims), Some(reply)) = (AuthRequestClaims::read(&message.payload), message.reply)
            else {
                if let Some(so_far) = self.refusals.count(SubjectKind::Connections, Reason::Malformed) {
                    warn!(
                        refused.so_far = so_far,
                        "dropped a malformed authorization request of a NATS server"
                    );
                }
                continue;
            };
            let Some(key) = claims.proven_key().map(str::to_owned) else {
                self.refusals.count(SubjectKind::Connections, Reason::Unproven);
                debug!(
                    client.host = claims.host(),
                    "refused a connection without a proven key"
                );
                let answer = claims.refuse(&self.issuer, "it has not proven to hold a key");
                send(&self.client, reply, answer).await;
                continue;
            };
            return Some(AuthRequest {
                client: self.client.clone(),
                issuer: self.issuer.clone(),
                claims,
                key,
                reply,
            });
        }
    }
}

impl AuthRequest {
    /// The public key that the newcomer has proven to hold.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The address that he connects from.
    #[must_use]
    pub fn host(&self) -> &str {
        self.claims.host()
    }

    /// Lets him in as this agent, with an agent's rights.
    pub async fn admit(self, agent: &AgentName) {
        let rights = Role::Agent(agent.clone()).permissions();
        let answer = self
            .claims
            .admit(&self.issuer, &agent_user(agent, &self.key), rights);
        send(&self.client, self.reply, answer).await;
    }

    /// Refuses him. The server logs the reason; he learns only that he is refused.
    pub async fn refuse(self, reason: &str) {
        let answer = self.claims.refuse(&self.issuer, reason);
        send(&self.client, self.reply, answer).await;
    }
}

async fn send(client: &Client, reply: Subject, answer: Option<String>) {
    let Some(answer) = answer else { return };
    if let Err(error) = client.publish(reply, answer.into()).await {
        debug!(%error, "can't answer a NATS server");
    }
}

/// How the connections of an agent with this key are named on their server.
pub(super) fn agent_user(agent: &AgentName, key: &str) -> String {
    format!("{AGENT_USER}.{agent}.{key}")
}

/// The agent and the key of a connection so named.
pub(super) fn agent_of_user(user: &str) -> Option<(AgentName, &str)> {
    let (agent, key) = user
        .strip_prefix(AGENT_USER)?
        .strip_prefix('.')?
        .split_once('.')?;
    Some((AgentName::parse(agent).ok()?, key))
}
