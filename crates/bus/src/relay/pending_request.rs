//! The state of one request at the API's end. Synchronous: the task that reads the subscription feeds it frames, and it
//! wakes the tasks that wait for them.

use super::error::RelayError;
use super::frame::{Content, Frame, Origin};
use super::head::{RelayFault, ResponseHead, read_meta};
use super::inbox::{Arrival, Inbox, Read};
use super::outbox::{Outbox, wake};
use super::window::{Pool, Window};
use async_nats::Subject;
use bytes::Bytes;
use parking_lot::Mutex;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Whether a request still waits for frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestState {
    Open,
    /// The agent has sent its last frame.
    Answered,
    /// The response failed here while the agent may still be working, so the agent must be told.
    Broken,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Accepted(RequestState),
    Repeated,
    Malformed,
}

#[derive(Debug)]
pub(super) struct PendingRequest {
    pub origin: Origin,
    pub infer: Subject,
    pub reply: Subject,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    head: Option<ResponseHead>,
    inbox: Inbox<RelayError>,
    outbox: Outbox,
    heard: Instant,
    heard_any: bool,
    kept_alive: bool,
}

impl State {
    fn finish(&mut self, end: Result<(), RelayError>, pool: &Pool) -> Effect {
        let state = match &end {
            Ok(()) | Err(RelayError::Fault(_) | RelayError::NoResponders) => RequestState::Answered,
            Err(_) => RequestState::Broken,
        };
        self.inbox.finish(end, pool);
        Effect::Accepted(state)
    }

    fn take_data(&mut self, meta: Option<&Bytes>, chunk: Bytes, frame: &Frame, pool: &Pool) -> Effect {
        let is_first = self.inbox.expected() == 0;
        match self.inbox.arrive(frame.number, chunk.len()) {
            Arrival::Due => {}
            Arrival::Repeated => return Effect::Repeated,
            Arrival::Gap(expected) => return self.finish(Err(RelayError::Gap { expected }), pool),
            Arrival::Overdrawn => return self.finish(Err(RelayError::Overdrawn), pool),
        }
        match (is_first, meta.map(|meta| read_meta(meta))) {
            (true, Some(Ok(head))) => self.head = Some(head),
            (false, None) => {}
            (true, Some(Err(bad))) => return self.finish(Err(bad.into()), pool),
            (true, None) | (false, Some(_)) => {
                return self.finish(Err(RelayError::Malformed(super::frame::BadFrame::Kind)), pool);
            }
        }
        self.inbox.push(chunk);
        if frame.last {
            self.finish(Ok(()), pool)
        } else {
            Effect::Accepted(RequestState::Open)
        }
    }

    fn take(&mut self, frame: &Frame, pool: &Pool) -> Effect {
        match &frame.content {
            Content::Head { credit, meta, chunk } => {
                self.outbox.allow(*credit);
                self.take_data(Some(meta), chunk.clone(), frame, pool)
            }
            Content::Body(chunk) => self.take_data(None, chunk.clone(), frame, pool),
            Content::Credit(credit) => {
                self.outbox.allow(*credit);
                Effect::Accepted(RequestState::Open)
            }
            Content::KeepAlive(credit) => {
                self.outbox.allow(*credit);
                if self.inbox.misses(frame.number) {
                    let expected = self.inbox.expected();
                    return self.finish(Err(RelayError::Gap { expected }), pool);
                }
                Effect::Accepted(RequestState::Open)
            }
            Content::Error(fault) => match read_meta::<RelayFault>(fault) {
                Ok(fault) => self.finish(Err(fault.into()), pool),
                Err(bad) => self.finish(Err(bad.into()), pool),
            },
            Content::Cancel => Effect::Malformed,
        }
    }

    fn wakers(&mut self) -> [Option<Waker>; 2] {
        [self.inbox.waker(), self.outbox.waker()]
    }
}

impl PendingRequest {
    /// A request whose first frame carries `first` body bytes.
    pub fn new(origin: Origin, infer: Subject, reply: Subject, window: Window, first: usize) -> Self {
        let now = Instant::now();
        let mut outbox = Outbox::new(0, now);
        outbox.sent(first, now);
        let inbox = Inbox::new(window);
        let state = State {
            head: None,
            inbox,
            outbox,
            heard: now,
            heard_any: false,
            kept_alive: false,
        };
        Self {
            origin,
            infer,
            reply,
            state: Mutex::new(state),
        }
    }

    /// Takes a frame of this request and epoch.
    pub fn accept(&self, frame: &Frame, pool: &Pool, now: Instant) -> Effect {
        let mut state = self.state.lock();
        if state.inbox.has_ended() {
            return Effect::Repeated;
        }
        state.heard = now;
        state.heard_any = true;
        let effect = state.take(frame, pool);
        let wakers = state.wakers();
        drop(state);
        wake(wakers);
        effect
    }

    /// The server reports that no one listens. That ends the request only as the answer to its head: later it may
    /// concern a keep-alive while the agent reconnects.
    pub fn nobody_listens(&self, pool: &Pool) -> RequestState {
        {
            let state = self.state.lock();
            if state.heard_any || state.kept_alive {
                return RequestState::Open;
            }
        }
        self.fail(RelayError::NoResponders, pool);
        RequestState::Answered
    }

    /// Ends the response with an error. False if it had ended already.
    pub fn fail(&self, error: RelayError, pool: &Pool) -> bool {
        let mut state = self.state.lock();
        if state.inbox.has_ended() {
            return false;
        }
        state.finish(Err(error), pool);
        let wakers = state.wakers();
        drop(state);
        wake(wakers);
        true
    }

    /// Fails the request if its agent has been silent for `after`. Returns whether it did.
    pub fn time_out(&self, after: Duration, pool: &Pool, now: Instant) -> bool {
        let silent = now.saturating_duration_since(self.state.lock().heard);
        let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
        silent >= after && self.fail(RelayError::Silent { silent_ms }, pool)
    }

    /// The keep-alive to send now, if one is due.
    pub fn keep_alive(&self, period: Duration, now: Instant) -> Option<Bytes> {
        let mut state = self.state.lock();
        if state.inbox.has_ended() {
            return None;
        }
        let allowed = state.inbox.allowed();
        let frame = state.outbox.keep_alive(self.origin, allowed, period, now)?;
        state.kept_alive = true;
        Some(frame)
    }

    pub fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, RelayError>> {
        let mut state = self.state.lock();
        if let Some(head) = state.head.take() {
            return Poll::Ready(Ok(head));
        }
        let failure = ready!(state.inbox.poll_failure(cx));
        Poll::Ready(Err(failure.unwrap_or(RelayError::Gap { expected: 0 })))
    }

    pub fn poll_chunk(&self, pool: &Pool, cx: &mut Context<'_>) -> Poll<Read<RelayError>> {
        self.state.lock().inbox.poll_read(self.origin, pool, cx)
    }

    pub fn take_whole(&self, pool: &Pool) -> Option<Bytes> {
        self.state.lock().inbox.take_whole(pool)
    }

    /// The reader is gone. Returns whether the agent must be told to stop.
    pub fn abandon(&self, pool: &Pool) -> bool {
        let mut state = self.state.lock();
        let was_open = !state.inbox.has_ended();
        state.inbox.close(pool);
        let wakers = state.wakers();
        drop(state);
        wake(wakers);
        was_open
    }

    /// How many bytes of the body's rest fit into the next frame. `None` once the request has ended.
    pub fn poll_upload(&self, want: usize, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        let mut state = self.state.lock();
        if state.inbox.has_ended() {
            return Poll::Ready(None);
        }
        state.outbox.poll_room(want, cx).map(Some)
    }

    /// Records that a body frame was sent.
    pub fn uploaded(&self, body_bytes: usize, now: Instant) {
        self.state.lock().outbox.sent(body_bytes, now);
    }
}
