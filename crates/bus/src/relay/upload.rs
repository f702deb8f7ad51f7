//! The body of a request on its way to the agent.

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use std::fmt;

/// A body of known length, whose pieces may still have to come.
pub struct Upload {
    /// How many are still to be sent.
    bytes: u64,
    pieces: BoxStream<'static, Bytes>,
    /// Of the piece that was read last.
    rest: Bytes,
}

impl Upload {
    /// A body of so many bytes in these pieces. A request whose pieces end before is cancelled at the agent.
    pub fn new(bytes: u64, pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self {
            bytes,
            pieces: pieces.boxed(),
            rest: Bytes::new(),
        }
    }

    /// At most so many of the next bytes, as far as they are there; none at the end, or if the pieces are longer than the body.
    pub(super) async fn next(&mut self, most: usize) -> Option<Bytes> {
        while self.rest.is_empty() {
            self.rest = self.pieces.next().await?;
        }
        let next = self.rest.split_to(most.min(self.rest.len()));
        self.bytes = self.bytes.checked_sub(next.len() as u64)?;
        Some(next)
    }

    /// How many of the bytes are still to be sent.
    pub(super) const fn left(&self) -> u64 {
        self.bytes
    }
}

impl From<Bytes> for Upload {
    fn from(whole: Bytes) -> Self {
        let mut upload = Self::new(whole.len() as u64, stream::empty());
        upload.rest = whole;
        upload
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("left", &self.bytes)
            .finish_non_exhaustive()
    }
}
