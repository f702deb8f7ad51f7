//! A connection whose peer may stop listening before it has heard everything.
//!
//! A backend may answer before it has read the whole request, for example 413 to a body that is too large, and close the
//! connection. Writing the rest then fails while the answer waits to be read. So what such a peer no longer takes is
//! discarded, and its answer decides.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that stays readable after its peer has stopped reading.
pub(super) struct DeafPeer<T> {
    connection: T,
    is_deaf: bool,
}

impl<T> DeafPeer<T> {
    pub const fn new(connection: T) -> Self {
        Self {
            connection,
            is_deaf: false,
        }
    }

    /// `written`, unless it shows that the peer no longer reads.
    fn or_discard<R>(&mut self, written: Poll<io::Result<R>>, discarded: R) -> Poll<io::Result<R>> {
        match written {
            Poll::Ready(Err(error)) if is_hang_up(&error) => {
                self.is_deaf = true;
                Poll::Ready(Ok(discarded))
            }
            written => written,
        }
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
    )
}

impl<T: AsyncRead + Unpin> AsyncRead for DeafPeer<T> {
    /// The reset that follows an early answer is its end.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.connection).poll_read(cx, buffer) {
            Poll::Ready(Err(error)) if self.is_deaf && is_hang_up(&error) => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for DeafPeer<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.connection).poll_write(cx, bytes);
        self.or_discard(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        if self.is_deaf {
            return Poll::Ready(Ok(all));
        }
        let written = Pin::new(&mut self.connection).poll_write_vectored(cx, slices);
        self.or_discard(written, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.connection).poll_flush(cx);
        self.or_discard(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf {
            return Poll::Ready(Ok(()));
        }
        let ended = Pin::new(&mut self.connection).poll_shutdown(cx);
        self.or_discard(ended, ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const ANSWER: &[u8] = b"413";

    /// A peer that takes nothing; its answer is followed by a reset.
    struct Resets(&'static [u8]);

    impl AsyncRead for Resets {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let answer = std::mem::take(&mut self.0);
            buffer.put_slice(answer);
            Poll::Ready(match answer {
                [] => Err(ErrorKind::ConnectionReset.into()),
                _ => Ok(()),
            })
        }
    }

    impl AsyncWrite for Resets {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(ErrorKind::BrokenPipe.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(ErrorKind::BrokenPipe.into()))
        }
    }

    #[tokio::test]
    async fn what_a_peer_has_answered_is_read_although_it_takes_no_more_and_resets_the_connection() {
        let mut peer = DeafPeer::new(Resets(ANSWER));
        peer.write_all(b"a large request").await.expect("discarded");
        peer.flush().await.expect("discarded");
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).await.expect("its end");
        assert_eq!(answer, ANSWER);

        let mut peer = DeafPeer::new(Resets(ANSWER));
        let broken = peer.read_to_end(&mut Vec::new()).await;
        broken.expect_err("it may have taken the request, and its answer isn't whole");
    }
}
