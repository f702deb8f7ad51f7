//! HTTP/1.1 to one server, each request on a connection of its own: those of callers to their backends, and the agent's own.
//!
//! All go this way, so that a backend which answers its callers answers the agent, too: its heads may be large and have lines that
//! are no headers.
//!
//! A backend may close a connection that has carried a request whenever it likes, and a request that crosses the close is lost
//! without a proof that it wasn't seen. It could be neither sent again nor answered (`docs/adr/0020`).

mod connector;
mod deaf_peer;
mod io_error;
mod upload;
mod wrong_answer;

pub(crate) use connector::{ConnectError, Connection};
pub(crate) use io_error::{io_kind, io_reason, is_gone};
pub(crate) use upload::{SendProgress, SentBody};
pub(crate) use wrong_answer::wrong_answer;

use crate::{
    config::{ProviderConfig, Server},
    tls,
};
use bytes::Bytes;
use connector::Connector;
use deaf_peer::DeafPeer;
use http::{
    HeaderMap, HeaderValue, Request,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, HOST},
    response::Parts,
};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::{convert::Infallible, path::Path, pin::pin, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

/// How many headers an answer may have. All but a few are dropped afterwards.
const MAX_HEADERS: usize = 2048;
/// How large an answer's head may be, in bytes.
const MAX_HEAD_BYTES: usize = 512 * 1024;
/// How long the connection of a caller's request may take, with the name's resolution and TLS. The kernel asks a machine that
/// doesn't answer three times until then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// The client of one server.
pub(crate) struct Client {
    connector: Connector,
    http: http1::Builder,
    /// The headers of every request.
    headers: HeaderMap,
    /// How long the server may stay silent.
    answer_timeout: Option<Duration>,
    /// The same before its answer.
    first_byte_timeout: Option<Duration>,
}

/// A server's answer. Dropping it closes the connection.
pub(crate) struct Response {
    pub head: Parts,
    body: Incoming,
    connection: AbortOnDropHandle<hyper::Result<()>>,
    /// How long the server may stay silent, for the error that it was.
    answer_timeout: Option<Duration>,
    /// How far the request's body has been sent, if that is still coming in.
    upload: Option<SendProgress>,
}

/// Why a server gave no answer, or not all of it.
#[derive(Debug, Error)]
pub enum SendError {
    /// There was no connection, so the server got nothing.
    #[error(transparent)]
    Connect(ConnectError),
    /// The server was silent for this long.
    #[error("the server was silent for {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// The connection broke, or what came wasn't HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

impl Client {
    /// The client of callers' requests to a provider's backend.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn of_backend(provider: &ProviderConfig) -> Result<Self, rustls::Error> {
        let base = &provider.base_url;
        let tls = || tls::client_config(&provider.trust).map(Arc::new);
        let connector = Connector::new(base.server(), base.socket(), Some(CONNECT_TIMEOUT), tls)?;
        let mut client = Self::through(connector, base.server());
        client.answer_timeout = Some(provider.answer_timeout);
        client.first_byte_timeout = Some(provider.first_byte_timeout());
        let key = provider.api_key.as_ref();
        if let Some(key) = key.and_then(|key| bearer(key.reveal())) {
            client.headers.insert(AUTHORIZATION, key);
        }
        Ok(client)
    }

    /// The client of a server, which the request's sender waits for as long as it likes. Its requests have these `headers`.
    pub fn of_server(
        server: &Server,
        socket: Option<&Path>,
        tls: &Arc<ClientConfig>,
        headers: HeaderMap,
    ) -> Self {
        let tls = || Ok::<_, Infallible>(tls.clone());
        let Ok(connector) = Connector::new(server, socket, None, tls);
        let mut client = Self::through(connector, server);
        client.headers.extend(headers);
        client
    }

    fn through(connector: Connector, server: &Server) -> Self {
        let mut http = http1::Builder::new();
        http.max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .ignore_invalid_headers_in_responses(true);
        Self {
            connector,
            http,
            headers: HeaderMap::from_iter([
                (HOST, server.host.clone()),
                (CONNECTION, HeaderValue::from_static("close")),
                // The API may have to put the answer into an event.
                (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
            ]),
            answer_timeout: None,
            first_byte_timeout: None,
        }
    }

    /// A new connection to the backend, for one request.
    pub async fn connect(&self) -> Result<Box<dyn Connection>, SendError> {
        self.connector.connect().await.map_err(SendError::Connect)
    }

    /// Sends a request and waits for the answer's head. Dropping the future closes the connection.
    pub async fn send(
        &self,
        connection: Box<dyn Connection>,
        request: Request<impl Into<SentBody>>,
    ) -> Result<Response, SendError> {
        let io = TokioIo::new(DeafPeer::new(connection));
        let (mut sender, connection) = self.http.handshake(io).await?;
        // A request that was sent has its error too, or its answer.
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = request.map(Into::<SentBody>::into);
        request.headers_mut().extend(self.headers.clone());
        let progress = request.body().progress().cloned();
        let sending = sender.try_send_request(request);
        let answer = within(self.first_byte_timeout, progress.as_ref(), sending).await?;
        let (head, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(error) => return Err(SendError::of(error, connection).await),
        };
        Ok(Response {
            head,
            body,
            connection,
            answer_timeout: self.answer_timeout,
            upload: progress,
        })
    }
}

/// The value of `Authorization` with a key; `None` if HTTP can't carry it.
pub(crate) fn bearer(key: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {key}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What `future` gives, unless the server stays silent for longer than it may.
async fn within<T>(
    limit: Option<Duration>,
    upload: Option<&SendProgress>,
    future: impl Future<Output = T>,
) -> Result<T, SendError> {
    match limit {
        Some(limit) => silent_until(Instant::now() + limit, limit, upload, future).await,
        None => Ok(future.await),
    }
}

/// What `future` gives, unless the server is silent until then. It may be for `limit` from the last piece of a body on, and for as
/// long as the next one has still to come in.
async fn silent_until<T>(
    mut by: Instant,
    limit: Duration,
    upload: Option<&SendProgress>,
    future: impl Future<Output = T>,
) -> Result<T, SendError> {
    let mut future = pin!(future);
    loop {
        if let Ok(done) = timeout_at(by, &mut future).await {
            return Ok(done);
        }
        let later = upload.map(|upload| upload.server_owes_since() + limit);
        by = later
            .filter(|later| *later > by)
            .ok_or(SendError::Silent(limit))?;
    }
}

impl SendError {
    /// Why a request has no answer on a connection that is over.
    async fn of(
        mut error: TrySendError<Request<SentBody>>,
        connection: AbortOnDropHandle<hyper::Result<()>>,
    ) -> Self {
        // hyper hands a request back of which it has written nothing.
        if error.take_message().is_none() {
            return Self::Broken(error.into_error());
        }
        // A server that speaks first doesn't speak HTTP.
        if wrong_answer(error.error()).is_some() {
            return Self::Broken(error.into_error());
        }
        match connection.await {
            Ok(Err(error)) if wrong_answer(&error).is_some() => Self::Broken(error),
            _ => Self::Connect(ConnectError::Closed),
        }
    }
}

impl Response {
    /// The next piece of the body, which must come by then if there is a limit; `None` at its end.
    pub async fn next(&mut self, by: Option<Instant>) -> Result<Option<Bytes>, SendError> {
        let _open = &self.connection;
        loop {
            let frame = match by {
                Some(by) => {
                    let limit = self.answer_timeout.unwrap_or_default();
                    silent_until(by, limit, self.upload.as_ref(), self.body.frame()).await?
                }
                None => self.body.frame().await,
            };
            match frame {
                None => return Ok(None),
                // Trailers aren't passed on.
                Some(frame) => {
                    if let Ok(piece) = frame?.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }
}

impl SendError {
    /// Whether there was no connection.
    #[must_use]
    pub const fn is_unreached(&self) -> bool {
        matches!(self, Self::Connect(_))
    }

    /// Whether the server may speak `http` instead of `https`, or the reverse.
    pub fn is_garbled(&self, is_https: bool) -> bool {
        match self {
            Self::Connect(ConnectError::Failed(error)) => tls::is_garbled(&**error),
            Self::Connect(ConnectError::Closed) | Self::Broken(_) => !is_https,
            Self::Connect(ConnectError::Late(_)) | Self::Silent(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
