//! One request on its way, and its response.

use super::client::Hub;
use super::error::RelayError;
use super::flight::Flight;
use super::frame::RequestId;
use super::head::ResponseHead;
use super::inbox::Read;
use bytes::Bytes;
use futures::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A request that was sent. Dropping it cancels the request.
#[derive(Debug)]
pub struct Exchange {
    hub: Arc<Hub>,
    flight: Arc<Flight>,
}

impl Exchange {
    pub(super) fn new(hub: Arc<Hub>, flight: Arc<Flight>) -> Self {
        Self { hub, flight }
    }

    /// The id of this attempt, as it appears on the wire.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.flight.origin.id
    }

    /// Waits for the response's head. Keep-alives hold the wait open for as long as the agent lives: the caller
    /// sets the deadline.
    ///
    /// # Errors
    /// Why there is no response; [`RelayError::never_handed_over`] says whether it may be tried again.
    pub async fn head(self) -> Result<(ResponseHead, ResponseBody), RelayError> {
        let head = poll_fn(|cx| self.flight.poll_head(cx)).await?;
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
        self.hub.leave(&self.flight);
    }
}

/// The body of a response, as chunks. It ends with `None` only if every byte came; a response that broke off
/// ends with an error. Dropping it before its end cancels the request.
#[derive(Debug)]
pub struct ResponseBody {
    exchange: Exchange,
    over: bool,
}

impl ResponseBody {
    /// The whole body, if it is here already and in one piece: a small response needs no stream. Else None, and
    /// the stream is as it was.
    pub fn whole(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let whole = self.exchange.flight.take_whole(self.exchange.hub.pool());
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
        let Exchange { hub, flight } = &self.exchange;
        let Read { item, credit } = ready!(flight.poll_chunk(hub.pool(), cx));
        if let Some(credit) = credit {
            hub.tell(flight, credit);
        }
        self.over = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}
