//! Waking: many requests, one wake. A waiter registers first, then the wake is asked for; it resolves once the fold has
//! passed the command's sequence and its wake is no longer in flight, so no outcome is missed. Whoever leaves takes
//! nothing with him: the wake goes on.

mod error;
mod times;
mod waited;

pub use error::{SleepError, WakeError};
pub use times::WakeTimes;
pub(crate) use times::{now_ms, time_left, time_until_awake};

use crate::{
    commands::Commands,
    keys::Reservation,
    registry::{Known, Registry},
};
use async_nats::Client;
use error::{held, refused};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use reveille_bus::{
    Executed,
    orders::{self, Addressed, Order, OrderAnswer},
    wakes::{self, WakeMessage},
};
use reveille_domain::{
    Provider, ProviderCommand, ProviderEvent, ProviderId, Status, Timestamp, Wake, WakeCause, WakeId,
    provider::Registered,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info};
use uuid::Uuid;
use waited::{Seen, Waited};

/// How many requests may wait for one provider in one replica, unless told otherwise.
pub const MAX_WAITING: usize = 1_024;
/// How long a question that is answered stays for others, while the fold doesn't show its answer.
const FOLD_WAIT: Duration = Duration::from_secs(1);

/// Brings providers up. Cheap to clone.
#[derive(Clone)]
pub struct Wakes {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    commands: Commands,
    client: Client,
    tasks: TaskTracker,
    max_waiting: usize,
    waiting: Mutex<HashMap<ProviderId, Waiting>>,
    asking: Mutex<HashMap<ProviderId, Asking>>,
}

/// The requests of this replica that wait for one provider.
#[derive(Default)]
struct Waiting {
    count: usize,
    /// The wake that its agent was told they wait for.
    told: Option<WakeId>,
}

type Asking = Shared<BoxFuture<'static, Result<Begun, WakeError>>>;

/// What a request to wake found.
#[derive(Debug, Clone, PartialEq)]
pub struct Begun {
    /// The wake in flight; `None` when the provider was awake already.
    pub wake: Option<Wake>,
    /// The journal sequence of the provider's last commit then.
    pub sequence: u64,
}

/// An active provider.
#[derive(Debug, Clone)]
pub struct Woken {
    /// The provider as it is now.
    pub known: Arc<Known>,
    /// The wake that was waited for; `None` when it was awake already.
    pub wake_id: Option<WakeId>,
}

impl Wakes {
    pub(crate) fn new(
        registry: Registry,
        commands: Commands,
        client: Client,
        tasks: TaskTracker,
        max_waiting: usize,
    ) -> Self {
        let (waiting, asking) = (Mutex::default(), Mutex::default());
        Self {
            inner: Arc::new(Inner {
                registry,
                commands,
                client,
                tasks,
                max_waiting,
                waiting,
                asking,
            }),
        }
    }

    /// Waits until the provider is active, joining the wake in flight or asking for one on behalf of `cause`.
    ///
    /// # Errors
    /// When it does not become active by `until`, which ends only this caller's wait.
    pub async fn ensure_awake(
        &self,
        id: &ProviderId,
        cause: WakeCause,
        until: Instant,
    ) -> Result<Woken, WakeError> {
        let begun = Instant::now();
        let unknown = || WakeError::Unknown { provider: id.clone() };
        let mut states = self.inner.registry.watch(id).ok_or_else(unknown)?;
        let _place = self.take_place(id)?;
        let mut waited = Waited {
            provider: id.clone(),
            begun,
            wake: None,
            past: 0,
        };
        loop {
            let known = states.borrow_and_update().clone();
            if known.sequence >= waited.past {
                match waited.look(&known)? {
                    Seen::Awake => {
                        return Ok(Woken {
                            wake_id: waited.wake,
                            known,
                        });
                    }
                    Seen::Waking => self.tell_of_waiter(&known),
                    Seen::Asleep => {
                        let asking = self.ask(id, cause.clone())?;
                        let asked = tokio::time::timeout_at(until, asking).await;
                        let begun = asked.map_err(|_| waited.timed_out(&known))?;
                        waited.began(&begun.map_err(|error| error.after(waited.begun.elapsed()))?);
                        continue;
                    }
                }
            }
            tokio::select! {
                changed = states.changed() => {
                    changed.map_err(|_| waited.withdrawn(self.inner.registry.is_ready()))?;
                }
                () = tokio::time::sleep_until(until) => return Err(waited.timed_out(&known)),
            }
        }
    }

    /// Asks for a wake, or joins the one in flight, without waiting for its end.
    ///
    /// # Errors
    /// When no wake is tried.
    pub async fn begin(&self, id: &ProviderId, cause: WakeCause) -> Result<Begun, WakeError> {
        if self.inner.registry.get(id).is_none() {
            return Err(WakeError::Unknown { provider: id.clone() });
        }
        self.ask(id, cause)?.await
    }

    /// Orders the provider's agent to put its backend to sleep.
    ///
    /// # Errors
    /// When the agent can't be reached or can't do it.
    pub async fn sleep(&self, id: &ProviderId) -> Result<(), SleepError> {
        let known = self
            .inner
            .registry
            .get(id)
            .ok_or_else(|| SleepError::Unknown(id.clone()))?;
        let order = Order::Sleep {
            provider: id.provider.clone(),
        };
        let order = Addressed {
            epoch: known.provider.epoch,
            order,
        };
        match orders::send(&self.inner.client, &id.agent, &order).await {
            Ok(OrderAnswer::Taken) => Ok(()),
            Ok(OrderAnswer::Refused { reason }) => Err(SleepError::Refused(reason)),
            Err(error) => Err(SleepError::Unavailable(error.to_string())),
        }
    }

    /// The wake in flight of `provider` as its agent hears of it.
    pub(crate) fn message(
        &self,
        provider: &Registered,
        sequence: u64,
        now: Timestamp,
    ) -> Option<WakeMessage> {
        let wake = provider.status.wake()?;
        let by_request = matches!(wake.cause, WakeCause::Request { .. });
        Some(WakeMessage {
            provider: provider.id.clone(),
            wake_id: wake.id,
            epoch: provider.epoch,
            sequence,
            deadline_ms: wake.deadline_ms,
            now_ms: now,
            awaited: by_request || self.waiting(&provider.id) > 0,
        })
    }

    /// How many requests wait for the provider in this replica.
    #[must_use]
    pub fn waiting(&self, id: &ProviderId) -> usize {
        self.lock_waiting().get(id).map_or(0, |waiting| waiting.count)
    }

    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, HashMap<ProviderId, Waiting>> {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_place(&self, id: &ProviderId) -> Result<Place, WakeError> {
        let limit = self.inner.max_waiting;
        let mut waiting = self.lock_waiting();
        let count = &mut waiting.entry(id.clone()).or_default().count;
        if *count >= limit {
            return Err(WakeError::QueueFull {
                provider: id.clone(),
                limit,
            });
        }
        *count += 1;
        Ok(Place {
            wakes: self.clone(),
            id: id.clone(),
        })
    }

    /// One question at a time per provider and replica: whoever asks meanwhile, and until the fold shows what came of it,
    /// gets the same answer. It is asked to its end even when everybody has left. Only whoever would start a wake needs
    /// leave to: joining one is free.
    fn ask(&self, id: &ProviderId, cause: WakeCause) -> Result<Asking, WakeError> {
        let mut asking = self.inner.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asking) = asking.get(id) {
            return Ok(asking.clone());
        }
        let leave = self.leave_to_start(id, &cause)?;
        let (wakes, id_asked) = (self.clone(), id.clone());
        let asked = async move {
            // Made here, so that a task that never runs does not take the lock that is held outside.
            let question = Question { wakes, id: id_asked };
            let begun = question.wakes.request(&question.id, cause).await;
            if let Ok(begun) = &begun {
                let registry = &question.wakes.inner.registry;
                registry
                    .applied_to(begun.sequence, Instant::now() + FOLD_WAIT)
                    .await;
            }
            drop(leave);
            begun
        };
        let task = self.inner.tasks.spawn(asked.in_current_span());
        let ended = |_| Err(WakeError::Unavailable("the question broke off".to_owned()));
        let shared = task
            .map(move |joined| joined.unwrap_or_else(ended))
            .boxed()
            .shared();
        asking.insert(id.clone(), shared.clone());
        Ok(shared)
    }

    fn leave_to_start(&self, id: &ProviderId, cause: &WakeCause) -> Result<Option<Reservation>, WakeError> {
        let known = self.inner.registry.get(id);
        let sleeps = known.is_some_and(|known| matches!(known.provider.status, Status::Hibernating { .. }));
        let Some(key) = cause.key().filter(|_| sleeps) else {
            return Ok(None);
        };
        // Before the time is known, every wake that is remembered counts.
        let now = self.inner.commands.clock.try_now().unwrap_or_default();
        let leave = self.inner.registry.keys().start_wake(key, now);
        leave.map_err(|denied| WakeError::Quota {
            provider: id.clone(),
            denied,
        })
    }

    async fn request(&self, id: &ProviderId, cause: WakeCause) -> Result<Begun, WakeError> {
        let wake_id = WakeId(Uuid::now_v7());
        let by = match &cause {
            WakeCause::Request { .. } => "request",
            WakeCause::Operator { .. } => "operator",
        };
        let command = |at| ProviderCommand::RequestWake { wake_id, cause, at };
        let done = self
            .inner
            .commands
            .provider(id, by, command)
            .await
            .map_err(|e| refused(id, e))?;
        // Now, and not when the fold has come so far: until then nobody else would count it.
        self.inner.registry.keys().quota().take(&done.events);
        if done
            .events
            .iter()
            .any(|event| matches!(event, ProviderEvent::WakeRequested { .. }))
        {
            info!(provider.name = %id, wake.id = %wake_id, "waking {id}");
            self.send_wake(&done);
        }
        let Some(provider) = done.state.registered() else {
            return Err(WakeError::Unknown { provider: id.clone() });
        };
        match &provider.status {
            Status::Active { .. } => Ok(Begun {
                wake: None,
                sequence: done.sequence,
            }),
            Status::Waking { wake } => Ok(Begun {
                wake: Some(wake.clone()),
                sequence: done.sequence,
            }),
            Status::Inactive { reason, since_ms, .. } => Err(WakeError::Inactive {
                provider: id.clone(),
                reason: *reason,
                since: *since_ms,
            }),
            // The wake in flight had just passed its deadline, and the failures in a row hold the next one back.
            Status::Hibernating { since_ms } => Err(held(id, provider, *since_ms)),
        }
    }

    /// The replica that committed a wake sends it at once; every sweep sends it again, should this be lost.
    fn send_wake(&self, done: &Executed<Provider>) {
        if let Some(provider) = done.state.registered() {
            self.send(provider, done.sequence);
        }
    }

    /// A request waits for a wake that an operator asked for: its agent hears of it, once from each replica.
    fn tell_of_waiter(&self, known: &Known) {
        let joined = known.provider.status.wake();
        let Some(wake) = joined.filter(|wake| matches!(wake.cause, WakeCause::Operator { .. })) else {
            return;
        };
        let mut waiting = self.lock_waiting();
        let told = waiting
            .get_mut(&known.provider.id)
            .is_none_or(|waiting| waiting.told.replace(wake.id) == Some(wake.id));
        drop(waiting);
        if !told {
            self.send(&known.provider, known.sequence);
        }
    }

    fn send(&self, provider: &Registered, sequence: u64) {
        let Some(now) = self.inner.commands.clock.try_now() else {
            return;
        };
        let Some(message) = self.message(provider, sequence, now) else {
            return;
        };
        let client = self.inner.client.clone();
        self.inner.tasks.spawn(async move {
            if let Err(error) = wakes::send(&client, &message).await {
                debug!(provider.name = %message.provider, %error, "the agent did not acknowledge the wake yet");
            }
        });
    }
}

/// A question that is being asked; whatever ends it, a panic included, the next one may be asked.
struct Question {
    wakes: Wakes,
    id: ProviderId,
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut asking = self
            .wakes
            .inner
            .asking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        asking.remove(&self.id);
    }
}

/// A place among the waiting, given back when its holder leaves.
struct Place {
    wakes: Wakes,
    id: ProviderId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.wakes.lock_waiting();
        if let Some(Waiting { count, .. }) = waiting.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}
