//! The HTTP client for probes and recipes, bounded reading of answers, and short reasons for failures.
//!
//! Reasons leave this machine in a wake's outcome, so none of them contains a URL, a header or a body.

mod decode;

use crate::{
    AgentError,
    config::{Address, Secret, Server, Trust, millis},
    http1::{self, ConnectError, SendError, io_kind, io_reason, is_gone, wrong_answer},
    lenient_json, tls,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};
use rustls::ClientConfig;
use serde_json::Value;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, timeout_at};
use url::{Position, Url};

/// A client for probes and recipes. It follows no redirects (a login page is not a backend), uses no proxy (backends are
/// local) and keeps no connections (a backend that has just restarted would break them).
#[derive(Debug, Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
    socket: Option<PathBuf>,
}

/// A client for servers that have a certificate as servers do.
///
/// The process must have installed a TLS provider.
///
/// # Errors
/// When TLS can't be set up.
pub fn client() -> Result<Client, AgentError> {
    client_for(&Trust::default(), None)
}

/// The same for servers that are trusted according to `trust`, or for the one at a Unix socket.
///
/// # Errors
/// When TLS can't be set up.
pub fn client_for(trust: &Trust, socket: Option<&Path>) -> Result<Client, AgentError> {
    Ok(Client {
        tls: Arc::new(tls::client_config(trust)?),
        socket: socket.map(ToOwned::to_owned),
    })
}

impl Client {
    pub fn get(&self, url: Url) -> Request {
        self.request(Method::GET, url)
    }

    pub fn post(&self, url: Url) -> Request {
        self.request(Method::POST, url)
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> Request {
        const AGENT: HeaderValue =
            HeaderValue::from_static(concat!("reveille-agent/", env!("CARGO_PKG_VERSION")));
        Request {
            client: self.clone(),
            method,
            url,
            headers: HeaderMap::from_iter([(USER_AGENT, AGENT)]),
            body: Bytes::new(),
            limit: None,
        }
    }
}

/// A request that is about to be sent.
#[derive(Debug)]
pub struct Request {
    client: Client,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
    limit: Option<Duration>,
}

impl Request {
    /// The request with these headers, in place of those of the same names.
    #[must_use]
    pub(crate) fn headers(mut self, headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Self {
        self.headers.extend(headers.into_iter().collect::<HeaderMap>());
        self
    }

    #[must_use]
    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
            .headers([(CONTENT_TYPE, HeaderValue::from_static("application/json"))])
    }

    /// The request with the backend's key, if it needs one.
    #[must_use]
    pub(crate) fn authorized(self, key: Option<&Secret>) -> Self {
        let key = key.and_then(|key| http1::bearer(key.reveal()));
        self.headers(key.map(|key| (AUTHORIZATION, key)))
    }

    /// The request and its whole answer may take this long. Else whoever waits decides.
    #[must_use]
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sends it and waits for the head of the answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn send(self) -> Result<Answer, SendError> {
        let until = self.limit.map(|limit| (Instant::now() + limit, limit));
        let response = within(until, self.sent()).await??;
        Ok(Answer { response, until })
    }

    async fn sent(self) -> Result<http1::Response, SendError> {
        let server = Server::of(&self.url);
        let target = Uri::try_from(&self.url[Position::BeforePath..Position::AfterQuery]).ok();
        let (Some(server), Some(target)) = (server, target) else {
            return Err(SendError::Connect(ConnectError::Failed(
                "HTTP can't carry the URL".into(),
            )));
        };
        let Client { tls, socket } = &self.client;
        let client = http1::Client::of_server(&server, socket.as_deref(), tls, self.headers);
        let mut request = http::Request::new(self.body);
        (*request.method_mut(), *request.uri_mut()) = (self.method, target);
        client.send(client.connect().await?, request).await
    }
}

/// A server's answer, whose body may still be on its way.
pub struct Answer {
    response: http1::Response,
    until: Option<(Instant, Duration)>,
}

impl Answer {
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.response.head.status
    }

    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.response.head.headers
    }

    /// The rest of the body, up to `max_bytes`, without any compression.
    ///
    /// # Errors
    /// Why it can't be read.
    pub async fn body(&mut self, max_bytes: usize) -> Result<Vec<u8>, BodyError> {
        let mut body = Vec::new();
        loop {
            let piece = within(self.until, self.response.next(None)).await;
            let piece = piece.and_then(|piece| piece).map_err(BodyError::Broken)?;
            let Some(piece) = piece else { break };
            if body.len() + piece.len() > max_bytes {
                return Err(BodyError::TooLarge);
            }
            body.extend_from_slice(&piece);
        }
        let decoded = decode::decoded(self.headers(), body, max_bytes).await;
        decoded.ok_or(BodyError::TooLarge)
    }

    /// The same as JSON, if it is.
    pub async fn json(&mut self, max_bytes: usize) -> Option<Value> {
        lenient_json::read(&self.body(max_bytes).await.ok()?)
    }
}

async fn within<T>(
    until: Option<(Instant, Duration)>,
    future: impl Future<Output = T>,
) -> Result<T, SendError> {
    match until {
        Some((until, limit)) => timeout_at(until, future)
            .await
            .map_err(|_| SendError::Silent(limit)),
        None => Ok(future.await),
    }
}

/// The largest answer whose content is checked.
pub(crate) const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Why the body of an answer could not be read.
#[derive(Debug)]
pub enum BodyError {
    TooLarge,
    Broken(SendError),
}

/// Why a request got no usable answer, `waited` after it began.
pub(crate) fn reason(error: &SendError, waited: Duration) -> String {
    if let Some(limit) = limit_reached(error) {
        return limit;
    }
    let late = || format!("no answer within {:?}", rounded(waited));
    match error {
        SendError::Silent(_) | SendError::Connect(ConnectError::Late(_)) => late(),
        SendError::Connect(error) => error.reason(),
        SendError::Broken(error) => tls::reason(error)
            .or_else(|| io_kind(error).map(io_reason))
            // By the kernel.
            .or_else(|| is_gone(error).then(late))
            .or_else(|| wrong_answer(error).map(|wrong| format!("its answer {wrong}")))
            .unwrap_or_else(|| "the connection broke".to_owned()),
    }
}

/// Why the agent could not even try, if it has reached its limit of open files.
pub(crate) fn limit_reached(error: &SendError) -> Option<String> {
    match error {
        SendError::Connect(error) => error.limit_reached(),
        SendError::Silent(_) | SendError::Broken(_) => None,
    }
}

/// The same of a request to `address`, after asking the server whether `http` and `https` were mixed up, if it seems so.
pub(crate) async fn reason_at(error: &SendError, address: &Address, waited: Duration) -> String {
    let hint = if error.is_garbled(address.url.scheme() == "https") {
        tls::other_scheme(address).await
    } else {
        None
    };
    hint.map_or_else(|| reason(error, waited), str::to_owned)
}

/// A measured time as people want to read it.
pub(crate) fn rounded(time: Duration) -> Duration {
    let step = if time < Duration::from_secs(1) { 1 } else { 100 };
    let steps = (millis(time) + step / 2) / step;
    Duration::from_millis(steps * step)
}

/// Whether the connection was refused: nothing listens there.
pub(crate) fn is_refused(error: &SendError) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    let SendError::Connect(ConnectError::Failed(error)) = error else {
        return false;
    };
    // A socket without a file is one on which nothing listens.
    matches!(io_kind(&**error), Some(ConnectionRefused | NotFound))
}
