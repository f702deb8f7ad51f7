//! What both ends share: limits, the connection they publish on, and what they count.

use super::error::RelayStartError;
use super::frame::PREFIX_BYTES;
use crate::refusals::Reason;
use async_nats::{Client, Subject, Subscriber, connection::State};
use bytes::Bytes;
use futures::FutureExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a publisher is held back before the request fails as disconnected.
const PUBLISH_WAIT: Duration = Duration::from_secs(5);
/// How many keep-alive periods without any frame end a request.
pub(super) const TIMEOUT_PERIODS: u32 = 3;
/// How often a keep-alive period is looked at.
const TICKS_PER_PERIOD: u32 = 5;

/// What a relay may use. The defaults are what the design fixes; tests make them smaller.
#[derive(Debug, Clone)]
pub struct RelayLimits {
    /// While a request is open and nothing else is sent, a keep-alive is, each way, after this long. Three of
    /// them without a frame end the request.
    pub keep_alive: Duration,
    /// The sum of all windows of one connection, in bytes: half of what the server lets wait for a client.
    pub pool_bytes: usize,
    /// The most body bytes in a frame; less when the server's `max_payload` is.
    pub chunk_bytes: usize,
    /// How many requests an agent works on at once; more are answered `overloaded`.
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

/// The connection was down, or its writer stood still.
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

    /// Subscribes, and waits until the server knows of it.
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

    /// Whether the server takes a frame with so many bytes of content.
    pub fn takes(&self, content_bytes: usize) -> bool {
        PREFIX_BYTES + content_bytes <= self.client.max_payload()
    }

    /// How many body bytes go into a frame that has `beside` other bytes in its content; at least one, so that
    /// a server whose limit is absurd makes publishing fail instead of never getting on.
    pub fn chunk_bytes(&self, beside: usize) -> usize {
        let fits = self.client.max_payload().saturating_sub(PREFIX_BYTES + beside);
        self.chunk_bytes.min(fits).max(1)
    }

    /// Hands a frame to the connection's writer, which flushes by itself once nothing else waits.
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

    /// Hands over a small frame whose loss is made up for, from where nothing can be awaited. Only when the
    /// writer is behind does it take a task.
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

    /// Hands over a keep-alive with the subject to answer on, should the request be unknown. It is left out when
    /// the writer is behind: the next one comes soon.
    pub fn publish_asking(&self, to: Subject, reply: Subject, frame: Bytes) {
        self.client.publish_with_reply(to, reply, frame).now_or_never();
    }
}

/// Frames that changed nothing, by why.
#[derive(Debug, Default)]
pub(super) struct Counters {
    malformed: AtomicU64,
    other_agent: AtomicU64,
    other_epoch: AtomicU64,
    unknown_request: AtomicU64,
    repeated: AtomicU64,
}

impl Counters {
    pub fn malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn other_agent(&self) {
        self.other_agent.fetch_add(1, Ordering::Relaxed);
    }

    pub fn other_epoch(&self) {
        self.other_epoch.fetch_add(1, Ordering::Relaxed);
    }

    pub fn unknown_request(&self) {
        self.unknown_request.fetch_add(1, Ordering::Relaxed);
    }

    pub fn repeated(&self) {
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> DroppedFrames {
        DroppedFrames {
            malformed: self.malformed.load(Ordering::Relaxed),
            other_agent: self.other_agent.load(Ordering::Relaxed),
            other_epoch: self.other_epoch.load(Ordering::Relaxed),
            unknown_request: self.unknown_request.load(Ordering::Relaxed),
            repeated: self.repeated.load(Ordering::Relaxed),
        }
    }
}

/// How many frames were dropped since the start, by why: for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DroppedFrames {
    /// They make no sense.
    pub malformed: u64,
    /// They are about a request that another agent was asked.
    pub other_agent: u64,
    /// They are of another epoch than the request, or than the agent.
    pub other_epoch: u64,
    /// Their request is over, or was never known.
    pub unknown_request: u64,
    /// Their number or request was seen before.
    pub repeated: u64,
}

impl DroppedFrames {
    /// The same, each with its reason.
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

/// How one end of the relay stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// How many requests are open.
    pub in_flight: usize,
    /// Frames that were dropped since the start.
    pub dropped: DroppedFrames,
}
