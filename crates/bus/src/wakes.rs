//! Wake messages: "wake provider P". They carry ids and the time left, nothing that chooses a program, a URL or an
//! environment. The replica that committed the wake sends one, every sweep sends it again, and the agent acknowledges
//! each.

use crate::{error::BusError, messages, subjects};
use async_nats::{Client, Subscriber};
use futures::StreamExt;
use reveille_domain::{AgentName, Epoch, ProviderId, Timestamp, WakeId};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use std::time::Duration;

/// How long the sender waits for the agent's acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// A wake in flight, as its agent receives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeMessage {
    /// The provider to wake.
    pub provider: ProviderId,
    /// The id of the wake.
    pub wake_id: WakeId,
    /// The epoch that the provider is registered under.
    pub epoch: Epoch,
    /// The journal sequence of the provider's last commit. An agent ignores a message older than one it has seen.
    pub sequence: u64,
    /// When the wake times out, in NATS time.
    pub deadline_ms: Timestamp,
    /// When the message was sent, in NATS time.
    pub now_ms: Timestamp,
    /// Whether requests wait for this wake. The backend then stays awake until the first of them arrives. True when absent;
    /// false for an operator's wake until a request joins it.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub awaited: bool,
    /// Whether the sender knows of somebody who still wants this wake: a request that waits for it, a caller that said it would
    /// come back, or the operator who requested it. A wake that only waits for its group ends when no replica does. True when
    /// absent.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub wanted: bool,
    /// The replica that sends the message. Empty when absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub replica: String,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_true(value: &bool) -> bool {
    *value
}

impl WakeMessage {
    /// The time that was left when the message was sent.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline_ms.since(self.now_ms)
    }
}

/// Sends a wake to its agent and waits for the acknowledgement.
///
/// # Errors
/// When the agent isn't connected or doesn't acknowledge in time; the next sweep sends the wake again.
pub async fn send(client: &Client, wake: &WakeMessage) -> Result<(), BusError> {
    let inbox = subjects::ack(&wake.provider.agent, &messages::nonce());
    let subject = subjects::wake(&wake.provider);
    let ack = messages::request(client, subject, inbox, ACK_TIMEOUT, wake).await;
    ack.map(|IgnoredAny| ())
}

/// Sends a wake to its agent again without waiting for the acknowledgement: a sweep has other providers to check.
///
/// # Errors
/// When the connection is closed.
pub async fn send_again(client: &Client, wake: &WakeMessage) -> Result<(), BusError> {
    messages::publish(client, subjects::wake(&wake.provider), wake).await
}

/// The wakes that an agent receives.
pub struct Wakes {
    client: Client,
    agent: AgentName,
    subscription: Subscriber,
}

impl Wakes {
    /// Listens for the wakes of `agent`.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn subscribe(client: &Client, agent: &AgentName) -> Result<Self, BusError> {
        Ok(Self {
            client: client.clone(),
            agent: agent.clone(),
            subscription: messages::subscribe(client, subjects::wakes_of(agent), None).await?,
        })
    }

    /// Acknowledges and returns the next wake; `None` when the connection is closed. Malformed wakes and those of other
    /// agents are dropped.
    pub async fn next(&mut self) -> Option<WakeMessage> {
        loop {
            let message = self.subscription.next().await?;
            match serde_json::from_slice::<WakeMessage>(&message.payload) {
                Ok(wake)
                    if wake.provider.agent == self.agent
                        && subjects::wake(&wake.provider) == message.subject.as_str() =>
                {
                    if let Some(reply) = message.reply {
                        let _ = self.client.publish(reply, "{}".into()).await;
                    }
                    return Some(wake);
                }
                Ok(_) | Err(_) => tracing::warn!(nats.subject = %message.subject, "dropped a malformed wake"),
            }
        }
    }
}
