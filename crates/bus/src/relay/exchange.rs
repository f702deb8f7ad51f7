//! A request that was sent, and its response.

use super::error::RelayError;
use super::frame::RequestId;
use super::head::ResponseHead;
use super::inbox::Read;
use super::pending_request::PendingRequest;
use super::shared::ClientShared;
use bytes::Bytes;
use futures::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A request that was sent. Dropping it cancels the request.
#[derive(Debug)]
pub struct Exchange {
    shared: Arc<ClientShared>,
    request: Arc<PendingRequest>,
}

impl Exchange {
    pub(super) fn new(shared: Arc<ClientShared>, request: Arc<PendingRequest>) -> Self {
        Self { shared, request }
    }

    /// The id of this attempt, as it appears on the wire.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.request.origin.id
    }

    /// Waits for the response's head. Keep-alives keep the wait open as long as the agent lives, so the caller sets the
    /// deadline.
    ///
    /// # Errors
    /// Why there is no response; [`RelayError::never_handed_over`] tells whether a retry is safe.
    pub async fn head(self) -> Result<(ResponseHead, ResponseBody), RelayError> {
        let head = poll_fn(|cx| self.request.poll_head(cx)).await?;
        Ok((
            head,
            ResponseBody {
                exchange: self,
                over: false,
            },
        ))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shared.leave(&self.request);
    }
}

/// The body of a response, in chunks. It ends with `None` only after every byte; a response that broke off ends with an
/// error. Dropping the body before its end cancels the request.
#[derive(Debug)]
pub struct ResponseBody {
    exchange: Exchange,
    over: bool,
}

impl ResponseBody {
    /// The whole body, if it has arrived in one piece: a small response needs no stream. Otherwise `None`, and the stream
    /// is unchanged.
    pub fn whole(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let whole = self.exchange.request.take_whole(&self.exchange.shared.pool);
        self.over = whole.is_some();
        whole
    }
}

impl Stream for ResponseBody {
    type Item = Result<Bytes, RelayError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let Exchange { shared, request } = &self.exchange;
        let Read { item, credit } = ready!(request.poll_chunk(&shared.pool, cx));
        if let Some(credit) = credit {
            shared.tell(request, credit);
        }
        self.over = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}
