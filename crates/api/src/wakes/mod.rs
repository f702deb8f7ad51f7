//! Waking: many requests, one wake. A waiter registers first and requests the wake then; its wait ends once the fold has
//! passed the command's sequence and the wake is no longer in flight, so it misses no outcome. A waiter that disconnects
//! never cancels the wake's recipe.
//!
//! Each replica tells the provider's agent whether somebody here wants the wake: with every message, and at once when the first
//! waiter comes or the last one leaves. While the wake only waits for its group, the agent ends it as `not_needed` once no replica
//! wants it. A waiter whose wake ends so has come too late for it, and requests the next one.

mod deadlines;
mod error;
mod times;
mod waiter;
mod waiters;

pub(crate) use error::{SleepError, WakeError, hide_models};
pub(crate) use times::{WakeTimes, now_ms, time_left, time_until_awake};

use crate::{
    commands::Commands,
    keys::Reservation,
    registry::{ProviderSnapshot, Registry},
};
use async_nats::Client;
use async_trait::async_trait;
use deadlines::Deadlines;
use error::{held, refused};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use reveille_bus::{
    JournalTrouble,
    orders::{self, AddressedOrder, Order, OrderAnswer},
    wakes::{self, WakeMessage},
};
use reveille_domain::{
    ProviderCommand, ProviderEvent, ProviderId, Status, Wake, WakeCause, WakeId, provider::Registered,
};
use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info};
use uuid::Uuid;
use waiter::{WaitState, Waiter};
use waiters::Waiters;

/// How many requests may wait for one provider in one replica by default.
pub const MAX_WAITING: usize = 16_384;
/// How long a caller waits for a wake whose end the journal can't record.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(10);
/// How long the result of a request is shared while the fold doesn't show it yet.
const FOLD_WAIT: Duration = Duration::from_secs(1);

/// Wakes providers, and puts them to sleep. A port, so that its callers can be tested without NATS.
#[async_trait]
pub(crate) trait Waker: Send + Sync {
    /// Waits until the provider is active, joining the wake in flight or requesting one for `cause`. `until` ends only this
    /// caller's wait.
    async fn ensure_awake(
        &self,
        id: &ProviderId,
        cause: WakeCause,
        until: Instant,
    ) -> Result<Woken, WakeError>;

    /// Requests a wake, or joins the one in flight, without waiting for its end.
    async fn begin(&self, id: &ProviderId, cause: WakeCause) -> Result<WakeTicket, WakeError>;

    /// Orders the provider's agent to put its backend to sleep.
    async fn sleep(&self, id: &ProviderId) -> Result<(), SleepError>;

    /// How many requests wait for the provider in this replica.
    fn waiting(&self, id: &ProviderId) -> usize;

    /// Why the journal can't record what happens to providers, if it can't.
    fn trouble(&self) -> Option<JournalTrouble>;
}

/// Wakes providers through the journal and their agents. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Wakes {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    commands: Commands,
    client: Client,
    tasks: TaskTracker,
    waiters: Waiters,
    deadlines: Deadlines,
    /// The name of this replica.
    replica: String,
    requests: Mutex<HashMap<ProviderId, SharedRequest>>,
}

type SharedRequest = Shared<BoxFuture<'static, Result<WakeTicket, WakeError>>>;

/// The result of a wake request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WakeTicket {
    /// The wake in flight; `None` if the provider was awake already.
    pub wake: Option<Wake>,
    /// The journal sequence of the provider's last commit then.
    pub sequence: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Woken {
    /// The provider as it is now.
    pub snapshot: Arc<ProviderSnapshot>,
    /// The wake that ended; `None` if the provider was awake already.
    pub wake_id: Option<WakeId>,
}

#[async_trait]
impl Waker for Wakes {
    async fn ensure_awake(
        &self,
        id: &ProviderId,
        cause: WakeCause,
        until: Instant,
    ) -> Result<Woken, WakeError> {
        let begun = Instant::now();
        let unknown = || WakeError::Unknown { provider: id.clone() };
        let mut states = self.inner.registry.watch(id).ok_or_else(unknown)?;
        let _slot = self.wait_for(id)?;
        let mut waiter = Waiter {
            provider: id.clone(),
            begun,
            wake: None,
            past: 0,
            recorded_by: None,
        };
        let health = self.inner.commands.journal.health();
        let mut stuck = pin!(health.until_troubled_for(JOURNAL_PATIENCE));
        loop {
            let snapshot = states.borrow_and_update().clone();
            if snapshot.sequence >= waiter.past {
                match waiter.look(&self.inner.registry, &snapshot)? {
                    WaitState::Awake => {
                        return Ok(Woken {
                            wake_id: waiter.wake,
                            snapshot,
                        });
                    }
                    WaitState::Waking => {
                        self.announce_waiter(&snapshot);
                        self.bound(&mut waiter, snapshot.provider.status.wake());
                    }
                    WaitState::Asleep => {
                        let request = self.request_once(id, cause.clone())?;
                        let answered = tokio::time::timeout_at(until, request).await;
                        let ticket = answered.map_err(|_| waiter.timed_out(&snapshot))?;
                        let ticket = ticket.map_err(|error| error.after(waiter.begun.elapsed()))?;
                        waiter.began(&ticket);
                        self.bound(&mut waiter, ticket.wake.as_ref());
                        continue;
                    }
                }
            }
            tokio::select! {
                changed = states.changed() => {
                    changed.map_err(|_| waiter.withdrawn(self.inner.registry.is_ready()))?;
                }
                trouble = &mut stuck => return Err(WakeError::Journal(trouble)),
                () = tokio::time::sleep_until(waiter.waits_until(until)) => {
                    return Err(waiter.gave_up(&snapshot, until));
                }
            }
        }
    }

    async fn begin(&self, id: &ProviderId, cause: WakeCause) -> Result<WakeTicket, WakeError> {
        if self.inner.registry.get(id).is_none() {
            return Err(WakeError::Unknown { provider: id.clone() });
        }
        let ticket = self.request_once(id, cause)?.await?;
        if let Some(wake) = &ticket.wake {
            self.inner.waiters.order(id, wake.id);
            self.tell(id);
        }
        Ok(ticket)
    }

    async fn sleep(&self, id: &ProviderId) -> Result<(), SleepError> {
        let snapshot = self
            .inner
            .registry
            .get(id)
            .ok_or_else(|| SleepError::Unknown(id.clone()))?;
        let order = AddressedOrder {
            epoch: snapshot.provider.epoch,
            order: Order::Sleep {
                provider: id.provider.clone(),
            },
        };
        match orders::send(&self.inner.client, &id.agent, &order).await {
            Ok(OrderAnswer::Taken) => Ok(()),
            Ok(OrderAnswer::Refused { reason }) => Err(SleepError::Refused {
                provider: id.clone(),
                reason,
            }),
            Err(error) => Err(SleepError::Unavailable(error.to_string())),
        }
    }

    fn waiting(&self, id: &ProviderId) -> usize {
        self.inner.waiters.count(id)
    }

    fn trouble(&self) -> Option<JournalTrouble> {
        self.inner.commands.journal.health().trouble()
    }
}

impl Wakes {
    pub(crate) fn new(
        registry: Registry,
        commands: Commands,
        client: Client,
        tasks: TaskTracker,
        replica: &str,
        max_waiting: usize,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                registry,
                deadlines: Deadlines::new(commands.clock.clone()),
                commands,
                client,
                tasks,
                waiters: Waiters::new(max_waiting),
                replica: replica.to_owned(),
                requests: Mutex::default(),
            }),
        }
    }

    /// The message about the wake in flight of `provider` for its agent; `None` without one, or before the time is known.
    pub(crate) fn message(&self, provider: &Registered, sequence: u64) -> Option<WakeMessage> {
        let wake = provider.status.wake()?;
        let left = self.inner.deadlines.time_left(wake)?;
        let by_request = matches!(wake.cause, WakeCause::Request { .. });
        let wanted = !by_request || self.inner.waiters.want(&provider.id, wake.id);
        Some(WakeMessage {
            provider: provider.id.clone(),
            wake_id: wake.id,
            epoch: provider.epoch,
            sequence,
            deadline_ms: wake.deadline_ms,
            now_ms: wake.deadline_ms.minus(left),
            awaited: by_request || self.waiting(&provider.id) > 0,
            wanted,
            replica: self.inner.replica.clone(),
        })
    }

    /// Whether the wake has passed its deadline.
    pub(crate) fn is_overdue(&self, wake: &Wake) -> bool {
        self.inner
            .deadlines
            .time_left(wake)
            .is_some_and(|left| left.is_zero())
    }

    /// Bounds the caller's wait by the wake that it waits for.
    fn bound(&self, waiter: &mut Waiter, wake: Option<&Wake>) {
        if let Some(wake) = wake
            && let Some(left) = self.inner.deadlines.time_left(wake)
        {
            waiter.bound(wake.id, left);
        }
    }

    /// Forgets the deadlines of wakes that aren't in flight any more.
    pub(crate) fn forget_ended(&self, all: &[Arc<ProviderSnapshot>]) {
        self.inner.deadlines.forget_ended(all);
    }

    /// At most one request at a time per provider and replica: callers that come meanwhile, and until the fold shows its
    /// result, share it. It runs to its end even when all of them have disconnected. Starting a wake needs quota; joining
    /// one doesn't.
    fn request_once(&self, id: &ProviderId, cause: WakeCause) -> Result<SharedRequest, WakeError> {
        let mut requests = self.inner.requests.lock();
        if let Some(request) = requests.get(id) {
            return Ok(request.clone());
        }
        let reservation = self.reserve(id, &cause)?;
        let (wakes, id_requested) = (self.clone(), id.clone());
        let request = async move {
            // Made here, so that a task that never runs does not take the lock that is held outside.
            let slot = RequestSlot {
                wakes,
                id: id_requested,
            };
            let ticket = slot.wakes.request(&slot.id, cause).await;
            if let Ok(ticket) = &ticket {
                let registry = &slot.wakes.inner.registry;
                registry
                    .applied_to(ticket.sequence, Instant::now() + FOLD_WAIT)
                    .await;
            }
            drop(reservation);
            ticket
        };
        let task = self.inner.tasks.spawn(request.in_current_span());
        let ended = |_| Err(WakeError::Unavailable("the wake request broke off".to_owned()));
        let shared = task
            .map(move |joined| joined.unwrap_or_else(ended))
            .boxed()
            .shared();
        requests.insert(id.clone(), shared.clone());
        Ok(shared)
    }

    fn reserve(&self, id: &ProviderId, cause: &WakeCause) -> Result<Option<Reservation>, WakeError> {
        let snapshot = self.inner.registry.get(id);
        let sleeps =
            snapshot.is_some_and(|snapshot| matches!(snapshot.provider.status, Status::Hibernating { .. }));
        let Some(key) = cause.key().filter(|_| sleeps) else {
            return Ok(None);
        };
        // Before the time is known, every remembered wake counts.
        let now = self.inner.commands.clock.try_now().unwrap_or_default();
        let reservation = self.inner.registry.keys().start_wake(key, now);
        reservation.map_err(|denied| WakeError::Quota {
            provider: id.clone(),
            denied,
        })
    }

    async fn request(&self, id: &ProviderId, cause: WakeCause) -> Result<WakeTicket, WakeError> {
        let wake_id = WakeId(Uuid::now_v7());
        let by = match &cause {
            WakeCause::Request { .. } => "request",
            WakeCause::Operator { .. } => "operator",
        };
        let in_flight = self.inner.registry.get(id);
        let in_flight = in_flight
            .as_ref()
            .and_then(|snapshot| snapshot.provider.status.wake());
        let overdue = in_flight.filter(|wake| self.is_overdue(wake)).map(|wake| wake.id);
        let allowed_at = self.inner.registry.get(id).and_then(|snapshot| {
            let refusals = self.inner.registry.owner_refusals();
            refusals.allowed_at(&id.agent, snapshot.provider.epoch)
        });
        let command = |at| ProviderCommand::RequestWake {
            wake_id,
            cause,
            overdue,
            allowed_at,
            at,
        };
        let done = self
            .inner
            .commands
            .provider(id, by, command)
            .await
            .map_err(|error| self.as_refused_now(refused(&self.inner.registry, id, error)))?;
        // Now, not when the fold gets there: until then it would not be counted.
        self.inner.registry.keys().quota().take(&done.events);
        let Some(provider) = done.state.registered() else {
            return Err(WakeError::Unknown { provider: id.clone() });
        };
        let began = |event: &ProviderEvent| matches!(event, ProviderEvent::WakeRequested { .. });
        if done.events.iter().any(began) {
            info!(provider.name = %id, wake.id = %wake_id, "waking {id}");
            self.inner.waiters.announce(id, wake_id);
            // Every sweep sends it again, in case the message is lost. Whoever asked wants it, waiting or not.
            let message = self.message(provider, done.sequence);
            self.send(message.map(|message| WakeMessage {
                wanted: true,
                ..message
            }));
        }
        match &provider.status {
            Status::Active { .. } | Status::Waking { .. } => Ok(WakeTicket {
                wake: provider.status.wake().cloned(),
                sequence: done.sequence,
            }),
            Status::Inactive { reason, .. } => Err(WakeError::Inactive {
                provider: id.clone(),
                absence: self.inner.registry.absence(&id.agent, *reason),
            }),
            Status::Down { .. } => Err(WakeError::NoRecipe { provider: id.clone() }),
            // The wake in flight had just passed its deadline, and its failures hold the next one back.
            Status::Hibernating { since_ms } => Err(held(id, provider, *since_ms)),
        }
    }

    /// The same error, with what the agent says now in the place of what its owner said a moment ago.
    fn as_refused_now(&self, mut error: WakeError) -> WakeError {
        if let WakeError::Failed {
            provider,
            wake_id: None,
            failure,
            ..
        } = &mut error
            && failure.is_by_whole_agent()
            && let Some(snapshot) = self.inner.registry.get(provider)
        {
            let refusals = self.inner.registry.owner_refusals();
            let now = refusals.of(&provider.agent, snapshot.provider.epoch);
            **failure = now.unwrap_or_else(|| (**failure).clone());
        }
        error
    }

    /// Counts a request that waits, until the slot is dropped.
    fn wait_for<'a>(&'a self, id: &'a ProviderId) -> Result<WaiterSlot<'a>, WakeError> {
        self.inner.waiters.enter(id)?;
        Ok(WaiterSlot { wakes: self, id })
    }

    /// Tells the agent, when the first waiter of this replica joins a wake, that it is wanted here.
    fn announce_waiter(&self, snapshot: &ProviderSnapshot) {
        let id = &snapshot.provider.id;
        if let Some(wake) = snapshot.provider.status.wake()
            && self.inner.waiters.announce(id, wake.id)
        {
            self.send(self.message(&snapshot.provider, snapshot.sequence));
        }
    }

    /// Tells the agent whether the wake in flight, if there is one, is wanted here.
    fn tell(&self, id: &ProviderId) {
        if let Some(snapshot) = self.inner.registry.get(id) {
            self.send(self.message(&snapshot.provider, snapshot.sequence));
        }
    }

    fn send(&self, message: Option<WakeMessage>) {
        let Some(message) = message else { return };
        let client = self.inner.client.clone();
        self.inner.tasks.spawn(async move {
            if let Err(error) = wakes::send(&client, &message).await {
                debug!(provider.name = %message.provider, %error, "the agent did not acknowledge the wake yet");
            }
        });
    }
}

/// One waiting request.
struct WaiterSlot<'a> {
    wakes: &'a Wakes,
    id: &'a ProviderId,
}

impl Drop for WaiterSlot<'_> {
    fn drop(&mut self) {
        if self.wakes.inner.waiters.leave(self.id) {
            self.wakes.tell(self.id);
        }
    }
}

/// The one request for a provider; whatever ends it, a panic included, the next one may begin.
struct RequestSlot {
    wakes: Wakes,
    id: ProviderId,
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.wakes.inner.requests.lock().remove(&self.id);
    }
}
