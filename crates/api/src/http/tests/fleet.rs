//! Providers that do what a test says.

use crate::{
    identities::{Identities, KnownAgent},
    inference::{AgentCommandAt, Fleet, KeyCommandAt, Relayed, RelayedBody},
    keys::Keys,
    metrics::Metrics,
    registry::Known,
    wakes::{Begun, SleepError, WakeError, Woken},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use reveille_bus::{
    CommandError, Executed,
    relay::{DroppedFrames, RelayError, RelayStats, RequestHead, ResponseHead},
};
use reveille_domain::{
    Agent, AgentName, AgentRejection, Epoch, Failures, Key, KeyId, KeyRejection, ModelName, ProviderId,
    ProviderSpec, RecipeKind, ReportId, ReportSeq, Status, Timestamp, Wake, WakeCause, WakeId, WakeSpec,
    provider::{InactiveReason, Registered, StableStatus, WakeCounts},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::{sync::watch, time::Instant};

/// What the relay does with the next request.
pub(super) enum Reply {
    /// A response whose body is there.
    Whole(u16, &'static str, Bytes),
    /// A response that comes in pieces.
    Pieces(u16, &'static str, Vec<Result<Bytes, RelayError>>),
    /// A response that begins with a piece and then stands still.
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

#[derive(Default)]
pub(super) struct ScriptedFleet {
    pub metrics: Metrics,
    slots: Mutex<BTreeMap<ProviderId, watch::Sender<Arc<Known>>>>,
    replies: Mutex<VecDeque<Reply>>,
    sent: Mutex<Vec<Sent>>,
    refuses: Mutex<Option<WakeError>>,
    refuses_one: Mutex<HashMap<ProviderId, WakeError>>,
    failures: watch::Sender<Option<WakeError>>,
    causes: Mutex<Vec<WakeCause>>,
    asked_of: Mutex<Vec<ProviderId>>,
    made: Mutex<HashMap<KeyId, Key>>,
    pub keys: Keys,
    enrolled: Mutex<HashMap<AgentName, Agent>>,
    pub identities: Identities,
    pub stopped: AtomicUsize,
    /// How many seconds have passed.
    pub secs: AtomicU64,
    pub not_ready: AtomicBool,
    pub asked: AtomicUsize,
    pub slept: AtomicUsize,
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

impl ScriptedFleet {
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
        let provider = Registered {
            id: id(provider),
            spec: ProviderSpec::new(models, wake, true).expect("a spec"),
            epoch: Epoch(7),
            last_seq: ReportSeq(1),
            heard_at_ms: Timestamp::from_millis(1_000),
            status,
            failures: Failures::default(),
            wakes: vec![],
            counts: WakeCounts::default(),
        };
        let known = Arc::new(Known {
            sequence: 1,
            provider,
            unreadable: None,
        });
        let mut slots = self.slots.lock().expect("lock");
        slots.insert(known.provider.id.clone(), watch::Sender::new(known));
    }

    /// A later state of the provider is folded.
    pub fn change(&self, provider: &str, change: impl FnOnce(&mut Registered)) {
        let slots = self.slots.lock().expect("lock");
        slots[&id(provider)].send_modify(|known| {
            let known = Arc::make_mut(known);
            known.sequence += 1;
            change(&mut known.provider);
        });
    }

    /// Nobody publishes the provider any more.
    pub fn withdraw(&self, provider: &str) {
        self.slots.lock().expect("lock").remove(&id(provider));
    }

    pub fn replies(&self, replies: impl IntoIterator<Item = Reply>) {
        self.replies.lock().expect("lock").extend(replies);
    }

    /// Every wake from now on is refused so.
    pub fn refuse(&self, error: WakeError) {
        *self.refuses.lock().expect("lock") = Some(error);
    }

    /// Every wake of one provider from now on is refused so.
    pub fn refuse_one(&self, provider: &str, error: WakeError) {
        let mut refuses = self.refuses_one.lock().expect("lock");
        refuses.insert(id(provider), error);
    }

    /// Every wake in flight fails so.
    pub fn fail_wakes(&self, error: WakeError) {
        self.failures.send_replace(Some(error));
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().expect("lock").clone()
    }

    /// Why each wake was asked for.
    pub fn causes(&self) -> Vec<WakeCause> {
        self.causes.lock().expect("lock").clone()
    }

    /// Whose wakes were asked for, in order.
    pub fn asked_of(&self) -> Vec<ProviderId> {
        self.asked_of.lock().expect("lock").clone()
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits for a condition of this fleet.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + super::LONG;
        while !condition(self) {
            assert!(Instant::now() < deadline, "never came: {what}");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    fn slot(&self, id: &ProviderId) -> Option<watch::Receiver<Arc<Known>>> {
        self.slots
            .lock()
            .expect("lock")
            .get(id)
            .map(watch::Sender::subscribe)
    }

    async fn begin_wake(&self, id: &ProviderId, cause: WakeCause) -> Result<(), WakeError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.causes.lock().expect("lock").push(cause);
        self.asked_of.lock().expect("lock").push(id.clone());
        if let Some(error) = self.refuses.lock().expect("lock").clone() {
            return Err(error);
        }
        if let Some(error) = self.refuses_one.lock().expect("lock").get(id) {
            return Err(error.clone());
        }
        let known = self
            .get(id)
            .ok_or_else(|| WakeError::Unknown { provider: id.clone() })?;
        if matches!(known.provider.status, Status::Hibernating { .. }) {
            self.change(&id.to_string(), |provider| provider.status = waking());
        }
        Ok(())
    }
}

struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(fleet: &ScriptedFleet) -> Self {
        fleet.open.fetch_add(1, Ordering::SeqCst);
        Self(fleet.open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Fleet for ScriptedFleet {
    fn is_ready(&self) -> bool {
        !self.not_ready.load(Ordering::SeqCst)
    }

    fn pool(&self, model: &str) -> Vec<Arc<Known>> {
        let publishes = |known: &Arc<Known>| {
            let provider = &known.provider;
            provider
                .spec
                .models()
                .iter()
                .any(|m| m.as_str() == model || format!("{}/{m}", provider.id.agent) == model)
        };
        self.all().into_iter().filter(publishes).collect()
    }

    fn get(&self, id: &ProviderId) -> Option<Arc<Known>> {
        self.slot(id).map(|slot| slot.borrow().clone())
    }

    fn all(&self) -> Vec<Arc<Known>> {
        self.slots
            .lock()
            .expect("lock")
            .values()
            .map(|slot| slot.borrow().clone())
            .collect()
    }

    fn nearest(&self, _: &str, allowed: &dyn Fn(&str) -> bool) -> Vec<String> {
        self.all()
            .iter()
            .flat_map(|known| known.provider.spec.models())
            .map(ToString::to_string)
            .filter(|name| allowed(name))
            .collect()
    }

    fn watch(&self, id: &ProviderId) -> Option<watch::Receiver<Arc<Known>>> {
        self.slot(id)
    }

    fn applied(&self) -> u64 {
        41
    }

    async fn applied_to(&self, sequence: u64, _: Instant) -> bool {
        sequence <= self.applied()
    }

    async fn ensure_awake(
        &self,
        id: &ProviderId,
        cause: WakeCause,
        until: Instant,
    ) -> Result<Woken, WakeError> {
        self.begin_wake(id, cause).await?;
        let mut slot = self.slot(id).expect("published");
        let wake_id = slot.borrow().provider.status.wake().map(|wake| wake.id);
        let mut failures = self.failures.subscribe();
        tokio::select! {
            known = slot.wait_for(|known| matches!(known.provider.status, Status::Active { .. })) => {
                Ok(Woken { known: known.expect("published").clone(), wake_id })
            }
            failure = failures.wait_for(Option::is_some) => {
                Err(failure.expect("a failure").clone().expect("a failure"))
            }
            () = tokio::time::sleep_until(until) => {
                Err(WakeError::CallerTimedOut { provider: id.clone(), wake_id, spent: super::LONG, left: None })
            }
        }
    }

    async fn begin(&self, id: &ProviderId, cause: WakeCause) -> Result<Begun, WakeError> {
        self.begin_wake(id, cause).await?;
        let known = self.get(id).expect("published");
        Ok(Begun {
            wake: known.provider.status.wake().cloned(),
            sequence: known.sequence,
        })
    }

    async fn sleep(&self, id: &ProviderId) -> Result<(), SleepError> {
        self.slept.fetch_add(1, Ordering::SeqCst);
        self.get(id)
            .map(|_| ())
            .ok_or_else(|| SleepError::Unknown(id.clone()))
    }

    fn waiting(&self, _: &ProviderId) -> usize {
        3
    }

    async fn key(
        &self,
        id: &KeyId,
        _: &'static str,
        command: KeyCommandAt,
    ) -> Result<Executed<Key>, CommandError<KeyRejection>> {
        let mut made = self.made.lock().expect("lock");
        let key = made.entry(id.clone()).or_default();
        let events = key.decide(&command(self.now())).map_err(CommandError::Rejected)?;
        *key = events.iter().fold(std::mem::take(key), Key::evolve);
        self.keys.take(key, self.applied());
        Ok(Executed {
            state: key.clone(),
            events,
            sequence: self.applied(),
        })
    }

    fn agents(&self) -> Vec<(AgentName, Arc<KnownAgent>)> {
        self.identities.all()
    }

    async fn agent(
        &self,
        agent: &AgentName,
        _: &'static str,
        command: AgentCommandAt,
    ) -> Result<Executed<Agent>, CommandError<AgentRejection>> {
        let mut enrolled = self.enrolled.lock().expect("lock");
        let state = enrolled.entry(agent.clone()).or_default();
        let events = state
            .decide(&command(self.now()))
            .map_err(CommandError::Rejected)?;
        *state = events.iter().fold(std::mem::take(state), Agent::evolve);
        self.identities.take(agent, state, self.applied());
        Ok(Executed {
            state: state.clone(),
            events,
            sequence: self.applied(),
        })
    }

    async fn stop_providers(&self, _: &AgentName, _: &'static str, _: Epoch) {
        self.stopped.fetch_add(1, Ordering::SeqCst);
    }

    fn unreadable(&self) -> usize {
        2
    }

    fn relay_stats(&self) -> RelayStats {
        let dropped = DroppedFrames {
            other_agent: 3,
            ..DroppedFrames::default()
        };
        RelayStats {
            in_flight: 4,
            dropped,
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    async fn relay(
        &self,
        agent: &AgentName,
        epoch: Epoch,
        head: RequestHead,
        body: Bytes,
        _: Instant,
    ) -> Result<Relayed, RelayError> {
        let provider = ProviderId::new(agent.clone(), head.provider.clone());
        self.sent.lock().expect("lock").push(Sent {
            agent: agent.clone(),
            epoch,
            head,
            body,
        });
        let open = Open::new(self);
        let reply = self
            .replies
            .lock()
            .expect("lock")
            .pop_front()
            .expect("a reply was scripted");
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
        match reply {
            Reply::Whole(status, kind, bytes) => Ok(Relayed {
                head: head(status, kind),
                body: RelayedBody::Whole(bytes),
            }),
            Reply::Pieces(status, kind, pieces) => {
                // Each piece comes on its own, as from a network.
                let pieces = stream::iter(pieces).then(async |piece| {
                    tokio::task::yield_now().await;
                    piece
                });
                let pieces = pieces.map(move |piece| {
                    let _held = &open;
                    piece
                });
                Ok(Relayed {
                    head: head(status, kind),
                    body: RelayedBody::Pieces(pieces.boxed()),
                })
            }
            Reply::Stalls(kind, first) => {
                let pieces = stream::iter([Ok(first)])
                    .chain(stream::pending())
                    .map(move |piece| {
                        let _held = &open;
                        piece
                    });
                Ok(Relayed {
                    head: head(200, kind),
                    body: RelayedBody::Pieces(pieces.boxed()),
                })
            }
            Reply::Fails(error) => Err(error),
            Reply::Asleep(report) => {
                let slots = self.slots.lock().expect("lock");
                let slot = slots[&provider].clone();
                tokio::spawn(async move {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    slot.send_modify(|known| {
                        let known = Arc::make_mut(known);
                        known.sequence += 1;
                        known.provider.last_seq = report.seq;
                        known.provider.status = hibernating();
                    });
                });
                Err(reveille_bus::relay::RelayFault::asleep("it slept", report).into())
            }
            Reply::Hangs => {
                let () = std::future::pending().await;
                drop(open);
                unreachable!("it hangs")
            }
        }
    }
}
