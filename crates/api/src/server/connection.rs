//! One connection, from its handshake to its end.

use super::{
    ServerLimits,
    service::{GuardedService, Refuse},
    tls::Tls,
};
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use reveille_http1_guard::{ConnectionState, Http1Guard, Limits, ProtocolError, Quiet};
use std::pin::pin;
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

/// What all connections share.
pub(super) struct Serving {
    router: Router,
    refuse: Refuse,
    tls: Option<Tls>,
    limits: ServerLimits,
    protocols: auto::Builder<TokioExecutor>,
    /// For connections that are known to speak HTTP/1. To find out, hyper reads a few bytes by themselves, after which its buffer
    /// takes twice the memory for as long as the connection lives.
    only_http1: auto::Builder<TokioExecutor>,
    /// Accept no new requests.
    stop: CancellationToken,
    /// Cut the requests under way.
    pub cut: CancellationToken,
}

impl Serving {
    pub fn new(
        router: Router,
        refuse: Refuse,
        tls: Option<Tls>,
        limits: ServerLimits,
        stop: CancellationToken,
    ) -> Self {
        let mut protocols = auto::Builder::new(TokioExecutor::new());
        // Without `half_close`: a client that has left and one that has only closed its sending half both look like the end of
        // what it sends, and the former must be noticed while its request waits.
        //
        // The guard has its own limits for heads, and answers when they are exceeded.
        protocols.http1().header_read_timeout(None);
        protocols
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.h2_streams)
            .max_pending_accept_reset_streams(limits.h2_pending_resets)
            .max_local_error_reset_streams(limits.h2_faulty_streams)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(limits.h2_ping)
            .keep_alive_timeout(limits.h2_ping);
        Self {
            router,
            refuse,
            tls,
            limits,
            only_http1: protocols.clone().http1_only(),
            protocols,
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
            Ok(Ok(2)) if first != HTTP2_BEGINS => self.speak(stream, None, &self.only_http1).await,
            Ok(Ok(_)) => self.speak(stream, None, &self.protocols).await,
            Ok(Err(_)) | Err(_) => {}
        }
    }

    async fn encrypted(&self, stream: TcpStream, tls: &Tls) {
        let shaken = timeout(self.limits.handshake_within, async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
                return Ok(Err(stream));
            }
            tls.acceptor().accept(stream).await.map(Ok)
        });
        let shaken = tokio::select! {
            shaken = shaken => shaken,
            () = self.stop.cancelled() => return,
        };
        match shaken {
            Ok(Ok(Ok(stream))) => {
                let is_http1 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP1);
                let protocols = if is_http1 {
                    &self.only_http1
                } else {
                    &self.protocols
                };
                self.speak(stream, None, protocols).await;
            }
            Ok(Ok(Err(plain))) => {
                let refused = Some(ProtocolError::WithoutTls);
                self.speak(plain, refused, &self.protocols).await;
            }
            Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        }
    }

    async fn speak<S>(
        &self,
        stream: S,
        refused: Option<ProtocolError>,
        protocols: &auto::Builder<TokioExecutor>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = ConnectionState::default();
        let limits = Limits {
            head_bytes: self.limits.head_bytes,
            head_within: self.limits.head_within,
            write_stalls_for: self.limits.write_stalls_for,
        };
        let mut guarded = Http1Guard::new(stream, connection.clone(), &limits);
        let service = GuardedService {
            router: self.router.clone(),
            connection: connection.clone(),
            refuse: self.refuse.clone(),
        };
        if let Some(error) = refused {
            guarded.refuse(error);
        }
        let mut spoken = pin!(protocols.serve_connection(TokioIo::new(guarded), service));
        let (mut closing, mut look_at) = (false, Instant::now() + self.limits.head_within);
        loop {
            tokio::select! {
                ended = spoken.as_mut() => {
                    if let Err(error) = ended {
                        debug!(error, "a connection broke");
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
