//! The receiving half of one direction of a request: the next frame's number, the chunks that wait for their reader, how
//! it ended. Its window bounds it. Synchronous.

use super::frame::{Origin, cost};
use super::window::{Pool, Window};
use bytes::Bytes;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// A waiting chunk of up to this many bytes is copied, so that it doesn't keep alive the whole read buffer it arrived in.
const COPY_WAITING_BYTES: usize = 4096;

/// Whether a numbered frame is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    Due,
    Repeated,
    /// The frame with this number is missing.
    Gap(u32),
    /// The sender overdrew its credit.
    Overdrawn,
}

/// The result of a read: the next chunk, the error that ends the body, or its end; and the credit frame to send for it.
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

    /// The number of the next frame.
    pub fn expected(&self) -> u32 {
        self.expected
    }

    /// The total credit granted to the sender so far.
    pub fn allowed(&self) -> u64 {
        self.window.allowed()
    }

    /// Checks a frame's number and size, and counts the frame if it is due.
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

    /// Whether frames are missing, given how many the sender has sent: frames arrive in the order they were sent.
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

    /// Records how the body ended; only the first end counts. Waiting chunks can still be read.
    pub fn finish(&mut self, end: Result<(), E>, pool: &Pool) {
        if !self.ended {
            self.ended = true;
            self.end = Some(end);
            self.window.end(pool);
        }
    }

    /// The reader is gone: drops the waiting chunks.
    pub fn close(&mut self, pool: &Pool) {
        self.ended = true;
        self.queue.clear();
        self.window.close(pool);
    }

    /// The next chunk. Stays pending after the end, so the caller must fuse it.
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

    /// The error it ended with, for a caller that has read nothing else.
    pub fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<Option<E>> {
        match self.end.take() {
            Some(end) => Poll::Ready(end.err()),
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The whole body, if it is complete and in at most one piece.
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
