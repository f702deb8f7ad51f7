//! The state of one request at the agent's end: its incoming body, the credit for its response, and whether it was
//! cancelled. The mirror image of `pending_request`.

use super::frame::{Content, Frame, Origin};
use super::head::{FaultCode, RelayFault};
use super::inbox::{Arrival, Inbox, Read};
use super::outbox::{Outbox, wake};
use super::window::{Pool, Window};
use async_nats::Subject;
use bytes::Bytes;
use parking_lot::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The request was cancelled, or its API replica fell silent: no one reads its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request was cancelled")]
pub struct Cancelled;

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Accepted,
    Repeated,
    Malformed,
    /// The API cancelled the request.
    Cancel,
    /// The request can't be completed, and the API must be told.
    Refuse(RelayFault),
}

/// The content of a head's frame besides its meta.
#[derive(Debug)]
pub(super) struct Opening {
    pub credit: u64,
    pub chunk: Bytes,
    pub last: bool,
    pub body_bytes: u64,
}

#[derive(Debug)]
pub(super) struct ServerStream {
    pub origin: Origin,
    pub reply: Subject,
    pub cancelled: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    inbox: Inbox<RelayFault>,
    outbox: Outbox,
    /// Body bytes that haven't come yet.
    missing: u64,
    /// The request was answered completely, refused, or cancelled.
    closed: bool,
    heard: Instant,
}

impl State {
    fn refuse(&mut self, what: &str, pool: &Pool) -> Effect {
        let fault = RelayFault::new(FaultCode::BadFrame, what);
        self.inbox.finish(Err(fault.clone()), pool);
        self.closed = true;
        Effect::Refuse(fault)
    }

    fn take_chunk(&mut self, chunk: Bytes, last: bool, pool: &Pool) -> Effect {
        let Some(missing) = self.missing.checked_sub(chunk.len() as u64) else {
            return self.refuse("the request's body is longer than announced", pool);
        };
        self.missing = missing;
        self.inbox.push(chunk);
        if last && missing > 0 {
            return self.refuse("the request's body is shorter than announced", pool);
        }
        if last {
            self.inbox.finish(Ok(()), pool);
        }
        Effect::Accepted
    }

    fn take(&mut self, frame: Frame, pool: &Pool) -> Effect {
        const LOST: &str = "part of the request's body was lost on the way";
        match frame.content {
            Content::Body(chunk) => match self.inbox.arrive(frame.number, chunk.len()) {
                Arrival::Due => self.take_chunk(chunk, frame.last, pool),
                Arrival::Repeated => Effect::Repeated,
                Arrival::Gap(_) => self.refuse(LOST, pool),
                Arrival::Overdrawn => {
                    self.refuse("the request's body came faster than its credit allowed", pool)
                }
            },
            Content::Credit(total) => {
                self.outbox.allow(total);
                Effect::Accepted
            }
            Content::KeepAlive(total) => {
                self.outbox.allow(total);
                if self.inbox.misses(frame.number) {
                    self.refuse(LOST, pool)
                } else {
                    Effect::Accepted
                }
            }
            Content::Cancel => Effect::Cancel,
            Content::Head { .. } => Effect::Repeated,
            Content::Error(_) => Effect::Malformed,
        }
    }

    fn wakers(&mut self) -> [Option<Waker>; 2] {
        [self.inbox.waker(), self.outbox.waker()]
    }
}

impl ServerStream {
    /// Starts serving a request. Its window was opened for the first chunk.
    pub fn open(
        origin: Origin,
        reply: Subject,
        opening: Opening,
        window: Window,
        pool: &Pool,
    ) -> Result<Self, RelayFault> {
        let now = Instant::now();
        let mut state = State {
            inbox: Inbox::new(window),
            outbox: Outbox::new(opening.credit, now),
            missing: opening.body_bytes,
            closed: false,
            heard: now,
        };
        state.inbox.arrived_first();
        if let Effect::Refuse(fault) = state.take_chunk(opening.chunk, opening.last, pool) {
            state.inbox.close(pool);
            return Err(fault);
        }
        Ok(Self {
            origin,
            reply,
            cancelled: CancellationToken::new(),
            state: Mutex::new(state),
        })
    }

    /// The first credit frame, unless the whole body came with the head.
    pub fn first_credit(&self) -> Option<Bytes> {
        let state = self.state.lock();
        (!state.inbox.has_ended()).then(|| self.origin.credit(state.inbox.allowed()))
    }

    /// Takes a frame of this request and epoch.
    pub fn accept(&self, frame: Frame, pool: &Pool, now: Instant) -> Effect {
        let mut state = self.state.lock();
        if state.closed {
            return Effect::Repeated;
        }
        state.heard = now;
        let effect = state.take(frame, pool);
        let wakers = state.wakers();
        drop(state);
        wake(wakers);
        if matches!(effect, Effect::Refuse(_)) {
            self.cancelled.cancel();
        }
        effect
    }

    /// Ends the request: its response has no reader.
    pub fn cancel(&self, pool: &Pool) {
        let mut state = self.state.lock();
        state.closed = true;
        let gone = RelayFault::new(FaultCode::Cancelled, "the request was cancelled");
        state.inbox.finish(Err(gone), pool);
        let wakers = state.wakers();
        drop(state);
        wake(wakers);
        self.cancelled.cancel();
    }

    /// Whether the API has been silent for `after`.
    pub fn timed_out(&self, after: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.state.lock().heard) >= after
    }

    /// The keep-alive to send now, if one is due.
    pub fn keep_alive(&self, period: Duration, now: Instant) -> Option<Bytes> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        let allowed = state.inbox.allowed();
        state.outbox.keep_alive(self.origin, allowed, period, now)
    }

    pub fn poll_chunk(&self, pool: &Pool, cx: &mut Context<'_>) -> Poll<Read<RelayFault>> {
        self.state.lock().inbox.poll_read(self.origin, pool, cx)
    }

    pub fn take_whole(&self, pool: &Pool) -> Option<Bytes> {
        self.state.lock().inbox.take_whole(pool)
    }

    /// The body's reader is gone: drops the chunks that wait and those that still come.
    pub fn close_body(&self, pool: &Pool) {
        self.state.lock().inbox.close(pool);
    }

    /// How many body bytes the next frame of the response may carry, once that is enough to be worth a frame.
    pub fn poll_room(&self, want: usize, cx: &mut Context<'_>) -> Poll<Result<usize, Cancelled>> {
        let mut state = self.state.lock();
        if state.closed {
            return Poll::Ready(Err(Cancelled));
        }
        state.outbox.poll_room(want, cx).map(Ok)
    }

    /// Whether nothing more may be sent.
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Resolves when the request is cancelled.
    pub fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<Cancelled> {
        let mut state = self.state.lock();
        if state.closed {
            return Poll::Ready(Cancelled);
        }
        state.outbox.register(cx);
        Poll::Pending
    }

    /// Records a frame that was sent.
    pub fn sent(&self, body_bytes: usize, now: Instant) {
        self.state.lock().outbox.sent(body_bytes, now);
    }

    /// Ends the response. Returns whether this is the first end, so that the API still waits.
    pub fn close(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().closed, true)
    }
}
