//! The way to the backends. A port, so that the request path can be tested without NATS.

use super::{health::Failure, members::Attempt};
use crate::metrics::FirstByte;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use reveille_bus::relay::{RelayClient, RelayError, RelayStats, RequestHead, Reservation, ResponseHead};
use reveille_domain::{AgentName, Epoch};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The longest error that is waited for, in bytes, and how long that may take.
const MAX_ERROR_BYTES: usize = 4 * 1024;
const ERROR_WITHIN: Duration = Duration::from_secs(1);

/// Hands requests to the agents of backends.
#[async_trait]
pub(crate) trait Relay: Send + Sync {
    /// Reserves memory for a response. While this replica has none, the request waits its turn until `by`.
    async fn reserve<'a>(&'a self, by: Instant) -> Result<Box<dyn Reserved + 'a>, RelayError>;

    /// What it is doing now.
    fn stats(&self) -> RelayStats;
}

/// Memory for one response.
#[async_trait]
pub(crate) trait Reserved: Send {
    /// Sends a request and waits for the response's head. Dropping the future cancels the request.
    async fn send(
        self: Box<Self>,
        agent: &AgentName,
        epoch: Epoch,
        head: RequestHead,
        body: Bytes,
    ) -> Result<(ResponseHead, ResponseBody), RelayError>;
}

/// A response's body.
pub(crate) enum ResponseBody {
    /// It came whole, together with the head.
    Whole(Bytes),
    /// It comes piece by piece; an error means that it broke off. Dropping it cancels the request.
    Pieces(BoxStream<'static, Result<Bytes, RelayError>>),
}

impl ResponseBody {
    /// What has come together with the head.
    pub(super) fn beginning(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Pieces(_) => &[],
        }
    }

    /// The body of an error, in one piece if it is short and comes soon: what follows depends on its words.
    async fn of_error(mut pieces: BoxStream<'static, Result<Bytes, RelayError>>) -> Self {
        let (mut read, by) = (BytesMut::new(), Instant::now() + ERROR_WITHIN);
        let last = loop {
            match timeout_at(by, pieces.next()).await {
                Ok(None) => return Self::Whole(read.freeze()),
                Ok(Some(Ok(piece))) if read.len() + piece.len() <= MAX_ERROR_BYTES => {
                    read.extend_from_slice(&piece);
                }
                Ok(last) => break last,
                Err(_) => break None,
            }
        };
        let read = stream::iter([Ok(read.freeze())]).chain(stream::iter(last));
        Self::Pieces(read.chain(pieces).boxed())
    }

    /// Keeps `attempt` until the last piece has come. `first_byte`, of a successful answer: the first piece tells it, and
    /// shows that the backend works. An error shows that it doesn't.
    pub(super) fn observed(self, mut attempt: Attempt, mut first_byte: Option<FirstByte>) -> Self {
        match self {
            Self::Whole(bytes) => {
                if let Some(first_byte) = first_byte {
                    first_byte.seen();
                    attempt.served();
                }
                Self::Whole(bytes)
            }
            Self::Pieces(pieces) => {
                let observed = pieces.inspect(move |piece| match piece {
                    Ok(_) => {
                        attempt.heard();
                        if let Some(first_byte) = first_byte.take() {
                            first_byte.seen();
                            attempt.served();
                        }
                    }
                    Err(error) => {
                        if let Some(failure) = Failure::in_error(error) {
                            attempt.failed(failure);
                        }
                    }
                });
                Self::Pieces(observed.boxed())
            }
        }
    }
}

#[async_trait]
impl Relay for RelayClient {
    async fn reserve<'a>(&'a self, by: Instant) -> Result<Box<dyn Reserved + 'a>, RelayError> {
        Ok(Box::new(Self::reserve(self, by).await?))
    }

    fn stats(&self) -> RelayStats {
        Self::stats(self)
    }
}

#[async_trait]
impl Reserved for Reservation<'_> {
    async fn send(
        self: Box<Self>,
        agent: &AgentName,
        epoch: Epoch,
        head: RequestHead,
        body: Bytes,
    ) -> Result<(ResponseHead, ResponseBody), RelayError> {
        let response = Self::send(*self, agent, epoch, head, body).await?;
        let (head, mut body) = response.head().await?;
        let body = match body.whole() {
            Some(whole) => ResponseBody::Whole(whole),
            None if head.status >= 400 => ResponseBody::of_error(body.boxed()).await,
            None => ResponseBody::Pieces(body.boxed()),
        };
        Ok((head, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inference::{choice::Reach, members::Members},
        metrics::Metrics,
        registry::tests::snapshot_at,
    };
    use reveille_bus::relay::{FaultCode, RelayFault};
    use std::time::Duration;

    /// A long stream's beginning says nothing of its end: only its last silence was waited for.
    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_keeps_its_member_away_no_longer_than_its_last_silence() {
        let members = Members::new(Metrics::default());
        let pool = ["a/p", "b/p"].map(|id| snapshot_at(id, 7));
        let broke_off = RelayFault::new(FaultCode::BackendFailed, "it closed the connection").into();
        let ends = [(600, Ok(Bytes::from_static(b"x"))), (4, Err(broke_off))];
        let pieces = stream::iter(ends).then(async |(secs, piece)| {
            tokio::time::sleep(Duration::from_secs(secs)).await;
            piece
        });
        let first_byte = Some(Metrics::default().first_byte(Instant::now(), false));
        let body = ResponseBody::Pieces(Box::pin(pieces)).observed(members.enter(&pool[0]), first_byte);
        let ResponseBody::Pieces(pieces) = body else {
            panic!("it comes in pieces")
        };
        assert_eq!(pieces.count().await, 2);
        let next = || {
            members
                .choose(&pool, Reach::All, &[])
                .expect("one")
                .provider
                .id
                .to_string()
        };
        tokio::time::advance(Duration::from_millis(3_900)).await;
        assert_eq!(next(), "b/p");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(next(), "a/p", "the trial");
    }
}
