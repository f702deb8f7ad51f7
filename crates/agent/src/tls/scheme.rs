//! Whether `http` and `https` were mixed up, found out by asking.

use super::{client_config::client_config, reason::is_alert};
use crate::config::{Address, Trust};
use rustls::pki_types::ServerName;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

/// How long finding out may take.
const LIMIT: Duration = Duration::from_millis(500);
/// What an answer over HTTP begins with.
const HTTP: &[u8] = b"HTTP/";

/// What to do about a request that got no sensible answer, if the server at its address speaks the other of `http` and `https`.
pub(crate) async fn other_scheme(address: &Address) -> Option<&'static str> {
    let url = &address.url;
    if address.socket.is_some() {
        return None;
    }
    match url.scheme() {
        _ if !speaks_other_scheme(url).await => None,
        "http" => Some("the server speaks TLS there, so its URL must begin with https://"),
        _ => Some("the server speaks HTTP without TLS there, so its URL must begin with http://"),
    }
}

/// Whether the server at a URL speaks the other of `http` and `https`.
pub async fn speaks_other_scheme(url: &Url) -> bool {
    let other = async {
        match url.scheme() {
            "http" => speaks_tls(url).await,
            _ => speaks_http(url).await,
        }
    };
    matches!(timeout(LIMIT, other).await, Ok(Ok(true)))
}

async fn connect(url: &Url) -> io::Result<TcpStream> {
    match (url.host(), url.port_or_known_default()) {
        (Some(Host::Domain(name)), Some(port)) => TcpStream::connect((name, port)).await,
        (Some(Host::Ipv4(address)), Some(port)) => TcpStream::connect((address, port)).await,
        (Some(Host::Ipv6(address)), Some(port)) => TcpStream::connect((address, port)).await,
        (None, _) | (_, None) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

async fn speaks_tls(url: &Url) -> io::Result<bool> {
    let any = Trust {
        skip_verify: true,
        ..Trust::default()
    };
    let config = client_config(&any).map_err(io::Error::other)?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    let greeted = connector.connect(name, connect(url).await?).await;
    // An alert is an answer, too.
    Ok(greeted.as_ref().map_or_else(is_alert, |_| true))
}

async fn speaks_http(url: &Url) -> io::Result<bool> {
    let mut connection = connect(url).await?;
    connection.write_all(b"HEAD / HTTP/1.0\r\n\r\n").await?;
    let mut answer = [0; HTTP.len()];
    connection.read_exact(&mut answer).await?;
    Ok(answer == HTTP)
}
