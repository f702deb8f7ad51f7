//! Reading a stream in order, through a consumer that never repairs itself: a lost message, a silent server, a deleted
//! consumer or stream ends it with an error, and its user starts again behind the last message it has seen. (A consumer
//! that repaired itself would carry on in a stream that was replaced in between, as if nothing had happened.)

use crate::error::BusError;
use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::Stream,
};
use futures::StreamExt;
use std::time::Duration;

/// How often the server shows that it is there while nothing arrives; two missing signs end the reader.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the server keeps one request for messages.
const PULL_EXPIRES: Duration = Duration::from_secs(20);
/// How many messages are on their way to a reader at once.
const BATCH: usize = 512;
/// How many bytes of messages are on their way to a reader at once.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// When the server forgets a consumer that nobody reads from.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// Messages of a stream in the stream's order, none missing between the first and the last.
pub(crate) struct OrderedReader {
    messages: pull::Stream,
    received: u64,
}

impl OrderedReader {
    pub(crate) async fn new<I>(
        stream: &Stream<I>,
        subjects: &str,
        from: DeliverPolicy,
    ) -> Result<Self, BusError> {
        let config = pull::Config {
            filter_subject: subjects.to_owned(),
            deliver_policy: from,
            ack_policy: AckPolicy::None,
            inactive_threshold: FORGOTTEN_AFTER,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = stream
            .create_consumer(config)
            .await
            .map_err(BusError::unavailable)?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .max_bytes_per_batch(BATCH_BYTES)
            .expires(PULL_EXPIRES)
            .heartbeat(IDLE_HEARTBEAT)
            .messages()
            .await
            .map_err(BusError::unavailable)?;
        Ok(Self {
            messages,
            received: 0,
        })
    }

    /// The next message. After an error this reader yields nothing more. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Message, BusError> {
        let message = match self.messages.next().await {
            Some(message) => message.map_err(BusError::unavailable)?,
            None => return Err(BusError::unavailable("the consumer ended")),
        };
        let number = message.info().map_err(BusError::unavailable)?.consumer_sequence;
        if number != self.received + 1 {
            return Err(BusError::unavailable("messages were lost on the way"));
        }
        self.received = number;
        Ok(message)
    }
}
