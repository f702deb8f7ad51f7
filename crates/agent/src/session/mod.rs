//! One run of an agent: it connects with its own session, publishes its providers, sends heartbeats, and passes wakes, orders
//! and requests on to the owners and the relay.

mod connect;
mod providers;

use crate::{
    AgentError,
    child::ChildrenLock,
    config::{Config, ProviderConfig, changes, fixed_keys, millis},
    hub::{Hub, NatsHub, Superseded},
    models::Memory,
    own_hub::OwnHub,
    owner_policy::{OwnerPolicy, Pause, PauseTaken, PauseWatch, PutToSleep},
    provider::{Groups, Handle, Input, ReportNumbers, Setup, SleepResult},
    recipe::Runner,
    relay::Relay,
    reload::{self, Reload, ReloadEvent, ReloadProgress, Reloads, how_to_restart},
    state_dir::{InUse, Running, StateDir},
};
use futures::future::{BoxFuture, OptionFuture};
use providers::{Providers, Shared};
use reveille_bus::{
    Connection, NatsAccess, NatsServer,
    access::{NatsKey, Role},
    control::{ControlAnswer, ControlRequest},
    heartbeats::{self, Heartbeat, ProviderPulse},
    orders::{Order, OrderAnswer, Orders, ReceivedOrder},
    relay::{CurrentEpoch, RelayLimits, RelayServer, RelayServerHandle},
    wakes::{WakeMessage, Wakes},
};
use reveille_domain::{AgentName, Epoch, ProviderName, SessionId, counted};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

/// After this many missed heartbeats an agent counts as lost.
const SILENT_HEARTBEATS: u32 = 3;
/// How long requests in flight may take to finish when the agent stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How often that is checked.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// How long control may take to acknowledge the stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long a heartbeat that tells the hub of a pause may take to leave.
const TELL_LIMIT: Duration = Duration::from_secs(2);

/// How long another process that runs this agent may take to end, if it is about to.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// How often that is checked.
const ENDS_LOOK: Duration = Duration::from_millis(50);

/// What an agent runs with.
#[derive(Debug, Clone)]
pub struct Options {
    pub config: Config,
    /// From the command line or the config.
    pub nats: NatsServer,
    /// This agent's key; `None` for a hub that needs none.
    pub key: Option<NatsKey>,
    /// The state directory. Without one, the agent forgets everything at a restart and can't be paused.
    pub state_dir: Option<PathBuf>,
    /// Where the config is read again; without it, it can't be.
    pub reload: Option<Reload>,
}

/// Runs an agent until `shutdown`, and then stops cleanly: requests in flight may finish for a while, recipes and served
/// backends end, and control learns of it. Calls `connected` once control has accepted the session. The process must have
/// installed a TLS provider.
///
/// # Errors
/// When it can't run, or another process has taken its name.
pub async fn run(
    options: Options,
    connected: impl FnOnce(),
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    match shutdown.run_until_cancelled(Session::begin(options)).await {
        None => Ok(()),
        Some(session) => {
            let session = session?;
            connected();
            session.run(&shutdown).await
        }
    }
}

struct Session {
    id: SessionId,
    agent: AgentName,
    connection: Connection,
    relay_connection: Connection,
    generation: watch::Receiver<u64>,
    hub: Arc<dyn Hub>,
    epoch: CurrentEpoch,
    own_hub: OwnHub,
    superseded: watch::Receiver<Option<Superseded>>,
    wakes: Wakes,
    orders: Orders,
    heartbeat_every: Duration,
    heartbeats: Interval,
    providers: Providers,
    /// The config that is used now.
    config: Config,
    owner_policy: OwnerPolicy,
    reloads: Reloads,
    pauses: PauseWatch,
    /// Where what has become of a pause is written.
    state: Option<StateDir>,
    /// What was written last.
    taken: Option<PauseTaken>,
    /// Notified when something has become of an attempt to put a backend to sleep.
    sleep_changes: Arc<Notify>,
    relay: RelayServerHandle,
    reconnecting: Option<BoxFuture<'static, ControlAnswer>>,
    tasks: TaskTracker,
    stop_owners: CancellationToken,
    stop_relay: CancellationToken,
    _in_use: Option<InUse>,
    /// Keeps other processes from running this agent.
    _running: Option<InUse>,
}

impl Session {
    async fn begin(options: Options) -> Result<Self, AgentError> {
        let Options {
            config,
            nats,
            key,
            state_dir,
            reload,
        } = options;
        let (agent, heartbeat_every) = (config.agent.name.clone(), config.agent.heartbeat);
        let state = state_dir.map(StateDir::new);
        let running = match &state {
            Some(state) => run_here(state, &agent).await?,
            None => None,
        };
        let in_use = state.as_ref().and_then(in_use);
        let children = state.as_ref().and_then(|state| ChildrenLock::of(state, &agent));
        let nats = NatsAccess {
            server: nats,
            role: Role::Agent(agent.clone()),
            key,
        };
        let connection = Connection::open(&nats.named(&format!("agent {agent}"))).await?;
        let relay_connection = Connection::open(&nats.named(&format!("agent {agent} relay"))).await?;
        let mut generation = connection.generation();
        generation.borrow_and_update();
        // Subscribed before control knows of the session, so that nothing is missed.
        let wakes = Wakes::subscribe(connection.client(), &agent).await?;
        let orders = Orders::subscribe(connection.client(), &agent).await?;
        let (superseded_sender, superseded) = watch::channel(None);
        let epoch = CurrentEpoch::default();

        let hub: Arc<dyn Hub> = Arc::new(NatsHub::new(connection.clone(), agent.clone()));
        let id = SessionId(Uuid::now_v7());
        let own_hub = OwnHub::default();
        let (current, known) = {
            let asked = hub.ask(connect::request(id));
            let answer = or_revoked(&connection, asked).await?;
            connect::accepted(answer, &agent, &own_hub)?
        };
        info!(agent.name = %agent, agent.epoch = %current, "{agent} is connected");
        connect::withdraw(hub.as_ref(), current, known, &config.providers).await;
        epoch.set(Some(current));
        // Not earlier: a request for the session before would come here and be dropped, and its sender would wait for nothing.
        // While nobody listens, it hears so at once, and sends the request again.
        let server = RelayServer::start(
            relay_connection.client().clone(),
            agent.clone(),
            epoch.clone(),
            RelayLimits::default(),
        )
        .await?;

        // Control has ended an earlier session of this name by now.
        let work = state.as_ref().and_then(work);
        let runner = Arc::new(Runner::new(&config.providers, children, work)?);
        let stop_owners = CancellationToken::new();
        let memory = Memory::open(state.clone(), &agent);
        let owner_policy = OwnerPolicy::new(state.clone(), config.agent.quiet_hours.clone());
        let relay = Arc::new(Relay::new(agent.clone(), own_hub.clone(), memory.clone()));
        let sleep_changes = Arc::new(Notify::new());
        let setup = {
            let (agent, hub, epoch) = (agent.clone(), hub.clone(), epoch.clone());
            let (groups, reports) = (Groups::default(), ReportNumbers::default());
            let (owner_policy, state) = (owner_policy.clone(), state.clone());
            let (own_hub, sleep_changes) = (own_hub.clone(), sleep_changes.clone());
            move |config: ProviderConfig| Setup {
                agent: agent.clone(),
                config,
                runner: runner.clone(),
                hub: hub.clone(),
                epoch: epoch.clone(),
                own_hub: own_hub.clone(),
                memory: memory.clone(),
                groups: groups.clone(),
                owner_policy: owner_policy.clone(),
                state: state.clone(),
                reports: reports.clone(),
                sleep_changes: sleep_changes.clone(),
                superseded: superseded_sender.clone(),
            }
        };
        let (tasks, stop_relay) = (TaskTracker::new(), CancellationToken::new());
        let shared = Shared {
            setup: Box::new(setup),
            relay: relay.clone(),
            hub: hub.clone(),
            epoch: epoch.clone(),
            tasks: tasks.clone(),
            stop: stop_owners.clone(),
        };
        let providers = Providers::start(shared, config.providers.clone())?;
        let (reloads, asked) = Reloads::new(reload);
        if let Some(state) = &state {
            listen_for_reloads(state, &agent, asked, &tasks, stop_owners.clone());
        }
        let handle = server.handle();
        tasks.spawn(serve(server, relay, tasks.clone(), stop_relay.clone()));
        Ok(Self {
            id,
            agent,
            connection,
            relay_connection,
            generation,
            hub,
            epoch,
            own_hub,
            superseded,
            wakes,
            orders,
            heartbeat_every,
            heartbeats: every(heartbeat_every),
            providers,
            config,
            owner_policy,
            reloads,
            pauses: PauseWatch::new(state.clone()),
            state,
            taken: None,
            sleep_changes,
            relay: handle,
            reconnecting: None,
            tasks,
            stop_owners,
            stop_relay,
            _in_use: in_use,
            _running: running,
        })
    }

    async fn run(mut self, shutdown: &CancellationToken) -> Result<(), AgentError> {
        let connection = self.connection.clone();
        let mut revoked = std::pin::pin!(connection.revoked());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.stop().await;
                    return Ok(());
                }
                () = &mut revoked => return self.fail(AgentError::Revoked).await,
                wake = self.wakes.next() => match wake {
                    Some(wake) => self.wake(wake),
                    None => return self.fail(AgentError::Closed).await,
                },
                order = self.orders.next() => match order {
                    Some(order) => {
                        if let Some(current) = self.order(order) {
                            let agent = self.agent.clone();
                            return self.fail(AgentError::Superseded { agent, current }).await;
                        }
                    }
                    None => return self.fail(AgentError::Closed).await,
                },
                _ = self.heartbeats.tick() => {
                    self.send_heartbeat().await;
                }
                change = self.pauses.changed() => {
                    if let Some(wanted) = change.sleep {
                        self.providers.rest(wanted);
                    }
                    self.take_pause().await;
                }
                () = self.sleep_changes.notified() => {
                    self.heartbeats.reset_immediately();
                    self.note_sleep();
                }
                (progress, read) = self.reloads.next() => self.reload(read, &progress),
                () = self.providers.next_left() => {}
                Ok(()) = self.generation.changed() => {
                    self.reconnect();
                    self.heartbeats.reset_immediately();
                }
                Some(answer) = OptionFuture::from(self.reconnecting.as_mut()) => {
                    self.reconnecting = None;
                    if connect::is_restored(&answer) {
                        self.begin_again();
                    } else if let Err(error) = self.reconnected(answer) {
                        return self.fail(error).await;
                    }
                }
                Ok(()) = self.superseded.changed() => {
                    let by = *self.superseded.borrow_and_update();
                    if let Some(by) = by.filter(|by| self.is_behind(by.current)) {
                        if let Some(ended) = self.ended(by) {
                            return self.fail(ended).await;
                        }
                        self.begin_again();
                    }
                }
            }
        }
    }

    /// Connects with the same session: control may have counted it as lost, or have lost it.
    fn reconnect(&mut self) {
        self.reconnecting = Some(self.hub.ask(connect::request(self.id)));
    }

    /// Connects with a new session, since a restore of the journal has ended this one. Backends and recipes run on, and
    /// everything is reported again.
    fn begin_again(&mut self) {
        info!(agent.name = %self.agent, "{} begins a new session: the hub has restored its journal, or had forgotten the agent", self.agent);
        self.epoch.set(None);
        self.id = SessionId(Uuid::now_v7());
        self.reconnect();
    }

    /// The error with which this process ends; `None` if it may begin a new session.
    fn ended(&self, by: Superseded) -> Option<AgentError> {
        match by {
            Superseded { restored: true, .. } => None,
            Superseded { revoked: true, .. } => Some(AgentError::Revoked),
            Superseded { current, .. } => Some(AgentError::Superseded {
                agent: self.agent.clone(),
                current,
            }),
        }
    }

    /// Whether `current` is later than this session. While a new one begins, that is for its connect to find out.
    fn is_behind(&self, current: Epoch) -> bool {
        self.epoch.get().is_some_and(|own| own < current)
    }

    fn wake(&self, wake: WakeMessage) {
        match self.providers.find(&wake.provider.provider) {
            Some(provider) => provider.send(Input::Wake(wake)),
            None => debug!(provider.name = %wake.provider, "ignored a wake of an unknown provider"),
        }
    }

    /// Carries out an order. Returns the epoch of a later session if the order says that there is one.
    fn order(&mut self, ordered: ReceivedOrder) -> Option<Epoch> {
        let (own, sent_to) = (self.epoch.get()?, ordered.order.epoch);
        let answer = match &ordered.order.order {
            Order::Superseded => return (sent_to > own).then_some(sent_to),
            Order::Reconnect => {
                if self.reconnecting.is_none() && sent_to != own {
                    self.reconnect();
                }
                return None;
            }
            _ if sent_to != own => refused("the order is for another session"),
            Order::Resume { providers } => {
                for provider in providers.iter().filter_map(|name| self.providers.find(name)) {
                    provider.send(Input::Resume);
                }
                OrderAnswer::Taken
            }
            Order::Sleep { provider } => match self.providers.find(provider).cloned() {
                Some(provider) => {
                    self.tasks.spawn(async move {
                        let answer = provider
                            .sleep()
                            .await
                            .map_or_else(refused, |()| OrderAnswer::Taken);
                        ordered.answer(&answer).await;
                    });
                    return None;
                }
                None if self.providers.is_restarting(provider) => {
                    refused("the agent is just restarting this provider with another config")
                }
                None => refused("the agent has no such provider"),
            },
        };
        self.tasks.spawn(async move { ordered.answer(&answer).await });
        None
    }

    /// Takes up the config that was read, if it can be used.
    fn reload(&mut self, read: Result<Config, String>, progress: &ReloadProgress) {
        let agent = &self.agent;
        let usable = read.and_then(|config| {
            let fixed = fixed_keys(&self.config.agent, &config.agent);
            match fixed.is_empty() {
                true => Ok(config),
                false => Err(format!(
                    "the agent must be restarted for another {}: {}",
                    fixed.join(", "),
                    how_to_restart()
                )),
            }
        });
        match usable {
            Ok(config) => self.take_up(config, progress),
            Err(reason) => {
                error!(agent.name = %agent, "the config was not reloaded, and nothing has changed: {reason}");
                progress.report(ReloadEvent::Refused { reason });
            }
        }
    }

    fn take_up(&mut self, config: Config, progress: &ReloadProgress) {
        self.config.providers = self.providers.configs();
        let changes = changes(&self.config, &config);
        let heartbeat = config.agent.heartbeat;
        let mut agent_keys = Vec::new();
        if heartbeat != self.heartbeat_every {
            (self.heartbeat_every, self.heartbeats) = (heartbeat, every(heartbeat));
            agent_keys.push("heartbeat".to_owned());
        }
        if config.agent.quiet_hours != self.config.agent.quiet_hours {
            self.owner_policy
                .set_quiet_hours(config.agent.quiet_hours.clone());
            self.heartbeats.reset_immediately();
            agent_keys.push("quiet_hours".to_owned());
        }
        let kept = config
            .providers
            .iter()
            .filter(|provider| !changes.contains_key(&provider.name));
        let unchanged = kept.count();
        info!(
            agent.name = %self.agent, agent.changed = changes.len(), agent.unchanged = unchanged,
            "reloaded the config: {} to change, {unchanged} unchanged", counted(changes.len(), "provider")
        );
        progress.report(ReloadEvent::Accepted {
            unchanged,
            agent_keys,
        });
        self.providers
            .reload(&changes, config.providers.clone(), progress);
        self.config = config;
    }

    fn reconnected(&self, answer: ControlAnswer) -> Result<(), AgentError> {
        let (current, _) = connect::accepted(answer, &self.agent, &self.own_hub)?;
        info!(agent.name = %self.agent, agent.epoch = %current, "{} is connected again", self.agent);
        self.epoch.set(Some(current));
        self.providers.reconnected();
        Ok(())
    }

    /// Sends a pause, or its end, to the hub, and then tells whoever waits for that on this machine.
    async fn take_pause(&mut self) {
        let left = async { self.send_heartbeat().await && self.connection.client().flush().await.is_ok() };
        let hub_told = timeout(TELL_LIMIT, left).await.unwrap_or(false);
        if !self.pauses.is_known() {
            // Whoever has changed it waits for no answer to that.
            self.taken = None;
            return;
        }
        let pause = self.pauses.current();
        self.write_taken(PauseTaken {
            agent: self.agent.clone(),
            pause,
            hub_told,
            providers: self.put_to_sleep(pause),
        });
    }

    /// Writes what has become of the providers that the pause puts to sleep, if that has changed.
    fn note_sleep(&mut self) {
        let Some(taken) = &self.taken else { return };
        let providers = self.put_to_sleep(taken.pause);
        if providers != taken.providers {
            let taken = PauseTaken {
                providers,
                ..taken.clone()
            };
            self.write_taken(taken);
        }
    }

    fn put_to_sleep(&self, pause: Option<Pause>) -> BTreeMap<ProviderName, PutToSleep> {
        let handles = self.providers.handles();
        let handles = handles.filter(|_| pause.is_some_and(Pause::sleep));
        let result = |handle: &Handle| {
            let result = match handle.last_sleep.result()? {
                SleepResult::Pending => PutToSleep::Pending,
                SleepResult::Asleep => PutToSleep::Asleep,
                SleepResult::Awake(reason) => PutToSleep::Awake { reason },
            };
            Some((handle.name.clone(), result))
        };
        handles.filter_map(result).collect()
    }

    fn write_taken(&mut self, taken: PauseTaken) {
        if let Some(state) = &self.state
            && let Err(error) = taken.write(state)
        {
            warn!(%error, "`reveille agent pause` can't be answered: {}", state.path().display());
        }
        self.taken = Some(taken);
    }

    /// Returns whether one was sent: without an epoch there is none.
    async fn send_heartbeat(&mut self) -> bool {
        let Some(heartbeat) = self.heartbeat() else {
            return false;
        };
        let sent = heartbeats::send(self.connection.client(), &heartbeat).await;
        if let Err(error) = &sent {
            debug!(%error, "can't send a heartbeat");
        }
        sent.is_ok()
    }

    fn heartbeat(&self) -> Option<Heartbeat> {
        let silent_after = self.heartbeat_every * SILENT_HEARTBEATS;
        let pulse = |provider: &Handle| ProviderPulse {
            provider: provider.name.clone(),
            availability: provider.gate.availability(),
            in_flight: provider.gate.in_flight(),
            stays_awake: provider.last_sleep.stays_awake(),
        };
        Some(Heartbeat {
            agent: self.agent.clone(),
            session: self.id,
            epoch: self.epoch.get()?,
            silent_after_ms: millis(silent_after),
            refusal: self.owner_policy.refused(),
            providers: self.providers.handles().map(pulse).collect(),
        })
    }

    async fn stop(mut self) {
        info!(agent.name = %self.agent, "{} stops", self.agent);
        self.relay.stop_accepting();
        let patience = Instant::now() + DRAIN_LIMIT;
        while self.relay.in_flight() > 0 && Instant::now() < patience {
            tokio::select! {
                () = sleep(DRAIN_LOOK) => {}
                // It must not count as lost before it has said that it stops.
                _ = self.heartbeats.tick() => {
                    self.send_heartbeat().await;
                }
            }
        }
        self.stop_owners.cancel();
        let told = async {
            let Some(epoch) = self.epoch.get() else { return };
            if timeout(STOP_LIMIT, self.hub.ask(ControlRequest::Stop { epoch }))
                .await
                .is_err()
            {
                warn!(agent.name = %self.agent, "control didn't acknowledge that {} stops", self.agent);
            }
        };
        self.stop_relay.cancel();
        self.tasks.close();
        tokio::join!(told, self.tasks.wait());
    }

    /// Ends everything without telling control, which talks to another session now or can't be reached.
    async fn fail(self, error: AgentError) -> Result<(), AgentError> {
        self.epoch.set(None);
        self.stop_owners.cancel();
        self.stop_relay.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // The process may go on with a hub.
        self.connection.give_up();
        self.relay_connection.give_up();
        Err(error)
    }
}

/// Control's answer, unless the hub says on the way to it that this agent was revoked.
async fn or_revoked(
    connection: &Connection,
    asked: BoxFuture<'static, ControlAnswer>,
) -> Result<ControlAnswer, AgentError> {
    tokio::select! {
        answer = asked => Ok(answer),
        () = connection.revoked() => Err(AgentError::Revoked),
    }
}

/// Makes sure that no other process runs this agent. One that is just ending is waited for.
async fn run_here(state: &StateDir, agent: &AgentName) -> Result<Option<InUse>, AgentError> {
    let until = Instant::now() + ENDS_WITHIN;
    loop {
        match state.run_here(agent) {
            Ok(Running::Here(here)) => return Ok(Some(here)),
            Ok(Running::Elsewhere(_)) if Instant::now() < until => sleep(ENDS_LOOK).await,
            Ok(Running::Elsewhere(process)) => {
                let agent = agent.clone();
                return Err(AgentError::Running { agent, process });
            }
            // The folder's use is warned of.
            Err(error) => {
                debug!(%error, "can't tell whether another process runs this agent");
                return Ok(None);
            }
        }
    }
}

/// Shows `reveille agent pause` that this agent runs.
fn in_use(state: &StateDir) -> Option<InUse> {
    let used = state.use_it();
    used.inspect_err(
        |error| warn!(%error, "can't use {}: nothing will be remembered at the next start", state.path().display()),
    )
    .ok()
}

fn work(state: &StateDir) -> Option<PathBuf> {
    let work = state.work();
    work.inspect_err(
        |error| warn!(%error, "can't make a folder for commands in {}: they run in the agent's own", state.path().display()),
    )
    .ok()
}

/// Lets `reveille agent reload` reach the session until `stop`.
fn listen_for_reloads(
    state: &StateDir,
    agent: &AgentName,
    session: mpsc::Sender<ReloadProgress>,
    tasks: &TaskTracker,
    stop: CancellationToken,
) {
    match reload::listen(state, agent, session) {
        Ok(listening) => {
            tasks.spawn(async move { stop.run_until_cancelled(listening).await });
        }
        Err(error) => {
            warn!(%error, "`reveille agent reload` can't reach this agent, only SIGHUP can");
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Serves each request in its own task.
async fn serve(mut server: RelayServer, relay: Arc<Relay>, tasks: TaskTracker, stop: CancellationToken) {
    // Dropping the server at the end cancels open requests, so that their tasks end too.
    while let Some(Some(incoming)) = stop.run_until_cancelled(server.next()).await {
        let relay = relay.clone();
        tasks.spawn(async move { relay.serve(incoming).await });
    }
}

fn refused(reason: impl Into<String>) -> OrderAnswer {
    OrderAnswer::Refused {
        reason: reason.into(),
    }
}
