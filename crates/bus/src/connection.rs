//! Connecting to NATS: with retries from the first attempt on, and only to a server that is new enough.

use crate::{
    access::{ASKS_WHETHER_REVOKED, JoinToken, NatsKey, Role},
    error::BusError,
    health::JournalHealth,
    loopback::is_loopback_host,
    retry_log::RetryLog,
};
use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, RequestErrorKind, ServerAddr,
    jetstream::{self, ErrorCode},
    rustls::{self, CertificateError},
};
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use serde::Deserialize;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout},
};
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
/// Longer than any process runs.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// A peer that leaves two pings unanswered counts as gone.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take to greet: a round trip, and less than the 2 s after which one that waits for TLS gives up.
const GREETS_WITHIN: Duration = Duration::from_millis(1_500);
/// Asks JetStream about itself; every role that uses it may.
const JETSTREAM_INFO: &str = "$JS.API.INFO";
/// How long JetStream may take to answer before the request is sent again.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a cluster may be without a server that has JetStream, as while its servers start, and how often it is asked.
const JETSTREAM_STARTS_WITHIN: Duration = Duration::from_secs(30);
const JETSTREAM_POLL: Duration = Duration::from_secs(1);
/// What the client says of a server that refuses the connection's key, or has nobody to ask about it.
const NOT_ADMITTED: &str = "authorization violation";
/// How long the hub may take to tell a connection that its key was revoked: it does within two seconds.
const DISMISSED_WITHIN: Duration = Duration::from_secs(5);
/// The error with which a server ends such a connection; no other connection of an agent ends with it.
const DISMISSED: &str = "user authentication expired";
/// How long an agent's connection may be down until the hub is asked whether the key was revoked, and then again.
const ASK_IF_REVOKED_AFTER: Duration = Duration::from_secs(1);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// What the owner of a machine does when another hub answers at its hub's address.
pub const JOIN_ANEW: &str = "to join that hub, create a token on it (`reveille agent token NAME`) and run `reveille join TOKEN --force` \
     here";
/// How many messages a subscription holds before it drops some. Frames are numbered, so a loss is noticed.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Where NATS is.
#[derive(Debug, Clone)]
pub struct NatsServer {
    /// `nats://host:port`, `tls://host:port` or `wss://host`, or several with commas.
    pub url: String,
    /// A PEM file of authorities to trust for `tls://` and `wss://`, beside the system's roots.
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

    /// Host and port of the first address that leads to another machine without TLS; `None` when every address is on this
    /// machine or begins with `tls://` or `wss://`. Malformed addresses are skipped.
    #[must_use]
    pub fn plaintext_beyond_loopback(&self) -> Option<String> {
        let servers = self
            .url
            .split(',')
            .filter_map(|one| one.trim().parse::<ServerAddr>().ok());
        let mut hosts = servers.filter(|server| !server.host().is_empty());
        let open = hosts.find(|server| !is_tls(server) && !is_loopback_host(server.host()))?;
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
            login: None,
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
    login: Option<(String, String)>,
}

impl NatsOptions {
    /// The connection asks to join with this token.
    #[must_use]
    pub fn joining(mut self, token: &JoinToken) -> Self {
        self.login = Some(token.login());
        self
    }

    /// The connection reports the journal's health to `health`.
    #[must_use]
    pub fn reporting(mut self, health: &JournalHealth) -> Self {
        self.health = health.clone();
        self
    }

    /// Whether the hub says that this agent's key was revoked or replaced.
    async fn is_revoked(&self) -> bool {
        matches!(self.ask_if_revoked().await, Standing::Revoked)
    }

    async fn ask_if_revoked(&self) -> Standing {
        let (Role::Agent(_), Some(_)) = (&self.access.role, &self.access.key) else {
            return Standing::Unknown;
        };
        let Ok(servers) = servers(&self.access.server.url) else {
            return Standing::Unknown;
        };
        let (dismissed, mut told) = watch::channel(false);
        let connect = authenticated(self, &servers)
            .await
            .name(ASKS_WHETHER_REVOKED)
            .max_reconnects(1)
            .event_callback(move |event| {
                if let Event::ServerError(error) = event
                    && is_dismissal(&error)
                {
                    dismissed.send_replace(true);
                }
                std::future::ready(())
            });
        match timeout(DISMISSED_WITHIN, connect.connect(servers)).await {
            Ok(Ok(_client)) => match timeout(DISMISSED_WITHIN, told.wait_for(|told| *told)).await {
                Ok(Ok(_)) => Standing::Revoked,
                _ => Standing::Unknown,
            },
            Ok(Err(error)) if std::error::Error::source(&error).is_some_and(is_dismissal) => {
                Standing::Revoked
            }
            Ok(Err(error)) => match self.refused(&error) {
                other @ BusError::OtherHub { .. } => Standing::OtherHub(other),
                _ => Standing::Unknown,
            },
            Err(_) => Standing::Unknown,
        }
    }

    fn refused(&self, error: &ConnectError) -> BusError {
        match (tls_error(error), &self.access.server.ca) {
            _ if is_unauthorized(error) => BusError::Refused,
            (Some(rustls::Error::InvalidMessage(_)), _) => BusError::Unavailable(
                "this server speaks no TLS: its URL begins with nats:// or ws://".to_owned(),
            ),
            (
                Some(rustls::Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature,
                )),
                Some(ca),
            ) => BusError::OtherHub { ca: ca.clone() },
            _ => BusError::unavailable(error),
        }
    }

    /// Why the connection fails, with what an agent's owner can do about it.
    fn reason(&self, error: &BusError) -> String {
        match (error, &self.access.role) {
            (BusError::OtherHub { .. }, Role::Agent(_)) => format!("{error}; {JOIN_ANEW}"),
            _ => error.to_string(),
        }
    }
}

/// What an agent finds out about its key while its connection is down.
enum Standing {
    /// The hub says that it was revoked or replaced.
    Revoked,
    /// Another hub answers.
    OtherHub(BusError),
    /// Everything else, such as a hub that can't be reached or isn't ready to admit anybody.
    Unknown,
}

/// A connection that reconnects by itself.
#[derive(Debug, Clone)]
pub struct Connection {
    client: Client,
    generation: watch::Receiver<u64>,
    /// See [`Role::makes_streams`].
    makes_streams: bool,
    options: NatsOptions,
    /// See [`Connection::give_up`].
    given_up: Arc<AtomicBool>,
}

impl Connection {
    /// Connects, retrying until it succeeds, and logs every failed attempt.
    ///
    /// # Errors
    /// When the server is too old, has no JetStream and the role needs it, or the URL is malformed.
    pub async fn open(options: &NatsOptions) -> Result<Self, BusError> {
        let (mut pauses, mut failures) = (RETRIES.build(), RetryLog::default());
        loop {
            let reason = match Self::try_open(options).await {
                Ok(connection) => {
                    if options.access.role.uses_jetstream() {
                        connection.check_jetstream().await?;
                    }
                    return Ok(connection);
                }
                Err(BusError::Unavailable(reason)) => reason,
                Err(error @ (BusError::Refused | BusError::OtherHub { .. })) => options.reason(&error),
                Err(error) => return Err(error),
            };
            let pause = pauses.next().unwrap_or(LONGEST_RETRY);
            let pause_ms = pause.as_millis();
            if failures.is_due(&reason) {
                warn!(nats.url = %redacted(&options.access.server.url), %reason, pause_ms, "can't reach NATS, trying again");
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Connects, or fails after one attempt.
    ///
    /// # Errors
    /// When the server can't be reached or is too old, the URL is malformed, or this agent was revoked.
    pub async fn try_open(options: &NatsOptions) -> Result<Self, BusError> {
        let servers = servers(&options.access.server.url)?;
        let (changed, mut generation) = watch::channel(0);
        let name = options.name.clone();
        let given_up = Arc::new(AtomicBool::new(false));
        let (is_given_up, is_over) = (given_up.clone(), given_up.clone());
        let client = authenticated(options, &servers)
            .await
            .name(&options.name)
            .custom_inbox_prefix(options.access.role.inbox_prefix())
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .max_reconnects(None)
            .reconnect_delay_callback(move |attempts| match is_given_up.load(Ordering::Relaxed) {
                // The client has no way to end while it is disconnected.
                true => NEVER,
                false => reconnect_pause(attempts),
            })
            .event_callback(move |event| {
                if !is_over.load(Ordering::Relaxed) {
                    observe(&event, &changed, &name);
                }
                std::future::ready(())
            })
            .connect(servers)
            .await;
        let client = match client {
            Ok(client) => client,
            Err(error) if is_unauthorized(&error) && options.is_revoked().await => {
                return Err(BusError::Revoked);
            }
            Err(error) => return Err(options.refused(&error)),
        };
        check_version(&client.server_info().version)?;
        // Wait for the first connection to be counted, so that later changes of the count mean reconnects.
        let connected = generation.wait_for(|generation| *generation > 0);
        let connected = timeout(REQUEST_TIMEOUT, connected).await;
        connected
            .map_err(BusError::unavailable)?
            .map_err(BusError::unavailable)?;
        Ok(Self {
            client,
            generation,
            makes_streams: options.access.role.makes_streams(),
            options: options.clone(),
            given_up,
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

    /// Refuses a server, a cluster or an account without JetStream. An outage of it is none of these.
    async fn check_jetstream(&self) -> Result<(), BusError> {
        let (begun, mut logged) = (Instant::now(), false);
        loop {
            match self.jetstream_state().await {
                JetStreamState::On => return Ok(()),
                JetStreamState::Off => return Err(BusError::NoJetStream),
                JetStreamState::Nowhere => {}
            }
            // Another server of a cluster may have it, and be about to start.
            let is_alone = self.client.server_info().cluster.is_none();
            if is_alone || begun.elapsed() >= JETSTREAM_STARTS_WITHIN {
                return Err(BusError::NoJetStream);
            }
            if !std::mem::replace(&mut logged, true) {
                info!("no server of the NATS cluster has JetStream yet, waiting for one");
            }
            tokio::time::sleep(JETSTREAM_POLL).await;
        }
    }

    async fn jetstream_state(&self) -> JetStreamState {
        match self.client.request(JETSTREAM_INFO, Bytes::new()).await {
            Ok(answer) if says_off(&answer.payload) => JetStreamState::Off,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => JetStreamState::Nowhere,
            Ok(_) | Err(_) => JetStreamState::On,
        }
    }

    /// Whether the servers that are reached now have no JetStream for this account.
    pub(crate) async fn lacks_jetstream(&self) -> bool {
        let state = timeout(JETSTREAM_TIMEOUT, self.jetstream_state());
        self.is_connected() && matches!(state.await, Ok(JetStreamState::Off | JetStreamState::Nowhere))
    }

    /// What is wrong with the journal, as far as its users on this connection have found out.
    #[must_use]
    pub const fn health(&self) -> &JournalHealth {
        &self.options.health
    }

    /// Resolves once the hub says that this agent's key was revoked or replaced. It is asked while the connection is down.
    pub async fn revoked(&self) {
        let mut failures = RetryLog::default();
        loop {
            tokio::time::sleep(ASK_IF_REVOKED_AFTER).await;
            if self.is_connected() {
                continue;
            }
            match self.options.ask_if_revoked().await {
                Standing::Revoked => return,
                // The client itself says no more than that it can't connect.
                Standing::OtherHub(error) => {
                    let reason = self.options.reason(&error);
                    if failures.is_due(&reason) {
                        warn!(nats.url = %redacted(&self.options.access.server.url), %reason, "can't reach NATS, trying again");
                    }
                }
                Standing::Unknown => {}
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// Makes no further attempt to connect, and logs nothing more: the hub admits this key no longer.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
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

/// Whether this account has JetStream.
enum JetStreamState {
    /// As far as anybody can tell.
    On,
    /// It is off for the server or the account.
    Off,
    /// No server answers for it.
    Nowhere,
}

fn is_unauthorized(error: &ConnectError) -> bool {
    matches!(
        error.kind(),
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication
    )
}

/// Whether this is the error with which a hub tells an agent that its key was revoked.
fn is_dismissal(error: impl std::fmt::Display) -> bool {
    error.to_string().to_lowercase().contains(DISMISSED)
}

/// Why a TLS handshake failed.
fn tls_error(error: &ConnectError) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(error) = next {
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        let tls = wrapped.map_or_else(
            || error.downcast_ref::<rustls::Error>(),
            |wrapped| wrapped.downcast_ref::<rustls::Error>(),
        );
        if tls.is_some() {
            return tls;
        }
        next = error.source();
    }
    None
}

/// Whether JetStream's answer to a request is that it is off, for the server or for the account.
fn says_off(answer: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<jetstream::Error>,
    }
    let answer = serde_json::from_slice::<Answer>(answer).ok();
    let code = answer
        .and_then(|answer| answer.error)
        .map(|error| error.error_code());
    matches!(
        code,
        Some(ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT)
    )
}

/// Whether the connection is encrypted before anything of ours is sent.
fn is_tls(server: &ServerAddr) -> bool {
    matches!(server.scheme(), "tls" | "wss")
}

/// Whether the first server that can be reached waits for TLS before it greets (`handshake_first`), as proxies do that
/// choose a server by its name.
async fn speaks_tls_first(servers: &[ServerAddr]) -> bool {
    for server in servers.iter().filter(|server| server.scheme() == "tls") {
        let connected = timeout(
            REQUEST_TIMEOUT,
            TcpStream::connect((server.host(), server.port())),
        )
        .await;
        if let Ok(Ok(mut stream)) = connected {
            let greeting = timeout(GREETS_WITHIN, stream.read_u8()).await;
            return !matches!(greeting, Ok(Ok(_)));
        }
    }
    false
}

async fn authenticated(options: &NatsOptions, servers: &[ServerAddr]) -> ConnectOptions {
    let mut connect = ConnectOptions::new();
    if let Some(seed) = options.access.key.as_ref().and_then(NatsKey::seed) {
        connect = connect.nkey(seed);
    }
    if let Some((user, password)) = options.login.clone() {
        connect = connect.user_and_password(user, password);
    }
    let server = &options.access.server;
    if let Some(ca) = &server.ca {
        connect = connect.add_root_certificates(ca.clone());
    }
    if servers.iter().all(is_tls) {
        // Before the handshake, anybody on the way can speak for the server, and name other servers to connect to.
        connect = connect.require_tls(true).ignore_discovered_servers();
        if speaks_tls_first(servers).await {
            connect = connect.tls_first();
        }
    } else if servers.iter().any(ServerAddr::is_websocket) {
        // They name each other without the scheme.
        connect = connect.ignore_discovered_servers();
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
        Event::ClientError(error) if error.to_string().contains(NOT_ADMITTED) => {
            info!(
                nats.connection = name,
                "NATS doesn't admit this connection now, as right after the start of a hub; trying again"
            );
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
    fn jetstream_that_is_off_is_told_from_jetstream_that_is_away() {
        let says = |code: u64| {
            let answer = format!(r#"{{"error":{{"code":503,"err_code":{code},"description":"why"}}}}"#);
            says_off(answer.as_bytes())
        };
        assert!(
            says(10_076) && says(10_039),
            "for the server, and for the account"
        );
        assert!(!says(10_008), "it has no leader");
        for answer in [r#"{"memory":0,"storage":0}"#, "", "no JSON"] {
            assert!(!says_off(answer.as_bytes()), "{answer}");
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
            "wss://hub.example,ws://localhost",
            "",
            "http://hub.example",
        ] {
            assert_eq!(beyond(url), None, "{url}");
        }
        for (url, open) in [
            ("nats://nats:4222", "nats:4222"),
            ("hub.example", "hub.example:4222"),
            ("ws://hub.example", "hub.example:80"),
            ("nats://127.evil.example", "127.evil.example:4222"),
            ("tls://a:1, nats://user:secret@10.0.0.2:2", "10.0.0.2:2"),
            ("nats://127.0.0.1,nats://[2001:db8::1]:3", "[2001:db8::1]:3"),
        ] {
            assert_eq!(beyond(url).as_deref(), Some(open), "{url}");
        }
    }

    #[test]
    fn several_servers_stand_in_one_url() {
        let servers = servers("nats://a:1, b,tls://c:2,wss://d").expect("legal");
        let hosts: Vec<_> = servers
            .iter()
            .map(|server| (server.host(), server.port()))
            .collect();
        assert_eq!(hosts, [("a", 1), ("b", 4222), ("c", 2), ("d", 443)]);
    }

    #[tokio::test]
    async fn an_illegal_url_is_an_error_at_once_and_shows_no_password() {
        for url in ["", "http://x", "nats://user:secret@[x", "nats://a:1,:"] {
            let options = NatsAccess::open(url, Role::Admin).named("test");
            let opened = timeout(Duration::from_secs(5), Connection::open(&options)).await;
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
