//! Wires the process: connections, fold, control, HTTP. Every spawned task is awaited at the end.

use crate::{
    commands::Commands,
    config::{AgentAuth, Config, Database},
    control::{self, Control, Presence, Sweeper, admission, enrollment},
    history::{self, JournalFeed, JournalRows},
    http::{self, AppServices, AppState, HttpLimits, Readiness},
    keys::Authenticator,
    metrics::Metrics,
    origin::OriginPolicy,
    registry::Registry,
    requests::{self, EveryRequest, Recorder},
    server,
    wakes::Wakes,
};
use backon::{ConstantBuilder, Retryable};
use reveille_bus::{
    Beginning, BusError, Connection, Follow, Follower, HubId, Journal, NatsClock,
    access::AuthRequests,
    control::ControlRequests,
    enroll::EnrollRequests,
    heartbeats::HeartbeatWatch,
    relay::{RelayClient, RelayLimits, RelayStartError},
    requests::RequestLog,
};
use reveille_domain::{
    requests::PastRequests,
    rows::{LoadedAt, Rows},
};
use std::{future::pending, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// How long requests under way may take to end once the process is stopping.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// How long the start of the fold may wait for the database, if NATS has no commits.
const ROWS_WAIT: Duration = Duration::from_secs(2);
/// The pause before the wakes of the last hour are counted again, after that failed.
const COUNT_AGAIN: Duration = Duration::from_secs(1);

/// Why an API process ended.
#[derive(Debug, Error)]
pub enum ApiFailure {
    /// The bus can't be used by this version, or as it is set up.
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Relay(#[from] RelayStartError),
    #[error("the HTTP server broke: {0}")]
    Http(#[from] std::io::Error),
}

/// Serves `listener` until `shutdown`; queries are answered from `database`, or from memory without.
///
/// # Errors
/// When the process can't go on.
pub async fn run(
    config: Config,
    database: Option<Database>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ApiFailure> {
    let open = async { tokio::try_join!(connect(&config, "api"), connect(&config, "relay")) };
    let (bus, relay) = tokio::select! {
        opened = open => opened?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let service = Service::new(&bus, &shutdown);
    let (broken, failed) = oneshot::channel();
    let beginning = Beginning {
        replica: Some(config.replica.clone()),
        ..config.beginning.clone()
    };
    let rows = database.as_ref().map(|database| database.rows.clone());
    service.fold_journal(beginning, rows, broken);
    let state = service.start(&config, &relay, database).await?;
    let address = listener.local_addr()?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    info!(http.address = %address, replica.name = config.replica, "serving {scheme}://{address}");
    let (hosts, origins) = (config.hosts.clone(), config.cors_origins.clone());
    let policy = OriginPolicy::new(address, config.tls.clone(), hosts, origins);
    let serving = server::serve(
        listener,
        config.tls.clone(),
        http::router(state.clone(), policy),
        http::refusal(state),
        config.server.clone(),
        shutdown.clone(),
    );
    let current = async {
        match &config.tls {
            Some(tls) => tls.keep_current().await,
            None => pending().await,
        }
    };
    let ended = tokio::select! {
        served = serving => served.map_err(ApiFailure::from),
        never = current => match never {},
        Ok(error) = failed => Err(error.into()),
        () = stopped_for_too_long(&shutdown) => {
            warn!("cut off requests that did not end in time");
            Ok(())
        }
    };
    shutdown.cancel();
    service.served.cancel();
    service.tasks.close();
    if tokio::time::timeout(STOP_WAIT, service.tasks.wait())
        .await
        .is_err()
    {
        warn!("tasks were still running at the end");
    }
    ended
}

async fn connect(config: &Config, purpose: &str) -> Result<Connection, BusError> {
    let name = format!("reveille {purpose} {}", config.replica);
    Connection::open(&config.nats.named(&name).reporting(&config.journal_health)).await
}

/// What the rows show of a journal that NATS doesn't have, as a clause. Rows that can't be read now show nothing.
async fn in_the_rows(rows: &dyn Rows, journal: &Journal) -> Option<String> {
    if journal.last_sequence().await.is_ok_and(|last| last > 0) {
        return None;
    }
    let applied = tokio::time::timeout(ROWS_WAIT, rows.applied()).await.ok()?.ok()?;
    (applied > 0).then(|| {
        format!("the database has its commits up to {applied} (`reveille journal export --from-postgres` writes them to a file)")
    })
}

async fn stopped_for_too_long(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(STOP_WAIT).await;
}

/// What the process's tasks share.
struct Service {
    bus: Connection,
    registry: Registry,
    commands: Commands,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Cancelled once no request is served any longer.
    served: CancellationToken,
}

impl Service {
    fn new(bus: &Connection, shutdown: &CancellationToken) -> Self {
        let registry = Registry::default();
        Self {
            bus: bus.clone(),
            commands: Commands {
                journal: Journal::of(bus),
                clock: NatsClock::default(),
                metrics: Metrics::default(),
                registry: registry.clone(),
            },
            registry,
            tasks: TaskTracker::new(),
            shutdown: shutdown.clone(),
            served: CancellationToken::new(),
        }
    }

    /// Runs `task` until the process stops.
    fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) {
        let stop = self.shutdown.clone();
        self.tasks
            .spawn(async move { stop.run_until_cancelled(task).await });
    }

    async fn start(
        &self,
        config: &Config,
        relay: &Connection,
        database: Option<Database>,
    ) -> Result<AppState, ApiFailure> {
        let (registry, commands, presence) = (&self.registry, &self.commands, Presence::default());
        self.count_wakes();
        let refusals = &commands.metrics.refusals;
        let heartbeats = HeartbeatWatch::new(&self.bus, &config.replica, commands.clock.clone(), refusals);
        let (heard, fold) = (presence.clone(), registry.clone());
        self.spawn(async move { heard.run(heartbeats, &fold).await });
        let wakes = Wakes::new(
            registry.clone(),
            commands.clone(),
            self.bus.client().clone(),
            self.tasks.clone(),
            &config.replica,
            config.max_waiting,
        );
        let control = Control {
            registry: registry.clone(),
            commands: commands.clone(),
            wakes: wakes.clone(),
            client: self.bus.client().clone(),
        };
        self.spawn(Sweeper::new(control.clone(), presence).run());
        self.answer_agents(control);
        let agent_auth = self.authenticate_agents(config.agent_auth.clone());

        let relay_client =
            RelayClient::start(relay.client().clone(), &config.replica, RelayLimits::default()).await?;
        let (rows, requests) = database
            .map(|database| (database.rows, database.requests))
            .unzip();
        let rows = rows.unwrap_or_else(|| {
            Arc::new(JournalRows {
                memory: registry.rows(),
                journal: commands.journal.clone(),
                recalled: self.recall_wakes(),
            })
        });
        let (folded, clock) = (registry.clone(), commands.clock.clone());
        let authenticator = Authenticator::new(
            config.auth,
            config.root_key.as_ref(),
            registry.keys().clone(),
            move || folded.is_ready(),
            move || clock.try_now(),
        );
        let clock = commands.clock.clone();
        let recorder = Recorder::new(&config.replica, move || clock.try_now());
        let past_requests = Arc::new(self.remember_requests(&recorder, requests));
        let services = AppServices {
            registry: registry.clone(),
            waker: Arc::new(wakes),
            relay: Arc::new(relay_client),
            admin: Arc::new(commands.clone()),
            metrics: commands.metrics.clone(),
            rows,
            feed: Arc::new(JournalFeed::new(
                &self.bus,
                commands.journal.clone(),
                self.shutdown.clone(),
            )),
            past: Arc::new(commands.journal.clone()),
            readiness: self.readiness(relay, agent_auth, config.own_agent.clone()),
            hub_id: self.hub_id(),
            authenticator,
            agent_hub: config.agent_hub.clone(),
            default_model: config.default_model.clone(),
            own_agent: config.own_agent.clone(),
            recorder,
            past_requests,
        };
        Ok(AppState::new(
            services,
            HttpLimits::of(config.max_body, config.max_waiting),
        ))
    }

    /// Tells the stream of requests what `recorder` has, and fills the recorder with what the stream has.
    fn remember_requests(
        &self,
        recorder: &Recorder,
        postgres: Option<Arc<dyn PastRequests>>,
    ) -> EveryRequest {
        let log = RequestLog::of(&self.bus);
        let (registry, publishing) = (
            self.registry.clone(),
            requests::publish(recorder.clone(), log.clone(), self.served.clone()),
        );
        let served = self.served.clone();
        self.tasks.spawn(async move {
            // A hub without a journal gets no stream of requests either.
            if served.run_until_cancelled(registry.ready()).await.is_some() {
                publishing.await;
            }
        });
        self.spawn(requests::follow(recorder.clone(), log.clone()));
        EveryRequest {
            recorder: recorder.clone(),
            postgres,
            log: Some(log),
        }
    }

    /// Folds the journal; a failure, after which nothing works, goes to `broken`.
    fn fold_journal(
        &self,
        mut beginning: Beginning,
        rows: Option<Arc<dyn Rows>>,
        broken: oneshot::Sender<BusError>,
    ) {
        let (bus, registry, journal) = (
            self.bus.clone(),
            self.registry.clone(),
            self.commands.journal.clone(),
        );
        self.spawn(async move {
            if beginning.evidence.is_none()
                && let Some(rows) = rows
            {
                beginning.evidence = in_the_rows(rows.as_ref(), &journal).await;
            }
            let follower = Follower::guarding(&bus, Follow::Latest, beginning);
            let Err(error) = registry.run(follower).await;
            let _ = broken.send(error);
        });
    }

    /// Counts the wakes that keys started before the fold began: the fold begins with the last commit of each aggregate.
    fn count_wakes(&self) {
        let (registry, commands) = (self.registry.clone(), self.commands.clone());
        self.spawn(async move {
            // Before, there may be no journal to count in.
            registry.ready().await;
            let keys = registry.keys();
            let count = || async {
                let now = commands.now().await?;
                keys.quota().count(&commands.journal, now).await
            };
            let every = ConstantBuilder::new()
                .with_delay(COUNT_AGAIN)
                .without_max_times();
            loop {
                keys.quota().uncounted().await;
                let counted = count.retry(every).notify(|error, _| {
                    warn!(%error, "can't count the wakes of the last hour yet: keys with a wake limit start none");
                });
                let _ = counted.await;
            }
        });
    }

    /// Fills the rows in memory with the wakes from before the fold began, whenever one has begun. It goes on behind a start
    /// that is ready by then. The receiver tells which fold has them.
    fn recall_wakes(&self) -> watch::Receiver<Option<LoadedAt>> {
        let (done, recalled) = watch::channel(None);
        let (registry, journal) = (self.registry.clone(), self.commands.journal.clone());
        self.spawn(async move {
            let rows = registry.rows();
            loop {
                registry.ready().await;
                let loaded_at = rows.loaded_at();
                let recall = || history::recall_wakes(&journal, &rows, loaded_at);
                let every = ConstantBuilder::new().with_delay(COUNT_AGAIN).without_max_times();
                let recalled = recall.retry(every).notify(
                    |error, _| warn!(%error, "can't read the wakes from before the start yet, trying again"),
                );
                let _ = recalled.await;
                done.send_replace(Some(loaded_at));
                registry.another_fold(loaded_at).await;
            }
        });
        recalled
    }

    /// Answers agents once the fold includes what they published before.
    fn answer_agents(&self, control: Control) {
        let (tasks, stop) = (self.tasks.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            if stop.run_until_cancelled(control.registry.ready()).await.is_none() {
                return;
            }
            match ControlRequests::subscribe(&control.client, &control.commands.metrics.refusals).await {
                Ok(requests) => {
                    control::serve(control, requests, &tasks, &stop).await;
                }
                Err(error) => error!(%error, "can't answer agents"),
            }
        });
    }

    /// Answers for the keys of agents, if that is this replica's to do; the receiver tells whether it does by now.
    fn authenticate_agents(&self, config: Option<AgentAuth>) -> watch::Receiver<bool> {
        let answers = watch::Sender::new(config.is_none());
        let answering = answers.subscribe();
        let Some(AgentAuth {
            issuer,
            system,
            trusted,
            ended,
        }) = config
        else {
            return answering;
        };
        let names = trusted.iter().map(|(agent, _)| agent.clone());
        self.registry.agents().admit_at_start(names);
        let (registry, commands, bus, stop) = (
            self.registry.clone(),
            self.commands.clone(),
            self.bus.clone(),
            self.shutdown.clone(),
        );
        self.tasks.spawn(async move {
            let refusals = &commands.metrics.refusals;
            let opened = async {
                registry.ready().await;
                admission::trust(&commands, trusted).await;
                admission::end(&commands, &registry, ended).await;
                AuthRequests::subscribe(bus.client(), issuer, refusals).await
            };
            let opened = async {
                let requests = opened.await?;
                Ok::<_, BusError>((requests, EnrollRequests::subscribe(bus.client(), refusals).await?))
            };
            match stop.run_until_cancelled(opened).await {
                Some(Ok((requests, joins))) => {
                    answers.send_replace(true);
                    tokio::join!(
                        admission::answer(requests, &registry, refusals, &stop),
                        enrollment::serve(joins, &commands, &registry, refusals, &stop),
                    );
                }
                Some(Err(error)) => error!(%error, "can't authenticate agents"),
                None => {}
            }
        });
        let Some(system) = system else {
            warn!("this replica has no system key: a revoked agent stays connected until it disconnects");
            return answering;
        };
        let registry = self.registry.clone();
        self.spawn(async move {
            match Connection::open(&system.named("reveille agent auth")).await {
                Ok(connection) => admission::revoke_connections(&connection, &registry).await,
                Err(error) => error!(%error, "a revoked agent stays connected until it disconnects"),
            }
        });
        answering
    }

    /// The hub's id, which the guarding follower learns from the journal.
    fn hub_id(&self) -> Box<dyn Fn() -> Option<HubId> + Send + Sync> {
        let journal = self.commands.journal.health().clone();
        Box::new(move || journal.hub())
    }

    fn readiness(
        &self,
        relay: &Connection,
        agent_auth: watch::Receiver<bool>,
        own_agent: CancellationToken,
    ) -> Box<dyn Fn() -> Readiness + Send + Sync> {
        let (registry, clock) = (self.registry.clone(), self.commands.clock.clone());
        let journal = self.commands.journal.health().clone();
        let connections = [self.bus.clone(), relay.clone()];
        Box::new(move || Readiness {
            registry: registry.is_ready(),
            nats: connections.iter().all(Connection::is_connected),
            clock: clock.try_now().is_some(),
            agent_auth: *agent_auth.borrow(),
            agent: own_agent.is_cancelled(),
            trouble: journal.unusable(),
        })
    }
}
