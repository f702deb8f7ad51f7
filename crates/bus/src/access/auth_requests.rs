//! A hub's servers ask about every connection that their config doesn't know (NATS's auth callout). This reads their requests
//! and carries the answers; an API replica decides by what the journal says about the key. Agents come and go without changes to
//! any server.

use super::{
    join_token::{JOIN_USER, JoinToken},
    jwt::AuthRequestClaims,
    nats_key::NatsKey,
    role::Role,
};
use crate::{
    error::BusError,
    messages,
    refusals::{Reason, Refusals, SubjectKind},
    subjects,
};
use async_nats::{Client, Subject, Subscriber};
use futures::StreamExt;
use reveille_domain::AgentName;
use tracing::{debug, warn};

/// The queue group in which all replicas share the servers' requests.
const QUEUE_GROUP: &str = "reveille-callout";
/// The first part of the user name of an agent's connection; the agent's name and public key follow.
const AGENT_USER: &str = "agent";
/// The same of a connection that is dismissed.
const FORMER_USER: &str = "former";
/// The name of a connection that only asks whether its key was revoked or replaced. It is never admitted.
pub(crate) const ASKS_WHETHER_REVOKED: &str = "reveille revocation check";

/// The servers' authorization requests.
pub struct AuthRequests {
    client: Client,
    subscription: Subscriber,
    issuer: NatsKey,
    refusals: Refusals,
}

/// A request to admit a connection that has proven to hold a key.
pub struct AuthRequest {
    client: Client,
    issuer: NatsKey,
    claims: AuthRequestClaims,
    key: String,
    reply: Subject,
}

impl AuthRequests {
    /// Joins the replicas that answer, and counts in `refusals` the requests it refuses. `issuer` is the account key that the servers' configs name.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn subscribe(client: &Client, issuer: NatsKey, refusals: &Refusals) -> Result<Self, BusError> {
        Ok(Self {
            client: client.clone(),
            subscription: messages::subscribe(client, subjects::CALLOUT, Some(QUEUE_GROUP)).await?,
            issuer,
            refusals: refusals.clone(),
        })
    }

    /// The next request with a proven key; others are refused here. `None` when the connection is closed.
    pub async fn next(&mut self) -> Option<AuthRequest> {
        loop {
            let message = self.subscription.next().await?;
            let (Some(claims), Some(reply)) = (AuthRequestClaims::read(&message.payload), message.reply)
            else {
                if let Some(so_far) = self.refusals.count(SubjectKind::Connections, Reason::Malformed) {
                    warn!(
                        refused.so_far = so_far,
                        "dropped a malformed authorization request from a NATS server"
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
                let answer = claims.refuse(&self.issuer, "it has not proven that it holds a key");
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
    /// The public key that the connecting party has proven to hold.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The token with which it asks to join, if it does. A text that is no token asks for nothing.
    #[must_use]
    pub fn join_token(&self) -> Option<JoinToken> {
        let (user, token) = self.claims.login();
        (user == JOIN_USER).then(|| JoinToken::parse(token)).flatten()
    }

    /// The address that it connects from.
    #[must_use]
    pub fn host(&self) -> &str {
        self.claims.host()
    }

    /// Whether the connecting party only asks whether its key was revoked or replaced.
    #[must_use]
    pub fn asks_whether_revoked(&self) -> bool {
        self.claims.connection_name() == ASKS_WHETHER_REVOKED
    }

    /// Tells the connecting party that its key was revoked or replaced: the connection ends with an error that nothing else
    /// causes.
    pub async fn dismiss(self, agent: &AgentName) {
        let user = format!("{FORMER_USER}.{agent}");
        let answer = self.claims.dismiss(&self.issuer, &user);
        send(&self.client, self.reply, answer).await;
    }

    /// Admits the connection as this agent, with an agent's permissions.
    pub async fn admit(self, agent: &AgentName) {
        let permissions = Role::Agent(agent.clone()).permissions();
        let answer = self
            .claims
            .admit(&self.issuer, &agent_user(agent, &self.key), permissions);
        send(&self.client, self.reply, answer).await;
    }

    /// Admits the connection of a machine that joins, for a minute: it may ask to join, and nothing else.
    pub async fn admit_joining(self) {
        let permissions = Role::Joining(self.key.clone()).permissions();
        let user = format!("{JOIN_USER}.{}", self.key);
        let answer = self.claims.admit_joining(&self.issuer, &user, permissions);
        send(&self.client, self.reply, answer).await;
    }

    /// Refuses the connection. The server logs the reason; the connecting party learns only that it was refused.
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

/// The user name that the server gives to an agent's connection with this key.
pub(super) fn agent_user(agent: &AgentName, key: &str) -> String {
    format!("{AGENT_USER}.{agent}.{key}")
}

/// The agent and the key in such a user name.
pub(super) fn agent_of_user(user: &str) -> Option<(AgentName, &str)> {
    let (agent, key) = user
        .strip_prefix(AGENT_USER)?
        .strip_prefix('.')?
        .split_once('.')?;
    Some((AgentName::parse(agent).ok()?, key))
}
