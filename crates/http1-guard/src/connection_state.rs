//! What the three parts that look after a connection know of each other: the guard on its bytes, the service that gets
//! its requests, and the task that closes it when it is silent.

use crate::ProtocolError;
use parking_lot::Mutex;
use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::time::Instant;

/// The state of one connection. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConnectionState(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Requests whose responses have not ended.
    under_way: usize,
    /// Whether there ever was a request.
    served: bool,
    head_begun: bool,
    body_open: bool,
    /// Since when no request is under way, if that is so.
    quiet_since: Instant,
    refusal: Option<ProtocolError>,
    waits_for_end: Option<Waker>,
}

/// The silence of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// When the last response ended, or the connection began.
    pub since: Instant,
    /// Whether a request came before the silence.
    pub served: bool,
}

impl Default for ConnectionState {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            under_way: 0,
            served: false,
            head_begun: false,
            body_open: false,
            quiet_since: Instant::now(),
            refusal: None,
            waits_for_end: None,
        })))
    }
}

impl ConnectionState {
    /// Counts a request as under way until the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> UnderWay {
        let mut state = self.0.lock();
        state.under_way += 1;
        state.served = true;
        UnderWay(self.clone())
    }

    /// The silence, if no request is under way and no head has begun to arrive.
    #[must_use]
    pub fn quiet(&self) -> Option<Quiet> {
        let state = self.0.lock();
        (state.under_way == 0 && !state.head_begun).then_some(Quiet {
            since: state.quiet_since,
            served: state.served,
        })
    }

    /// Whether part of the last request's body has yet to arrive.
    #[must_use]
    pub fn is_body_open(&self) -> bool {
        self.0.lock().body_open
    }

    /// The reason why the connection's last request is refused, for the response to [`REFUSED_METHOD`](crate::REFUSED_METHOD).
    #[must_use]
    pub fn take_refusal(&self) -> Option<ProtocolError> {
        self.0.lock().refusal.take()
    }

    /// Ready with the time since which no request is under way. hyper doesn't poll its connection again because a
    /// response has ended, so the waiting task is woken here.
    pub(crate) fn poll_free(&self, cx: &Context<'_>) -> Poll<Instant> {
        let mut state = self.0.lock();
        if state.under_way == 0 {
            return Poll::Ready(state.quiet_since);
        }
        state.waits_for_end = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn set_head_begun(&self, begun: bool) {
        self.0.lock().head_begun = begun;
    }

    pub(crate) fn set_body_open(&self, open: bool) {
        self.0.lock().body_open = open;
    }

    pub(crate) fn refuse(&self, refusal: ProtocolError) {
        self.0.lock().refusal = Some(refusal);
    }
}

/// A request under way; over when dropped.
#[derive(Debug)]
pub struct UnderWay(ConnectionState);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.under_way -= 1;
        if state.under_way > 0 {
            return;
        }
        state.quiet_since = Instant::now();
        let waits = state.waits_for_end.take();
        drop(state);
        if let Some(waits) = waits {
            waits.wake();
        }
    }
}
