//! The names and addresses that an API answers to.
//!
//! A page can make its own name resolve to this machine (DNS rebinding), and the browser then takes the API for part of that page's
//! site. The `Host` header still has the page's name, so a name that isn't the API's own is refused.

use crate::server::tls::Tls;
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// The longest name in DNS.
const MAX_NAME_BYTES: usize = 253;

/// A name or an address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name in lower case, without a dot at its end.
    Name(String),
    /// An address; IPv4 in IPv6 is IPv4 here.
    Address(IpAddr),
}

impl Host {
    fn address(ip: IpAddr) -> Self {
        Self::Address(ip.to_canonical())
    }

    /// An address of this machine alone, or one of the names that resolvers keep for it (RFC 6761, section 6.3).
    fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            Self::Address(ip) => ip.is_loopback(),
        }
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // People write IPv6 with and without the brackets.
        if let Ok(ip) = text.parse() {
            return Ok(Self::address(ip));
        }
        match Authority::parse(text) {
            Some(Authority { host, port: None }) => Ok(host),
            Some(_) => Err("leave the port out: the API answers to a host on any port".to_owned()),
            None => Err("a host is a name such as `hub.example`, or an address".to_owned()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(ip) => ip.fmt(f),
        }
    }
}

/// `host` or `host:port`, as in a URL or a `Host` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    pub host: Host,
    pub port: Option<u16>,
}

impl Authority {
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (ip, port) = rest.split_once(']')?;
                // What follows `%` is the client's own name for one of its interfaces (RFC 6874).
                let ip = ip.split_once('%').map_or(ip, |(ip, _zone)| ip);
                (Host::address(ip.parse::<Ipv6Addr>().ok()?.into()), port)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                (name_or_ipv4(&text[..end])?, &text[end..])
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        Some(Self { host, port })
    }
}

fn name_or_ipv4(text: &str) -> Option<Host> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if let Ok(ip) = name.parse() {
        return Some(Host::address(IpAddr::V4(ip)));
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let is_name = name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label);
    is_name.then(|| Host::Name(name.to_ascii_lowercase()))
}

/// The hosts of one API.
#[derive(Debug)]
pub(super) struct OwnHosts {
    listener: IpAddr,
    named: Vec<Host>,
    pub tls: Option<Tls>,
}

impl OwnHosts {
    /// Those of a listener, the names in its certificate, and `named` ones.
    pub fn new(listener: SocketAddr, named: Vec<Host>, tls: Option<Tls>) -> Self {
        Self {
            listener: listener.ip().to_canonical(),
            named,
            tls,
        }
    }

    /// A listener on all addresses may be reached by any: the machine's own, and those that a router or a container engine
    /// translates. An address can't be rebound, since nobody resolves it.
    pub fn has(&self, host: &Host) -> bool {
        let listens = match host {
            Host::Address(ip) => self.listener.is_unspecified() || self.listener == *ip,
            Host::Name(_) => false,
        };
        listens
            || host.is_loopback()
            || self.named.contains(host)
            || self
                .tls
                .as_ref()
                .is_some_and(|tls| tls.certifies(&host.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(listener: &str, named: &[&str], host: &str) -> bool {
        let named = named.iter().map(|name| name.parse().expect("a host")).collect();
        let own = OwnHosts::new(listener.parse().expect("an address"), named, None);
        Authority::parse(host).is_some_and(|authority| own.has(&authority.host))
    }

    #[test]
    fn loopback_is_answered_by_every_name_and_nothing_else_by_itself() {
        for host in [
            "localhost",
            "LOCALHOST:8420",
            "localhost.:8420",
            "chat.localhost",
            "127.0.0.1:1",
            "127.9.9.9",
            "127.0.0.1.",
            "[::1]:8420",
            "[::ffff:127.0.0.1]:8420",
            "[::1%25lo]",
        ] {
            assert!(has("127.0.0.1:8420", &[], host), "{host}");
        }
        for host in [
            "evil.example:8420",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "0.0.0.0:8420",
            "10.0.0.7",
            "[::2]",
            "[fe80::1%25eth0]",
            "2130706433",
            "127.1",
            "0x7f.0.0.1",
            "user@localhost",
            "localhost:80:80",
            "localhost:http",
            "localhost/",
            "localhost, evil.example",
            "local host",
            "[::1",
            "::1",
            ".",
            "",
        ] {
            assert!(!has("127.0.0.1:8420", &[], host), "{host}");
        }
    }

    #[test]
    fn a_listener_is_answered_by_its_own_address_and_by_the_names_that_it_was_given() {
        assert!(has("10.0.0.7:80", &[], "10.0.0.7"));
        assert!(has("[::ffff:10.0.0.7]:80", &[], "10.0.0.7"));
        assert!(!has("10.0.0.7:80", &[], "10.0.0.8"));
        for listener in ["0.0.0.0:80", "[::]:80"] {
            for host in ["10.0.0.8", "[2001:db8::1]:80", "[fe80::1%25eth0]", "localhost"] {
                assert!(has(listener, &[], host), "{host} at {listener}");
            }
            assert!(!has(listener, &[], "hub.example"));
        }
        let named = ["Hub.Example.", "203.0.113.5", "2001:db8::1", "[2001:db8::2]"];
        for host in [
            "hub.example",
            "HUB.example.:443",
            "203.0.113.5:80",
            "[2001:db8::1]",
            "[2001:db8::2]",
        ] {
            assert!(has("127.0.0.1:80", &named, host), "{host}");
        }
        assert!(!has("127.0.0.1:80", &named, "a.hub.example"));
    }

    #[test]
    fn a_host_is_named_without_scheme_and_port() {
        for wrong in [
            "hub.example:80",
            "[::1]:80",
            "https://hub.example",
            "*.example",
            "*",
            "",
        ] {
            assert!(wrong.parse::<Host>().is_err(), "{wrong}");
        }
    }
}
