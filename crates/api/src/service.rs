//! Wires the process: connections, fold, control, HTTP. Everything that is spawned is waited for at the end.

use crate::{
    commands::Commands,
    control::{self, Presence, Sweeper, doors},
    history::{JournalFeed, JournalRows},
    http::{self, AppState, HttpLimits, Readiness},
    inference::Live,
    keys::{AuthMode, Authenticator, SecretKey},
    metrics::Metrics,
    registry::Registry,
    server::{self, ServerLimits, tls::Tls},
    wakes::{MAX_WAITING, Wakes},
};
use async_nats::jetstream;
use reveille_bus::{
    BusError, Connection, Follow, Follower, Journal, NatsAccess, NatsClock,
    access::{Callout, NatsKey},
    control::ControlRequests,
    heartbeats::HeartbeatWatch,
    relay::{RelayClient, RelayLimits, RelayStartError},
};
use reveille_domain::{AgentKey, AgentName, rows::Rows};
use std::{future::pending, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// How long requests under way may take to end once the process is told to stop.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// When the wakes of the last hour are counted again, after that failed.
const COUNT_AGAIN: Duration = Duration::from_secs(1);

/// How agents are let in and shown out, where the hub's servers ask for keys.
#[derive(Debug, Clone)]
pub struct Doors {
    /// Signs who may come in. The servers' configs name its public half.
    pub issuer: NatsKey,
    /// Speaks to the servers themselves. Without it an agent whose key was revoked stays connected until its connection
    /// ends by itself: nothing that it says is believed, but it hears what is said to it.
    pub system: Option<NatsAccess>,
    /// Agents of this machine, which are let in without a token.
    pub trusted: Vec<(AgentName, AgentKey)>,
}

/// Where agents that join find the hub's NATS servers.
#[derive(Debug, Clone)]
pub struct AgentHub {
    /// `tls://host:port` or `nats://host:port`, or several with commas.
    pub nats_url: String,
    /// The certificate authorities that they have to trust beside the usual ones, in PEM.
    pub ca_pem: Option<String>,
}

/// What an API process needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where NATS is, and what proves that a replica speaks.
    pub nats: NatsAccess,
    /// How agents are let in, where this replica does that.
    pub doors: Option<Doors>,
    /// Where agents that join find NATS.
    pub agent_hub: AgentHub,
    /// The replica's name, unique among the replicas: one subject token.
    pub replica: String,
    /// How many requests may wait for one provider.
    pub max_waiting: usize,
    /// With what the API is served over TLS; without it, in plaintext.
    pub tls: Option<Tls>,
    /// What connections may take.
    pub server: ServerLimits,
    /// Whether a key is needed.
    pub auth: AuthMode,
    /// A key that may do everything and stands in no journal: the one that makes the others.
    pub root_key: Option<SecretKey>,
}

impl Config {
    /// A replica named `replica`, with the usual limits, open to whoever reaches it.
    #[must_use]
    pub fn new(nats: NatsAccess, replica: &str) -> Self {
        Self {
            agent_hub: AgentHub {
                nats_url: nats.server.url.clone(),
                ca_pem: None,
            },
            nats,
            doors: None,
            replica: replica.to_owned(),
            max_waiting: MAX_WAITING,
            tls: None,
            server: ServerLimits::default(),
            auth: AuthMode::Open,
            root_key: None,
        }
    }
}

/// Why an API process ended.
#[derive(Debug, Error)]
pub enum ApiFailure {
    /// The bus can't be used by this version, or as it is set up.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The relay could not begin.
    #[error(transparent)]
    Relay(#[from] RelayStartError),
    /// The HTTP server broke.
    #[error("the HTTP server broke: {0}")]
    Http(#[from] std::io::Error),
}

/// Serves `listener` until `shutdown`; queries are answered from `rows`, or from memory without.
///
/// # Errors
/// When the process can't go on.
pub async fn run(
    config: Config,
    rows: Option<Arc<dyn Rows>>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ApiFailure> {
    let open = async { tokio::try_join!(connect(&config, "api"), connect(&config, "relay")) };
    let (bus, relay) = tokio::select! {
        opened = open => opened?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let tasks = TaskTracker::new();
    let service = Service::start(&config, &bus, &relay, rows, &tasks, &shutdown).await?;
    let address = listener.local_addr()?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    info!(http.address = %address, replica.name = config.replica, "serving {scheme}://{address}");
    let (tls, router) = (config.tls.clone(), http::router(service.state));
    let serving = server::serve(listener, tls, router, config.server.clone(), shutdown.clone());
    let current = async {
        match &config.tls {
            Some(tls) => tls.keep_current().await,
            None => pending().await,
        }
    };
    let ended = tokio::select! {
        served = serving => served.map_err(ApiFailure::from),
        never = current => match never {},
        Ok(error) = service.failed => Err(error.into()),
        () = stopped_for_too_long(&shutdown) => {
            warn!("requests under way were cut: they did not end in time");
            Ok(())
        }
    };
    shutdown.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_WAIT, tasks.wait()).await.is_err() {
        warn!("tasks were still running at the end");
    }
    ended
}

async fn connect(config: &Config, purpose: &str) -> Result<Connection, BusError> {
    let name = format!("reveille {purpose} {}", config.replica);
    Connection::open(&config.nats.named(&name)).await
}

async fn stopped_for_too_long(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(STOP_WAIT).await;
}

/// The process's parts, each a task of its own.
struct Service {
    state: AppState,
    /// Tells when the fold, on which everything stands, can't go on.
    failed: oneshot::Receiver<BusError>,
}

impl Service {
    async fn start(
        config: &Config,
        bus: &Connection,
        relay: &Connection,
        rows: Option<Arc<dyn Rows>>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, ApiFailure> {
        let journal = Journal::new(jetstream::new(bus.client().clone()));
        let (registry, presence, clock) = (Registry::default(), Presence::default(), NatsClock::default());
        let commands = Commands {
            journal: journal.clone(),
            clock: clock.clone(),
            metrics: Metrics::default(),
            registry: registry.clone(),
        };

        let wakes = Wakes::new(
            registry.clone(),
            commands.clone(),
            bus.client().clone(),
            tasks.clone(),
            config.max_waiting,
        );

        let failed = fold(&registry, bus, tasks, shutdown);
        count_wakes(&registry, &commands, tasks, shutdown);
        let heartbeats = HeartbeatWatch::new(bus, &config.replica, clock.clone());
        let heartbeats = heartbeats.counting(&commands.metrics.refusals);
        let (ears, fold, stop) = (presence.clone(), registry.clone(), shutdown.clone());
        tasks.spawn(async move { ears.run(heartbeats, &fold, &stop).await });
        let sweeper = Sweeper::new(registry.clone(), presence, commands.clone(), wakes.clone(), bus);
        let stop = shutdown.clone();
        tasks.spawn(async move { sweeper.run(&stop).await });
        answer_agents(&registry, &commands, &wakes, bus, tasks, shutdown);
        let doors_open = watch::Sender::new(config.doors.is_none());
        if let Some(doors) = config.doors.clone() {
            open_doors(doors, &registry, &commands, bus, &doors_open, tasks, shutdown);
        }

        let relayed =
            RelayClient::start(relay.client().clone(), &config.replica, RelayLimits::default()).await?;
        let memory = JournalRows {
            memory: registry.rows(),
            journal: journal.clone(),
        };
        let rows = rows.unwrap_or_else(|| Arc::new(memory));
        let feed = Arc::new(JournalFeed::new(bus, journal));
        let readiness = readiness(
            registry.clone(),
            clock.clone(),
            [bus.clone(), relay.clone()],
            doors_open.subscribe(),
        );
        let folded = registry.clone();
        let authenticator = Authenticator::new(
            config.auth,
            config.root_key.as_ref(),
            registry.keys().clone(),
            move || folded.is_ready(),
            move || clock.try_now(),
        );
        let fleet = Live {
            registry,
            wakes,
            commands,
            relay: relayed,
        };
        let limits = HttpLimits::default();
        let state = AppState::new(
            fleet,
            rows,
            feed,
            readiness,
            authenticator,
            config.agent_hub.clone(),
            limits,
        );
        Ok(Self { state, failed })
    }
}

fn fold(
    registry: &Registry,
    bus: &Connection,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> oneshot::Receiver<BusError> {
    let (broken, failed) = oneshot::channel();
    let (registry, stop, follower) = (
        registry.clone(),
        shutdown.clone(),
        Follower::new(bus, Follow::Latest),
    );
    tasks.spawn(async move {
        if let Err(error) = registry.run(follower, &stop).await {
            let _ = broken.send(error);
        } else {
            // Only a failure is told; the end of the process isn't one.
            stop.cancelled().await;
        }
    });
    failed
}

/// Counts the wakes that keys have started before the fold began, which begins with the last commit of each aggregate.
fn count_wakes(registry: &Registry, commands: &Commands, tasks: &TaskTracker, shutdown: &CancellationToken) {
    let (keys, commands, stop) = (registry.keys().clone(), commands.clone(), shutdown.clone());
    tasks.spawn(async move {
        let counting = async {
            loop {
                keys.quota().uncounted().await;
                if let Err(error) = keys.quota().count(&commands).await {
                    warn!(%error, "can't count the wakes of the last hour yet: keys that have a limit start none");
                    tokio::time::sleep(COUNT_AGAIN).await;
                }
            }
        };
        tokio::select! {
            () = counting => {}
            () = stop.cancelled() => {}
        }
    });
}

/// Agents are answered once the fold knows what they published before.
fn answer_agents(
    registry: &Registry,
    commands: &Commands,
    wakes: &Wakes,
    bus: &Connection,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let client = bus.client().clone();
    let (registry, commands, wakes, tracker, stop) = (
        registry.clone(),
        commands.clone(),
        wakes.clone(),
        tasks.clone(),
        shutdown.clone(),
    );
    tasks.spawn(async move {
        tokio::select! {
            () = registry.ready() => {}
            () = stop.cancelled() => return,
        }
        match ControlRequests::subscribe(&client).await {
            Ok(requests) => {
                let requests = requests.counting(&commands.metrics.refusals);
                control::serve(requests, registry, commands, wakes, client, &tracker, &stop).await;
            }
            Err(error) => error!(%error, "agents can't be answered"),
        }
    });
}

/// Lets agents in as soon as it is known who they are; says so in `open`.
fn open_doors(
    doors: Doors,
    registry: &Registry,
    commands: &Commands,
    bus: &Connection,
    open: &watch::Sender<bool>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let Doors {
        issuer,
        system,
        trusted,
    } = doors;
    let (fold, commands, bus, open, stop) = (
        registry.clone(),
        commands.clone(),
        bus.clone(),
        open.clone(),
        shutdown.clone(),
    );
    tasks.spawn(async move {
        let opened = async {
            fold.ready().await;
            doors::trust(&commands, trusted).await;
            Callout::subscribe(bus.client(), issuer).await
        };
        match stop.run_until_cancelled(opened).await {
            Some(Ok(callout)) => {
                open.send_replace(true);
                let refusals = &commands.metrics.refusals;
                doors::answer(callout.counting(refusals), &fold, refusals, &stop).await;
            }
            Some(Err(error)) => error!(%error, "no agent can be let in"),
            None => {}
        }
    });
    let Some(system) = system else {
        warn!("this replica has no system key: an agent that is revoked stays connected until it leaves");
        return;
    };
    let (fold, stop) = (registry.clone(), shutdown.clone());
    tasks.spawn(async move {
        let options = system.named("reveille revoker");
        match stop.run_until_cancelled(Connection::open(&options)).await {
            Some(Ok(connection)) => doors::keep(&connection, &fold, &stop).await,
            Some(Err(error)) => error!(%error, "an agent that is revoked stays connected until it leaves"),
            None => {}
        }
    });
}

fn readiness(
    registry: Registry,
    clock: NatsClock,
    connections: [Connection; 2],
    doors: watch::Receiver<bool>,
) -> impl Fn() -> Readiness + Send + Sync + 'static {
    move || Readiness {
        registry: registry.is_ready(),
        nats: connections.iter().all(Connection::is_connected),
        clock: clock.try_now().is_some(),
        doors: *doors.borrow(),
    }
}
