//! The bytes of a connection on their way to hyper and back.

use crate::{
    ConnectionState, Limits, ProtocolError,
    framing::{Framing, Looked},
    head::Head,
};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::io::poll_read_buf;

/// The method of the request that replaces a refused one. A client that sends it gains nothing: without a refusal there
/// is none to take.
pub const REFUSED_METHOD: &str = "REFUSED";
/// That request.
const REFUSED: &[u8] = b"REFUSED / HTTP/1.1\r\nconnection: close\r\n\r\n";

/// How long the rest of a refused request is read and discarded. Closing with unread bytes resets the connection, and the
/// client could lose the response with it.
const LINGER: Duration = Duration::from_secs(1);
/// How much is read at a time of a head that arrives in pieces, and of discarded bytes.
const PIECE_BYTES: usize = 4 * 1024;

/// A connection whose bytes are checked on their way to hyper.
#[derive(Debug)]
pub struct Http1Guard<S> {
    stream: S,
    connection: ConnectionState,
    framing: Framing,
    head_within: Duration,
    write_stalls_for: Duration,
    /// The beginning of a head, held until the head is whole.
    held: BytesMut,
    /// The bytes hyper gets next.
    next: Bytes,
    /// The bytes hyper gets instead of a refused head; nothing more is read for it afterwards.
    refused: Option<&'static [u8]>,
    head_began: Option<Instant>,
    /// Whether part of a body has yet to arrive, as last reported.
    body_open: bool,
    head_timer: Timer,
    write_timer: Timer,
    linger_timer: Timer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1Guard<S> {
    /// Guards `stream`, and shares what it sees through `connection`.
    #[must_use]
    pub fn new(stream: S, connection: ConnectionState, limits: &Limits) -> Self {
        Self {
            stream,
            connection,
            framing: Framing::new(limits.head_bytes),
            head_within: limits.head_within,
            write_stalls_for: limits.write_stalls_for,
            held: BytesMut::new(),
            next: Bytes::new(),
            refused: None,
            head_began: None,
            body_open: false,
            head_timer: Timer::default(),
            write_timer: Timer::default(),
            linger_timer: Timer::default(),
        }
    }

    /// Answers the next request with `refusal`, and then closes.
    pub fn refuse(&mut self, refusal: ProtocolError) {
        self.connection.refuse(refusal);
        self.refused = Some(REFUSED);
        self.held = BytesMut::new();
        self.set_head_began(None);
    }

    /// Reads into `buf`, and leaves there what hyper may have. False if that is nothing, though the stream goes on.
    fn read_through(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        if new.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let Looked { passed, refusal } = self.framing.look(new);
        self.report_body();
        if refusal.is_none() && passed < new.len() && !self.framing.is_broken() {
            self.held.extend_from_slice(&new[passed..]);
            self.set_head_began(Some(Instant::now()));
        }
        buf.set_filled(before + passed);
        if let Some(refusal) = refusal {
            self.refuse(refusal);
        }
        Poll::Ready(Ok(passed > 0))
    }

    /// Reads more of a head that has begun; true at the end of the stream.
    fn read_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let before = self.held.len();
        self.held.reserve(PIECE_BYTES);
        let Poll::Ready(read) = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.held) else {
            ready!(self.head_is_late(cx));
            let within = self.head_within;
            self.refuse(ProtocolError::SlowHead { within });
            return Poll::Ready(Ok(false));
        };
        if read? == 0 {
            // The client disconnected in the middle of a head.
            return Poll::Ready(Ok(true));
        }
        if Head::may_end(&self.held, before) || self.held.len() >= self.framing.head_bytes() {
            let Looked { passed, refusal } = self.framing.look(&self.held);
            self.report_body();
            if passed > 0 {
                self.next = self.held.split_to(passed).freeze();
                if self.framing.is_broken() {
                    self.held.clear();
                }
                self.set_head_began((!self.held.is_empty()).then(Instant::now));
            }
            if let Some(refusal) = refusal {
                self.refuse(refusal);
            }
        }
        Poll::Ready(Ok(false))
    }

    /// Reads and discards bytes, to the end.
    fn discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [0; PIECE_BYTES];
        loop {
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Ready when the head that has begun takes too long. While an earlier request is under way, it may.
    fn head_is_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let free = ready!(self.connection.poll_free(cx));
        let began = self.head_began.unwrap_or(free);
        self.head_timer.poll(cx, began.max(free) + self.head_within)
    }

    fn set_head_began(&mut self, began: Option<Instant>) {
        self.head_began = began;
        self.connection.set_head_begun(began.is_some());
    }

    fn report_body(&mut self) {
        let open = self.framing.is_in_body();
        if self.body_open != open {
            self.body_open = open;
            self.connection.set_body_open(open);
        }
    }

    /// Passes a write's result on; an error if the client has read nothing for too long.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_timer.stop();
            return written;
        }
        ready!(self.write_timer.poll_after(cx, self.write_stalls_for));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Http1Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.next.is_empty() {
                let length = this.next.len().min(buf.remaining());
                buf.put_slice(&this.next[..length]);
                this.next.advance(length);
                if this.next.is_empty() {
                    // They would keep the memory of the head for as long as its request is under way.
                    this.next = Bytes::new();
                    if this.held.is_empty() {
                        this.held = BytesMut::new();
                    }
                }
                return Poll::Ready(Ok(()));
            }
            if this.framing.is_broken() {
                return Poll::Ready(Ok(()));
            }
            if let Some(rest) = &mut this.refused {
                // hyper doesn't notice that a client leaves while something of it waits to be parsed.
                if !rest.is_empty() && this.connection.poll_free(cx).is_ready() {
                    let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
                    buf.put_slice(now);
                    *rest = later;
                    return Poll::Ready(Ok(()));
                }
                ready!(this.discard(cx))?;
                return Poll::Ready(Ok(()));
            }
            let passed = if this.held.is_empty() {
                ready!(this.read_through(cx, buf))?
            } else {
                ready!(this.read_held(cx))?
            };
            if passed {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Http1Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.stream).poll_shutdown(cx);
        ready!(this.written(cx, shut))?;
        if this.refused.is_none() && !this.body_open {
            return Poll::Ready(Ok(()));
        }
        if this.linger_timer.poll_after(cx, LINGER).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // However that ends.
        let _ = ready!(this.discard(cx));
        Poll::Ready(Ok(()))
    }
}

/// A timer that is created on first use.
#[derive(Debug, Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    runs: bool,
}

impl Timer {
    /// Ready at `deadline`.
    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        self.runs = true;
        sleep.as_mut().poll(cx)
    }

    /// Ready `after` the first call since the last [`stop`](Self::stop).
    fn poll_after(&mut self, cx: &mut Context<'_>, after: Duration) -> Poll<()> {
        let running = self.sleep.as_ref().filter(|_| self.runs);
        let deadline = running.map_or_else(|| Instant::now() + after, |sleep| sleep.deadline());
        self.poll(cx, deadline)
    }

    fn stop(&mut self) {
        self.runs = false;
    }
}
