//! Connecting to NATS: with retries from the first attempt on, and only to a server that is new enough.

use crate::{
    access::{NatsKey, Role},
    error::BusError,
    health::JournalHealth,
    loopback::is_loopback_host,
};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, jetstream};
use backon::{BackoffBuilder, ExponentialBuilder};
use std::{path::PathBuf, time::Duration};
use tokio::sync::watch;
use tracing::{info, warn};

/// The oldest nats-server that is supported: its streams know message TTLs and the options that the journal forbids.
pub const MIN_SERVER: (u64, u64, u64) = (2, 12, 0);

/// The pauses between attempts to connect.
const RETRIES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(FIRST_RETRY)
    .with_max_delay(LONGEST_RETRY)
    .with_jitter()
    .without_max_times();
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// A peer that leaves two pings unanswered counts as gone.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long JetStream may take to answer before the request is sent again.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
/// How many messages a subscription holds before it drops some. Frames are numbered, so a loss is noticed.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Where NATS is.
#[derive(Debug, Clone)]
pub struct NatsServer {
    /// `nats://host:port`, or several with commas.
    pub url: String,
    /// A PEM file of authorities to trust for `tls://`, beside the system's roots.
    pub ca: Option<PathBuf>,
}

impl NatsServer {
    /// The server at `url`; for TLS, the system's roots are trusted.
    #[must_use]
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            ca: None,
        }
    }

    /// Whether each of its addresses begins with `tls://`.
    fn is_tls(&self) -> bool {
        self.url.split(',').all(|one| one.trim().starts_with("tls://"))
    }

    /// Host and port of the first address that leads to another machine without TLS; `None` when every address is on this
    /// machine or begins with `tls://`. Malformed addresses are skipped.
    #[must_use]
    pub fn plaintext_beyond_loopback(&self) -> Option<String> {
        let servers = self
            .url
            .split(',')
            .filter_map(|one| one.trim().parse::<ServerAddr>().ok());
        let mut hosts = servers.filter(|server| !server.host().is_empty());
        let open = hosts.find(|server| !server.tls_required() && !is_loopback_host(server.host()))?;
        let host = match open.host() {
            ipv6 if ipv6.contains(':') => format!("[{ipv6}]"),
            host => host.to_owned(),
        };
        Some(format!("{host}:{}", open.port()))
    }
}

/// Where NATS is, and the role and key to connect with.
#[derive(Debug, Clone)]
pub struct NatsAccess {
    /// The server or servers.
    pub server: NatsServer,
    /// The role, which decides what may be published and subscribed to.
    pub role: Role,
    /// The key that proves the role; `None` for a server that asks for none.
    pub key: Option<NatsKey>,
}

impl NatsAccess {
    /// Access to a server that asks for no key.
    #[must_use]
    pub fn open(url: &str, role: Role) -> Self {
        Self {
            server: NatsServer::at(url),
            role,
            key: None,
        }
    }

    /// Options for a connection of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> NatsOptions {
        NatsOptions {
            access: self.clone(),
            name: name.to_owned(),
            health: JournalHealth::default(),
        }
    }
}

/// What a connection is made with.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    access: NatsAccess,
    /// The connection's name in the server's monitoring.
    name: String,
    health: JournalHealth,
}

impl NatsOptions {
    /// The connection reports the journal's health to `health`.
    #[must_use]
    pub fn reporting(mut self, health: &JournalHealth) -> Self {
        self.health = health.clone();
        self
    }
}

/// A connection that reconnects by itself.
#[derive(Debug, Clone)]
pub struct Connection {
    client: Client,
    generation: watch::Receiver<u64>,
    /// See [`Role::makes_streams`].
    makes_streams: bool,
    health: JournalHealth,
}

impl Connection {
    /// Connects, retrying until it succeeds, and logs every failed attempt.
    ///
    /// # Errors
    /// When the server is too old, or the URL is malformed.
    pub async fn open(options: &NatsOptions) -> Result<Self, BusError> {
        let mut pauses = RETRIES.build();
        loop {
            match Self::try_open(options).await {
                Err(BusError::Unavailable(reason)) => {
                    let pause = pauses.next().unwrap_or(LONGEST_RETRY);
                    let pause_ms = pause.as_millis();
                    warn!(nats.url = %redacted(&options.access.server.url), %reason, pause_ms, "can't reach NATS, trying again");
                    tokio::time::sleep(pause).await;
                }
                done => return done,
            }
        }
    }

    /// Connects, or fails after one attempt.
    ///
    /// # Errors
    /// When the server can't be reached or is too old, or the URL is malformed.
    pub async fn try_open(options: &NatsOptions) -> Result<Self, BusError> {
        let servers = servers(&options.access.server.url)?;
        let (changed, mut generation) = watch::channel(0);
        let name = options.name.clone();
        let client = authenticated(options)
            .name(&options.name)
            .custom_inbox_prefix(options.access.role.inbox_prefix())
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_pause)
            .event_callback(move |event| {
                observe(&event, &changed, &name);
                std::future::ready(())
            })
            .connect(servers)
            .await
            .map_err(|error| refused(&error))?;
        check_version(&client.server_info().version)?;
        // Wait for the first connection to be counted, so that later changes of the count mean reconnects.
        let connected = generation.wait_for(|generation| *generation > 0);
        let connected = tokio::time::timeout(REQUEST_TIMEOUT, connected).await;
        connected
            .map_err(BusError::unavailable)?
            .map_err(BusError::unavailable)?;
        Ok(Self {
            client,
            generation,
            makes_streams: options.access.role.makes_streams(),
            health: options.health.clone(),
        })
    }

    /// The NATS client of this connection.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// JetStream over this connection, with a timeout short enough to notice an outage.
    #[must_use]
    pub fn jetstream(&self) -> jetstream::Context {
        let mut js = jetstream::new(self.client.clone());
        js.set_timeout(JETSTREAM_TIMEOUT);
        js
    }

    /// What is wrong with the journal, as far as its users on this connection have found out.
    #[must_use]
    pub const fn health(&self) -> &JournalHealth {
        &self.health
    }

    /// See [`Role::makes_streams`].
    pub(crate) const fn makes_streams(&self) -> bool {
        self.makes_streams
    }

    /// How often the connection was established. A change means that it was lost in between.
    #[must_use]
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }

    /// Whether the connection is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}

fn refused(error: &ConnectError) -> BusError {
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => BusError::Unavailable(
            "the server refuses this key (authorization violation): it is unknown or revoked, or no API replica is \
             running to admit it"
                .to_owned(),
        ),
        _ => BusError::unavailable(error),
    }
}

fn authenticated(options: &NatsOptions) -> ConnectOptions {
    let mut connect = ConnectOptions::new();
    if let Some(seed) = options.access.key.as_ref().and_then(NatsKey::seed) {
        connect = connect.nkey(seed);
    }
    let server = &options.access.server;
    if let Some(ca) = &server.ca {
        connect = connect.add_root_certificates(ca.clone());
    }
    if server.is_tls() {
        // Before the handshake, anybody on the way can speak for the server, and name other servers to connect to.
        connect = connect.require_tls(true).ignore_discovered_servers();
    }
    connect
}

fn reconnect_pause(attempts: usize) -> Duration {
    // The pauses grow no more after the first few.
    RETRIES.build().nth(attempts.min(8)).unwrap_or(LONGEST_RETRY)
}

fn observe(event: &Event, generation: &watch::Sender<u64>, name: &str) {
    match event {
        Event::Connected => {
            generation.send_modify(|generation| *generation += 1);
            info!(nats.connection = name, "connected to NATS");
        }
        Event::Disconnected => warn!(nats.connection = name, "lost the connection to NATS"),
        Event::SlowConsumer(subscription) => {
            warn!(
                nats.connection = name,
                nats.subscription = subscription,
                "NATS messages were dropped"
            );
        }
        Event::LameDuckMode | Event::Draining | Event::Closed => {
            info!(nats.connection = name, "NATS connection: {event}");
        }
        Event::ServerError(_) | Event::ClientError(_) => {
            warn!(nats.connection = name, "NATS connection: {event}");
        }
    }
}

fn check_version(found: &str) -> Result<(), BusError> {
    let mut numbers = found
        .split(['.', '-'])
        .map(|part| part.parse::<u64>().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    if (number(), number(), number()) >= MIN_SERVER {
        return Ok(());
    }
    let (major, minor, patch) = MIN_SERVER;
    Err(BusError::ServerTooOld {
        found: found.to_owned(),
        needed: format!("{major}.{minor}.{patch}"),
    })
}

fn servers(url: &str) -> Result<Vec<ServerAddr>, BusError> {
    let malformed = |one: &str, reason: String| BusError::Address {
        url: redacted(one),
        reason,
    };
    let parse = |one: &str| match one.trim().parse::<ServerAddr>() {
        Ok(server) if server.host().is_empty() => Err(malformed(one, "it names no host".to_owned())),
        Ok(server) => Ok(server),
        Err(error) => Err(malformed(one, error.to_string())),
    };
    url.split(',').map(parse).collect()
}

/// The URL without its credentials.
fn redacted(url: &str) -> String {
    url.split(',')
        .map(|one| one.rsplit('@').next().unwrap_or(one))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_old_a_server_is_refused_with_both_versions() {
        for found in ["2.9.10", "2.11.99", "1.99.0", "", "x"] {
            let error = check_version(found).expect_err(found).to_string();
            assert!(error.contains(found) && error.contains("2.12.0"), "{error}");
        }
        for found in ["2.12.0", "2.15.1", "2.12.0-beta.1", "3.0.0"] {
            assert!(check_version(found).is_ok(), "{found}");
        }
    }

    #[test]
    fn every_address_off_this_machine_needs_tls() {
        let beyond = |url: &str| NatsServer::at(url).plaintext_beyond_loopback();
        for url in [
            "nats://127.0.0.1:4222",
            "127.9.9.9",
            "nats://localhost",
            "nats://[::1]:4222,nats://[::ffff:127.0.0.1]",
            "tls://hub.example,nats://127.0.0.1",
            "",
            "http://hub.example",
        ] {
            assert_eq!(beyond(url), None, "{url}");
        }
        for (url, open) in [
            ("nats://nats:4222", "nats:4222"),
            ("hub.example", "hub.example:4222"),
            ("nats://127.evil.example", "127.evil.example:4222"),
            ("tls://a:1, nats://user:secret@10.0.0.2:2", "10.0.0.2:2"),
            ("nats://127.0.0.1,nats://[2001:db8::1]:3", "[2001:db8::1]:3"),
        ] {
            assert_eq!(beyond(url).as_deref(), Some(open), "{url}");
        }
    }

    #[test]
    fn several_servers_stand_in_one_url() {
        let servers = servers("nats://a:1, b,tls://c:2").expect("legal");
        let hosts: Vec<_> = servers
            .iter()
            .map(|server| (server.host(), server.port()))
            .collect();
        assert_eq!(hosts, [("a", 1), ("b", 4222), ("c", 2)]);
    }

    #[tokio::test]
    async fn an_illegal_url_is_an_error_at_once_and_shows_no_password() {
        for url in ["", "http://x", "nats://user:secret@[x", "nats://a:1,:"] {
            let options = NatsAccess::open(url, Role::Admin).named("test");
            let opened = tokio::time::timeout(Duration::from_secs(5), Connection::open(&options)).await;
            let error = opened.expect("at once").expect_err(url);
            assert!(matches!(error, BusError::Address { .. }), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_not_logged() {
        assert_eq!(redacted("nats://user:secret@a:1,nats://b:2"), "a:1,nats://b:2");
    }
}
