//! Addresses in the config, checked to be usable and without credentials.

use http::{HeaderValue, Uri};
use reveille_bus::{NatsServer, is_loopback_host};
use rustls::pki_types::ServerName;
use std::{
    fmt,
    net::IpAddr,
    os::unix::net::SocketAddr,
    path::{Path, PathBuf},
};
use url::{Host, Position, Url};

/// What the URL of a Unix socket begins with; two slashes and an absolute path follow.
const UNIX: &str = "unix:";
/// What separates a socket's path from that of the request.
const SOCKET_END: &str = ":/";
/// A path with this is that of a socket up to here.
const SOCKET_SUFFIX: &str = ".sock/";
/// The server of a URL at a Unix socket: no name is looked up, but HTTP wants a `Host`.
const SOCKET_HOST: &str = "http://localhost";

/// Where requests go: an `http` or `https` URL, or a Unix socket of this machine with a path for the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Of a request at a socket the `Host` and the path.
    pub url: Url,
    pub socket: Option<PathBuf>,
}

impl Address {
    /// Reads `http://…`, `https://…`, `unix:///path/to.sock` or `unix:///path/to.sock:/path/of/request`; the colon may be left
    /// out after `.sock`.
    ///
    /// # Errors
    /// The reason, without the address.
    pub(super) fn parse(raw: &str) -> Result<Self, &'static str> {
        let Some(rest) = raw.strip_prefix(UNIX) else {
            let url = http_url(raw)?;
            return Ok(Self { url, socket: None });
        };
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if !path.starts_with('/') {
            return Err("names no absolute path: write three slashes, as in unix:///run/backend.sock");
        }
        let (socket, request) = match (path.find(SOCKET_END), path.find(SOCKET_SUFFIX)) {
            (Some(end), _) => (&path[..end], &path[end + 1..]),
            (None, Some(end)) => path.split_at(end + SOCKET_SUFFIX.len() - 1),
            (None, None) => (path, "/"),
        };
        if SocketAddr::from_pathname(socket).is_err() {
            return Err("is longer than the path of a socket may be");
        }
        let url = Url::parse(&format!("{SOCKET_HOST}{request}")).map_err(|_| "has a path that isn't one")?;
        refuse_extras(&url)?;
        Ok(Self {
            url,
            socket: Some(socket.into()),
        })
    }
}

impl Address {
    /// The same with another text for its query, if it has one: a query often contains a key.
    #[must_use]
    pub fn without_query(&self, shown: &str) -> Self {
        let mut url = self.url.clone();
        url.set_query(self.url.query().map(|_| shown));
        Self {
            url,
            socket: self.socket.clone(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(socket) = &self.socket else {
            return f.write_str(self.url.as_str());
        };
        write!(f, "{UNIX}//{}", socket.display())?;
        match &self.url[Position::BeforePath..] {
            "/" => Ok(()),
            request => write!(f, ":{request}"),
        }
    }
}

/// A backend's base URL, without a trailing `/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// Without `/v1`. At a socket, of the requests.
    root: String,
    loopback: bool,
    server: Server,
    socket: Option<PathBuf>,
}

/// The server of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The scheme, host and port to connect to.
    pub uri: Uri,
    /// The `Host` of requests.
    pub host: HeaderValue,
    /// The name that its certificate must have, with `https`.
    pub tls_name: Option<ServerName<'static>>,
}

impl BaseUrl {
    /// Reads a base URL, with or without `/v1`.
    ///
    /// # Errors
    /// The reason, without the URL: it isn't absolute or not HTTP, or has credentials, a query or a fragment.
    pub fn parse(raw: &str) -> Result<Self, &'static str> {
        let Address { url, socket } = Address::parse(raw)?;
        if url.query().is_some() {
            return Err("a base URL has no query");
        }
        let loopback = url.host_str().is_some_and(is_loopback_host);
        let root = url.as_str().trim_end_matches('/');
        let root = root
            .strip_suffix("/v1")
            .unwrap_or(root)
            .trim_end_matches('/')
            .to_owned();
        let server = Server::of(&url).ok_or("names a host that HTTP can't")?;
        Ok(Self {
            root,
            loopback,
            server,
            socket,
        })
    }

    /// The URL of `path` (which begins with `/`, and may have a query) below the base.
    ///
    /// # Errors
    /// When `path` doesn't begin with `/` or the result isn't a URL.
    pub fn at(&self, path: &str) -> Result<Url, &'static str> {
        if !path.starts_with('/') {
            return Err("a path begins with /");
        }
        Url::parse(&format!("{}{path}", self.root)).map_err(|_| "is not a path that a URL may have")
    }

    /// The same with the way there.
    ///
    /// # Errors
    /// As [`at`](Self::at).
    pub fn address(&self, path: &str) -> Result<Address, &'static str> {
        Ok(Address {
            url: self.at(path)?,
            socket: self.socket.clone(),
        })
    }

    /// `path`, if [`at`](Self::at) accepts it.
    pub(super) fn legal_path(&self, path: &str) -> Result<String, &'static str> {
        self.at(path).map(|_| path.to_owned())
    }

    /// Whether the backend is on this machine.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// The server to connect to.
    #[must_use]
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// The Unix socket to connect to instead.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Whether an address is at the backend's host.
    pub(super) fn has_host_of(&self, address: &Address) -> bool {
        let own = Url::parse(&self.root);
        self.socket == address.socket && own.is_ok_and(|own| own.host() == address.url.host())
    }

    /// Whether the backend speaks TLS, as far as the URL says.
    #[must_use]
    pub const fn is_https(&self) -> bool {
        self.server.tls_name.is_some()
    }
}

impl Server {
    /// The server of an `http` or `https` URL; `None` if HTTP can't name its host.
    #[must_use]
    pub fn of(url: &Url) -> Option<Self> {
        let tls_name = match url.scheme() {
            "https" => Some(tls_name(url)?),
            _ => None,
        };
        Some(Self {
            uri: url[..Position::BeforePath].parse().ok()?,
            host: url[Position::BeforeHost..Position::BeforePath].parse().ok()?,
            tls_name,
        })
    }
}

fn tls_name(url: &Url) -> Option<ServerName<'static>> {
    Some(match url.host()? {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).ok()?,
        Host::Ipv4(address) => IpAddr::V4(address).into(),
        Host::Ipv6(address) => IpAddr::V6(address).into(),
    })
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(socket) = &self.socket else {
            return f.write_str(&self.root);
        };
        write!(f, "{UNIX}//{}", socket.display())?;
        match &self.root[SOCKET_HOST.len()..] {
            "" => Ok(()),
            prefix => write!(f, ":{prefix}"),
        }
    }
}

/// The hub's NATS: one URL, or several of a cluster, separated by commas. Plaintext is only for loopback unless allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsUrl(String);

impl NatsUrl {
    /// Reads one or several NATS URLs from the config or the command line.
    ///
    /// # Errors
    /// The reason, without the URL: the scheme isn't NATS's, it has credentials, a query or (unless it is a WebSocket) a path,
    /// or is plaintext to another machine without `allow_plaintext`.
    pub fn parse(raw: &str, allow_plaintext: bool) -> Result<Self, &'static str> {
        let urls: Result<Vec<_>, _> = raw
            .split(',')
            .map(|url| nats_url(url.trim(), allow_plaintext))
            .collect();
        Ok(Self(urls?.join(",")))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn nats_url(raw: &str, allow_plaintext: bool) -> Result<String, &'static str> {
    let url = Url::parse(raw).map_err(|_| "is not a URL; write tls://host:4222 or nats://127.0.0.1:4222")?;
    if !matches!(url.scheme(), "nats" | "tls" | "ws" | "wss") {
        return Err("must begin with tls://, wss:// (WebSocket), nats:// or ws://");
    }
    refuse_extras(&url)?;
    // A proxy may choose a WebSocket by its path.
    let may_have_path = matches!(url.scheme(), "ws" | "wss");
    if url.query().is_some() || !may_have_path && !matches!(url.path(), "" | "/") {
        return Err("has no path or query");
    }
    if !allow_plaintext && NatsServer::at(raw).plaintext_beyond_loopback().is_some() {
        return Err(
            "would send everything in plaintext to another machine; use tls:// or wss://, \
                    or set allow_plaintext = true in [agent]",
        );
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// An absolute `http` or `https` URL without credentials or fragment.
fn http_url(raw: &str) -> Result<Url, &'static str> {
    let url = Url::parse(raw).map_err(|_| "is not a URL; write one such as http://127.0.0.1:8000")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http://, https:// or unix://");
    }
    refuse_extras(&url)?;
    Ok(url)
}

fn refuse_extras(url: &Url) -> Result<(), &'static str> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a user or password in it");
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment (#…)");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_the_same_with_and_without_v1() {
        for raw in [
            "http://127.0.0.1:8000",
            "http://127.0.0.1:8000/",
            "http://127.0.0.1:8000/v1",
            "http://127.0.0.1:8000/v1/",
        ] {
            let base = BaseUrl::parse(raw).expect("legal");
            assert_eq!(
                base.at("/v1/models").expect("a path").as_str(),
                "http://127.0.0.1:8000/v1/models"
            );
            assert!(base.is_loopback());
        }
        let prefixed = BaseUrl::parse("https://box.example/llm/v1").expect("legal");
        assert_eq!(
            prefixed.at("//x?y=1").expect("a path").as_str(),
            "https://box.example/llm//x?y=1"
        );
        assert!(!prefixed.is_loopback());
    }

    #[test]
    fn a_base_url_names_its_server_as_http_and_tls_need_it() {
        for (raw, server, host, tls) in [
            (
                "http://localhost:8000/v1",
                "http://localhost:8000/",
                "localhost:8000",
                None,
            ),
            ("http://[::1]:80/llm", "http://[::1]/", "[::1]", None),
            (
                "https://Box.example/v1",
                "https://box.example/",
                "box.example",
                Some("box.example"),
            ),
            (
                "https://10.0.0.7:8443",
                "https://10.0.0.7:8443/",
                "10.0.0.7:8443",
                Some("10.0.0.7"),
            ),
            (
                "https://[fe80::1]:8443",
                "https://[fe80::1]:8443/",
                "[fe80::1]:8443",
                Some("fe80::1"),
            ),
        ] {
            let base = BaseUrl::parse(raw).expect("legal");
            assert_eq!(
                (
                    base.server().uri.to_string().as_str(),
                    base.server().host.to_str().ok()
                ),
                (server, Some(host))
            );
            assert_eq!(
                base.server().tls_name.as_ref().map(ServerName::to_str).as_deref(),
                tls
            );
        }
    }

    #[test]
    fn a_socket_has_a_path_of_its_own_and_one_of_the_requests() {
        for (raw, socket, models, shown) in [
            (
                "unix:///run/llm.sock",
                "/run/llm.sock",
                "/v1/models",
                "unix:///run/llm.sock",
            ),
            (
                "unix:///run/llm.sock/",
                "/run/llm.sock",
                "/v1/models",
                "unix:///run/llm.sock",
            ),
            (
                "unix:///run/llm.sock/v1",
                "/run/llm.sock",
                "/v1/models",
                "unix:///run/llm.sock",
            ),
            (
                "unix:///run/llm.sock:/a/v1/",
                "/run/llm.sock",
                "/a/v1/models",
                "unix:///run/llm.sock:/a",
            ),
            (
                "unix:///run/x.sock/a",
                "/run/x.sock",
                "/a/v1/models",
                "unix:///run/x.sock:/a",
            ),
            ("unix:/run/llm", "/run/llm", "/v1/models", "unix:///run/llm"),
            (
                "unix:///run/a b/llm:/x",
                "/run/a b/llm",
                "/x/v1/models",
                "unix:///run/a b/llm:/x",
            ),
        ] {
            let base = BaseUrl::parse(raw).expect(raw);
            let url = base.at("/v1/models").expect("a path");
            assert_eq!(
                (url.as_str(), base.to_string().as_str()),
                (&*format!("http://localhost{models}"), shown)
            );
            assert_eq!(
                (base.socket(), base.is_loopback(), base.is_https()),
                (Some(Path::new(socket)), true, false)
            );
        }
        let step =
            Address::parse("unix:///var/run/docker.sock:/v1.45/containers/llm/start?t=5").expect("legal");
        assert_eq!(
            step.url.as_str(),
            "http://localhost/v1.45/containers/llm/start?t=5"
        );
        assert_eq!(
            step.to_string(),
            "unix:///var/run/docker.sock:/v1.45/containers/llm/start?t=5"
        );
        let long = format!("unix:///{}", "x".repeat(200));
        for raw in [
            "unix://run/x.sock",
            "unix:",
            "unix://",
            "unix:run/x.sock",
            &long,
            "unix:///x.sock/?a",
            "unix:///x.sock/#a",
        ] {
            assert!(BaseUrl::parse(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn plaintext_nats_leaves_the_machine_only_when_allowed() {
        for raw in [
            "nats://127.0.0.1:4222",
            "nats://localhost",
            "nats://[::1]:4222",
            "tls://hub.example:4222",
            "wss://hub.example",
            "wss://hub.example:8443/nats",
            "ws://localhost:8080",
        ] {
            assert!(NatsUrl::parse(raw, false).is_ok(), "{raw}");
        }
        for raw in [
            "nats://hub.example:4222",
            "nats://10.0.0.1",
            "nats://127.evil.example",
            "ws://hub.example",
        ] {
            assert!(NatsUrl::parse(raw, false).is_err(), "{raw}");
            assert!(NatsUrl::parse(raw, true).is_ok(), "{raw}");
        }
        for raw in [
            "http://127.0.0.1",
            "nats://u:p@127.0.0.1",
            "nats://127.0.0.1/x",
            "wss://127.0.0.1/x?y",
            "wss://u:p@127.0.0.1",
            "127.0.0.1:4222",
            "nats://",
        ] {
            assert!(NatsUrl::parse(raw, true).is_err(), "{raw}");
        }
    }

    #[test]
    fn the_servers_of_a_cluster_are_named_with_commas_and_each_is_looked_at() {
        let cluster = NatsUrl::parse(
            "tls://a.example:4222, tls://b.example:4222/,nats://localhost",
            false,
        );
        assert_eq!(
            cluster.expect("legal").as_str(),
            "tls://a.example:4222,tls://b.example:4222,nats://localhost"
        );
        for raw in [
            "nats://localhost,nats://b.example",
            "tls://a.example,tls://user:secret@b.example",
            "tls://a.example,",
            "tls://a.example;tls://b.example",
        ] {
            assert!(NatsUrl::parse(raw, false).is_err(), "{raw}");
        }
    }
}
