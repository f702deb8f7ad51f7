//! Sends requests to one backend, each on a connection of its own.
//!
//! A backend may close a connection that has carried a request whenever it likes, and a request that crosses the close is lost
//! without a proof that it wasn't seen. It could be neither sent again nor answered (`docs/adr/0020`).

use super::{
    connector::{ConnectError, Connection, Connector},
    deaf_peer::DeafPeer,
};
use crate::{config::ProviderConfig, tls};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Uri,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, HOST},
    response::Parts,
};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

/// How many headers an answer may have. All but a few are dropped afterwards.
const MAX_HEADERS: usize = 2048;
/// How large an answer's head may be, in bytes.
const MAX_HEAD_BYTES: usize = 512 * 1024;

/// The client of one backend.
pub(super) struct Client {
    connector: Connector,
    http: http1::Builder,
    /// The headers of every request.
    headers: HeaderMap,
    /// How long the backend may stay silent.
    answer_timeout: Duration,
}

/// A backend's answer. Dropping it closes the connection.
pub(super) struct Response {
    pub head: Parts,
    body: Incoming,
    connection: AbortOnDropHandle<()>,
    /// How long the backend may stay silent, for the error that it was.
    answer_timeout: Duration,
}

/// Why a backend gave no answer, or not all of it.
#[derive(Debug, Error)]
pub(super) enum SendError {
    /// There was no connection, so the backend got nothing.
    #[error(transparent)]
    Connect(ConnectError),
    /// The backend was silent for this long.
    #[error("the backend was silent for {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// The connection broke, or what came wasn't HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

impl Client {
    /// The client of a provider's backend.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(provider: &ProviderConfig) -> Result<Self, rustls::Error> {
        let base = &provider.base_url;
        let mut headers = HeaderMap::from_iter([
            (HOST, base.host().clone()),
            (CONNECTION, HeaderValue::from_static("close")),
            // The API may have to put the answer into an event.
            (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        ]);
        let key = provider.api_key.as_ref();
        if let Some(Ok(mut key)) = key.map(|key| HeaderValue::try_from(format!("Bearer {}", key.reveal()))) {
            key.set_sensitive(true);
            headers.insert(AUTHORIZATION, key);
        }
        let mut http = http1::Builder::new();
        http.max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .ignore_invalid_headers_in_responses(true);
        Ok(Self {
            connector: Connector::new(base, &provider.trust)?,
            http,
            headers,
            answer_timeout: provider.answer_timeout,
        })
    }

    /// A new connection to the backend, for one request.
    pub async fn connect(&self) -> Result<Box<dyn Connection>, SendError> {
        self.connector.connect().await.map_err(SendError::Connect)
    }

    /// Posts `body` and waits for the answer's head. Dropping the future closes the connection.
    pub async fn post(
        &self,
        connection: Box<dyn Connection>,
        path: Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, SendError> {
        let io = TokioIo::new(DeafPeer::new(connection));
        let (mut sender, connection) = self.http.handshake(io).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async {
            // The request or its answer has the error too.
            let _ = connection.await;
        }));
        let mut request = Request::new(Full::new(body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (Method::POST, path, headers);
        request.headers_mut().extend(self.headers.clone());
        let answer = timeout(self.answer_timeout, sender.try_send_request(request)).await;
        let answer = answer.map_err(|_| SendError::Silent(self.answer_timeout))?;
        let (head, body) = answer.map_err(SendError::of)?.into_parts();
        Ok(Response {
            head,
            body,
            connection,
            answer_timeout: self.answer_timeout,
        })
    }
}

impl SendError {
    fn of(mut error: TrySendError<Request<Full<Bytes>>>) -> Self {
        match error.take_message() {
            // hyper hands a request back of which it has written nothing.
            Some(_) => Self::Connect(ConnectError::Closed),
            None => Self::Broken(error.into_error()),
        }
    }
}

impl Response {
    /// The next piece of the body, which must come by then; `None` at its end.
    pub async fn next(&mut self, by: Instant) -> Result<Option<Bytes>, SendError> {
        let _open = &self.connection;
        loop {
            let frame = timeout_at(by, self.body.frame()).await;
            match frame.map_err(|_| SendError::Silent(self.answer_timeout))? {
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
    /// Whether the server may speak `http` instead of `https`, or the reverse.
    pub fn is_garbled(&self, is_https: bool) -> bool {
        match self {
            Self::Connect(ConnectError::Failed(error)) => tls::is_garbled(&**error),
            Self::Connect(ConnectError::Closed) | Self::Broken(_) => !is_https,
            Self::Connect(ConnectError::Late) | Self::Silent(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
