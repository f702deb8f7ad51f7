//! Sending JSON over NATS.

use crate::error::BusError;
use async_nats::{Client, Subscriber, client::Request};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use uuid::Uuid;

/// Publishes a message without waiting for an answer.
pub(crate) async fn publish<T: Serialize>(
    client: &Client,
    subject: String,
    message: &T,
) -> Result<(), BusError> {
    let payload = serde_json::to_vec(message).map_err(BusError::unavailable)?;
    let sent = client.publish(subject, payload.into()).await;
    sent.map_err(BusError::unavailable)
}

/// Sends a request and returns the answer, which must come to `inbox` within `within`.
pub(crate) async fn request<T: Serialize, A: DeserializeOwned>(
    client: &Client,
    subject: String,
    inbox: String,
    within: Duration,
    message: &T,
) -> Result<A, BusError> {
    let payload = serde_json::to_vec(message).map_err(BusError::unavailable)?;
    let request = Request::new()
        .payload(payload.into())
        .inbox(inbox)
        .timeout(Some(within));
    let answer = client.send_request(subject, request).await;
    let answer = answer.map_err(BusError::unavailable)?;
    serde_json::from_slice(&answer.payload).map_err(BusError::unavailable)
}

/// Subscribes to `subject`; in a queue group, each message goes to one member.
pub(crate) async fn subscribe(
    client: &Client,
    subject: impl Into<String>,
    queue_group: Option<&str>,
) -> Result<Subscriber, BusError> {
    let subject = subject.into();
    let subscription = match queue_group {
        Some(group) => client.queue_subscribe(subject, group.to_owned()).await,
        None => client.subscribe(subject).await,
    };
    subscription.map_err(BusError::unavailable)
}

/// The last token of a subject on which one answer is expected.
pub(crate) fn nonce() -> String {
    Uuid::now_v7().simple().to_string()
}
