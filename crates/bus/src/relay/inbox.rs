//! The receiving half of one direction of one request: which number is due, what waits for its reader, how it
//! ended. Bounded by its window; synchronous.

use super::frame::{Origin, cost};
use super::window::{Pool, Window};
use bytes::Bytes;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// A chunk up to this many bytes is copied when it has to wait, so that it doesn't keep the whole read buffer
/// alive that it arrived in.
const COPY_WAITING_BYTES: usize = 4096;

/// Whether a numbered frame may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    Due,
    Repeated,
    /// The frame with this number is missing.
    Gap(u32),
    /// More than was allowed.
    Overdrawn,
}

/// What reading gives: the next chunk, the error that ends it, or its end; and the credit frame to send for it.
#[derive(Debug)]
pub(super) struct Read<E> {
    pub item: Option<Result<Bytes, E>>,
    pub credit: Option<Bytes>,
}

#[derive(Debug)]
pub(super) struct Inbox<E> {
    expected: u32,
    queue: VecDeque<Bytes>,
    end: Option<Result<(), E>>,
    ended: bool,
    window: Window,
    reader: Option<Waker>,
}

impl<E> Inbox<E> {
    pub fn new(window: Window) -> Self {
        Self {
            expected: 0,
            queue: VecDeque::new(),
            end: None,
            ended: false,
            window,
            reader: None,
        }
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The number of the frame that is due.
    pub fn expected(&self) -> u32 {
        self.expected
    }

    /// The total that the sender may have spent by now.
    pub fn allowed(&self) -> u64 {
        self.window.allowed()
    }

    /// Judges a frame's number and size, and counts it when it is due.
    pub fn arrive(&mut self, number: u32, body_bytes: usize) -> Arrival {
        if number < self.expected || self.ended {
            return Arrival::Repeated;
        }
        if number > self.expected {
            return Arrival::Gap(self.expected);
        }
        self.expected = self.expected.saturating_add(1);
        if self.window.receive(cost(body_bytes)) {
            Arrival::Due
        } else {
            Arrival::Overdrawn
        }
    }

    /// Counts the frame that the window was opened for.
    pub fn arrived_first(&mut self) {
        self.expected = 1;
    }

    /// True when the sender has sent frames that haven't come: what it sent earlier arrives earlier.
    pub fn misses(&self, sent_frames: u32) -> bool {
        !self.ended && sent_frames > self.expected
    }

    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        let copy = !self.queue.is_empty() && chunk.len() <= COPY_WAITING_BYTES;
        self.queue.push_back(if copy {
            Bytes::copy_from_slice(&chunk)
        } else {
            chunk
        });
    }

    /// Says how it ended; the first end counts. What waits can still be read.
    pub fn finish(&mut self, end: Result<(), E>, pool: &Pool) {
        if !self.ended {
            self.ended = true;
            self.end = Some(end);
            self.window.end(pool);
        }
    }

    /// Nobody reads it any more.
    pub fn close(&mut self, pool: &Pool) {
        self.ended = true;
        self.queue.clear();
        self.window.close(pool);
    }

    /// The next chunk. After the end has been read it stays pending: the caller fuses.
    pub fn poll_read(&mut self, origin: Origin, pool: &Pool, cx: &mut Context<'_>) -> Poll<Read<E>> {
        if let Some(chunk) = self.queue.pop_front() {
            let grant = self.window.consume(cost(chunk.len()), pool);
            return Poll::Ready(Read {
                item: Some(Ok(chunk)),
                credit: grant.map(|total| origin.credit(total)),
            });
        }
        match self.end.take() {
            Some(end) => Poll::Ready(Read {
                item: end.err().map(Err),
                credit: None,
            }),
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The error it ended with, when it ended before anything else was read.
    pub fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<Option<E>> {
        match self.end.take() {
            Some(end) => Poll::Ready(end.err()),
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Everything, when it has come completely, in one piece or none.
    pub fn take_whole(&mut self, pool: &Pool) -> Option<Bytes> {
        if !matches!(self.end, Some(Ok(()))) || self.queue.len() > 1 {
            return None;
        }
        self.end = None;
        let whole = self.queue.pop_front().unwrap_or_default();
        self.window.consume(cost(whole.len()), pool);
        Some(whole)
    }

    pub fn waker(&mut self) -> Option<Waker> {
        self.reader.take()
    }
}
