//! One connection, from its handshake to its end.

use super::{
    ServerLimits,
    service::{Answers, GuardedService, Refuse},
    tls::Tls,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulConnection},
};
use reveille_http1_guard::{ConnectionState, Http1Guard, Limits, ProtocolError, Quiet};
use std::{
    fmt::Display,
    pin::{Pin, pin},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// The first byte of a TLS connection: a handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// The first bytes of an HTTP/2 connection without TLS (RFC 9113, section 3.4).
const HTTP2_BEGINS: [u8; 2] = *b"PR";
/// What a client calls HTTP/1.1 in its handshake (RFC 7301).
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// What a connection is of: a socket, or TLS over it.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// What all connections share.
pub(super) struct Serving<S> {
    answers: S,
    refuse: Refuse,
    tls: Option<Tls>,
    limits: ServerLimits,
    /// For connections whose protocol is yet to be seen. hyper reads the first bytes by themselves for that, and keeps room for either
    /// protocol as long as the connection lives, besides a buffer of twice the size.
    either: auto::Builder<TokioExecutor>,
    /// For those that are known to speak HTTP/1.
    http1: http1::Builder,
    /// Accept no new requests.
    stop: CancellationToken,
    /// Cut the requests under way.
    pub cut: CancellationToken,
}

impl<S: Answers> Serving<S> {
    pub fn new(
        answers: S,
        refuse: Refuse,
        tls: Option<Tls>,
        limits: ServerLimits,
        stop: CancellationToken,
    ) -> Self {
        // Both without `half_close`: a client that has left and one that has only closed its sending half both look like the end of
        // what it sends, and the former must be noticed while its request waits.
        let (mut either, mut http1) = (auto::Builder::new(TokioExecutor::new()), http1::Builder::new());
        // The guard has its own limits for heads, and answers when they are exceeded.
        either.http1().header_read_timeout(None);
        http1.header_read_timeout(None);
        either
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.h2_streams)
            .max_pending_accept_reset_streams(limits.h2_pending_resets)
            .max_local_error_reset_streams(limits.h2_faulty_streams)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(limits.h2_ping)
            .keep_alive_timeout(limits.h2_ping);
        Self {
            answers,
            refuse,
            tls,
            limits,
            either,
            http1,
            stop,
            cut: CancellationToken::new(),
        }
    }

    /// Serves a connection to its end.
    pub async fn connection(&self, stream: TcpStream) {
        let served = async {
            match &self.tls {
                None => Box::pin(self.in_plaintext(stream)).await,
                Some(tls) => Box::pin(self.encrypted(stream, tls)).await,
            }
        };
        tokio::select! {
            () = served => {}
            () = self.cut.cancelled() => {}
        }
    }

    async fn in_plaintext(&self, stream: TcpStream) {
        let mut first = [0; 2];
        let looked = timeout(self.limits.head_within, stream.peek(&mut first));
        let looked = tokio::select! {
            looked = looked => looked,
            () = self.stop.cancelled() => return,
        };
        match looked {
            // `PRI`, as HTTP/2 begins, has the first letter of `POST`.
            Ok(Ok(2)) if first != HTTP2_BEGINS => self.speak_http1(stream).await,
            Ok(Ok(_)) => Box::pin(self.speak_either(stream, None)).await,
            Ok(Err(_)) | Err(_) => {}
        }
    }

    async fn encrypted(&self, stream: TcpStream, tls: &Tls) {
        let shaken = timeout(self.limits.handshake_within, async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
                return Ok(Err(stream));
            }
            tls.acceptor()
                .accept(stream)
                .await
                .map(|stream| Ok(Box::new(stream)))
        });
        let shaken = tokio::select! {
            shaken = shaken => shaken,
            () = self.stop.cancelled() => return,
        };
        match shaken {
            Ok(Ok(Ok(stream))) if stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP1) => {
                self.speak_http1(stream).await;
            }
            Ok(Ok(Ok(stream))) => Box::pin(self.speak_either(stream, None)).await,
            Ok(Ok(Err(plain))) => {
                let refused = Some(ProtocolError::WithoutTls);
                Box::pin(self.speak_either(plain, refused)).await;
            }
            Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        }
    }

    async fn speak_http1(&self, stream: impl Stream) {
        let connection = ConnectionState::default();
        let guarded = self.guarded(stream, &connection);
        let spoken = self
            .http1
            .serve_connection(TokioIo::new(guarded), self.service(&connection));
        self.until_it_ends(pin!(spoken), connection).await;
    }

    async fn speak_either(&self, stream: impl Stream, refused: Option<ProtocolError>) {
        let connection = ConnectionState::default();
        let mut guarded = self.guarded(stream, &connection);
        if let Some(error) = refused {
            guarded.refuse(error);
        }
        let spoken = self
            .either
            .serve_connection(TokioIo::new(guarded), self.service(&connection));
        self.until_it_ends(pin!(spoken), connection).await;
    }

    fn guarded<T: Stream>(&self, stream: T, connection: &ConnectionState) -> Http1Guard<T> {
        let limits = Limits {
            head_bytes: self.limits.head_bytes,
            head_within: self.limits.head_within,
            write_stalls_for: self.limits.write_stalls_for,
        };
        Http1Guard::new(stream, connection.clone(), &limits)
    }

    fn service(&self, connection: &ConnectionState) -> GuardedService<S> {
        GuardedService {
            answers: self.answers.clone(),
            connection: connection.clone(),
            refuse: self.refuse.clone(),
        }
    }

    async fn until_it_ends<C>(&self, mut spoken: Pin<&mut C>, connection: ConnectionState)
    where
        C: GracefulConnection<Error: Display>,
    {
        let (mut closing, mut look_at) = (false, Instant::now() + self.limits.head_within);
        loop {
            tokio::select! {
                ended = spoken.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%error, "a connection broke");
                    }
                    return;
                }
                () = self.stop.cancelled(), if !closing => {
                    closing = true;
                    spoken.as_mut().graceful_shutdown();
                }
                () = sleep_until(look_at) => match connection.quiet().map(|quiet| self.silent_until(quiet)) {
                    Some(until) if until > Instant::now() => look_at = until,
                    // It should have closed by now.
                    Some(_) if closing => return,
                    Some(_) => {
                        closing = true;
                        look_at = Instant::now() + self.limits.closes_within;
                        spoken.as_mut().graceful_shutdown();
                    }
                    None => look_at = Instant::now() + self.limits.head_within,
                },
            }
        }
    }

    /// When a silent connection is closed.
    fn silent_until(&self, quiet: Quiet) -> Instant {
        let most = if quiet.served {
            self.limits.idle_for
        } else {
            self.limits.head_within
        };
        quiet.since + most
    }
}
