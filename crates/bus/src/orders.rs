//! Orders to an agent: request and reply on `reveille.orders.<agent>`. Each names the epoch it belongs to.

use crate::{error::BusError, messages, subjects};
use async_nats::{Client, Subscriber, subject::Subject};
use futures::StreamExt;
use reveille_domain::{AgentName, Epoch, ProviderName};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the sender waits for the answer: an agent answers at once and carries the order out later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What an agent is ordered to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// A later session has taken the agent's name: processes of an earlier epoch exit.
    Superseded,
    /// The journal doesn't have the agent's session, because it was restored or replaced: the agent connects again.
    Reconnect,
    /// The agent counted as lost and was heard again: it resumes these providers.
    Resume {
        /// The providers' names.
        providers: Vec<ProviderName>,
    },
    /// The agent puts a backend to sleep.
    Sleep {
        /// The backend's provider.
        provider: ProviderName,
    },
}

/// An order and the epoch it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressedOrder {
    /// The epoch of the session that the order is for.
    pub epoch: Epoch,
    /// The order itself.
    #[serde(flatten)]
    pub order: Order,
}

/// An agent's answer to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum OrderAnswer {
    /// The agent carries the order out.
    Taken,
    /// The agent can't carry the order out.
    Refused {
        /// The agent's reason, in one sentence.
        reason: String,
    },
}

/// Sends an order and waits for the agent's answer.
///
/// # Errors
/// When the agent isn't connected or doesn't answer in time.
pub async fn send(
    client: &Client,
    agent: &AgentName,
    order: &AddressedOrder,
) -> Result<OrderAnswer, BusError> {
    let inbox = subjects::ack(agent, &messages::nonce());
    let subject = subjects::orders(agent);
    messages::request(client, subject, inbox, ANSWER_TIMEOUT, order).await
}

/// Tells every process of this agent's name that a later session has taken it. There is no answer.
///
/// # Errors
/// When the connection is closed.
pub async fn announce_session(client: &Client, agent: &AgentName, epoch: Epoch) -> Result<(), BusError> {
    tell(client, agent, epoch, Order::Superseded).await
}

/// Tells every process of this agent's name to connect again, since the journal, whose epoch this is, doesn't have its
/// session. There is no answer.
///
/// # Errors
/// When the connection is closed.
pub async fn ask_to_reconnect(client: &Client, agent: &AgentName, epoch: Epoch) -> Result<(), BusError> {
    tell(client, agent, epoch, Order::Reconnect).await
}

async fn tell(client: &Client, agent: &AgentName, epoch: Epoch, order: Order) -> Result<(), BusError> {
    let order = AddressedOrder { epoch, order };
    messages::publish(client, subjects::orders(agent), &order).await
}

/// The orders that an agent receives.
pub struct Orders {
    client: Client,
    subscription: Subscriber,
}

/// An order that awaits its answer.
pub struct ReceivedOrder {
    /// The order and its epoch.
    pub order: AddressedOrder,
    client: Client,
    reply: Option<Subject>,
}

impl ReceivedOrder {
    /// Answers the order.
    pub async fn answer(self, answer: &OrderAnswer) {
        let (Some(reply), Ok(payload)) = (self.reply, serde_json::to_vec(answer)) else {
            return;
        };
        let _ = self.client.publish(reply, payload.into()).await;
    }
}

impl Orders {
    /// Listens for the orders of `agent`.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn subscribe(client: &Client, agent: &AgentName) -> Result<Self, BusError> {
        Ok(Self {
            client: client.clone(),
            subscription: messages::subscribe(client, subjects::orders(agent), None).await?,
        })
    }

    /// The next order; `None` when the connection is closed. Malformed orders are dropped.
    pub async fn next(&mut self) -> Option<ReceivedOrder> {
        loop {
            let message = self.subscription.next().await?;
            match serde_json::from_slice(&message.payload) {
                Ok(order) => {
                    return Some(ReceivedOrder {
                        order,
                        client: self.client.clone(),
                        reply: message.reply,
                    });
                }
                Err(_) => tracing::warn!("dropped a malformed order"),
            }
        }
    }
}
