//! A request as the agent's code sees it.

use super::frame::RequestId;
use super::head::{RelayFault, RequestHead};
use super::inbox::Read;
use super::responder::Responder;
use super::served::Served;
use super::server::Desk;
use bytes::Bytes;
use futures::Stream;
use reveille_domain::Epoch;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio_util::sync::CancellationToken;

/// A request for one of the agent's providers.
#[derive(Debug)]
pub struct Incoming {
    /// The id of this attempt; an agent sees one at most once.
    pub id: RequestId,
    /// The epoch it was sent to: the agent's own.
    pub epoch: Epoch,
    /// What to ask the backend.
    pub head: RequestHead,
    /// The body, allowed on as it is read.
    pub body: RequestBody,
    /// Answers it.
    pub responder: Responder,
    /// Cancelled when the caller has left, or its API replica fell silent: close the backend's connection.
    pub cancelled: CancellationToken,
}

/// The body of a request, as chunks. It ends with `None` only if every byte came.
#[derive(Debug)]
pub struct RequestBody {
    desk: Arc<Desk>,
    served: Arc<Served>,
    over: bool,
}

impl RequestBody {
    pub(super) fn new(desk: Arc<Desk>, served: Arc<Served>) -> Self {
        Self {
            desk,
            served,
            over: false,
        }
    }

    /// The whole body, if it came with the head: most requests need no stream. Else None, and the stream is as
    /// it was.
    pub fn whole(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let whole = self.served.take_whole(&self.desk.pool);
        self.over = whole.is_some();
        whole
    }
}

impl Stream for RequestBody {
    type Item = Result<Bytes, RelayFault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let Read { item, credit } = ready!(self.served.poll_chunk(&self.desk.pool, cx));
        if let Some(credit) = credit {
            self.desk.tell(&self.served, credit);
        }
        self.over = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.served.close_body(&self.desk.pool);
    }
}
