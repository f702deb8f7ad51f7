//! Serves HTTP: accepts connections up to a limit; each speaks HTTP/1.1 or HTTP/2, with or without TLS, within limits of
//! time and size. Bytes that make no request get an error like any other.
//!
//! The loop is our own, over hyper: axum's server has none of these limits, and the crates that add TLS to hyper limit
//! neither connections nor idle time.

mod connection;
mod service;
#[cfg(test)]
mod tests;
pub mod tls;

pub use service::{Answers, Refuse};

use connection::Serving;
use reveille_bus::open_files;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tls::Tls;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

/// How many connections there may be at a time by default: one for each request that may wait for a provider, and some for others.
pub const MAX_CONNECTIONS: usize = 18_000;
/// How long the server pauses when the system runs out of something, such as open files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often the log repeats that all connections are taken.
const SAY_FULL_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// How many connections there may be at a time. Further ones wait in the kernel's backlog: silent connections are
    /// closed, so there is soon room.
    pub connections: usize,
    /// How long a TLS handshake may take.
    pub handshake_within: Duration,
    /// How long a request's head may take from its first byte, and how long a connection may wait for its first request.
    pub head_within: Duration,
    /// The largest head of a request, in bytes: its line and its headers.
    pub head_bytes: usize,
    /// How long a connection may be idle. Longer than the 60 s of the usual proxies in front, so that they close first and
    /// never send a request into a connection that is being closed.
    pub idle_for: Duration,
    /// How long a client may go without reading any of the response.
    pub write_stalls_for: Duration,
    /// How long a connection may take to close after its last request.
    pub closes_within: Duration,
    /// How many requests one HTTP/2 connection may have under way.
    pub h2_streams: u32,
    /// How many streams of an HTTP/2 connection a client may reset before we have accepted them; more end the
    /// connection (CVE-2023-44487).
    pub h2_pending_resets: usize,
    /// How many streams of an HTTP/2 connection we reset for its client's mistakes before we end it.
    pub h2_faulty_streams: usize,
    /// How often an HTTP/2 connection is pinged, and how long its client has to answer.
    pub h2_ping: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: MAX_CONNECTIONS,
            handshake_within: Duration::from_secs(10),
            head_within: Duration::from_secs(10),
            head_bytes: 64 * 1024,
            idle_for: Duration::from_secs(75),
            write_stalls_for: Duration::from_secs(120),
            closes_within: Duration::from_secs(10),
            h2_streams: 128,
            h2_pending_resets: 20,
            h2_faulty_streams: 1_024,
            h2_ping: Duration::from_secs(20),
        }
    }
}

/// Serves `listener` with what `answers` requests, over TLS if there is a certificate, until `stop`, and then until the requests under way
/// have ended. Dropping it cuts them.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    answers: impl Answers,
    refuse: Refuse,
    limits: ServerLimits,
    stop: CancellationToken,
) -> io::Result<()> {
    listener.local_addr()?;
    let permits = Arc::new(Semaphore::new(room_for(limits.connections)));
    let serving = Arc::new(Serving::new(answers, refuse, tls, limits, stop.clone()));
    let connections = TaskTracker::new();
    let _cuts = serving.cut.clone().drop_guard();
    let mut full = Full::default();
    loop {
        let permit = tokio::select! {
            permit = full.permit(&permits) => permit,
            () = stop.cancelled() => break,
        };
        let stream = tokio::select! {
            stream = accept(|| listener.accept()) => stream,
            () = stop.cancelled() => break,
        };
        if let Err(error) = stream.set_nodelay(true) {
            warn!(%error, "can't turn off Nagle's algorithm");
        }
        let serving = serving.clone();
        connections.spawn(async move {
            serving.connection(stream).await;
            drop(permit);
        });
    }
    // New connections are refused at once.
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Logs now and then that all connections are taken.
#[derive(Default)]
struct Full {
    logged: Option<Instant>,
}

impl Full {
    async fn permit(&mut self, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        if self
            .logged
            .is_none_or(|logged| logged.elapsed() >= SAY_FULL_EVERY)
        {
            self.logged = Some(Instant::now());
            warn!("all connections are taken: new ones wait until one closes");
        }
        permits.clone().acquire_owned().await.ok()
    }
}

/// The next connection. An error ends one connection, or passes; the server accepts the ones that follow.
async fn accept<T, F>(mut next: impl FnMut() -> F) -> T
where
    F: Future<Output = io::Result<(T, SocketAddr)>>,
{
    loop {
        match next().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                error!(%error, "can't accept connections; trying again");
                sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

/// True when the connection was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// For how many connections there is room.
fn room_for(connections: usize) -> usize {
    let limit = open_files::raise_limit();
    let room = open_files::room_within(limit, connections);
    if let Some(files) = limit.filter(|_| room < connections) {
        warn!(
            "the limit of {files} open files (ulimit -n) leaves room for {room} connections instead of {connections}"
        );
    }
    room
}
