//! The port on which `up` listens for agents of other machines: its address, and a certificate of its own making that is valid
//! for every address at which others reach this machine. A new address needs a new certificate, and with it the agents' connections
//! end, so one that goes away and comes back needs none. The authority stays, because agents know it.

use crate::{
    addresses,
    data_dir::AGENTS_TLS,
    failure::Failure,
    hub_init::certificates,
    listen::{is_unspecified, reachable},
};
use anyhow::Context;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use reveille_api::{JoinAddresses, origin::Host};
use reveille_bus::private_file;
use rustix::{
    process::{Pid, Signal, kill_process},
    system::uname,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{
    convert::Infallible,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

/// The port for agents unless another is chosen.
pub const PORT: u16 = 8422;
/// Where `--agents` without an address listens: at all addresses. nats-server takes that for those of IPv6 too, and unlike `[::]` it
/// also works where IPv6 is off.
pub const EVERYWHERE: &str = "0.0.0.0:8422";
/// How often the machine's addresses are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A certificate is made again long before it expires.
const RENEW_AFTER: Duration = Duration::from_secs(180 * 24 * 60 * 60);
/// The file of the hosts that the certificate is valid for.
const HOSTS_FILE: &str = "hosts";
/// How many hosts a certificate is valid for at most when it keeps earlier addresses.
const MOST_HOSTS: usize = 32;
/// The file in which nats-server writes its process id.
pub const PID_FILE: &str = "nats.pid";

/// The port for agents, and its certificate.
#[derive(Debug)]
pub struct AgentsPort {
    listens: SocketAddr,
    folder: PathBuf,
    /// The names and addresses that `--host` gives this machine.
    named: Vec<String>,
    ca_sha256: String,
    addresses: watch::Sender<Vec<String>>,
}

/// Why a certificate is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It isn't valid for an address.
    Address,
    /// It expires before long.
    Age,
}

/// Reads `ADDRESS`, `ADDRESS:PORT` or nothing but the port's default.
pub fn parse(raw: &str) -> Result<SocketAddr, String> {
    let address = raw.parse::<SocketAddr>().ok();
    let ip = || raw.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let address = address.or_else(|| Some(SocketAddr::new(ip()?, PORT)));
    address.ok_or_else(|| {
        format!(
            "an IP address of this machine is needed, perhaps with a port, such as 192.0.2.1 or {EVERYWHERE}"
        )
    })
}

impl AgentsPort {
    /// Makes the certificate, and the authority before the first one.
    pub fn prepare(listens: SocketAddr, data_dir: &Path, hosts: &[Host]) -> Result<Self, Failure> {
        let folder = data_dir.join(AGENTS_TLS);
        private_file::make_folder(&folder).with_context(|| format!("cannot use {}", folder.display()))?;
        let mut port = Self {
            listens,
            named: hosts.iter().map(ToString::to_string).collect(),
            ca_sha256: String::new(),
            addresses: watch::Sender::default(),
            folder,
        };
        port.folder = port.folder.canonicalize()?;
        let ips = reached_at(listens);
        let hosts = port.hosts_of(&ips);
        // Nobody is connected yet, so earlier addresses are dropped.
        if port.outdated(&ips).is_some() || port.noted() != hosts {
            port.make(&hosts)?;
        }
        port.announce(&ips);
        port.ca_sha256 = sha256(&port.ca())?;
        Ok(port)
    }

    /// Where it listens.
    pub const fn listens(&self) -> SocketAddr {
        self.listens
    }

    /// The URL at which this machine's own processes reach it.
    pub fn url(&self) -> String {
        format!("tls://{}", reachable(self.listens))
    }

    /// The authority's certificate, in PEM.
    pub fn ca(&self) -> PathBuf {
        self.folder.join(certificates::AUTHORITY)
    }

    /// The part of the server's config that names the certificate.
    pub fn server_config(&self) -> Result<String, Failure> {
        let tls = certificates::earlier(&self.folder)?.context("the certificate is gone")?;
        Ok(tls.for_clients)
    }

    /// What a token says about it.
    pub fn joins(&self) -> JoinAddresses {
        JoinAddresses {
            addresses: self.addresses.subscribe(),
            ca_sha256: self.ca_sha256.clone(),
        }
    }

    /// Why the certificate can't be used at these addresses, or not for long.
    fn outdated(&self, ips: &[IpAddr]) -> Option<Cause> {
        let made = self.folder.join(HOSTS_FILE).metadata();
        let age = made.and_then(|note| note.modified()).ok();
        let age = age.and_then(|made| made.elapsed().ok());
        let has_all = matches!(certificates::earlier(&self.folder), Ok(Some(_))) && self.ca().exists();
        let noted = self.noted();
        if !has_all || !self.hosts_of(ips).iter().all(|host| noted.contains(host)) {
            return Some(Cause::Address);
        }
        let is_old = age.is_none_or(|age| age >= RENEW_AFTER);
        is_old.then_some(Cause::Age)
    }

    /// The hosts that the certificate is valid for.
    fn noted(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join(HOSTS_FILE)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Makes a certificate for these hosts.
    fn make(&self, hosts: &[String]) -> Result<(), Failure> {
        certificates::make(&self.folder, hosts)?;
        let note = self.folder.join(HOSTS_FILE);
        Ok(fs::write(&note, lines(hosts)).with_context(|| format!("cannot write {}", note.display()))?)
    }

    /// Makes a certificate for these addresses too, and keeps those that it is valid for.
    fn renew(&self, ips: &[IpAddr]) -> Result<(), Failure> {
        let mut hosts = self.hosts_of(ips);
        for earlier in self.noted() {
            if hosts.len() < MOST_HOSTS && !hosts.contains(&earlier) {
                hosts.push(earlier);
            }
        }
        self.make(&hosts)
    }

    /// From now on tokens name these addresses.
    fn announce(&self, ips: &[IpAddr]) {
        let port = self.listens.port();
        let named = self.named.iter().map(|host| with_port(host, port));
        let ips = ips.iter().map(|ip| SocketAddr::new(*ip, port).to_string());
        let mut addresses: Vec<String> = vec![];
        for address in named.chain(ips) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        self.addresses.send_replace(addresses);
    }

    /// The certificate and its key, for the API where it has none of its own.
    pub fn tls_files(&self) -> (PathBuf, PathBuf) {
        let [certificate, key] = certificates::SERVER_FILES.map(|name| self.folder.join(name));
        (certificate, key)
    }

    /// Everything that the certificate has to be valid for.
    fn hosts_of(&self, ips: &[IpAddr]) -> Vec<String> {
        let own_name = uname().nodename().to_string_lossy().into_owned();
        let mut hosts = self.named.clone();
        // A certificate has only names that are legal in the DNS.
        hosts.extend(own_name.parse::<Host>().ok().map(|host| host.to_string()));
        hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        hosts.extend(ips.iter().map(ToString::to_string));
        hosts.sort();
        hosts.dedup();
        hosts
    }

    /// Follows this machine's addresses, and makes the certificate again when it isn't valid for one, and before it expires. The
    /// server in `data_dir` then reads it, and ends the connections of agents, which come back within seconds.
    pub async fn keep_current(self, data_dir: &Path) -> Infallible {
        let listens = self.listens;
        self.keep(|| reached_at(listens), || reload(data_dir)).await
    }

    async fn keep(
        self,
        mut look: impl FnMut() -> Vec<IpAddr>,
        mut tell_server: impl FnMut() -> anyhow::Result<()>,
    ) -> Infallible {
        let mut last = vec![];
        // Why there is a certificate that the server hasn't read yet.
        let mut unread = None;
        loop {
            sleep(LOOK_EVERY).await;
            let ips = look();
            // What changes between two looks is changing just now.
            if last != ips {
                last = ips;
                continue;
            }
            if let Some(cause) = self.outdated(&ips) {
                if let Err(error) = self.renew(&ips) {
                    warn!(%error, "can't make a new certificate for the agents' port, trying again");
                    continue;
                }
                unread = Some(cause);
            }
            if let Some(cause) = unread {
                if let Err(error) = tell_server() {
                    warn!(
                        error = format!("{error:#}"),
                        "nats-server can't be told to read the new certificate of the agents' port, trying again"
                    );
                    continue;
                }
                unread = None;
                let why = match cause {
                    Cause::Address => "this machine has a new address",
                    Cause::Age => "the earlier one expires before long",
                };
                info!(agents.addresses = ?ips, "made a new certificate for the agents' port: {why}");
            }
            self.announce(&ips);
        }
    }
}

/// The URL at which other machines reach a listener on all addresses: by a name that `--host` gives this machine, or else at the
/// likeliest of its addresses.
pub fn url_elsewhere(listens: SocketAddr, encrypted: bool, hosts: &[Host]) -> Option<String> {
    if !is_unspecified(listens.ip()) {
        return None;
    }
    let ips = addresses::beyond_loopback().into_iter();
    let mut ips = ips.filter(|ip| ip.is_ipv4() || listens.is_ipv6());
    let host = hosts.first().map(ToString::to_string);
    let host = host.or_else(|| Some(ips.next()?.to_string()))?;
    let scheme = if encrypted { "https" } else { "http" };
    Some(format!("{scheme}://{}", with_port(&host, listens.port())))
}

/// The addresses at which other machines reach a listener.
fn reached_at(listens: SocketAddr) -> Vec<IpAddr> {
    if is_unspecified(listens.ip()) {
        addresses::beyond_loopback()
    } else {
        vec![listens.ip()]
    }
}

fn lines(hosts: &[String]) -> String {
    hosts.iter().map(|host| format!("{host}\n")).collect()
}

fn with_port(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// The SHA-256 of a certificate, in base64.
fn sha256(file: &Path) -> Result<String, Failure> {
    let certificate =
        CertificateDer::from_pem_file(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(BASE64.encode(Sha256::digest(&certificate)))
}

/// Lets the running server read its certificate again.
fn reload(data_dir: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(data_dir.join(PID_FILE)).context("nats-server's process id is unknown")?;
    let id = text.trim();
    let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    // After a crash the id may be another program's by now. The server that is started next reads the new certificate anyway.
    if !String::from_utf8_lossy(&command).contains(&*data_dir.to_string_lossy()) {
        return Ok(());
    }
    let pid = id
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .context("nats-server has no process id")?;
    Ok(kill_process(pid, Signal::HUP)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use tokio_util::sync::CancellationToken;

    #[test]
    fn an_address_needs_no_port() {
        for (raw, address) in [
            ("192.0.2.1", "192.0.2.1:8422"),
            ("192.0.2.1:4222", "192.0.2.1:4222"),
            ("::", "[::]:8422"),
            ("[fd00::1]", "[fd00::1]:8422"),
            ("[fd00::1]:1", "[fd00::1]:1"),
            (EVERYWHERE, "0.0.0.0:8422"),
        ] {
            assert_eq!(parse(raw).unwrap().to_string(), address);
        }
        for wrong in ["", "hub.example", "8422", "192.0.2.1:x", "192.0.2"] {
            assert!(parse(wrong).unwrap_err().contains("such as 192.0.2.1"), "{wrong}");
        }
    }

    /// What a port does while its machine has these addresses at each look: how often the server is told of a certificate, the
    /// hosts in the last one, and the addresses that tokens name.
    async fn kept(looks: &[&[&str]], mut is_told: impl FnMut(usize) -> bool) -> (usize, String, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let port = AgentsPort::prepare(parse("192.0.2.1").unwrap(), folder.path(), &[]).unwrap();
        let addresses = port.joins().addresses;
        let mut looks = looks.iter();
        let done = CancellationToken::new();
        let mut last: Vec<IpAddr> = vec![];
        let look = || {
            match looks.next() {
                Some(ips) => last = ips.iter().map(|ip| ip.parse().unwrap()).collect(),
                None => done.cancel(),
            }
            last.clone()
        };
        let mut asked = 0;
        let tell = || {
            asked += 1;
            if is_told(asked) {
                Ok(())
            } else {
                Err(anyhow!("it is restarting"))
            }
        };
        tokio::select! {
            never = port.keep(look, tell) => match never {},
            () = done.cancelled() => {}
        }
        let hosts = fs::read_to_string(folder.path().join(AGENTS_TLS).join(HOSTS_FILE)).unwrap();
        let named = addresses.borrow().clone();
        (asked, hosts, named)
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_goes_and_comes_back_ends_no_connection() {
        let (home, away): (&[&str], &[&str]) = (&["192.0.2.1"], &[]);
        let (asked, _, named) = kept(&[home, home, away, away, away, home, home, home], |_| true).await;
        assert_eq!((asked, named), (0, vec!["192.0.2.1:8422".to_owned()]));
        let (_, _, named) = kept(&[home, home, away, away, away], |_| true).await;
        assert!(named.is_empty(), "{named:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_address_that_stays_gets_one_certificate_which_keeps_the_earlier_ones() {
        let (old, new): (&[&str], &[&str]) = (&["192.0.2.1"], &["198.51.100.1"]);
        let (asked, _, _) = kept(&[old, new, old, new, old, old], |_| true).await;
        assert_eq!(asked, 0, "it never stayed");
        let (asked, hosts, named) = kept(&[old, old, new, new, new, old, old, new, new, new], |_| true).await;
        assert_eq!((asked, named), (1, vec!["198.51.100.1:8422".to_owned()]));
        assert!(
            hosts.contains("192.0.2.1\n") && hosts.contains("198.51.100.1\n"),
            "{hosts}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_could_not_be_told_of_a_certificate_is_told_again() {
        let (old, new): (&[&str], &[&str]) = (&["192.0.2.1"], &["198.51.100.1"]);
        let (asked, _, named) = kept(&[old, old, new, new, new, new, new, new], |asked| asked == 3).await;
        assert_eq!((asked, named), (3, vec!["198.51.100.1:8422".to_owned()]));
        let (_, _, named) = kept(&[old, old, new, new, new], |_| false).await;
        assert_eq!(
            named,
            ["192.0.2.1:8422"],
            "tokens name what the server has a certificate for"
        );
    }

    #[test]
    fn a_new_address_gets_a_certificate_of_the_same_authority() {
        let folder = tempfile::tempdir().unwrap();
        let at = |ip: &str| parse(ip).unwrap();
        let hosts = ["hub.example".parse().unwrap()];
        let first = AgentsPort::prepare(at("192.0.2.1"), folder.path(), &hosts).unwrap();
        let certificate = || fs::read(folder.path().join(AGENTS_TLS).join("server.pem")).unwrap();
        let before = certificate();
        assert_eq!(*first.addresses.borrow(), ["hub.example:8422", "192.0.2.1:8422"]);
        AgentsPort::prepare(at("192.0.2.1"), folder.path(), &hosts).unwrap();
        assert_eq!(certificate(), before, "the same addresses need no new one");
        let second = AgentsPort::prepare(at("192.0.2.9"), folder.path(), &[]).unwrap();
        assert_ne!(certificate(), before);
        assert_eq!(first.ca_sha256, second.ca_sha256);
        assert_eq!(second.url(), "tls://192.0.2.9:8422");
        assert_eq!(
            AgentsPort::prepare(at("0.0.0.0"), folder.path(), &[])
                .unwrap()
                .url(),
            "tls://127.0.0.1:8422"
        );
    }
}
