//! The body of a request: it is there, or is still coming in while it is sent.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use reveille_bus::relay::RelayFault;
use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::time::Instant;

/// A body. Of one that is still coming in, all clones send the same pieces, so only one of them is sent.
#[derive(Clone)]
pub(crate) enum SentBody {
    Whole(Bytes),
    Arriving(Arc<Mutex<ArrivingPieces>>, SendProgress),
}

pub(crate) struct ArrivingPieces {
    stream: BoxStream<'static, Result<Bytes, RelayFault>>,
    left: u64,
}

/// How far a body that is coming in has been sent. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SendProgress(Arc<Mutex<Sent>>);

struct Sent {
    /// When the last piece was.
    at: Instant,
    /// Whether the next piece has still to come in.
    is_waiting: bool,
    is_whole: bool,
    has_begun: bool,
    fault: Option<RelayFault>,
}

impl SentBody {
    /// A body of so many bytes in these pieces.
    pub fn arriving(
        bytes: u64,
        pieces: impl Stream<Item = Result<Bytes, RelayFault>> + Send + 'static,
    ) -> Self {
        let pieces = ArrivingPieces {
            stream: pieces.boxed(),
            left: bytes,
        };
        let sent = Sent {
            at: Instant::now(),
            is_waiting: false,
            is_whole: false,
            has_begun: false,
            fault: None,
        };
        Self::Arriving(
            Arc::new(Mutex::new(pieces)),
            SendProgress(Arc::new(Mutex::new(sent))),
        )
    }

    /// `None` for a body that is there.
    pub fn progress(&self) -> Option<&SendProgress> {
        match self {
            Self::Whole(_) => None,
            Self::Arriving(_, progress) => Some(progress),
        }
    }
}

impl From<Bytes> for SentBody {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

impl SendProgress {
    /// When the last piece was sent, or else when the request began to be.
    pub fn moved_at(&self) -> Instant {
        self.0.lock().at
    }

    /// Since when the server owes something: while the next piece has still to come in, it owes nothing yet.
    pub fn server_owes_since(&self) -> Instant {
        let sent = self.0.lock();
        if sent.is_waiting { Instant::now() } else { sent.at }
    }

    /// Whether the server may have got some of it.
    pub fn has_begun(&self) -> bool {
        self.0.lock().has_begun
    }

    /// Whether all of it has been sent.
    pub fn is_whole(&self) -> bool {
        self.0.lock().is_whole
    }

    /// Why no more came in.
    pub fn fault(&self) -> Option<RelayFault> {
        self.0.lock().fault.clone()
    }
}

impl ArrivingPieces {
    fn poll(
        &mut self,
        progress: &SendProgress,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayFault>>> {
        let next = self.stream.poll_next_unpin(cx);
        let mut sent = progress.0.lock();
        sent.is_waiting = next.is_pending();
        let next = ready!(next);
        Poll::Ready(match next {
            Some(Ok(piece)) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                (sent.at, sent.has_begun, sent.is_whole) = (Instant::now(), true, self.left == 0);
                Some(Ok(Frame::data(piece)))
            }
            Some(Err(fault)) => {
                sent.fault = Some(fault.clone());
                Some(Err(fault))
            }
            None => None,
        })
    }
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = RelayFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayFault>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(mem::take(bytes))))),
            Self::Arriving(pieces, progress) => pieces.lock().poll(progress, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Arriving(pieces, _) => pieces.lock().left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Arriving(pieces, _) => pieces.lock().left,
        })
    }
}
