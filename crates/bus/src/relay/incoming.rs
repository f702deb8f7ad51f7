//! A request as the agent's code sees it.

use super::frame::RequestId;
use super::head::{RelayFault, RequestHead};
use super::inbox::Read;
use super::responder::Responder;
use super::server_stream::ServerStream;
use super::shared::ServerShared;
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
    shared: Arc<ServerShared>,
    stream: Arc<ServerStream>,
    over: bool,
}

impl RequestBody {
    pub(super) fn new(shared: Arc<ServerShared>, stream: Arc<ServerStream>) -> Self {
        Self {
            shared,
            stream,
            over: false,
        }
    }

    /// The whole body, if it came with the head: most requests need no stream. Else None, and the stream is as
    /// it was.
    pub fn whole(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let whole = self.stream.take_whole(&self.shared.pool);
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
        let Read { item, credit } = ready!(self.stream.poll_chunk(&self.shared.pool, cx));
        if let Some(credit) = credit {
            self.shared.tell(&self.stream, credit);
        }
        self.over = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.stream.close_body(&self.shared.pool);
    }
}
