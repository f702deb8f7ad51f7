//! Who listens on a port of this machine, as `/proc` shows it.

use rustix::process::Pid;
use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// The process that listens on this address: of several that share a socket, the one that started the others.
pub fn listener_on(address: SocketAddr) -> Option<Pid> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| fs::read_to_string(file).unwrap_or_default());
    let sockets: Vec<_> = tables
        .iter()
        .flat_map(|table| table.lines().filter_map(move |line| listening(line, address)))
        .collect();
    let (best, _) = sockets.iter().min()?;
    let sockets = sockets.iter().filter(|(rank, _)| rank == best);
    let links: BTreeSet<_> = sockets
        .map(|(_, inode)| PathBuf::from(format!("socket:[{inode}]")))
        .collect();
    let holders = processes().filter(|pid| holds(*pid, &links));
    let holders: BTreeSet<_> = holders.map(Pid::as_raw_pid).collect();
    let starts_others = |pid: &&i32| parent(**pid).is_none_or(|parent| !holders.contains(&parent));
    Pid::from_raw(*holders.iter().find(starts_others)?)
}

/// How closely a line's listening socket fits an address, the least for the closest, and its inode.
fn listening(line: &str, address: SocketAddr) -> Option<(u8, u64)> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (ip, port) = local.split_once(':')?;
    let at_port = u16::from_str_radix(port, 16).is_ok_and(|port| port == address.port());
    if *state != LISTENS || !at_port {
        return None;
    }
    let rank = match (ip_of(ip)?, address.ip()) {
        (listens, asked) if listens.to_canonical() == asked => 0,
        (IpAddr::V4(listens), IpAddr::V4(_)) if listens.is_unspecified() => 1,
        (IpAddr::V6(listens), _) if listens.is_unspecified() => 2,
        _ => return None,
    };
    Some((rank, inode.parse().ok()?))
}

/// An address as the kernel prints it: words of 32 bits in the machine's own order.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

/// Whether a process has one of these open.
fn holds(pid: Pid, links: &BTreeSet<PathBuf>) -> bool {
    let open = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid()))
        .into_iter()
        .flatten()
        .flatten();
    let mut open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    open.any(|link| links.contains(&link))
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_line_of_the_kernels_table_is_understood() {
        let line = |local: &str, state: &str| {
            format!(
                "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0"
            )
        };
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let (loopback, any) = (word([127, 0, 0, 1]), word([0; 4]));
        let six = |last: [u8; 4]| format!("{any}{any}{any}{}", word(last));
        let mapped = format!("{any}{any}{}{loopback}", word([0, 0, 0xff, 0xff]));
        let v4 = SocketAddr::from(([127, 0, 0, 1], 8080));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 8080));
        for (local, address, rank) in [
            (&loopback, v4, Some(0)),
            (&mapped, v4, Some(0)),
            (&any, v4, Some(1)),
            (&six([0; 4]), v4, Some(2)),
            (&six([0, 0, 0, 1]), v4, None),
            (&six([0, 0, 0, 1]), v6, Some(0)),
            (&six([0; 4]), v6, Some(2)),
            (&any, v6, None),
        ] {
            let found = listening(&line(&format!("{local}:1F90"), LISTENS), address);
            assert_eq!(found, rank.map(|rank| (rank, 4711)), "{local}");
        }
        for line in [
            line(&format!("{loopback}:1F91"), LISTENS),
            line(&format!("{loopback}:1F90"), "01"),
            line("nonsense", LISTENS),
            String::new(),
        ] {
            assert_eq!(listening(&line, v4), None, "{line}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn whoever_listens_is_found_at_whichever_address() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            // Not every machine has IPv6.
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let mut address = listener.local_addr().unwrap();
            if address.ip().is_unspecified() {
                address.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            assert_eq!(listener_on(address), Some(rustix::process::getpid()), "{address}");
            drop(listener);
            assert_eq!(listener_on(address), None, "{address}");
        }
    }
}
