//! The body of a request, which may still be coming in while the request waits for its backend and is relayed. All that has come is
//! kept until the backend answers, so that the request can be sent again.

use super::{BadBody, HeldBytes};
use bytes::Bytes;
use futures::{Stream, stream};
use parking_lot::Mutex;
use reveille_bus::relay::Upload;
use std::{sync::Arc, time::Duration};
use thiserror::Error;
use tokio::sync::watch;

/// A body. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RequestBody {
    pieces: Arc<Mutex<Pieces>>,
    /// How many pieces have come. It is closed when no more will.
    count: watch::Receiver<usize>,
    bytes: usize,
}

#[derive(Debug)]
struct Pieces {
    pieces: Vec<Bytes>,
    /// Their share of the memory for bodies.
    held: HeldBytes,
}

/// The end at which a body comes in. Without its last piece, the body is never whole.
#[derive(Debug)]
pub(crate) struct Incoming {
    pieces: Arc<Mutex<Pieces>>,
    count: watch::Sender<usize>,
}

/// Why the rest of a body can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum BodyFault {
    /// Its sender has left.
    #[error("the body broke off")]
    BrokeOff,
    /// Nothing came for so long, or too little on average.
    #[error("the body did not arrive")]
    TooSlow { idle: Duration },
    /// All bodies together take up the memory that there is for them.
    #[error("waiting requests take up all memory for request bodies")]
    MemoryFull { limit: usize },
    /// Something is wrong with it.
    #[error("{}", .0.message)]
    Bad(BadBody),
}

impl RequestBody {
    /// A body that is there.
    pub fn whole(bytes: Bytes, held: HeldBytes) -> Self {
        let length = bytes.len();
        let (body, incoming) = Self::arriving(length, held);
        incoming.push(bytes);
        body
    }

    /// A body of so many bytes, and where they come in.
    pub fn arriving(bytes: usize, held: HeldBytes) -> (Self, Incoming) {
        let pieces = Arc::new(Mutex::new(Pieces {
            pieces: Vec::new(),
            held,
        }));
        let (sender, count) = watch::channel(0);
        let incoming = Incoming {
            pieces: pieces.clone(),
            count: sender,
        };
        let body = Self { pieces, count, bytes };
        (body, incoming)
    }

    /// How long it is once it is whole.
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// All of it, if it has come at once; `None` for one that comes in pieces.
    pub fn at_once(&self) -> Option<Bytes> {
        let first = self.pieces.lock().pieces.first().cloned();
        first.filter(|first| first.len() == self.bytes)
    }

    /// From its beginning, each piece as soon as it is there.
    pub fn upload(&self) -> Upload {
        match self.at_once() {
            Some(whole) => whole.into(),
            None => Upload::new(self.bytes as u64, self.pieces()),
        }
    }

    /// The pieces, each as soon as it is there.
    pub fn pieces(&self) -> impl Stream<Item = Bytes> + Send + use<> {
        let pieces = stream::unfold((self.clone(), 0), async |(mut body, at)| {
            loop {
                let piece = body.pieces.lock().pieces.get(at).cloned();
                if let Some(piece) = piece {
                    return Some((piece, (body, at + 1)));
                }
                // An error means that no more comes.
                body.count.wait_for(|count| *count > at).await.ok()?;
            }
        });
        Box::pin(pieces)
    }
}

impl Incoming {
    /// The next piece.
    pub fn push(&self, piece: Bytes) {
        let mut pieces = self.pieces.lock();
        pieces.pieces.push(piece);
        let count = pieces.pieces.len();
        drop(pieces);
        self.count.send_replace(count);
    }

    /// Takes memory for so many more bytes.
    pub fn hold(&self, bytes: usize) -> Result<(), BodyFault> {
        let held = self.pieces.lock().held.add(bytes);
        held.map_err(|limit| BodyFault::MemoryFull { limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::BodyBudget;
    use futures::StreamExt;
    use tokio::task::yield_now;

    #[tokio::test]
    async fn each_reader_gets_the_whole_body_as_it_comes() {
        let budget = BodyBudget::new(10);
        let (body, incoming) = RequestBody::arriving(6, budget.hold());
        incoming.hold(2).expect("memory");
        incoming.push(Bytes::from_static(b"ab"));
        let mut early = body.pieces();
        assert_eq!(early.next().await.expect("a piece"), "ab");
        let rest = tokio::spawn(async move { early.collect::<Vec<_>>().await.concat() });
        yield_now().await;
        assert!(!rest.is_finished(), "more will come");
        incoming.hold(4).expect("memory");
        incoming.push(Bytes::from_static(b"cd"));
        incoming.push(Bytes::from_static(b"ef"));
        assert_eq!(incoming.hold(5), Err(BodyFault::MemoryFull { limit: 10 }));
        drop(incoming);
        assert_eq!(rest.await.expect("no panic"), b"cdef");
        assert_eq!(body.pieces().collect::<Vec<_>>().await.concat(), b"abcdef");
        assert_eq!((body.len(), budget.used()), (6, 6));
        drop(body);
        assert_eq!(budget.used(), 0);
    }
}
