//! Orders to an agent: request and reply on `reveille.orders.<agent>`. Each names the epoch it is meant for.

use crate::{error::BusError, subjects};
use async_nats::{Client, Subscriber, client::Request, subject::Subject};
use futures::StreamExt;
use reveille_domain::{AgentName, Epoch, ProviderName};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

/// How long the sender waits for the agent's answer: an order is taken at once, then carried out.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Everybody of an earlier epoch: a later session has taken the name, so exit.
    Superseded,
    /// You are taken for lost but were heard: resume these providers.
    Resume {
        /// Which.
        providers: Vec<ProviderName>,
    },
    /// Put a backend to sleep.
    Sleep {
        /// Whose.
        provider: ProviderName,
    },
}

/// An order and the epoch it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressed {
    /// The agent's current epoch.
    pub epoch: Epoch,
    /// What to do.
    #[serde(flatten)]
    pub order: Order,
}

/// An agent's answer to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum OrderAnswer {
    /// It is being done.
    Taken,
    /// It can't be done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Sends an order and waits for the agent's answer.
///
/// # Errors
/// When the agent isn't there or doesn't answer in time.
pub async fn send(client: &Client, agent: &AgentName, order: &Addressed) -> Result<OrderAnswer, BusError> {
    let payload = serde_json::to_vec(order).map_err(BusError::unavailable)?;
    let request = Request::new()
        .payload(payload.into())
        .inbox(subjects::ack(agent, &Uuid::now_v7().simple().to_string()))
        .timeout(Some(ANSWER_TIMEOUT));
    let answer = client
        .send_request(subjects::orders(agent), request)
        .await
        .map_err(BusError::unavailable)?;
    serde_json::from_slice(&answer.payload).map_err(BusError::unavailable)
}

/// Tells every process of an agent's name that a later session has taken it; nobody answers.
///
/// # Errors
/// When the connection is closed.
pub async fn announce_session(client: &Client, agent: &AgentName, epoch: Epoch) -> Result<(), BusError> {
    let order = Addressed {
        epoch,
        order: Order::Superseded,
    };
    let payload = serde_json::to_vec(&order).map_err(BusError::unavailable)?;
    client
        .publish(subjects::orders(agent), payload.into())
        .await
        .map_err(BusError::unavailable)
}

/// An agent's orders.
pub struct Orders {
    client: Client,
    subscription: Subscriber,
}

/// An order that waits for its answer.
pub struct Ordered {
    /// The order.
    pub order: Addressed,
    client: Client,
    reply: Option<Subject>,
}

impl Ordered {
    /// Answers.
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
        let subscription = client
            .subscribe(subjects::orders(agent))
            .await
            .map_err(BusError::unavailable)?;
        Ok(Self {
            client: client.clone(),
            subscription,
        })
    }

    /// The next order; `None` at the end. Malformed ones are dropped.
    pub async fn next(&mut self) -> Option<Ordered> {
        loop {
            let message = self.subscription.next().await?;
            match serde_json::from_slice(&message.payload) {
                Ok(order) => {
                    return Some(Ordered {
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
