//! The addresses at which other machines may reach this one, from the kernel's tables below `/proc/net`: no privilege and no
//! netlink socket is needed, which the systemd unit forbids.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

const IPV4_ADDRESSES: &str = "/proc/net/fib_trie";
const IPV4_ROUTES: &str = "/proc/net/route";
const IPV6_ADDRESSES: &str = "/proc/net/if_inet6";
/// How the names of interfaces begin that lead to containers and virtual machines of this machine. They come and go, and no other
/// machine reaches this one there.
const VIRTUAL: [&str; 6] = ["docker", "br-", "veth", "virbr", "cni", "podman"];
/// A global scope in `if_inet6`; unique local addresses have it too.
const GLOBAL: u8 = 0;
/// Flags in `if_inet6` of addresses that come and go: temporary, deprecated, tentative, and those that failed.
const PASSING: u8 = 0x01 | 0x08 | 0x20 | 0x40;

/// This machine's addresses beyond loopback, the likeliest for other machines first: those behind the default route, then other
/// networks. IPv4 comes before IPv6.
pub fn beyond_loopback() -> Vec<IpAddr> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    in_tables(&read(IPV4_ADDRESSES), &read(IPV4_ROUTES), &read(IPV6_ADDRESSES))
}

fn in_tables(v4: &str, routes_v4: &str, v6: &str) -> Vec<IpAddr> {
    let routes = routes(routes_v4);
    let v4 = ipv4(v4).into_iter().map(|ip| {
        let interface = interface_of(ip, &routes).map(str::to_owned);
        (IpAddr::V4(ip), interface)
    });
    let v6 = ipv6(v6)
        .into_iter()
        .map(|(ip, interface)| (IpAddr::V6(ip), Some(interface)));
    let mut found: Vec<_> = v4
        .chain(v6)
        .filter(|(_, interface)| !interface.as_deref().is_some_and(is_virtual))
        .map(|(ip, interface)| (ip.is_ipv6(), leads_nowhere(interface.as_deref(), &routes), ip))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|(_, _, ip)| ip).collect()
}

/// A route: its interface, network and mask.
struct Route {
    interface: String,
    network: u32,
    mask: u32,
}

fn routes(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [interface, network, _, _, _, _, _, mask, ..] = columns[..] else {
            return None;
        };
        // The kernel prints the bytes as they are in memory.
        let number = |hex| {
            u32::from_str_radix(hex, 16)
                .ok()
                .map(u32::from_le)
                .map(u32::swap_bytes)
        };
        Some(Route {
            interface: interface.to_owned(),
            network: number(network)?,
            mask: number(mask)?,
        })
    };
    table.lines().skip(1).filter_map(route).collect()
}

/// The interface of the narrowest network that has the address.
fn interface_of(ip: Ipv4Addr, routes: &[Route]) -> Option<&str> {
    let ip = u32::from(ip);
    let networks = routes
        .iter()
        .filter(|route| route.mask != 0 && ip & route.mask == route.network);
    networks
        .max_by_key(|route| route.mask)
        .map(|route| route.interface.as_str())
}

fn is_virtual(interface: &str) -> bool {
    VIRTUAL.iter().any(|name| interface.starts_with(name))
}

/// Whether the default route goes elsewhere.
fn leads_nowhere(interface: Option<&str>, routes: &[Route]) -> bool {
    let is_default = |route: &Route| route.mask == 0 && Some(route.interface.as_str()) == interface;
    !routes.iter().any(is_default)
}

/// The addresses in `fib_trie`: each has a line of its own, and the next one says `/32 host LOCAL`.
fn ipv4(table: &str) -> Vec<Ipv4Addr> {
    let lines: Vec<_> = table.lines().map(str::trim).collect();
    let local = lines.windows(2).filter(|pair| pair[1] == "/32 host LOCAL");
    let ip = local.filter_map(|pair| pair[0].strip_prefix("|-- ")?.parse::<Ipv4Addr>().ok());
    ip.filter(|ip| !ip.is_loopback() && !ip.is_link_local()).collect()
}

/// The lasting addresses in `if_inet6`, with their interfaces.
fn ipv6(table: &str) -> Vec<(Ipv6Addr, String)> {
    let address = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [address, _, _, scope, flags, interface] = columns[..] else {
            return None;
        };
        let byte = |hex| u8::from_str_radix(hex, 16).ok();
        let lasts = byte(scope)? == GLOBAL && byte(flags)? & PASSING == 0;
        let ip = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        lasts.then(|| (ip, interface.to_owned()))
    };
    table.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 127.0.0.0/8 2 0 2\n           |-- 127.0.0.1\n              /32 host LOCAL\n        |-- 172.17.0.1\n           /32 host LOCAL\n           |-- 192.0.2.2\n              /32 host LOCAL\n        |-- 192.0.2.255\n           /32 link BROADCAST\n           |-- 10.8.0.2\n              /32 host LOCAL\n        |-- 169.254.3.4\n           /32 host LOCAL\n";
    const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        wg0\t0000080A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";

    #[test]
    fn addresses_come_in_the_order_in_which_other_machines_are_likely_to_reach_them_without_those_of_containers()
     {
        let v6 = "fd000000000000000000000000000002 04 40 00 80     eth0\n\
            fd000000000000000000000000000003 05 40 00 80  br-1a2b3c\n";
        let shown: Vec<_> = in_tables(TRIE, ROUTES, v6)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown, ["192.0.2.2", "10.8.0.2", "fd00::2"]);
    }

    #[test]
    fn addresses_of_one_link_and_passing_ones_are_left_out() {
        let table = "fe800000000000000000fc00fffe000001 04 40 20 80     eth0\n\
            fd000000000000000000000000000002 04 40 00 82     eth0\n\
            fd0000000000000000000000000000aa 04 40 00 01     eth0\n\
            20010db8000000000000000000000007 04 40 00 20     eth0\n\
            00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(ipv6(table), [("fd00::2".parse().unwrap(), "eth0".to_owned())]);
    }
}
