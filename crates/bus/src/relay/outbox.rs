//! The sending half of one direction of a request: the credit left, the frames sent, and when the last one was sent.

use super::frame::{Origin, cost};
use super::window::SendCredit;
use bytes::Bytes;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// With less credit than this, a longer body waits for more instead of sending a tiny frame.
const MIN_FRAGMENT_BYTES: usize = 1024;

#[derive(Debug)]
pub(super) struct Outbox {
    credit: SendCredit,
    sent_frames: u32,
    last_sent: Instant,
    sender: Option<Waker>,
}

impl Outbox {
    pub fn new(allowed: u64, now: Instant) -> Self {
        Self {
            credit: SendCredit::new(allowed),
            sent_frames: 0,
            last_sent: now,
            sender: None,
        }
    }

    pub fn allow(&mut self, total: u64) {
        self.credit.allow(total);
    }

    /// How many body bytes the next frame may carry, once that is enough to be worth a frame.
    pub fn poll_room(&mut self, want: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let room = self.credit.room();
        if room >= want.min(MIN_FRAGMENT_BYTES) {
            return Poll::Ready(room);
        }
        self.register(cx);
        Poll::Pending
    }

    /// Wakes the sending task at the next change.
    pub fn register(&mut self, cx: &Context<'_>) {
        self.sender = Some(cx.waker().clone());
    }

    /// Records a numbered frame that was sent.
    pub fn sent(&mut self, body_bytes: usize, now: Instant) {
        self.credit.spend(cost(body_bytes));
        self.sent_frames = self.sent_frames.saturating_add(1);
        self.last_sent = now;
    }

    /// The keep-alive to send now, if nothing was sent for a period. `allowed` is the credit granted to the other
    /// direction.
    pub fn keep_alive(
        &mut self,
        origin: Origin,
        allowed: u64,
        period: Duration,
        now: Instant,
    ) -> Option<Bytes> {
        if now.saturating_duration_since(self.last_sent) < period {
            return None;
        }
        self.last_sent = now;
        Some(origin.keep_alive(self.sent_frames, allowed))
    }

    pub fn waker(&mut self) -> Option<Waker> {
        self.sender.take()
    }
}

/// Wakes the tasks of both halves of a request. Call it without holding their lock.
pub(super) fn wake(halves: [Option<Waker>; 2]) {
    for waker in halves.into_iter().flatten() {
        waker.wake();
    }
}
