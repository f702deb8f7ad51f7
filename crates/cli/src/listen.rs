//! Binds the API's port before anything else starts, and finds out whether others are free.

use crate::failure::Failure;
use anyhow::anyhow;
use reveille_agent::listeners::listener_on;
use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::net::TcpListener;

/// Binds `address`, which `flag` has named. The error for a taken port says what to do.
pub async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| cannot(address, flag, &error))
}

/// Checks that another program can bind `address`, which `flag` has named: for all addresses of this machine in both families,
/// since nats-server listens in both.
pub async fn is_free(address: SocketAddr, flag: &str) -> anyhow::Result<()> {
    let refused = |error: io::Error| cannot(address, flag, &error);
    TcpListener::bind(address).await.map_err(refused)?;
    if is_unspecified(address.ip()) {
        let ipv6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
        match TcpListener::bind(ipv6).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(cannot(ipv6, flag, &error)),
            // Or this machine has no IPv6.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Fails where one of two listeners would be in the other's way. Each comes with the flag that names it; the second is the one to move.
pub fn are_apart(first: (&str, SocketAddr), second: (&str, SocketAddr)) -> Result<(), Failure> {
    let ((flag, address), (other_flag, other)) = (first, second);
    let same_ip = address.ip().to_canonical() == other.ip().to_canonical();
    let meet = same_ip || is_unspecified(address.ip()) || is_unspecified(other.ip());
    if address.port() != other.port() || address.port() == 0 || !meet {
        return Ok(());
    }
    Err(Failure::Config(format!(
        "{flag} {address} and {other_flag} {other} both need port {}: choose another for one of them, such as {other_flag} {}",
        address.port(),
        SocketAddr::new(other.ip(), other.port().wrapping_add(1))
    )))
}

fn cannot(address: SocketAddr, flag: &str, error: &io::Error) -> anyhow::Error {
    let (ip, port) = (address.ip(), address.port());
    match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "port {port} ({flag}) is taken by {}: stop it, or use {flag} {} for another port",
            listener_on(reachable(address)).map_or_else(
                || "another user's process".to_owned(),
                |holder| holder.to_string()
            ),
            SocketAddr::new(ip, port.wrapping_add(1)),
        ),
        ErrorKind::AddrNotAvailable => anyhow!("{ip} is not an address of this machine: see {flag}"),
        ErrorKind::PermissionDenied => anyhow!("port {port} needs more privileges: see {flag}"),
        _ => anyhow!("cannot listen on {address}: {error} (see {flag})"),
    }
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
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    #[tokio::test]
    async fn a_taken_port_is_named_with_a_remedy() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let taken = bind(any, "--listen").await.unwrap();
        let address = taken.local_addr().unwrap();
        for (flag, refused) in [
            ("--listen", bind(address, "--listen").await.map(drop)),
            ("--agents", is_free(address, "--agents").await),
        ] {
            let said = refused.unwrap_err().to_string();
            let begin = format!("port {} ({flag}) is taken by `", address.port());
            let end = format!(
                "(process {}): stop it, or use {flag} 127.0.0.1:{} for another port",
                std::process::id(),
                address.port().wrapping_add(1)
            );
            assert!(said.starts_with(&begin) && said.ends_with(&end), "{said}");
        }
    }

    #[tokio::test]
    async fn a_port_for_all_addresses_is_free_in_both_families() {
        let Ok(taken) = TcpListener::bind("[::1]:0").await else {
            eprintln!("skipped: there is no IPv6 here");
            return;
        };
        let port = taken.local_addr().unwrap().port();
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let said = is_free(everywhere, "--agents").await.unwrap_err().to_string();
        assert!(said.contains("is taken by"), "{said}");
        drop(taken);
        // A child that another test starts just now may have the socket until it runs its program.
        let freed = async {
            while is_free(everywhere, "--agents").await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), freed).await.expect("it is free");
    }

    #[test]
    fn two_listeners_that_need_one_port_are_told_apart_before_they_meet() {
        for (first, second, apart) in [
            ("127.0.0.1:8422", "127.0.0.1:8422", false),
            ("10.9.0.1:8422", "0.0.0.0:8422", false),
            ("[::1]:8422", "0.0.0.0:8422", false),
            ("[::]:8422", "10.9.0.1:8422", false),
            ("127.0.0.1:8422", "10.9.0.1:8422", true),
            ("127.0.0.1:8420", "0.0.0.0:8422", true),
            ("127.0.0.1:0", "0.0.0.0:0", true),
        ] {
            let checked = are_apart(
                ("--listen", first.parse().unwrap()),
                ("--agents", second.parse().unwrap()),
            );
            assert_eq!(checked.is_ok(), apart, "{first} {second}");
            if let Err(failure) = checked {
                let said = failure.to_string();
                let begin =
                    format!("--listen {first} and --agents {second} both need port 8422: choose another");
                assert!(said.starts_with(&begin) && said.contains(":8423"), "{said}");
            }
        }
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
