//! Answering a request: frame by frame, or with a backend's whole response stream.

use super::frame::{DataFrame, HEAD_FIELDS_BYTES};
use super::head::{FaultCode, RelayFault, ResponseHead, write_meta};
use super::server_stream::{Cancelled, ServerStream};
use super::shared::ServerShared;
use bytes::Bytes;
use futures::{FutureExt, Stream};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// How long a response's head waits for the first bytes of a body whose length the backend has announced, so that a small
/// response is one frame. Body bytes are never held back.
const HEAD_WAIT: Duration = Duration::from_millis(2);

/// Why a response wasn't sent to its end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RespondError {
    /// The request was cancelled; drop the backend's response.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The backend's response broke off; the API knows.
    #[error("the backend's response broke off: {0}")]
    Backend(RelayFault),
    /// The connection to NATS has been down for too long.
    #[error("the connection to NATS is down")]
    Disconnected,
    /// The response's headers don't fit into a frame; the API knows.
    #[error("the response's headers are too large to relay")]
    HeadTooLarge,
}

/// Answers one request, once. If it is dropped before that, the API gets `backend_failed`. While it lives, the request
/// counts as in flight.
#[derive(Debug)]
pub struct Responder {
    shared: Arc<ServerShared>,
    stream: Arc<ServerStream>,
    number: u32,
}

impl Responder {
    pub(super) fn new(shared: Arc<ServerShared>, stream: Arc<ServerStream>) -> Self {
        Self {
            shared,
            stream,
            number: 0,
        }
    }

    /// Sends the head alone.
    ///
    /// # Errors
    /// When the request was cancelled, the head is too large, or the connection is down.
    pub async fn head(&mut self, head: &ResponseHead) -> Result<(), RespondError> {
        let (frame, _) = self.begin_head(head, 0)?;
        self.send(frame, false).await
    }

    /// Sends body bytes, in as many frames as needed, as the API grants credit. Send the head first.
    ///
    /// # Errors
    /// When the request was cancelled, or the connection is down.
    pub async fn chunk(&mut self, mut bytes: Bytes) -> Result<(), RespondError> {
        while !bytes.is_empty() {
            let want = bytes.len();
            let room = poll_fn(|cx| self.stream.poll_room(want, cx)).await?;
            let part = bytes.split_to(want.min(room).min(self.shared.link.chunk_bytes(0)));
            let mut frame = self.stream.origin.body(self.number, part.len());
            frame.push(&part);
            self.send(frame, false).await?;
        }
        Ok(())
    }

    /// Ends the response as complete.
    ///
    /// # Errors
    /// When the request was cancelled, or the connection is down.
    pub async fn finish(mut self) -> Result<(), RespondError> {
        let frame = self.stream.origin.body(self.number, 0);
        self.send(frame, true).await
    }

    /// Refuses the request, or ends its response with an error.
    pub fn error(self, fault: &RelayFault) {
        self.fault(fault);
    }

    /// Sends a backend's response. Everything that is ready at once shares a frame, the end included, so a small response
    /// is one frame; nothing waits for more bytes. Returns the number of body bytes.
    ///
    /// # Errors
    /// When the response wasn't sent to its end; the API knows.
    pub async fn stream<S, E>(mut self, head: &ResponseHead, body: S) -> Result<u64, RespondError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Into<RelayFault>,
    {
        let length = head.content_length();
        let stream = Arc::clone(&self.stream);
        let body = pin!(body);
        let mut source = Source::new(body, &stream, length);
        source.open(length).await?;
        let (mut frame, mut most) = self.begin_head(head, source.waiting())?;
        let mut total = 0;
        loop {
            if source.waiting() > 0 {
                let room = poll_fn(|cx| stream.poll_room(source.waiting(), cx)).await?;
                source.fill(&mut frame, most.min(room)).await;
            }
            total += frame.body_bytes() as u64;
            if let Some(fault) = source.failure() {
                if frame.body_bytes() > 0 {
                    self.send(frame, false).await?;
                }
                self.fault(&fault);
                return Err(RespondError::Backend(fault));
            }
            let last = source.is_complete();
            self.send(frame, last).await?;
            if last {
                return Ok(total);
            }
            source.ready().await?;
            most = self.shared.link.chunk_bytes(0);
            frame = stream.origin.body(self.number, source.waiting().min(most));
        }
    }

    /// The head's frame, and the number of body bytes that fit into it.
    fn begin_head(&self, head: &ResponseHead, expect: usize) -> Result<(DataFrame, usize), RespondError> {
        let meta = write_meta(head)
            .ok()
            .filter(|meta| self.shared.link.takes(HEAD_FIELDS_BYTES + meta.len()));
        let Some(meta) = meta else {
            let fault = RelayFault::new(
                FaultCode::BackendFailed,
                "the backend's response headers are too large",
            );
            self.fault(&fault);
            return Err(RespondError::HeadTooLarge);
        };
        let most = self.shared.link.chunk_bytes(HEAD_FIELDS_BYTES + meta.len());
        let frame = self.stream.origin.head(self.number, 0, &meta, expect.min(most));
        Ok((frame, most))
    }

    async fn send(&mut self, frame: DataFrame, last: bool) -> Result<(), RespondError> {
        if self.stream.is_closed() {
            return Err(Cancelled.into());
        }
        let body_bytes = frame.body_bytes();
        let to = self.stream.reply.clone();
        let sent = self.shared.link.publish(to, None, frame.finish(last)).await;
        sent.map_err(|_| RespondError::Disconnected)?;
        self.number = self.number.saturating_add(1);
        self.stream.sent(body_bytes, Instant::now());
        if last {
            self.stream.close();
            self.shared.forget(&self.stream.origin.id);
        }
        Ok(())
    }

    fn fault(&self, fault: &RelayFault) {
        if self.stream.close() {
            self.shared.forget(&self.stream.origin.id);
            self.shared
                .refuse(self.stream.origin, self.stream.reply.clone(), fault);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.fault(&RelayFault::new(
            FaultCode::BackendFailed,
            "the agent gave up the request",
        ));
        self.shared.release_slot();
    }
}

/// A backend's response stream, and the chunk of it that waits to be sent.
struct Source<'a, S> {
    body: Pin<&'a mut S>,
    stream: &'a ServerStream,
    carry: Bytes,
    /// Announced bytes that haven't come yet.
    left: Option<u64>,
    end: Option<Result<(), RelayFault>>,
}

impl<'a, S, E> Source<'a, S>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: Into<RelayFault>,
{
    fn new(body: Pin<&'a mut S>, stream: &'a ServerStream, left: Option<u64>) -> Self {
        let end = (left == Some(0)).then_some(Ok(()));
        Self {
            body,
            stream,
            carry: Bytes::new(),
            left,
            end,
        }
    }

    fn waiting(&self) -> usize {
        self.carry.len()
    }

    fn is_complete(&self) -> bool {
        self.carry.is_empty() && self.end == Some(Ok(()))
    }

    fn failure(&mut self) -> Option<RelayFault> {
        match self.end.take() {
            Some(Err(fault)) if self.carry.is_empty() => Some(fault),
            end => {
                self.end = end;
                None
            }
        }
    }

    /// Reads from the backend until there is something to send or the end is known.
    fn poll_pull(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.carry.is_empty() && self.end.is_none() {
            match ready!(self.body.as_mut().poll_next(cx)) {
                Some(Ok(chunk)) => self.take(chunk),
                Some(Err(error)) => self.end = Some(Err(error.into())),
                None if self.left.unwrap_or(0) > 0 => {
                    let short = "the backend's response is shorter than announced";
                    self.end = Some(Err(RelayFault::new(FaultCode::BackendFailed, short)));
                }
                None => self.end = Some(Ok(())),
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self, chunk: Bytes) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(chunk.len() as u64);
            if *left == 0 {
                self.end = Some(Ok(()));
            }
        }
        self.carry = chunk;
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cancelled>> {
        if self.stream.poll_cancelled(cx).is_ready() {
            return Poll::Ready(Err(Cancelled));
        }
        self.poll_pull(cx).map(Ok)
    }

    /// Waits for something to send, or for the request to be cancelled.
    async fn ready(&mut self) -> Result<(), Cancelled> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// Takes what is ready already. The first bytes of a body with an announced length get a moment to arrive.
    async fn open(&mut self, announced: Option<u64>) -> Result<(), Cancelled> {
        let found = if announced.is_some() {
            tokio::time::timeout(HEAD_WAIT, self.ready()).await.ok()
        } else {
            self.ready().now_or_never()
        };
        found.unwrap_or(Ok(()))
    }

    /// Moves ready bytes into the frame, as far as there is room.
    async fn fill(&mut self, frame: &mut DataFrame, room: usize) {
        poll_fn(|cx| {
            loop {
                let left = room.saturating_sub(frame.body_bytes());
                frame.push(&self.carry.split_to(left.min(self.carry.len())));
                if self.poll_pull(cx).is_pending() || self.end.is_some() && self.carry.is_empty() {
                    return Poll::Ready(());
                }
                if frame.body_bytes() >= room {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }
}
