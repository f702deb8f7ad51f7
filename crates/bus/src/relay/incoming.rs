//! A request as the relay hands it to the agent.

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
    /// The id of this attempt; an agent gets an id at most once.
    pub id: RequestId,
    /// The epoch it was sent to, which is the agent's own.
    pub epoch: Epoch,
    /// The replica of the API that sent it.
    pub replica: String,
    /// Everything about the request but its body.
    pub head: RequestHead,
    /// The body. Reading it grants the sender credit for more.
    pub body: RequestBody,
    /// Answers the request.
    pub responder: Responder,
    /// Cancelled when the caller is gone or its API replica fell silent: close the backend's connection then.
    pub cancelled: CancellationToken,
}

/// The body of a request, in chunks. It ends with `None` only after every byte.
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

    /// The whole body, if it came with the head: most requests need no stream. Otherwise `None`, and the stream is
    /// unchanged.
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
