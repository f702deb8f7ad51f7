//! The sending half of one direction of one request: what may still be spent, how much was sent, and when
//! anything was last said to the other side.

use super::frame::{Origin, cost};
use super::window::SendCredit;
use bytes::Bytes;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// No body frame is sent with fewer bytes than this for want of credit.
const MIN_FRAGMENT_BYTES: usize = 1024;

#[derive(Debug)]
pub(super) struct Outbox {
    credit: SendCredit,
    sent_frames: u32,
    said: Instant,
    sender: Option<Waker>,
}

impl Outbox {
    pub fn new(allowed: u64, now: Instant) -> Self {
        Self {
            credit: SendCredit::new(allowed),
            sent_frames: 0,
            said: now,
            sender: None,
        }
    }

    pub fn allow(&mut self, total: u64) {
        self.credit.allow(total);
    }

    /// How many body bytes the next frame may carry, once a sensible fragment may be sent.
    pub fn poll_room(&mut self, want: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let room = self.credit.room();
        if room >= want.min(MIN_FRAGMENT_BYTES) {
            return Poll::Ready(room);
        }
        self.register(cx);
        Poll::Pending
    }

    /// Wakes the sender at the next change.
    pub fn register(&mut self, cx: &Context<'_>) {
        self.sender = Some(cx.waker().clone());
    }

    /// Notes a numbered frame that the connection has taken.
    pub fn sent(&mut self, body_bytes: usize, now: Instant) {
        self.credit.spend(cost(body_bytes));
        self.sent_frames = self.sent_frames.saturating_add(1);
        self.said = now;
    }

    /// The keep-alive to send now, if nothing was said for a period. `allowed` is what the other direction's
    /// sender may have spent.
    pub fn keep_alive(
        &mut self,
        origin: Origin,
        allowed: u64,
        period: Duration,
        now: Instant,
    ) -> Option<Bytes> {
        if now.saturating_duration_since(self.said) < period {
            return None;
        }
        self.said = now;
        Some(origin.keep_alive(self.sent_frames, allowed))
    }

    pub fn waker(&mut self) -> Option<Waker> {
        self.sender.take()
    }
}

/// Wakes both halves of a request; the lock on them must have been let go.
pub(super) fn wake(halves: [Option<Waker>; 2]) {
    for waker in halves.into_iter().flatten() {
        waker.wake();
    }
}
