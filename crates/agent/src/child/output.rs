//! A child's output: always drained, so that the child never blocks; only the end of it is kept.

use parking_lot::{Mutex, MutexGuard};
use std::{collections::VecDeque, fmt, sync::Arc};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of the end of a child's output is kept.
pub const OUTPUT_TAIL_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 16 * 1024;

/// The end of a child's output, for the owner of this machine only: it is never logged and never sent.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<Tail>>);

#[derive(Default)]
struct Tail {
    bytes: VecDeque<u8>,
    seen: u64,
}

impl Output {
    #[must_use]
    pub fn tail(&self) -> Vec<u8> {
        self.lock().bytes.iter().copied().collect()
    }

    #[must_use]
    pub fn seen_bytes(&self) -> u64 {
        self.lock().seen
    }

    /// Reads until no process holds the other end any longer.
    pub(super) async fn drain(self, mut pipe: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
            self.push(&buffer[..count]);
        }
    }

    fn push(&self, bytes: &[u8]) {
        let mut tail = self.lock();
        tail.seen = tail.seen.saturating_add(bytes.len() as u64);
        tail.bytes.extend(bytes);
        let excess = tail.bytes.len().saturating_sub(OUTPUT_TAIL_BYTES);
        tail.bytes.drain(..excess);
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.0.lock()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} bytes)", self.seen_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_the_output_is_kept() {
        let output = Output::default();
        for number in 0..20_000 {
            output.push(format!("line {number}\n").as_bytes());
        }
        let tail = output.tail();
        assert_eq!(tail.len(), OUTPUT_TAIL_BYTES);
        assert!(tail.ends_with(b"line 19999\n"));
        assert!(output.seen_bytes() > OUTPUT_TAIL_BYTES as u64);
    }
}
