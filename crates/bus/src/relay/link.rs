//! What both ends have in common: limits, the connection they publish on, and their counters.

use super::error::RelayStartError;
use super::frame::PREFIX_BYTES;
use crate::refusals::Reason;
use async_nats::{Client, Subject, Subscriber, connection::State};
use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use std::time::Duration;

/// How long publishing may take before the request fails as disconnected.
const PUBLISH_WAIT: Duration = Duration::from_secs(5);
/// A request ends after this many keep-alive periods without a frame.
pub(super) const TIMEOUT_PERIODS: u32 = 3;
/// How often per keep-alive period the open requests are checked.
const TICKS_PER_PERIOD: u32 = 5;

/// The limits of a relay's end. Production uses the defaults; tests make them smaller.
#[derive(Debug, Clone)]
pub struct RelayLimits {
    /// Each end of an open request sends a keep-alive after this long without another frame. Three such periods without
    /// any frame from the other end end the request.
    pub keep_alive: Duration,
    /// The sum of all windows of one connection, in bytes: half of what the server queues for a client.
    pub pool_bytes: usize,
    /// The most body bytes in a frame. The server's `max_payload` may lower it.
    pub chunk_bytes: usize,
    /// How many requests an agent works on at once. Further ones are answered `overloaded`.
    pub max_in_flight: usize,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            pool_bytes: 32 * 1024 * 1024,
            chunk_bytes: 256 * 1024,
            max_in_flight: 4096,
        }
    }
}

impl RelayLimits {
    pub(super) fn timeout(&self) -> Duration {
        self.keep_alive * TIMEOUT_PERIODS
    }

    pub(super) fn tick(&self) -> Duration {
        (self.keep_alive / TICKS_PER_PERIOD).max(Duration::from_millis(1))
    }
}

/// The connection is down, or its writer is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkDown;

/// The connection of one end.
#[derive(Debug, Clone)]
pub(super) struct Link {
    client: Client,
    chunk_bytes: usize,
}

impl Link {
    pub fn new(client: Client, limits: &RelayLimits) -> Self {
        Self {
            client,
            chunk_bytes: limits.chunk_bytes,
        }
    }

    /// Subscribes, and waits until the server has processed it.
    pub async fn subscribe(&self, subject: String) -> Result<Subscriber, RelayStartError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RelayStartError::Subscribe {
            subject: subject.clone(),
            source,
        };
        let subscriber = self
            .client
            .subscribe(subject.clone())
            .await
            .map_err(|e| failed(e.into()))?;
        self.client.flush().await.map_err(|e| failed(e.into()))?;
        Ok(subscriber)
    }

    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Whether a frame with this many bytes of content is within the server's limit.
    pub fn takes(&self, content_bytes: usize) -> bool {
        PREFIX_BYTES + content_bytes <= self.client.max_payload()
    }

    /// How many body bytes fit into a frame that has `beside` other bytes in its content. At least one, so that
    /// publishing fails on a server with an absurd limit instead of looping forever.
    pub fn chunk_bytes(&self, beside: usize) -> usize {
        let fits = self.client.max_payload().saturating_sub(PREFIX_BYTES + beside);
        self.chunk_bytes.min(fits).max(1)
    }

    /// Hands a frame to the connection's writer, which flushes when its queue is empty.
    pub async fn publish(&self, to: Subject, reply: Option<Subject>, frame: Bytes) -> Result<(), LinkDown> {
        let publish = async {
            match reply {
                Some(reply) => self.client.publish_with_reply(to, reply, frame).await,
                None => self.client.publish(to, frame).await,
            }
        };
        match tokio::time::timeout(PUBLISH_WAIT, publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(LinkDown),
        }
    }

    /// Hands over a small frame whose loss does no harm, from code that can't await. Spawns a task only if the writer is
    /// behind.
    pub fn publish_soon(&self, to: Subject, frame: Bytes) {
        if self
            .client
            .publish(to.clone(), frame.clone())
            .now_or_never()
            .is_some()
        {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let link = self.clone();
            runtime.spawn(async move { link.publish(to, None, frame).await });
        }
    }

    /// Hands over a keep-alive, with the subject for an answer if the request is unknown. Skips it if the writer is
    /// behind: the next one comes soon.
    pub fn publish_asking(&self, to: Subject, reply: Subject, frame: Bytes) {
        self.client.publish_with_reply(to, reply, frame).now_or_never();
    }
}

/// Counts of dropped frames, by reason.
#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<DroppedFrames>);

impl Counters {
    /// Adds one to the count that `of` chooses.
    pub fn add(&self, of: fn(&mut DroppedFrames) -> &mut u64) {
        *of(&mut self.0.lock()) += 1;
    }

    pub fn read(&self) -> DroppedFrames {
        *self.0.lock()
    }
}

/// The frames dropped since the start, by reason, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DroppedFrames {
    /// Frames that can't be decoded or make no sense.
    pub malformed: u64,
    /// Frames about a request to another agent.
    pub other_agent: u64,
    /// Frames of another epoch than the request's or the agent's.
    pub other_epoch: u64,
    /// Frames whose request has ended or is unknown.
    pub unknown_request: u64,
    /// Frames whose number or request was seen before.
    pub repeated: u64,
}

impl DroppedFrames {
    /// Each count with its reason.
    #[must_use]
    pub const fn by_reason(&self) -> [(Reason, u64); 5] {
        [
            (Reason::Malformed, self.malformed),
            (Reason::OtherName, self.other_agent),
            (Reason::OtherEpoch, self.other_epoch),
            (Reason::UnknownRequest, self.unknown_request),
            (Reason::Repeated, self.repeated),
        ]
    }
}

/// A snapshot of one end of the relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// The number of open requests.
    pub in_flight: usize,
    /// The frames dropped since the start.
    pub dropped: DroppedFrames,
}
