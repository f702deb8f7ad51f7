//! One connection, from its handshake to its end.

use super::{
    Refusal, ServerLimits,
    exchange::{Exchange, Quiet, UnderWay},
    http1::{REFUSED_METHOD, Watched},
    tls::Tls,
};
use crate::http;
use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, header::CONNECTION},
    response::Response,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, service::Service as HyperService};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    pin::{Pin, pin},
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;
use tracing::debug;

/// The first byte of a TLS connection: a handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What all connections are served with.
pub(super) struct Serving {
    router: Router,
    tls: Option<Tls>,
    limits: ServerLimits,
    protocols: auto::Builder<TokioExecutor>,
    /// No new requests.
    stop: CancellationToken,
    /// No requests any more.
    pub cut: CancellationToken,
}

impl Serving {
    pub fn new(router: Router, tls: Option<Tls>, limits: ServerLimits, stop: CancellationToken) -> Self {
        let mut protocols = auto::Builder::new(TokioExecutor::new());
        // The watch on the bytes has its own limits for heads, with answers.
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
            tls,
            limits,
            protocols,
            stop,
            cut: CancellationToken::new(),
        }
    }

    /// Serves a connection to its end.
    pub async fn connection(&self, stream: TcpStream) {
        let served = async {
            match &self.tls {
                None => self.speak(stream, None).await,
                Some(tls) => self.encrypted(stream, tls).await,
            }
        };
        tokio::select! {
            () = served => {}
            () = self.cut.cancelled() => {}
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
            Ok(Ok(Ok(stream))) => self.speak(stream, None).await,
            Ok(Ok(Err(plain))) => self.speak(plain, Some(Refusal::WithoutTls)).await,
            Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        }
    }

    async fn speak<S>(&self, stream: S, refusal: Option<Refusal>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let exchange = Exchange::new();
        let mut watched = Watched::new(stream, exchange.clone(), &self.limits);
        if let Some(refusal) = refusal {
            watched.refuse(refusal);
        }
        let requests = Requests {
            router: self.router.clone(),
            exchange: exchange.clone(),
        };
        let mut spoken = pin!(self.protocols.serve_connection(TokioIo::new(watched), requests));
        let (mut closing, mut look_at) = (false, Instant::now() + self.limits.head_within);
        loop {
            tokio::select! {
                ended = spoken.as_mut() => {
                    if let Err(error) = ended {
                        debug!(error, "a connection broke off");
                    }
                    return;
                }
                () = self.stop.cancelled(), if !closing => {
                    closing = true;
                    spoken.as_mut().graceful_shutdown();
                }
                () = sleep_until(look_at) => match exchange.quiet().map(|quiet| self.silent_until(quiet)) {
                    Some(until) if until > Instant::now() => look_at = until,
                    // It was told to close, and doesn't.
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

/// The requests of one connection.
struct Requests {
    router: Router,
    exchange: Exchange,
}

impl HyperService<Request<Incoming>> for Requests {
    type Response = Response<Answering>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let under_way = self.exchange.begin();
        if request.method().as_str() == REFUSED_METHOD
            && let Some(refusal) = self.exchange.take_refusal()
        {
            let answer = http::refused(refusal);
            return Box::pin(async {
                Ok(answer.map(|body| Answering {
                    body,
                    _under_way: under_way,
                }))
            });
        }
        let (answer, exchange) = (self.router.clone().call(request), self.exchange.clone());
        Box::pin(async move {
            let Ok(mut answer) = answer.await;
            if exchange.is_body_open() {
                // The rest of the body would be read as the next request, so there is none.
                answer
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer.map(|body| Answering {
                body,
                _under_way: under_way,
            }))
        })
    }
}

/// The body of an answer, whose request is under way until it has ended.
struct Answering {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
