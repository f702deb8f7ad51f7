//! Credit in bytes. Whoever receives allows, whoever sends spends; what all requests of one connection are
//! allowed together stays under the [`Pool`]'s size, so that the server never has more waiting for us than it
//! tolerates, and memory is bounded even when every reader stalls.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Mutex, Notify};

/// The smallest window, in bytes: enough for a few frames. Also what a request must find free to be let in.
pub(super) const MIN_WINDOW_BYTES: usize = 4 * 1024;
/// The largest first window, in bytes: an answer up to about this size comes as one frame.
const MAX_FIRST_WINDOW_BYTES: usize = 256 * 1024;
/// The largest window that a fast reader grows to, in bytes.
const MAX_WINDOW_BYTES: usize = 1024 * 1024;
/// First windows share this fraction of the pool evenly, which leaves room for thousands of requests that all
/// wait for their first byte.
const FIRST_SHARE: usize = 8;

/// What all windows of one connection come out of.
#[derive(Debug)]
pub(super) struct Pool {
    total: usize,
    free: AtomicUsize,
    users: AtomicUsize,
    /// Held by the request that waits for room; the others queue for it, in the order in which they came.
    turn: Mutex<()>,
    /// Told when bytes come back.
    freed: Notify,
}

impl Pool {
    pub fn new(total: usize) -> Self {
        Self {
            total,
            free: AtomicUsize::new(total),
            users: AtomicUsize::new(0),
            turn: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// Bytes that no window holds.
    pub fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = |free: usize| free.checked_sub(bytes);
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }

    fn put(&self, bytes: usize) {
        self.free.fetch_add(bytes, Ordering::Relaxed);
        // Only the one whose turn it is waits. Should it look just now, the permit is there when it waits.
        self.freed.notify_one();
    }

    fn first_window(&self) -> usize {
        let users = self.users.load(Ordering::Relaxed) + 1;
        (self.total / FIRST_SHARE / users).clamp(MIN_WINDOW_BYTES, MAX_FIRST_WINDOW_BYTES)
    }
}

/// The receiving end of one direction of one request. Invariant: `size` bytes are out of the pool, and what is
/// allowed but not yet consumed never exceeds `size`.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// Totals since the start, in credit bytes.
    allowed: u64,
    received: u64,
    consumed: u64,
    /// Nothing more will come: bytes go back to the pool as they are read.
    ended: bool,
    closed: bool,
}

impl Window {
    /// Opens a window for a request that hasn't sent anything. None when the pool has nothing left.
    pub fn open(pool: &Pool) -> Option<Self> {
        Self::open_after(pool, 0, true)
    }

    /// The same, as soon as the pool has room: first come, first served. Whoever stops waiting drops this.
    pub async fn open_in_turn(pool: &Pool) -> Self {
        let _turn = pool.turn.lock().await;
        loop {
            let freed = pool.freed.notified();
            if let Some(window) = Self::open(pool) {
                return window;
            }
            freed.await;
        }
    }

    /// Opens a window for a sender whose first frame came unasked and cost `received`; with `more`, it is
    /// allowed to send on.
    pub fn open_after(pool: &Pool, received: u64, more: bool) -> Option<Self> {
        let ahead = if more { pool.first_window() } else { 0 };
        let size = usize::try_from(received).ok()?.checked_add(ahead)?;
        if !pool.take(size) {
            return None;
        }
        pool.users.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            size,
            allowed: size as u64,
            received,
            consumed: 0,
            ended: false,
            closed: false,
        })
    }

    /// The total that the sender may have spent by now.
    pub fn allowed(&self) -> u64 {
        self.allowed
    }

    /// Notes a frame that arrived. False when the sender overdrew its credit: it is then cut off.
    #[must_use]
    pub fn receive(&mut self, cost: u64) -> bool {
        self.received = self.received.saturating_add(cost);
        self.received <= self.allowed
    }

    /// Notes that a frame's bytes were taken by their reader. The new total when the sender should be told.
    pub fn consume(&mut self, cost: u64, pool: &Pool) -> Option<u64> {
        self.consumed = self.consumed.saturating_add(cost);
        if self.ended {
            self.shrink(pool);
            return None;
        }
        let ahead = usize::try_from(self.allowed.saturating_sub(self.consumed)).unwrap_or(usize::MAX);
        if ahead > self.size / 2 {
            return None;
        }
        self.resize(pool, ahead);
        self.allowed = self.consumed + self.size as u64;
        Some(self.allowed)
    }

    /// A sender that used its window up gets a larger one while half of the pool is free; when the pool runs
    /// low, everyone shrinks to what a newcomer would get.
    fn resize(&mut self, pool: &Pool, ahead: usize) {
        let unspent = usize::try_from(self.allowed.saturating_sub(self.received)).unwrap_or(usize::MAX);
        let free = pool.free();
        if free < pool.total / 4 {
            let smaller = pool.first_window().max(ahead);
            if smaller < self.size {
                pool.put(self.size - smaller);
                self.size = smaller;
            }
        } else if unspent <= self.size / 4 && self.size < MAX_WINDOW_BYTES {
            let more = self.size.min(MAX_WINDOW_BYTES - self.size);
            if free >= pool.total / 2 + more && pool.take(more) {
                self.size += more;
            }
        }
    }

    /// Notes that the sender is done: only what still waits for its reader stays out of the pool.
    pub fn end(&mut self, pool: &Pool) {
        self.ended = true;
        self.shrink(pool);
    }

    fn shrink(&mut self, pool: &Pool) {
        let waiting = usize::try_from(self.received.saturating_sub(self.consumed)).unwrap_or(usize::MAX);
        if waiting < self.size {
            pool.put(self.size - waiting);
            self.size = waiting;
        }
    }

    /// Gives everything back. Later calls change nothing.
    pub fn close(&mut self, pool: &Pool) {
        if !self.closed {
            self.closed = true;
            self.ended = true;
            pool.put(self.size);
            pool.users.fetch_sub(1, Ordering::Relaxed);
            self.size = 0;
        }
    }

    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.size
    }
}

/// The sending end: what the other side has allowed, and how much of it is spent.
#[derive(Debug, Default)]
pub(super) struct SendCredit {
    allowed: u64,
    spent: u64,
}

impl SendCredit {
    pub fn new(allowed: u64) -> Self {
        Self { allowed, spent: 0 }
    }

    /// Takes over a newer total; an older or repeated one changes nothing.
    pub fn allow(&mut self, total: u64) {
        self.allowed = self.allowed.max(total);
    }

    /// How many body bytes the next frame may carry: 0 when it must wait.
    pub fn room(&self) -> usize {
        let left = self.allowed.saturating_sub(self.spent);
        usize::try_from(left.saturating_sub(super::frame::FRAME_OVERHEAD_BYTES)).unwrap_or(usize::MAX)
    }

    pub fn spend(&mut self, cost: u64) {
        self.spent = self.spent.saturating_add(cost);
    }
}

#[cfg(test)]
mod tests;
