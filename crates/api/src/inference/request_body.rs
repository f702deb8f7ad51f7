//! The body of a request, which may still be coming in while the request waits for its backend and is relayed. All that has come is
//! kept until the backend answers, so that the request can be sent again.

use super::{BadBody, HeldBytes};
use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use parking_lot::Mutex;
use reveille_bus::relay::Upload;
use std::{mem, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::sync::watch;

/// How much of what comes in is put together: a piece alone would hold the whole buffer that it was read into.
const BLOCK_BYTES: usize = 64 * 1024;

/// A body. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RequestBody {
    arrived: Arc<Mutex<Arrived>>,
    /// How many bytes have come. It is closed when no more will; `None` if all were there at once.
    count: Option<watch::Receiver<usize>>,
    bytes: usize,
}

#[derive(Debug)]
struct Arrived {
    blocks: Vec<Bytes>,
    /// The block after these, which isn't full yet.
    open: BytesMut,
    /// Their share of the memory for bodies.
    held: HeldBytes,
}

/// The end at which a body comes in. Without its last piece, the body is never whole.
#[derive(Debug)]
pub(crate) struct Incoming {
    arrived: Arc<Mutex<Arrived>>,
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
        Self {
            bytes: bytes.len(),
            count: None,
            arrived: Arc::new(Mutex::new(Arrived {
                blocks: vec![bytes],
                open: BytesMut::new(),
                held,
            })),
        }
    }

    /// A body of so many bytes, and where they come in.
    pub fn arriving(bytes: usize, held: HeldBytes) -> (Self, Incoming) {
        let arrived = Arc::new(Mutex::new(Arrived {
            blocks: Vec::new(),
            open: BytesMut::new(),
            held,
        }));
        let (sender, count) = watch::channel(0);
        let incoming = Incoming {
            arrived: arrived.clone(),
            count: sender,
        };
        (
            Self {
                arrived,
                count: Some(count),
                bytes,
            },
            incoming,
        )
    }

    /// How long it is once it is whole.
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// All of it, if it was there at once; `None` for one that comes in.
    pub fn at_once(&self) -> Option<Bytes> {
        let first = self.arrived.lock().blocks.first().cloned();
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
        let pieces = stream::unfold(
            (self.clone(), ReadTo::default()),
            async |(mut body, mut place)| {
                loop {
                    let piece = body.arrived.lock().next(&mut place);
                    if let Some(piece) = piece {
                        return Some((piece, (body, place)));
                    }
                    // An error means that no more comes.
                    let count = body.count.as_mut()?;
                    count.wait_for(|count| *count > place.passed).await.ok()?;
                }
            },
        );
        Box::pin(pieces)
    }
}

/// How far one reader has come.
#[derive(Default)]
struct ReadTo {
    block: usize,
    /// Within that block.
    offset: usize,
    /// In all.
    passed: usize,
}

impl Arrived {
    /// What has come behind a reader's place, which moves on; `None` if nothing has.
    fn next(&self, place: &mut ReadTo) -> Option<Bytes> {
        let piece = match self.blocks.get(place.block) {
            Some(block) => {
                let rest = block.slice(place.offset..);
                (place.block, place.offset) = (place.block + 1, 0);
                if rest.is_empty() {
                    return self.next(place);
                }
                rest
            }
            None => {
                let rest = self.open.get(place.offset..).filter(|rest| !rest.is_empty())?;
                place.offset += rest.len();
                Bytes::copy_from_slice(rest)
            }
        };
        place.passed += piece.len();
        Some(piece)
    }

    fn push(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            if self.open.is_empty() {
                self.open.reserve(BLOCK_BYTES);
            }
            let (now, later) = piece.split_at(piece.len().min(BLOCK_BYTES - self.open.len()));
            self.open.extend_from_slice(now);
            if self.open.len() == BLOCK_BYTES {
                self.blocks.push(mem::take(&mut self.open).freeze());
            }
            piece = later;
        }
    }
}

impl Incoming {
    /// The next piece.
    pub fn push(&self, piece: &[u8]) {
        let mut arrived = self.arrived.lock();
        arrived.push(piece);
        drop(arrived);
        self.count.send_modify(|count| *count += piece.len());
    }

    /// Takes memory for so many more bytes.
    pub fn hold(&self, bytes: usize) -> Result<(), BodyFault> {
        let held = self.arrived.lock().held.add(bytes);
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
        incoming.push(b"ab");
        let mut early = body.pieces();
        assert_eq!(early.next().await.expect("a piece"), "ab");
        let rest = tokio::spawn(async move { early.collect::<Vec<_>>().await.concat() });
        yield_now().await;
        assert!(!rest.is_finished(), "more will come");
        incoming.hold(4).expect("memory");
        incoming.push(b"cd");
        incoming.push(b"ef");
        assert_eq!(incoming.hold(5), Err(BodyFault::MemoryFull { limit: 10 }));
        drop(incoming);
        assert_eq!(rest.await.expect("no panic"), b"cdef");
        assert_eq!(body.pieces().collect::<Vec<_>>().await.concat(), b"abcdef");
        assert_eq!((body.len(), budget.used()), (6, 6));
        drop(body);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn small_pieces_are_put_together_and_each_reader_gets_every_byte_once() {
        let length = 5 * BLOCK_BYTES / 2;
        let (body, incoming) = RequestBody::arriving(length, BodyBudget::new(length).hold());
        let sent: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let mut early = body.pieces();
        let mut read = Vec::new();
        for piece in sent.chunks(1400) {
            incoming.push(piece);
            if read.len() < length / 2 {
                read.extend_from_slice(&early.next().await.expect("a piece"));
            }
        }
        let sizes: Vec<_> = incoming.arrived.lock().blocks.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [BLOCK_BYTES; 2]);
        drop(incoming);
        read.extend(early.collect::<Vec<_>>().await.concat());
        assert!(read == sent);
        assert!(body.pieces().collect::<Vec<_>>().await.concat() == sent);
        assert_eq!(body.at_once(), None);
    }
}
