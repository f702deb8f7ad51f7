//! Flow control by credit in bytes. The receiver grants credit and the sender spends it. The credit granted to all
//! requests of a connection stays within the [`Pool`], so the server never queues more for this client than it
//! tolerates, and memory is bounded even when every reader stalls.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Mutex, Notify};

/// The smallest window, in bytes: enough for a few frames. A request needs at least this much free in the pool.
pub(super) const MIN_WINDOW_BYTES: usize = 4 * 1024;
/// The largest first window, in bytes: a response up to about this size comes in one frame.
const MAX_FIRST_WINDOW_BYTES: usize = 256 * 1024;
/// The largest window that a fast reader grows to, in bytes.
const MAX_WINDOW_BYTES: usize = 1024 * 1024;
/// First windows share this fraction of the pool evenly, which leaves room for thousands of requests that wait for their
/// first byte.
const FIRST_SHARE: usize = 8;

/// The bytes that all windows of one connection share.
#[derive(Debug)]
pub(super) struct Pool {
    total: usize,
    free: AtomicUsize,
    users: AtomicUsize,
    /// Held by the request that waits for room. Others queue for it in the order they came.
    turn: Mutex<()>,
    /// Notified when bytes return to the pool.
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

    /// The bytes that no window holds.
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
        // Only the request whose turn it is waits. If it is about to wait, it finds the permit.
        self.freed.notify_one();
    }

    fn first_window(&self) -> usize {
        let users = self.users.load(Ordering::Relaxed) + 1;
        (self.total / FIRST_SHARE / users).clamp(MIN_WINDOW_BYTES, MAX_FIRST_WINDOW_BYTES)
    }
}

/// The receiving end of one direction of a request. Invariant: `size` bytes are taken from the pool, and the credit
/// that is granted and not yet consumed never exceeds `size`.
#[derive(Debug, Default)]
pub(super) struct Window {
    size: usize,
    /// Totals since the start, in credit bytes.
    allowed: u64,
    received: u64,
    consumed: u64,
    /// Nothing more will arrive: bytes return to the pool as they are read.
    ended: bool,
    open: bool,
}

impl Window {
    /// Opens a window for a sender that hasn't sent anything. `None` when the pool is exhausted.
    pub fn open(pool: &Pool) -> Option<Self> {
        Self::open_after(pool, 0, true)
    }

    /// Opens such a window as soon as the pool has room, first come, first served. Dropping the future leaves the queue.
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

    /// Opens a window for a sender whose first frame came before any credit and cost `received`; with `more`, it gets
    /// credit to continue.
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
            open: true,
        })
    }

    /// The total credit granted so far.
    pub fn allowed(&self) -> u64 {
        self.allowed
    }

    /// Records the cost of a frame that arrived. False when the sender overdrew its credit, which ends the request.
    #[must_use]
    pub fn receive(&mut self, cost: u64) -> bool {
        self.received = self.received.saturating_add(cost);
        self.received <= self.allowed
    }

    /// Records that the reader has taken a frame. Returns the new total credit if the sender should be told.
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

    /// Doubles the window of a sender that has used it up, while half of the pool is free. When the pool runs low,
    /// shrinks it to what a new request would get.
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

    /// The sender is done: returns everything to the pool but the bytes that still wait for their reader.
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

    /// Returns everything to the pool. Later calls change nothing.
    pub fn close(&mut self, pool: &Pool) {
        if self.open {
            self.open = false;
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

/// The sending end: how much credit the receiver has granted, and how much is spent.
#[derive(Debug, Default)]
pub(super) struct SendCredit {
    allowed: u64,
    spent: u64,
}

impl SendCredit {
    pub fn new(allowed: u64) -> Self {
        Self { allowed, spent: 0 }
    }

    /// Sets the total credit. An older or repeated total changes nothing.
    pub fn allow(&mut self, total: u64) {
        self.allowed = self.allowed.max(total);
    }

    /// How many body bytes the next frame may carry; 0 when it must wait.
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
