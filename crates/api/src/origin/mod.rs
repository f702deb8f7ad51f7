//! Which hosts the API answers to, and which pages may use it.
//!
//! A browser lets any page send requests to any address, this machine's loopback included, and reads the answers back only where
//! the same-origin policy allows it. So a request that changes, wakes, costs or holds something is refused when it comes from a page of
//! another origin, unless that origin is listed; and every request is refused that names a host which isn't the API's own.
//! What no browser sends has neither `Origin` nor `Sec-Fetch-Site`, and is not affected.

mod host;

pub use host::Host;

use crate::server::tls::Tls;
use host::{Authority, OwnHosts};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};
use std::{fmt, net::SocketAddr, str::FromStr};
use thiserror::Error;

/// How the page that sends a request is related to the API, in the browser's own words.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// A `GET` of this path may hold a place among the followers for as long as the page likes.
const FOLLOWED_PATH: &str = "/reveille/v1/events";
/// How much of a header is quoted in an error.
const MAX_QUOTED_CHARS: usize = 100;

/// Where pages come from: `scheme://host` or `scheme://host:port`, as browsers send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let written =
            "an origin is written scheme://host or scheme://host:port, such as https://chat.example";
        match text {
            "*" => {
                return Err("every page of the web would be allowed: list the origins one by one".to_owned());
            }
            "null" => {
                return Err(
                    "sandboxed frames and local files of anybody have this origin: serve the page from one of its own"
                        .to_owned(),
                );
            }
            _ => {}
        }
        let (scheme, authority) = split(text).ok_or(written)?;
        let Authority { host, port } = Authority::parse(authority).ok_or(written)?;
        let exact = Self::exact(scheme, &host, port);
        if exact != text {
            return Err(format!("browsers send this origin as {exact}"));
        }
        HeaderValue::from_str(text)
            .map(Self)
            .map_err(|_| written.to_owned())
    }
}

impl Origin {
    /// An origin as browsers write it.
    fn exact(scheme: &str, host: &Host, port: Option<u16>) -> String {
        let scheme = scheme.to_ascii_lowercase();
        let host = match host {
            Host::Address(ip) if ip.is_ipv6() => format!("[{ip}]"),
            host => host.to_string(),
        };
        match port.filter(|port| default_port(&scheme) != Some(*port)) {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        }
    }

    /// As the header has it.
    pub(crate) const fn as_header(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

/// The scheme of an origin, and what stands behind it.
fn split(origin: &str) -> Option<(&str, &str)> {
    let (scheme, authority) = origin.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme.then_some((scheme, authority))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Why a request isn't answered because of the host that it names or the page that sends it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum OriginError {
    #[error(
        "this API does not answer to the host {host:?}: use localhost or an address of the API, or start the API with \
         --host for each name by which it is reached"
    )]
    UnknownHost { host: String },
    #[error("the request needs a Host header")]
    NoHost,
    #[error(
        "pages from {origin} may not use this API: start it with --cors-origin for each origin whose pages may"
    )]
    ForeignOrigin { origin: String },
}

pub(crate) fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(MAX_QUOTED_CHARS).collect()
}

/// Whom one API answers.
#[derive(Debug)]
pub struct OriginPolicy {
    hosts: OwnHosts,
    origins: Vec<Origin>,
}

impl OriginPolicy {
    /// For an API on `listener`, which is also known by the names in its certificate and by `hosts`, and which pages of `origins`
    /// may use.
    #[must_use]
    pub fn new(listener: SocketAddr, tls: Option<Tls>, hosts: Vec<Host>, origins: Vec<Origin>) -> Self {
        Self {
            hosts: OwnHosts::new(listener, hosts, tls),
            origins,
        }
    }

    /// The scheme that the API itself speaks.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.hosts.tls.is_some() { "https" } else { "http" }
    }

    /// The origins whose pages may use the API.
    pub(crate) fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// Refuses a request that names a host which isn't the API's.
    pub(crate) fn check_host<B>(&self, request: &Request<B>) -> Result<(), OriginError> {
        self.own_authority(request).map(|_| ())
    }

    /// Refuses also one from a page of an origin which isn't listed, unless it is safe (RFC 9110, section 9.2.1), holds
    /// nothing and reaches no backend.
    pub(crate) fn check<B>(&self, request: &Request<B>, uses_a_backend: bool) -> Result<(), OriginError> {
        let own = self.own_authority(request)?;
        let costs = uses_a_backend || request.uri().path() == FOLLOWED_PATH;
        if own.is_some() && request.method().is_safe() && !costs {
            return Ok(());
        }
        self.check_origin(request.headers(), own.as_ref())
    }

    /// What the request calls this API: by its target, as HTTP/2 and proxies write it, or by its `Host`. Both have to be the API's
    /// own. `None` for HTTP/1.0 without either: no browser sends that, but scripts and the health checks of load balancers do.
    fn own_authority<B>(&self, request: &Request<B>) -> Result<Option<Authority>, OriginError> {
        let target = request.uri().authority().map(|target| target.as_str().as_bytes());
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = hosts.next().map(HeaderValue::as_bytes);
        let unknown = |host| OriginError::UnknownHost { host: quoted(host) };
        if let Some(second) = hosts.next() {
            return Err(unknown(second.as_bytes()));
        }
        let mut named = None;
        for text in [target, host].into_iter().flatten() {
            let authority = std::str::from_utf8(text).ok().and_then(Authority::parse);
            let authority = authority.filter(|authority| self.hosts.has(&authority.host));
            let authority = authority.ok_or_else(|| unknown(text))?;
            named.get_or_insert(authority);
        }
        if named.is_none() && request.version() > Version::HTTP_10 {
            return Err(OriginError::NoHost);
        }
        Ok(named)
    }

    fn check_origin(&self, headers: &HeaderMap, own: Option<&Authority>) -> Result<(), OriginError> {
        let mut origins = headers.get_all(header::ORIGIN).iter().peekable();
        if let Some(origin) = origins.next() {
            let is_single = origins.peek().is_none();
            if is_single && self.origins.iter().any(|listed| listed.as_header() == origin) {
                return Ok(());
            }
            if !is_single || !own.is_some_and(|own| self.is_own(origin, own)) {
                let origin = quoted(origin.as_bytes());
                return Err(OriginError::ForeignOrigin { origin });
            }
        }
        match headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
            None => Ok(()),
            Some(b"same-origin" | b"none") if own.is_some() => Ok(()),
            Some(_) => Err(OriginError::ForeignOrigin {
                origin: "another site or port".to_owned(),
            }),
        }
    }

    /// Whether the page comes from the API itself. A proxy in front may have spoken TLS, so http and https are the same unless the
    /// API speaks TLS itself.
    fn is_own(&self, origin: &HeaderValue, own: &Authority) -> bool {
        let Some((scheme, authority)) = origin.to_str().ok().and_then(split) else {
            return false;
        };
        let (Some(default), Some(page)) = (default_port(scheme), Authority::parse(authority)) else {
            return false;
        };
        let is_scheme = scheme == "https" || self.hosts.tls.is_none();
        let same_port = page.port.unwrap_or(default) == own.port.unwrap_or(default);
        is_scheme && same_port && page.host == own.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_listed_as_browsers_send_it_or_refused_with_the_way_to_write_it() {
        for origin in [
            "https://chat.example",
            "http://localhost:3000",
            "http://[::1]:3000",
            "app://obsidian.md",
            "chrome-extension://abcdefgh",
            "tauri://localhost",
        ] {
            let read: Origin = origin.parse().expect(origin);
            assert_eq!(read.to_string(), origin);
        }
        for (origin, hint) in [
            ("*", "one by one"),
            ("null", "serve the page"),
            ("chat.example", "scheme://host"),
            ("https://chat.example/", "scheme://host"),
            ("https://chat.example/app", "scheme://host"),
            ("https://*.example", "scheme://host"),
            ("https://me@chat.example", "scheme://host"),
            ("https://", "scheme://host"),
            ("HTTPS://Chat.Example:443", "as https://chat.example"),
            ("http://localhost:80", "as http://localhost"),
        ] {
            let refused = origin.parse::<Origin>().expect_err(origin);
            assert!(refused.contains(hint), "{origin}: {refused}");
        }
    }

    fn check(
        build: impl FnOnce(http::request::Builder) -> http::request::Builder,
    ) -> Result<(), OriginError> {
        let hosts = vec!["api.example".parse().expect("a host")];
        let listed = vec!["https://chat.example".parse().expect("an origin")];
        let listener = SocketAddr::from(([127, 0, 0, 1], 8420));
        let policy = OriginPolicy::new(listener, None, hosts, listed);
        policy.check(&build(Request::builder()).body(()).expect("a request"), false)
    }

    #[test]
    fn the_host_is_checked_wherever_a_request_names_it() {
        let get = |target: &'static str, hosts: &'static [&'static str]| {
            check(|request| {
                let request = request.uri(target);
                hosts
                    .iter()
                    .fold(request, |request, host| request.header("host", *host))
            })
        };
        for (target, hosts) in [
            ("/v1/models", &["localhost:8420"] as &[_]),
            ("http://localhost:8420/v1/models", &[]),
            ("http://localhost:8420/v1/models", &["api.example"]),
        ] {
            assert_eq!(get(target, hosts), Ok(()), "{target} {hosts:?}");
        }
        for (target, hosts) in [
            ("/v1/models", &["evil.example"] as &[_]),
            ("http://evil.example/v1/models", &["localhost"]),
            ("http://localhost/v1/models", &["evil.example"]),
            ("/v1/models", &["localhost", "localhost"]),
            ("/livez", &["evil.example"]),
            ("/readyz", &["evil.example"]),
        ] {
            let refused = get(target, hosts);
            assert!(
                matches!(refused, Err(OriginError::UnknownHost { .. })),
                "{target} {hosts:?}: {refused:?}"
            );
        }
        for target in ["/v1/models", "/livez"] {
            assert_eq!(get(target, &[]), Err(OriginError::NoHost), "{target}");
        }
    }

    #[test]
    fn http_1_0_may_name_no_host_but_a_page_must() {
        let old = |method: &'static str, headers: &'static [(&'static str, &'static str)]| {
            check(|request| {
                let request = request.version(Version::HTTP_10).method(method).uri("/v1/models");
                headers
                    .iter()
                    .fold(request, |request, (name, value)| request.header(*name, *value))
            })
        };
        for method in ["GET", "POST"] {
            assert_eq!(old(method, &[]), Ok(()), "{method}");
            assert_eq!(old(method, &[("host", "localhost")]), Ok(()), "{method}");
            assert_eq!(
                old(method, &[("origin", "https://chat.example")]),
                Ok(()),
                "{method}"
            );
            let foreign = old(method, &[("host", "evil.example")]);
            assert!(
                matches!(foreign, Err(OriginError::UnknownHost { .. })),
                "{foreign:?}"
            );
            for page in [
                &[("origin", "http://localhost:8420")] as &[_],
                &[("origin", "null")],
                &[("sec-fetch-site", "same-origin")],
                &[("sec-fetch-site", "none")],
            ] {
                let refused = old(method, page);
                assert!(
                    matches!(refused, Err(OriginError::ForeignOrigin { .. })),
                    "{method} {page:?}: {refused:?}"
                );
            }
        }
    }

    #[test]
    fn what_changes_something_comes_from_no_page_or_from_an_allowed_one() {
        let post = |host: &'static str, headers: &'static [(&'static str, &'static str)]| {
            check(|request| {
                let request = request.method("POST").uri("/").header("host", host);
                headers
                    .iter()
                    .fold(request, |request, (name, value)| request.header(*name, *value))
            })
        };
        for (host, headers) in [
            ("localhost:8420", &[] as &[_]),
            ("localhost:8420", &[("origin", "http://localhost:8420")]),
            ("LocalHost:8420", &[("origin", "http://localhost:8420")]),
            ("localhost:8420", &[("origin", "https://chat.example")]),
            (
                "localhost:8420",
                &[
                    ("origin", "https://chat.example"),
                    ("sec-fetch-site", "cross-site"),
                ],
            ),
            ("localhost:8420", &[("sec-fetch-site", "same-origin")]),
            ("localhost:8420", &[("sec-fetch-site", "none")]),
            ("localhost", &[("origin", "http://localhost")]),
            ("api.example", &[("origin", "https://api.example")]),
            ("api.example:443", &[("origin", "https://api.example")]),
        ] {
            assert_eq!(post(host, headers), Ok(()), "{host} {headers:?}");
        }
        for (host, headers) in [
            ("localhost:8420", &[("origin", "https://evil.example")] as &[_]),
            ("localhost:8420", &[("origin", "null")]),
            ("localhost:8420", &[("origin", "")]),
            ("localhost:8420", &[("origin", "http://localhost:3000")]),
            ("localhost:8420", &[("origin", "http://localhost")]),
            ("localhost:8420", &[("origin", "http://127.0.0.1:8420")]),
            ("localhost:8420", &[("origin", "app://localhost:8420")]),
            (
                "localhost:8420",
                &[("origin", "https://chat.example.evil.example")],
            ),
            ("localhost:8420", &[("origin", "http://chat.example")]),
            ("localhost:8420", &[("sec-fetch-site", "cross-site")]),
            ("localhost:8420", &[("sec-fetch-site", "same-site")]),
            ("localhost:8420", &[("sec-fetch-site", "")]),
            (
                "localhost:8420",
                &[
                    ("origin", "http://localhost:8420"),
                    ("sec-fetch-site", "cross-site"),
                ],
            ),
            (
                "localhost:8420",
                &[
                    ("origin", "https://chat.example"),
                    ("origin", "https://evil.example"),
                ],
            ),
            ("api.example:8420", &[("origin", "https://api.example")]),
        ] {
            let refused = post(host, headers);
            assert!(
                matches!(refused, Err(OriginError::ForeignOrigin { .. })),
                "{host} {headers:?}: {refused:?}"
            );
        }
    }
}
