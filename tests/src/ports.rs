//! Loopback ports that no two tests hand out at once, whichever processes they run in.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as LocalAddr, UnixListener},
    },
};

/// Below the range from which the kernel picks ports of outgoing connections, so that a server that is down for a
/// while finds its port free again.
const PORTS: std::ops::Range<u16> = 10_240..32_000;

/// How often another port is tried before giving up.
const TRIES: u32 = 2_000;

/// A port that is ours until this is dropped, whether or not something listens on it.
///
/// The claim is a name in Linux's abstract socket namespace: the kernel forgets it when this process ends, however it
/// ends, and it leaves no file.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UnixListener,
}

impl Port {
    /// Claims a port on which nothing listens.
    pub fn claim() -> Self {
        let width = u64::from(PORTS.end - PORTS.start);
        let seed = uuid::Uuid::now_v7().as_u64_pair().1;
        (0..TRIES)
            .find_map(|attempt| {
                let offset = (seed.wrapping_add(u64::from(attempt)) % width) as u16;
                Self::try_claim(PORTS.start + offset)
            })
            .expect("no loopback port is free")
    }

    fn try_claim(number: u16) -> Option<Self> {
        let name = LocalAddr::from_abstract_name(format!("reveille-test-port-{number}")).ok()?;
        let claim = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self {
            number,
            _claim: claim,
        })
    }

    /// The port.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }

    /// `http://127.0.0.1:<port>`.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_port_is_not_handed_out_again_while_nothing_listens_on_it() {
        let port = Port::claim();
        assert!(Port::try_claim(port.number()).is_none());
        let number = port.number();
        drop(port);
        assert!(Port::try_claim(number).is_some());
    }

    #[test]
    fn a_port_on_which_something_listens_is_not_handed_out() {
        let port = Port::claim();
        let number = port.number();
        let _listener = TcpListener::bind(port.address()).unwrap();
        drop(port);
        assert!(Port::try_claim(number).is_none());
    }
}
