//! Who listens on a TCP port of this machine, as Linux shows it in `/proc`. Other systems have no `/proc`, so nothing is found
//! there.

use crate::{
    config::BaseUrl,
    processes::{self, Process, Running},
};
use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::Path,
};
use tokio::task::spawn_blocking;

/// The kernel's tables of sockets, of the network that this process is in.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The state of a listening socket in these tables.
const LISTENS: &str = "0A";

/// A port that a base URL names, if its host is this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPort {
    host: String,
    port: u16,
}

/// The kernel's number of a socket.
type Inode = u64;

/// The sockets that took the connections to a port at some moment.
#[derive(Debug, Clone)]
pub(crate) struct Earlier {
    port: LocalPort,
    sockets: Vec<Inode>,
}

impl LocalPort {
    /// The port of a base URL; `None` if that is a Unix socket or has the name of a host that may be another machine.
    #[must_use]
    pub fn of(base_url: &BaseUrl) -> Option<Self> {
        let server = base_url.server();
        let host = server.uri.host()?.trim_matches(['[', ']']).to_owned();
        let usual = if base_url.is_https() { 443 } else { 80 };
        let port = server.uri.port_u16().unwrap_or(usual);
        let may_be_local = base_url.is_loopback() || host.parse::<IpAddr>().is_ok();
        (base_url.socket().is_none() && may_be_local).then_some(Self { host, port })
    }

    /// The port of a process, or of one below it, that listens on others than this one: what a command that was meant to
    /// listen here does instead, in words. `None` if anything listens here, or nothing can be seen.
    pub(crate) async fn instead(&self, pid: i32) -> Option<String> {
        if !self.sockets().await.is_empty() {
            return None;
        }
        let ports = spawn_blocking(move || ports_of(pid)).await.ok()??;
        let port = self.port;
        Some(match &ports[..] {
            [] => format!(
                "its command runs and listens on no port yet: if it only starts slowly, raise `max_wait`; what it is to \
                 listen on is {port}, the port of base_url"
            ),
            [first, ..] => format!(
                "its command listens on port {first}, not on {port}: correct the port in base_url, or that in the command"
            ),
        })
    }

    /// Who has the port now, in words such as "port 8000 is taken by `python3` (process 123)".
    pub async fn taken(&self) -> Option<String> {
        let sockets = self.sockets().await;
        self.taken_by(sockets).await
    }

    /// Whether the process that has the port runs below one of this program's own with that `subcommand`; `None` if nobody has it, or
    /// whose it is can't be seen.
    pub async fn is_below(&self, subcommand: &'static str) -> Option<bool> {
        let sockets = self.sockets().await;
        let found = spawn_blocking(move || {
            let holder = holder(&sockets)?;
            let line = |pid| fs::read(format!("/proc/{pid}/cmdline"));
            let is_it = |pid| {
                let line = line(pid).unwrap_or_default();
                line.split(|byte| *byte == 0).nth(1) == Some(subcommand.as_bytes())
            };
            Some(processes::ancestors(holder.pid).into_iter().any(is_it))
        });
        found.await.ok().flatten()
    }

    /// Whether another process of this program has started the one that has the port: a `subcommand` of this program is above it, and
    /// this process isn't. `None` if nobody has the port, or whose it is can't be seen.
    pub async fn is_below_another(&self, subcommand: &'static str) -> Option<bool> {
        if !self.is_below(subcommand).await? {
            return Some(false);
        }
        let sockets = self.sockets().await;
        let own = i32::try_from(std::process::id()).ok()?;
        let found = spawn_blocking(move || {
            let above = processes::ancestors(holder(&sockets)?.pid);
            Some(!above.contains(&own))
        });
        found.await.ok().flatten()
    }

    /// The sockets that take connections to it now.
    async fn sockets(&self) -> Vec<Inode> {
        let port = self.clone();
        // The tables of a busy machine are long.
        let sockets = spawn_blocking(move || {
            let all = listening(port.port);
            let answering = |ip| Some(answering(&all, ip)).filter(|found| !found.is_empty());
            (!all.is_empty()).then(|| port.addresses().into_iter().find_map(answering))
        });
        sockets.await.ok().flatten().flatten().unwrap_or_default()
    }

    async fn taken_by(&self, sockets: Vec<Inode>) -> Option<String> {
        if sockets.is_empty() {
            return None;
        }
        let holder = spawn_blocking(move || holder(&sockets)).await.ok().flatten();
        let holder = holder.map_or_else(|| "another program".to_owned(), |holder| holder.to_string());
        Some(format!("port {} is taken by {holder}", self.port))
    }

    /// The addresses of the host that are this machine's, in the order in which a connection tries them.
    fn addresses(&self) -> Vec<IpAddr> {
        match self.host.parse::<IpAddr>() {
            Ok(ip) if is_own(ip) => vec![loopback_for(ip)],
            Ok(_) => Vec::new(),
            Err(_) => {
                let found = (self.host.as_str(), self.port).to_socket_addrs();
                let found = found.into_iter().flatten();
                found.map(|address| address.ip().to_canonical()).collect()
            }
        }
    }
}

impl Earlier {
    /// What takes the connections to a port now.
    pub(crate) async fn at(port: LocalPort) -> Self {
        let sockets = port.sockets().await;
        Self { port, sockets }
    }

    pub(crate) fn port(&self) -> &LocalPort {
        &self.port
    }

    /// Whether one of them still does.
    pub(crate) async fn is_there(&self) -> bool {
        !self.left().await.is_empty()
    }

    /// Whose they are, if one of them still takes connections.
    pub(crate) async fn taken(&self) -> Option<String> {
        self.port.taken_by(self.left().await).await
    }

    async fn left(&self) -> Vec<Inode> {
        if self.sockets.is_empty() {
            return Vec::new();
        }
        let mut now = self.port.sockets().await;
        now.retain(|socket| self.sockets.contains(socket));
        now
    }
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    address: IpAddr,
    port: u16,
    inode: Inode,
}

impl Listener {
    /// Reads a line of the kernel's tables: `0: 0100007F:1F40 00000000:0000 0A …`, where the tenth word is the inode.
    fn read(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, local, _, LISTENS, _, _, _, _, _, inode, ..] = words[..] else {
            return None;
        };
        let (address, port) = local.split_once(':')?;
        Some(Self {
            address: address_of(address)?,
            port: u16::from_str_radix(port, 16).ok()?,
            inode: inode.parse().ok()?,
        })
    }

    /// How well it suits connections to `ip`; `None` if it takes none. The kernel prefers the address itself to any address,
    /// and of those IPv4's to IPv6's, which stands for both.
    fn rank(&self, ip: IpAddr) -> Option<u8> {
        match (self.address, ip) {
            (own, ip) if own.to_canonical() == ip => Some(2),
            (IpAddr::V4(own), IpAddr::V4(_)) if own.is_unspecified() => Some(1),
            (IpAddr::V6(own), _) if own.is_unspecified() => Some(0),
            _ => None,
        }
    }
}

/// The process that gets the connections to an address of this machine.
#[must_use]
pub fn listener_on(address: SocketAddr) -> Option<Process> {
    holder(&answering(&listening(address.port()), address.ip()))
}

/// The ports on which a process and those below it listen, lowest first; `None` if that can't be seen.
fn ports_of(pid: i32) -> Option<Vec<u16>> {
    let below = processes::descendants(pid);
    let pids = below.iter().map(|process| process.pid.as_raw_pid()).chain([pid]);
    let tables: Vec<_> = TABLES
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .collect();
    let listeners: Vec<_> = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(Listener::read)
        .collect();
    let mut ports = BTreeSet::new();
    let mut seen = false;
    for pid in pids {
        // One that has just ended has no files.
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        seen = true;
        let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        for link in links {
            let socket = |listener: &&Listener| link == Path::new(&format!("socket:[{}]", listener.inode));
            ports.extend(listeners.iter().filter(socket).map(|listener| listener.port));
        }
    }
    seen.then(|| ports.into_iter().collect())
}

/// An address as the tables have it: words of four bytes, each in the machine's own order.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |place| {
        let word = u32::from_str_radix(hex.get(place..place + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words: Option<Vec<_>> = [0, 8, 16, 24].into_iter().map(word).collect();
            let bytes: [u8; 16] = words?.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The listening sockets of a port, whatever their addresses.
fn listening(port: u16) -> Vec<Listener> {
    let tables = TABLES.iter().filter_map(|table| fs::read_to_string(table).ok());
    let read = |table: String| table.lines().filter_map(Listener::read).collect::<Vec<_>>();
    let all = tables.flat_map(read);
    all.filter(|listener| listener.port == port).collect()
}

/// Those of them that get the connections to `ip`.
fn answering(all: &[Listener], ip: IpAddr) -> Vec<Inode> {
    let best = all.iter().filter_map(|listener| listener.rank(ip)).max();
    let answer = all
        .iter()
        .filter(|listener| best.is_some() && listener.rank(ip) == best);
    answer.map(|listener| listener.inode).collect()
}

/// Whether an address is this machine's.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Where a connection to no address in particular goes.
fn loopback_for(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip.to_canonical(),
    }
}

/// The process that has one of the sockets: of several, the one that started the others. `None` if they are another user's, whose
/// files aren't shown.
fn holder(sockets: &[Inode]) -> Option<Process> {
    let links: Vec<_> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let has_one = |process: &Running| {
        let files = fs::read_dir(format!("/proc/{}/fd", process.pid.as_raw_pid()));
        let files = files.into_iter().flatten();
        let mut links_of = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        links_of.any(|link| links.iter().any(|socket| link == Path::new(socket)))
    };
    let holders: Vec<_> = processes::living().filter(has_one).collect();
    let starts_others = |process: &&Running| {
        !holders
            .iter()
            .any(|other| other.pid.as_raw_pid() == process.parent)
    };
    holders.iter().find(starts_others).map(Running::process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::TcpListener;

    fn listener(address: &str, inode: Inode) -> Listener {
        let address = address.parse().expect("an address");
        Listener {
            address,
            port: 8000,
            inode,
        }
    }

    /// Listens on a port, 0 for any, on which others may listen too.
    fn shared_port(number: u16) -> (TcpListener, u16) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("legal");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
        socket.bind(&address.into()).expect("a port");
        socket.listen(1).expect("a listener");
        let listener = TcpListener::from(socket);
        let number = listener.local_addr().expect("an address").port();
        (listener, number)
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_of_the_kernels_tables_is_read_and_others_than_of_listeners_are_not() {
        let v4 = "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 10683 1 0 100 0 0 10 0";
        assert_eq!(Listener::read(v4), Some(listener("127.0.0.1", 10683)));
        let v6 = "   1: 00000000000000000000000001000000:1F40 00000000000000000000000000000000:0000 0A 00000000:00000000 \
                  00:00000000 00000000     0        0 7 1 0 100 0 0 10 0";
        assert_eq!(Listener::read(v6), Some(listener("::1", 7)));
        assert_eq!(Listener::read(&v4.replace(" 0A ", " 01 ")), None, "a connection");
        for nonsense in [
            "",
            "  sl  local_address rem_address   st tx_queue rx_queue tr",
            "a b c 0A e f g h i j",
        ] {
            assert_eq!(Listener::read(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_connection_goes_to_the_nearest_listener() {
        let [own, any4, any6] = [
            listener("127.0.0.1", 1),
            listener("0.0.0.0", 2),
            listener("::", 3),
        ];
        let [one6, mapped] = [listener("::1", 4), listener("::ffff:127.0.0.1", 5)];
        let v4 = Ipv4Addr::LOCALHOST.into();
        let v6 = Ipv6Addr::LOCALHOST.into();
        assert_eq!(answering(&[any6, any4, own], v4), [1]);
        assert_eq!(answering(&[any6, any4, mapped], v4), [5]);
        assert_eq!(answering(&[any6, any4], v4), [2]);
        assert_eq!(answering(&[any6, one6], v4), [3]);
        assert_eq!(answering(&[any6, one6], v6), [4]);
        assert_eq!(answering(&[own, any4], v6), [] as [Inode; 0]);
        assert_eq!(answering(&[listener("127.0.0.2", 6)], v4), [] as [Inode; 0]);
        assert_eq!(
            answering(&[own, listener("127.0.0.1", 7)], v4),
            [1, 7],
            "they share it"
        );
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn whoever_has_a_port_of_this_machine_is_named() {
        let (taken, number) = shared_port(0);
        let port = |url: &str| LocalPort::of(&BaseUrl::parse(url).expect("legal"));
        let here = port(&format!("http://127.0.0.1:{number}/v1")).expect("this machine");
        let said = here.taken().await.expect("it is taken");
        let own = format!("(process {})", std::process::id());
        assert!(
            said.starts_with(&format!("port {number} is taken by `")) && said.ends_with(&own),
            "{said}"
        );

        let earlier = Earlier::at(here.clone()).await;
        assert!(earlier.is_there().await);
        let _next = shared_port(number);
        assert!(earlier.is_there().await, "beside another socket");
        drop(taken);
        assert!(!earlier.is_there().await, "only another socket");
        assert_eq!(earlier.taken().await, None);
        assert!(here.taken().await.is_some());
        assert!(
            !Earlier::at(port("http://127.0.0.1:1").expect("local"))
                .await
                .is_there()
                .await
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn whoever_listens_is_found_at_whichever_address() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            // Not every machine has IPv6.
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let mut address = listener.local_addr().expect("an address");
            address.set_ip(loopback_for(address.ip()));
            let found = listener_on(address).map(|process| process.pid);
            assert_eq!(found, i32::try_from(std::process::id()).ok(), "{address}");
            drop(listener);
            assert_eq!(listener_on(address), None, "{address}");
        }
    }

    #[test]
    fn only_a_port_of_this_machine_is_looked_at() {
        let port = |url: &str| LocalPort::of(&BaseUrl::parse(url).expect("legal"));
        let local = |host: &str, port| {
            Some(LocalPort {
                host: host.to_owned(),
                port,
            })
        };
        assert_eq!(port("http://localhost:8000/v1"), local("localhost", 8000));
        assert_eq!(port("http://[::1]"), local("::1", 80));
        assert_eq!(port("https://127.0.0.1"), local("127.0.0.1", 443));
        assert_eq!(port("http://box.example:8000"), None);
        assert_eq!(port("unix:///run/llm.sock"), None);
        // 192.0.2.0/24 is nobody's.
        let elsewhere = port("http://192.0.2.1:8000").expect("it may be this machine's");
        assert_eq!(elsewhere.addresses(), [] as [IpAddr; 0]);
        let any = port("http://0.0.0.0:8000").expect("this machine");
        assert_eq!(any.addresses(), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        let name = port("http://localhost:8000").expect("this machine");
        assert!(name.addresses().iter().all(IpAddr::is_loopback) && !name.addresses().is_empty());
    }
}
