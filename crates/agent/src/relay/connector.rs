//! Opens connections to one backend.
//!
//! Everything that decides how a backend is reached is here: name resolution, time-outs of the connection, TLS.

use crate::config::BaseUrl;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, pki_types::ServerName};
use rustls_platform_verifier::ConfigVerifierExt;
use std::{error::Error, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower::ServiceExt;

/// How long a connection may take, with the name's resolution and TLS.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After how long without traffic the kernel asks whether the backend's machine is still there, and how often it asks again.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// After how many questions without an answer the connection is broken.
const KEEPALIVE_QUESTIONS: u32 = 3;
/// How long the backend's machine may leave sent bytes unacknowledged.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// The only protocol that is spoken.
const HTTP_1_1: &[u8] = b"http/1.1";

/// The way to one backend.
pub(super) struct Connector {
    tcp: HttpConnector,
    uri: Uri,
    tls: Option<Tls>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// A connection to a backend.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Why there is no connection. Nothing was sent to the backend.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    /// It took longer than [`CONNECT_TIMEOUT`].
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    Late,
    /// It was closed before a request was sent.
    #[error("the connection was closed at once")]
    Closed,
    /// The name has no address, the connection was refused, or TLS failed.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

impl Connector {
    /// The way to the backend at `base`.
    ///
    /// # Errors
    /// When TLS can't be set up, for example because the system has no certificates.
    pub fn new(base: &BaseUrl) -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Shared by the addresses of a name, so that a dead one leaves time for the others.
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(KEEPALIVE_QUESTIONS));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let tls = base.tls_name().cloned().map(Tls::new).transpose()?;
        Ok(Self {
            tcp,
            uri: base.server().clone(),
            tls,
        })
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Box<dyn Connection>, ConnectError> {
        let opened = timeout(CONNECT_TIMEOUT, self.open()).await;
        opened
            .map_err(|_| ConnectError::Late)?
            .map_err(ConnectError::Failed)
    }

    async fn open(&self) -> Result<Box<dyn Connection>, Box<dyn Error + Send + Sync>> {
        let stream = self.tcp.clone().oneshot(self.uri.clone()).await?.into_inner();
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connector.connect(tls.name.clone(), stream).await?),
        })
    }
}

impl Tls {
    /// TLS to the server `name`, whose certificate the system must trust.
    fn new(name: ServerName<'static>) -> Result<Self, rustls::Error> {
        let mut config = ClientConfig::with_platform_verifier()?;
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        Ok(Self {
            connector: Arc::new(config).into(),
            name,
        })
    }
}
