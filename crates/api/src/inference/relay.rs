//! The way to the backends. A port, so that the request path can be tested without NATS.

use super::in_flight::InFlightGuard;
use crate::metrics::FirstByte;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use reveille_bus::relay::{RelayClient, RelayError, RelayStats, RequestHead, ResponseHead};
use reveille_domain::{AgentName, Epoch};
use tokio::time::Instant;

/// Hands requests to the agents of backends.
#[async_trait]
pub(crate) trait Relay: Send + Sync {
    /// Sends a request, as soon as this replica has memory for its response and by `room_by`, and waits for the
    /// response's head. Dropping the future cancels the request.
    async fn send(
        &self,
        agent: &AgentName,
        epoch: Epoch,
        head: RequestHead,
        body: Bytes,
        room_by: Instant,
    ) -> Result<(ResponseHead, ResponseBody), RelayError>;

    /// What it is doing now.
    fn stats(&self) -> RelayStats;
}

/// A response's body.
pub(crate) enum ResponseBody {
    /// It came whole, together with the head.
    Whole(Bytes),
    /// It comes piece by piece; an error means that it broke off. Dropping it cancels the request.
    Pieces(BoxStream<'static, Result<Bytes, RelayError>>),
}

impl ResponseBody {
    /// Keeps `guard` until the last piece has come, and tells `first_byte` when the first one comes.
    pub(super) fn observed(self, guard: InFlightGuard, mut first_byte: Option<FirstByte>) -> Self {
        match self {
            Self::Whole(bytes) => {
                if let Some(first_byte) = first_byte {
                    first_byte.seen();
                }
                Self::Whole(bytes)
            }
            Self::Pieces(pieces) => {
                let observed = pieces.inspect(move |piece| {
                    let _held = &guard;
                    if let Some(first_byte) = first_byte.take_if(|_| piece.is_ok()) {
                        first_byte.seen();
                    }
                });
                Self::Pieces(observed.boxed())
            }
        }
    }
}

#[async_trait]
impl Relay for RelayClient {
    async fn send(
        &self,
        agent: &AgentName,
        epoch: Epoch,
        head: RequestHead,
        body: Bytes,
        room_by: Instant,
    ) -> Result<(ResponseHead, ResponseBody), RelayError> {
        let response = Self::send(self, agent, epoch, head, body, room_by).await?;
        let (head, mut body) = response.head().await?;
        let body = match body.whole() {
            Some(whole) => ResponseBody::Whole(whole),
            None => ResponseBody::Pieces(body.boxed()),
        };
        Ok((head, body))
    }

    fn stats(&self) -> RelayStats {
        Self::stats(self)
    }
}
