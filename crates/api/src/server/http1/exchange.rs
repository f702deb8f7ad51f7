//! How a connection stands: what the three who look after it know of each other. They are the watch on its bytes, the
//! service that is called with its requests, and the task that closes it when it is silent.

use crate::server::ProtocolError;
use parking_lot::{Mutex, MutexGuard};
use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::time::Instant;

/// How a connection stands. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Exchange(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Requests whose answers have not ended.
    under_way: usize,
    /// Whether there ever was one.
    served: bool,
    /// Whether a head has begun to arrive.
    head_begun: bool,
    /// Whether the body of the last request has not come whole.
    body_open: bool,
    /// Since when no request is under way, if none is.
    quiet_since: Instant,
    refusal: Option<ProtocolError>,
    waits_for_end: Option<Waker>,
}

/// The silence of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) struct Quiet {
    pub since: Instant,
    /// Whether a request came before it.
    pub served: bool,
}

impl Exchange {
    pub(super) fn new() -> Self {
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

    /// A request has come; it is under way until the guard is dropped.
    pub(super) fn begin(&self) -> UnderWay {
        let mut state = self.state();
        state.under_way += 1;
        state.served = true;
        UnderWay(self.clone())
    }

    /// Ready when no request is under way, with since when. hyper doesn't ask its connection for more because a request
    /// has ended, so whoever waits for that is woken here.
    pub(super) fn poll_free(&self, cx: &Context<'_>) -> Poll<Instant> {
        let mut state = self.state();
        if state.under_way == 0 {
            return Poll::Ready(state.quiet_since);
        }
        state.waits_for_end = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The silence, if nothing is under way and nothing has begun to arrive.
    pub(in crate::server) fn quiet(&self) -> Option<Quiet> {
        let state = self.state();
        (state.under_way == 0 && !state.head_begun).then_some(Quiet {
            since: state.quiet_since,
            served: state.served,
        })
    }

    /// Whether a head has begun to arrive and has not ended.
    pub(super) fn set_head_begun(&self, begun: bool) {
        self.state().head_begun = begun;
    }

    /// Whether the body of the last request has not come whole.
    pub(super) fn set_body_open(&self, open: bool) {
        self.state().body_open = open;
    }

    /// Whether the body of the last request has not come whole.
    pub(super) fn is_body_open(&self) -> bool {
        self.state().body_open
    }

    /// The connection's last request is the answer to this.
    pub(super) fn refuse(&self, refusal: ProtocolError) {
        self.state().refusal = Some(refusal);
    }

    /// What is to be refused.
    pub(super) fn take_refusal(&self) -> Option<ProtocolError> {
        self.state().refusal.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct UnderWay(Exchange);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.state();
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
