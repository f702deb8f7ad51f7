//! Opens connections to one server.
//!
//! Everything that decides how a server is reached is here: name resolution, time-outs of the connection, TLS.

use super::io_error::{io_kind, io_reason};
use crate::{config::Server, tls};
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use reveille_bus::open_files;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower::ServiceExt;

/// After how long without traffic the kernel asks whether the backend's machine is still there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How often it asks again.
const KEEPALIVE_RETRY: Duration = Duration::from_secs(5);
/// After how many questions without an answer the connection is broken: [`GONE_AFTER`].
const KEEPALIVE_QUESTIONS: u32 = 2;
/// How long the backend's machine may acknowledge nothing: neither what was sent, nor the kernel's questions. A shorter outage
/// of the network breaks no answer.
#[cfg(target_os = "linux")]
const GONE_AFTER: Duration = Duration::from_secs(20);

/// The way to one server.
pub(super) struct Connector {
    tcp: HttpConnector,
    /// How long a connection may take, with the name's resolution and TLS.
    limit: Option<Duration>,
    uri: Uri,
    /// The Unix socket at which the server is instead.
    socket: Option<PathBuf>,
    tls: Option<Tls>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// A connection to a server.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Why there is no connection. Nothing was sent to the server.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// It took longer than this, or than the kernel waits.
    #[error("no answer{}", .0.map(|limit| format!(" within {limit:?}")).unwrap_or_default())]
    Late(Option<Duration>),
    /// It was closed before a request was sent.
    #[error("the connection was closed at once")]
    Closed,
    /// The name has no address, the connection was refused, or TLS failed.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

impl Connector {
    /// The way to `server`, or to the one at a Unix socket. A connection takes no longer than `limit`. `tls` is asked for only if
    /// the server speaks it.
    ///
    /// # Errors
    /// Those of `tls`.
    pub fn new<E>(
        server: &Server,
        socket: Option<&Path>,
        limit: Option<Duration>,
        tls: impl FnOnce() -> Result<Arc<ClientConfig>, E>,
    ) -> Result<Self, E> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Shared by the addresses of a name, so that a dead one leaves time for the others.
        tcp.set_connect_timeout(limit);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE_RETRY));
        tcp.set_keepalive_retries(Some(KEEPALIVE_QUESTIONS));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(GONE_AFTER));
        let tls = match server.tls_name.clone() {
            Some(name) => Some(Tls {
                connector: tls()?.into(),
                name,
            }),
            None => None,
        };
        Ok(Self {
            tcp,
            limit,
            uri: server.uri.clone(),
            socket: socket.map(ToOwned::to_owned),
            tls,
        })
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Box<dyn Connection>, ConnectError> {
        let opened = match self.limit {
            Some(limit) => timeout(limit, self.open())
                .await
                .map_err(|_| ConnectError::Late(self.limit))?,
            None => self.open().await,
        };
        opened.map_err(|error| ConnectError::of(error, self.limit))
    }

    async fn open(&self) -> Result<Box<dyn Connection>, Box<dyn Error + Send + Sync>> {
        if let Some(socket) = &self.socket {
            return Ok(Box::new(UnixStream::connect(socket).await?));
        }
        let stream = self.tcp.clone().oneshot(self.uri.clone()).await?.into_inner();
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connector.connect(tls.name.clone(), stream).await?),
        })
    }
}

impl ConnectError {
    /// hyper's connector has the same time, and may be the first to notice that it is over.
    fn of(error: Box<dyn Error + Send + Sync>, limit: Option<Duration>) -> Self {
        if is_late(&*error) {
            Self::Late(limit)
        } else {
            Self::Failed(error)
        }
    }

    /// Why the agent could open no connection, if it has reached its limit of open files. That says nothing about the backend.
    pub fn limit_reached(&self) -> Option<String> {
        match self {
            Self::Failed(error) => open_files::reached_in(&**error)
                .or_else(|| is_dns(&**error).then(open_files::reached_now).flatten()),
            Self::Late(_) | Self::Closed => None,
        }
    }

    /// The reason, for people: no URL, and nothing that the backend sent.
    pub fn reason(&self) -> String {
        match self {
            Self::Late(_) | Self::Closed => self.to_string(),
            Self::Failed(error) if is_dns(&**error) => "the host's name can't be resolved".to_owned(),
            Self::Failed(error) => {
                let of_io = || io_kind(&**error).map(io_reason);
                tls::reason(&**error)
                    .or_else(of_io)
                    .unwrap_or_else(|| "could not connect".to_owned())
            }
        }
    }
}

fn is_late(error: &(dyn Error + 'static)) -> bool {
    let is_late = |error: &(dyn Error + 'static)| {
        let io = error.downcast_ref::<io::Error>();
        io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut)
    };
    is_late(error) || error.source().is_some_and(is_late)
}

/// Whether the connector of hyper says so, which has no type for it.
fn is_dns(error: &(dyn Error + 'static)) -> bool {
    error.to_string() == "dns error"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BaseUrl, Trust};
    use rustix::io::Errno;
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(4);

    fn connector(url: &str) -> Connector {
        let base = BaseUrl::parse(url).expect("legal");
        let tls = || tls::client_config(&Trust::default()).map(Arc::new);
        Connector::new(base.server(), base.socket(), Some(LIMIT), tls).expect("no TLS")
    }

    async fn reason(url: &str) -> String {
        let connected = connector(url).connect().await;
        connected.map(drop).expect_err("nobody is there").reason()
    }

    #[tokio::test]
    async fn a_reason_says_why_there_is_no_connection() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", closed.local_addr().expect("an address"));
        drop(closed);
        assert_eq!(reason(&url).await, "connection refused");
        // No resolver has to be asked: a label has at most 63 characters.
        let nowhere = format!("http://{}.example", "x".repeat(64));
        assert_eq!(reason(&nowhere).await, "the host's name can't be resolved");
    }

    #[test]
    fn an_agent_that_has_reached_its_limit_of_open_files_does_not_blame_the_backend() {
        let failed = |errno: Errno| {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            ConnectError::of(Box::new(error), None).limit_reached()
        };
        let why = failed(Errno::MFILE).expect("no file");
        assert!(why.contains("open files (`ulimit -n`)"), "{why}");
        assert!(failed(Errno::NFILE).is_some());
        assert_eq!(failed(Errno::CONNREFUSED), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_answers_nothing_is_waited_for_for_seconds() {
        // Its queue is full: nobody takes a connection, nor refuses it.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a port");
        socket.listen(1).expect("a listener");
        let address = socket.local_addr().expect("an address").as_socket();
        let address = address.expect("an address of IP");
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
        let _waiting: Vec<_> = std::iter::from_fn(|| connect().ok()).collect();

        let began = tokio::time::Instant::now();
        assert_eq!(reason(&format!("http://{address}")).await, "no answer within 4s");
        assert_eq!(began.elapsed(), LIMIT);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_watches_over_a_connection_and_ends_it_when_the_machine_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let connector = connector(&url);
        let stream = connector.tcp.clone().oneshot(connector.uri.clone()).await;
        let stream = stream.expect("a connection").into_inner();
        let socket = socket2::SockRef::from(&stream);
        let set = (
            socket.keepalive().expect("readable"),
            socket.tcp_keepalive_time().expect("readable"),
            socket.tcp_keepalive_interval().expect("readable"),
            socket.tcp_user_timeout().expect("readable"),
        );
        assert_eq!(set, (true, KEEPALIVE, KEEPALIVE_RETRY, Some(GONE_AFTER)));
        let asked = KEEPALIVE + KEEPALIVE_RETRY * KEEPALIVE_QUESTIONS;
        assert_eq!(asked, GONE_AFTER, "whether or not something was sent");
    }
}
