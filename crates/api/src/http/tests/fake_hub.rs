//! The process behind the HTTP API, as a test scripts it: the fold is the real one, wakes and backends do what they are told.

use crate::{
    commands::{Admin, AgentCommandAt, Forgotten, KeyCommandAt},
    history::Past,
    inference::{Relay, RequestBody, Reserved, ResponseBody},
    metrics::Metrics,
    registry::{Registry, tests::entry},
    wakes::{SleepError, WakeError, WakeTicket, Waker, Woken},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use reveille_bus::{
    BusError, CommandError, Executed, Followed, HubId, JournalTrouble,
    relay::{DroppedFrames, RelayError, RelayFault, RelayStats, RequestHead, ResponseHead},
};
use reveille_domain::{
    Agent, AgentEvent, AgentName, AgentRejection, Epoch, Failures, Key, KeyId, KeyRejection, ModelName,
    Provider, ProviderId, ProviderSpec, RecipeKind, Rejection, ReportId, ReportSeq, SessionId, Status,
    Timestamp, Wake, WakeCause, WakeId, WakeSpec,
    as_of::{Known, Moment, World},
    provider::{Gone, InactiveReason, Registered, StableStatus, WakeCounts},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// Where the journal is when a test begins.
const FIRST_SEQUENCE: u64 = 41;

/// What the relay does with the next request.
pub(super) enum Reply {
    /// A response whose body is there.
    Whole(u16, &'static str, Bytes),
    /// The same, compressed in this way.
    Compressed(u16, &'static str, &'static str, Bytes),
    /// A response that comes in pieces.
    Pieces(u16, &'static str, Vec<Result<Bytes, RelayError>>),
    /// A response that begins with a piece and then makes no progress.
    Stalls(&'static str, Bytes),
    /// No response.
    Fails(RelayError),
    /// The agent says that the backend slept; its report arrives in the fold a moment later.
    Asleep(ReportId),
    /// Nothing, until the request is cancelled.
    Hangs,
}

/// A request that was handed to the relay.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub agent: AgentName,
    pub epoch: Epoch,
    pub head: RequestHead,
    pub body: Bytes,
}

impl Sent {
    /// The id that the backend gets.
    pub fn request_id(&self) -> String {
        let id = self.head.headers.iter().find(|(name, _)| name == "x-request-id");
        id.expect("an id").1.clone()
    }
}

#[derive(Default)]
pub(super) struct FakeHub {
    /// How many bytes of requests have come.
    pub uploaded: AtomicUsize,
    pub registry: Registry,
    pub metrics: Metrics,
    /// The hub's id, once the journal was found.
    pub id: Mutex<Option<HubId>>,
    /// Cancelled once the agent of the same process has published its providers.
    pub own_agent: CancellationToken,
    sequence: AtomicU64,
    replies: Mutex<VecDeque<Reply>>,
    sent: Mutex<Vec<Sent>>,
    refuses: Mutex<Option<WakeError>>,
    refuses_one: Mutex<HashMap<ProviderId, WakeError>>,
    failures: watch::Sender<Option<WakeError>>,
    /// The only provider whose wakes fail, if not all do.
    failing: Mutex<Option<ProviderId>>,
    /// What is wrong with the journal.
    pub trouble: Mutex<Option<JournalTrouble>>,
    /// Why and of whom wakes were requested, in order.
    requested: Mutex<Vec<(ProviderId, WakeCause)>>,
    made: Mutex<HashMap<KeyId, Key>>,
    enrolled: Mutex<HashMap<AgentName, Agent>>,
    pub stopped: AtomicUsize,
    /// Whether the relay has no memory for another response.
    pub full: watch::Sender<bool>,
    /// How many seconds have passed.
    pub secs: AtomicU64,
    pub slept: AtomicUsize,
    /// The provider whose agent refuses to put it to sleep.
    pub stays_awake: Mutex<Option<ProviderId>>,
    pub open: Arc<AtomicUsize>,
}

pub(super) fn id(text: &str) -> ProviderId {
    text.parse().expect("a provider's id")
}

pub(super) fn active() -> Status {
    Status::Active {
        since_ms: Timestamp::from_millis(1_000),
        woken_by: None,
    }
}

pub(super) fn hibernating() -> Status {
    Status::Hibernating {
        since_ms: Timestamp::from_millis(1_000),
    }
}

pub(super) fn down() -> Status {
    Status::Down {
        since_ms: Timestamp::from_millis(1_000),
    }
}

pub(super) fn inactive() -> Status {
    let reason = InactiveReason::AgentLost;
    Status::Inactive {
        since_ms: Timestamp::from_millis(1_000),
        reason,
        was: StableStatus::Active,
    }
}

fn waking() -> Status {
    let wake = Wake {
        id: WakeId(uuid::Uuid::now_v7()),
        cause: WakeCause::Operator { key: None },
        requested_at_ms: Timestamp::from_millis(2_000),
        deadline_ms: Timestamp::from_millis(67_000),
    };
    Status::Waking { wake }
}

impl FakeHub {
    pub fn new() -> Self {
        let hub = Self::starting();
        hub.own_agent.cancel();
        hub
    }

    /// Its own agent hasn't published anything.
    pub fn starting() -> Self {
        let hub = Self::default();
        let sequence = FIRST_SEQUENCE;
        hub.registry.follow(&Followed::CaughtUp { sequence });
        hub.sequence.store(sequence, Ordering::SeqCst);
        hub
    }

    /// NATS time.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis((1_764_000_000 + self.secs.load(Ordering::SeqCst)) * 1000)
    }

    /// Publishes a provider of one model.
    pub fn publish(&self, provider: &str, model: &str, status: Status) {
        let wake = Some(WakeSpec {
            kind: RecipeKind::Http,
            budget_ms: 60_000,
        });
        let models = vec![ModelName::parse(model).expect("a model")];
        self.commit(Provider::Registered(Registered {
            id: id(provider),
            spec: ProviderSpec::new(models, wake, true).expect("a spec"),
            epoch: Epoch(7),
            last_seq: ReportSeq(1),
            heard_at_ms: Timestamp::from_millis(1_000),
            status,
            failures: Failures::default(),
            wakes: vec![],
            counts: WakeCounts::default(),
        }));
    }

    /// The agent of a published provider begins its next session, which publishes nothing at first.
    pub fn begin_session(&self, agent: &str, epoch: Epoch) {
        let name = AgentName::parse(agent).expect("legal");
        let connected = AgentEvent::AgentConnected {
            name: name.clone(),
            session: SessionId(uuid::Uuid::now_v7()),
            epoch,
            version: "0.1.0".to_owned(),
            at_ms: Timestamp::from_millis(2_000),
        };
        let state = Agent::default().evolve(&connected);
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        let agents = self.registry.agents();
        agents.take(&name, &state, &[connected], sequence);
    }

    /// A later state of the provider is folded.
    pub fn change(&self, provider: &str, change: impl FnOnce(&mut Registered)) {
        let mut provider = self
            .registry
            .get(&id(provider))
            .expect("published")
            .provider
            .clone();
        change(&mut provider);
        self.commit(Provider::Registered(provider));
    }

    /// The provider is no longer published.
    pub fn withdraw(&self, provider: &str) {
        self.commit(Provider::Gone(Gone {
            id: id(provider),
            epoch: Epoch(7),
            last_seq: ReportSeq(1),
            since_ms: Timestamp::from_millis(2_000),
            wakes: vec![],
            counts: WakeCounts::default(),
        }));
    }

    /// The journal is being read from its beginning.
    pub fn forget_everything(&self) {
        self.registry.follow(&Followed::Reset);
    }

    fn commit(&self, provider: Provider) {
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        commit_at(&self.registry, sequence, provider);
    }

    pub fn replies(&self, replies: impl IntoIterator<Item = Reply>) {
        self.replies.lock().extend(replies);
    }

    /// Refuses every wake from now on with this error.
    pub fn refuse(&self, error: WakeError) {
        *self.refuses.lock() = Some(error);
    }

    /// Refuses every wake of one provider from now on with this error.
    pub fn refuse_one(&self, provider: &str, error: WakeError) {
        self.refuses_one.lock().insert(id(provider), error);
    }

    /// Fails every wake in flight with this error.
    pub fn fail_wakes(&self, error: WakeError) {
        self.failures.send_replace(Some(error));
    }

    /// Fails the wakes in flight of one provider with this error.
    pub fn fail_wakes_of(&self, provider: &str, error: WakeError) {
        *self.failing.lock() = Some(id(provider));
        self.fail_wakes(error);
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().clone()
    }

    /// Why each wake was requested.
    pub fn causes(&self) -> Vec<WakeCause> {
        self.requested
            .lock()
            .iter()
            .map(|(_, cause)| cause.clone())
            .collect()
    }

    /// Whose wakes were requested, in order.
    pub fn asked_of(&self) -> Vec<ProviderId> {
        self.requested.lock().iter().map(|(id, _)| id.clone()).collect()
    }

    pub fn asked(&self) -> usize {
        self.requested.lock().len()
    }

    /// Waits for a condition of this hub.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + super::LONG;
        while !condition(self) {
            assert!(Instant::now() < deadline, "never came: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn request_wake(&self, id: &ProviderId, cause: WakeCause) -> Result<(), WakeError> {
        self.requested.lock().push((id.clone(), cause));
        if let Some(error) = self.refuses.lock().clone() {
            return Err(error);
        }
        if let Some(error) = self.refuses_one.lock().get(id) {
            return Err(error.clone());
        }
        let snapshot = self
            .registry
            .get(id)
            .ok_or_else(|| WakeError::Unknown { provider: id.clone() })?;
        if matches!(snapshot.provider.status, Status::Hibernating { .. }) {
            self.change(&id.to_string(), |provider| provider.status = waking());
        }
        Ok(())
    }
}

fn commit_at(registry: &Registry, sequence: u64, provider: Provider) {
    let id = match &provider {
        Provider::Registered(provider) => provider.id.clone(),
        Provider::Gone(gone) => gone.id.clone(),
        Provider::Unregistered => unreachable!("tests publish before anything else"),
    };
    registry.follow(&Followed::Commit(entry(&id, sequence, provider, vec![])));
}

struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(hub: &FakeHub) -> Self {
        hub.open.fetch_add(1, Ordering::SeqCst);
        Self(hub.open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Waker for FakeHub {
    async fn ensure_awake(
        &self,
        id: &ProviderId,
        cause: WakeCause,
        until: Instant,
    ) -> Result<Woken, WakeError> {
        self.request_wake(id, cause)?;
        let unknown = || WakeError::Unknown { provider: id.clone() };
        let mut states = self.registry.watch(id).ok_or_else(unknown)?;
        let wake_id = states.borrow().provider.status.wake().map(|wake| wake.id);
        let mut failures = self.failures.subscribe();
        tokio::select! {
            state = states.wait_for(|state| matches!(state.provider.status, Status::Active { .. })) => {
                Ok(Woken { snapshot: state.map_err(|_| unknown())?.clone(), wake_id })
            }
            failure = failures.wait_for(|failure| {
                failure.is_some() && self.failing.lock().as_ref().is_none_or(|failing| failing == id)
            }) => {
                Err(failure.expect("a failure").clone().expect("a failure"))
            }
            () = tokio::time::sleep_until(until) => {
                Err(WakeError::CallerTimedOut { provider: id.clone(), wake_id, spent: super::LONG, left: None })
            }
        }
    }

    async fn begin(&self, id: &ProviderId, cause: WakeCause) -> Result<WakeTicket, WakeError> {
        self.request_wake(id, cause)?;
        let snapshot = self.registry.get(id).expect("published");
        Ok(WakeTicket {
            wake: snapshot.provider.status.wake().cloned(),
            sequence: snapshot.sequence,
        })
    }

    async fn sleep(&self, id: &ProviderId) -> Result<(), SleepError> {
        if self.stays_awake.lock().as_ref() == Some(id) {
            return Err(SleepError::Refused {
                provider: id.clone(),
                reason: "its owner has paused it".to_owned(),
            });
        }
        self.slept.fetch_add(1, Ordering::SeqCst);
        let snapshot = self.registry.get(id);
        snapshot
            .map(|_| ())
            .ok_or_else(|| SleepError::Unknown(id.clone()))
    }

    fn waiting(&self, _: &ProviderId) -> usize {
        3
    }

    fn trouble(&self) -> Option<JournalTrouble> {
        self.trouble.lock().clone()
    }
}

/// A journal whose last commits are those of the fold.
#[async_trait]
impl Past for FakeHub {
    async fn as_of(&self, moment: Moment) -> Result<World, BusError> {
        let Moment::Sequence(sequence) = moment else {
            return Err(BusError::Unavailable("only sequences are known here".to_owned()));
        };
        let mut world = World {
            sequence,
            ..World::default()
        };
        let known = self.registry.all();
        for snapshot in known.iter().filter(|known| known.sequence <= sequence) {
            let known = Known {
                sequence: snapshot.sequence,
                state: Provider::Registered(snapshot.provider.clone()),
            };
            world.providers.insert(snapshot.provider.id.clone(), known);
        }
        Ok(world)
    }
}

#[async_trait]
impl Admin for FakeHub {
    async fn key(
        &self,
        id: &KeyId,
        _: &'static str,
        command: KeyCommandAt,
    ) -> Result<Executed<Key>, CommandError<KeyRejection>> {
        let mut made = self.made.lock();
        let key = made.entry(id.clone()).or_default();
        let events = key.decide(&command(self.now())).map_err(CommandError::Rejected)?;
        *key = events.iter().fold(std::mem::take(key), Key::evolve);
        let sequence = self.registry.applied();
        self.registry.keys().take(key, sequence);
        Ok(Executed {
            state: key.clone(),
            events,
            sequence,
        })
    }

    async fn agent(
        &self,
        agent: &AgentName,
        _: &'static str,
        command: AgentCommandAt,
    ) -> Result<Executed<Agent>, CommandError<AgentRejection>> {
        let mut enrolled = self.enrolled.lock();
        let state = enrolled.entry(agent.clone()).or_default();
        let events = state
            .decide(&command(self.now()))
            .map_err(CommandError::Rejected)?;
        *state = events.iter().fold(std::mem::take(state), Agent::evolve);
        let sequence = self.registry.applied();
        self.registry.agents().take(agent, state, &events, sequence);
        Ok(Executed {
            state: state.clone(),
            events,
            sequence,
        })
    }

    async fn stop_providers(&self, _: &AgentName, _: &'static str, _: Epoch) {
        self.stopped.fetch_add(1, Ordering::SeqCst);
    }

    async fn forget_providers(
        &self,
        _: &AgentName,
        _: &'static str,
    ) -> Result<Forgotten, CommandError<Rejection>> {
        Ok(Forgotten::default())
    }
}

#[async_trait]
impl Relay for FakeHub {
    fn stats(&self) -> RelayStats {
        let dropped = DroppedFrames {
            other_agent: 3,
            ..DroppedFrames::default()
        };
        RelayStats {
            in_flight: 4,
            dropped,
        }
    }

    async fn reserve<'a>(&'a self, by: Instant) -> Result<Box<dyn Reserved + 'a>, RelayError> {
        let mut full = self.full.subscribe();
        let has_room = tokio::time::timeout_at(by, full.wait_for(|full| !full)).await;
        has_room.map_err(|_| RelayError::Overloaded)?.expect("it goes on");
        Ok(Box::new(self))
    }
}

#[async_trait]
impl Reserved for &FakeHub {
    async fn send(
        self: Box<Self>,
        agent: &AgentName,
        epoch: Epoch,
        head: RequestHead,
        body: RequestBody,
    ) -> Result<(ResponseHead, ResponseBody), RelayError> {
        let provider = ProviderId::new(agent.clone(), head.provider.clone());
        let length = body.len();
        let pieces = body.pieces().inspect(|piece| {
            self.uploaded.fetch_add(piece.len(), Ordering::SeqCst);
        });
        let body = pieces.collect::<Vec<_>>().await.concat();
        if body.len() < length {
            // The agent waits for the rest.
            return std::future::pending().await;
        }
        self.sent.lock().push(Sent {
            agent: agent.clone(),
            epoch,
            head,
            body: body.into(),
        });
        let open = Open::new(&self);
        let reply = self.replies.lock().pop_front().expect("a reply was scripted");
        let head = |status, kind: &str| ResponseHead {
            status,
            headers: vec![
                ("content-type".to_owned(), kind.to_owned()),
                ("set-cookie".to_owned(), "secret".to_owned()),
                ("server".to_owned(), "backend".to_owned()),
                ("retry-after".to_owned(), "3600".to_owned()),
                ("x-ratelimit-limit-requests".to_owned(), "9".to_owned()),
            ],
        };
        let (head, pieces) = match reply {
            Reply::Whole(status, kind, bytes) => {
                return Ok((head(status, kind), ResponseBody::Whole(bytes)));
            }
            Reply::Compressed(status, kind, encoding, bytes) => {
                let mut head = head(status, kind);
                head.headers
                    .push(("content-encoding".to_owned(), encoding.to_owned()));
                return Ok((head, ResponseBody::Whole(bytes)));
            }
            Reply::Pieces(status, kind, pieces) => {
                // Each piece comes on its own, as from a network, and an end that breaks off right behind the last.
                let pieces = stream::iter(pieces).then(async |piece| {
                    if piece.is_ok() {
                        tokio::task::yield_now().await;
                    }
                    piece
                });
                (head(status, kind), pieces.boxed())
            }
            Reply::Stalls(kind, first) => {
                let pieces = stream::iter([Ok(first)]).chain(stream::pending());
                (head(200, kind), pieces.boxed())
            }
            Reply::Fails(error) => return Err(error),
            Reply::Asleep(report) => {
                let registry = self.registry.clone();
                let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let mut slept = registry.get(&provider).expect("published").provider.clone();
                    slept.last_seq = report.seq;
                    slept.status = hibernating();
                    commit_at(&registry, sequence, Provider::Registered(slept));
                });
                return Err(RelayFault::asleep("it slept", report).into());
            }
            Reply::Hangs => {
                let () = std::future::pending().await;
                drop(open);
                unreachable!("it hangs")
            }
        };
        let pieces = pieces.inspect(move |_| {
            let _held = &open;
        });
        Ok((head, ResponseBody::Pieces(pieces.boxed())))
    }
}
