//! Binds the API's port before anything else starts.

use anyhow::anyhow;
use reveille_agent::listeners::listener_on;
use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::net::TcpListener;

/// Binds `address`. The error for a taken port says what to do.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => anyhow!(
                "port {} is taken by {}: stop it, or use --listen {}:{} for another port",
                address.port(),
                listener_on(reachable(address)).map_or_else(
                    || "another user's process".to_owned(),
                    |holder| holder.to_string()
                ),
                address.ip(),
                address.port().wrapping_add(1),
            ),
            ErrorKind::AddrNotAvailable => {
                anyhow!("{} is not an address of this machine: see --listen", address.ip())
            }
            ErrorKind::PermissionDenied => {
                anyhow!("port {} needs more privileges: see --listen", address.port())
            }
            _ => anyhow!("cannot listen on {address}: {error} (see --listen)"),
        })
}

/// The address at which this machine reaches a listener, even one on all addresses.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether an address stands for all of this machine's.
pub fn is_unspecified(ip: IpAddr) -> bool {
    ip.to_canonical().is_unspecified()
}

/// The URL at which this machine reaches a listener.
pub fn url(address: SocketAddr, encrypted: bool) -> String {
    let scheme = if encrypted { "https" } else { "http" };
    format!("{scheme}://{}", reachable(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_a_remedy() {
        let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = taken.local_addr().unwrap();
        let said = bind(address).await.unwrap_err().to_string();
        let own = format!("(process {}): stop it", std::process::id());
        assert!(
            said.starts_with(&format!("port {} is taken by `", address.port())) && said.contains(&own),
            "{said}"
        );
        assert!(said.contains("--listen"), "{said}");
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), reached);
        }
    }
}
