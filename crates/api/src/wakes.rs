//! Waking: many requests, one wake. A waiter registers first, then the wake is asked for; it resolves once the fold has
//! passed the command's sequence and its wake is no longer in flight, so no outcome is missed. Whoever leaves takes
//! nothing with him: the wake goes on.

use crate::{
    commands::Commands,
    registry::{Known, Registry},
};
use async_nats::Client;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use reveille_bus::{
    BusError, CommandError, Executed,
    orders::{self, Addressed, Order, OrderAnswer},
    wakes::{self, WakeMessage},
};
use reveille_domain::{
    Provider, ProviderCommand, ProviderEvent, ProviderId, Rejection, Status, Timestamp, Wake, WakeCause,
    WakeFailure, WakeFailureKind, WakeId,
    provider::{InactiveReason, Registered},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};
use uuid::Uuid;

/// How many requests may wait for one provider in one replica, unless told otherwise.
pub const MAX_WAITING: usize = 1_024;

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
    waiting: Mutex<HashMap<ProviderId, usize>>,
    asking: Mutex<HashMap<ProviderId, Asking>>,
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

/// Why a provider isn't active.
#[derive(Debug, Clone, Error)]
pub enum WakeError {
    /// The wake failed, or an earlier one did and the next is held back.
    #[error("{provider} did not wake: {} ({})", failure.reason, failure.stage)]
    Failed {
        /// Which.
        provider: ProviderId,
        /// The wake; `None` when none was tried.
        wake_id: Option<WakeId>,
        /// Why.
        failure: Box<WakeFailure>,
        /// When a next wake may be tried, if one is held back.
        retry_after: Option<Duration>,
        /// How long this caller waited.
        spent: Duration,
    },
    /// The backend did not become available in time, or no outcome was known by the deadline.
    #[error("{provider} did not wake in time: {}", failure.reason)]
    TimedOut {
        /// Which.
        provider: ProviderId,
        /// The wake.
        wake_id: WakeId,
        /// What is known of it.
        failure: Box<WakeFailure>,
        /// How long this caller waited.
        spent: Duration,
    },
    /// The caller's own wait ended; the wake goes on.
    #[error("{provider} is still waking")]
    CallerTimedOut {
        /// Which.
        provider: ProviderId,
        /// The wake, once it is known.
        wake_id: Option<WakeId>,
        /// How long this caller waited.
        spent: Duration,
    },
    /// Its agent is lost or stopped; no wake was tried.
    #[error("{provider} is inactive")]
    Inactive {
        /// Which.
        provider: ProviderId,
        /// Why.
        reason: InactiveReason,
        /// Since when.
        since: Timestamp,
    },
    /// Its last commit can't be read by this version, so no command is accepted.
    #[error("a commit of {provider} can't be read: {reason}")]
    Unreadable {
        /// Which.
        provider: ProviderId,
        /// Why.
        reason: String,
    },
    /// Nobody publishes it.
    #[error("{provider} is not published")]
    Unknown {
        /// Which.
        provider: ProviderId,
    },
    /// It can't be woken.
    #[error("{provider} has no wake recipe")]
    NoRecipe {
        /// Which.
        provider: ProviderId,
    },
    /// Too many requests wait for it.
    #[error("{limit} requests wait for {provider} already")]
    QueueFull {
        /// Which.
        provider: ProviderId,
        /// How many may wait.
        limit: usize,
    },
    /// The journal can't be reached, or not in time.
    #[error("the wake can't be asked for: {0}")]
    Unavailable(String),
}

/// Why a provider isn't put to sleep.
#[derive(Debug, Clone, Error)]
pub enum SleepError {
    /// Nobody publishes it.
    #[error("{0} is not published")]
    Unknown(ProviderId),
    /// Its agent can't do it.
    #[error("{0}")]
    Refused(String),
    /// Its agent can't be reached.
    #[error("the agent can't be reached: {0}")]
    Unavailable(String),
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
                    Seen::Waking => {}
                    Seen::Asleep => {
                        let asked = tokio::time::timeout_at(until, self.ask(id, cause.clone())).await;
                        let begun = asked.map_err(|_| waited.timed_out())?;
                        waited.began(&begun.map_err(|error| error.after(waited.begun.elapsed()))?);
                        continue;
                    }
                }
            }
            tokio::select! {
                changed = states.changed() => changed.map_err(|_| unknown())?,
                () = tokio::time::sleep_until(until) => return Err(waited.timed_out()),
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
        self.ask(id, cause).await
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

    /// How many requests wait for the provider in this replica.
    #[must_use]
    pub fn waiting(&self, id: &ProviderId) -> usize {
        self.lock_waiting().get(id).copied().unwrap_or(0)
    }

    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, HashMap<ProviderId, usize>> {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_place(&self, id: &ProviderId) -> Result<Place, WakeError> {
        let limit = self.inner.max_waiting;
        let mut waiting = self.lock_waiting();
        let count = waiting.entry(id.clone()).or_insert(0);
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

    /// One question at a time per provider and replica: whoever asks meanwhile gets the same answer. It is asked to
    /// its end even when everybody has left.
    fn ask(&self, id: &ProviderId, cause: WakeCause) -> Asking {
        let mut asking = self.inner.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asking) = asking.get(id) {
            return asking.clone();
        }
        let (wakes, provider) = (self.clone(), id.clone());
        let task = self.inner.tasks.spawn(async move {
            let asked = wakes.request(&provider, cause).await;
            wakes
                .inner
                .asking
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&provider);
            asked
        });
        let ended = |_| Err(WakeError::Unavailable("the service is stopping".to_owned()));
        let shared = task
            .map(move |joined| joined.unwrap_or_else(ended))
            .boxed()
            .shared();
        asking.insert(id.clone(), shared.clone());
        shared
    }

    async fn request(&self, id: &ProviderId, cause: WakeCause) -> Result<Begun, WakeError> {
        let wake_id = WakeId(Uuid::now_v7());
        let by = match &cause {
            WakeCause::Request { .. } => "request",
            WakeCause::Operator => "operator",
        };
        let command = |at| ProviderCommand::RequestWake { wake_id, cause, at };
        let done = self
            .inner
            .commands
            .provider(id, by, command)
            .await
            .map_err(|e| refused(id, e))?;
        if done
            .events
            .iter()
            .any(|event| matches!(event, ProviderEvent::WakeRequested { .. }))
        {
            info!(provider.name = %id, wake.id = %wake_id, "waking {id}");
            self.send_wake(&done).await;
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
    async fn send_wake(&self, done: &Executed<Provider>) {
        let Some(now) = self.inner.commands.clock.try_now() else {
            return;
        };
        let Some(message) = done
            .state
            .registered()
            .and_then(|p| wake_message(p, done.sequence, now))
        else {
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

/// The wake in flight of `provider` as its agent hears of it.
pub(crate) fn wake_message(provider: &Registered, sequence: u64, now: Timestamp) -> Option<WakeMessage> {
    provider.status.wake().map(|wake| WakeMessage {
        provider: provider.id.clone(),
        wake_id: wake.id,
        epoch: provider.epoch,
        sequence,
        deadline_ms: wake.deadline_ms,
        now_ms: now,
    })
}

fn held(id: &ProviderId, provider: &Registered, at: Timestamp) -> WakeError {
    let unknown = || WakeFailure::new(WakeFailureKind::TimedOut, "deadline", "the wake timed out");
    WakeError::Failed {
        provider: id.clone(),
        wake_id: provider.wakes.last().map(|wake| wake.id),
        failure: Box::new(provider.failures.last.clone().unwrap_or_else(unknown)),
        retry_after: provider.failures.hold_at(at),
        spent: Duration::ZERO,
    }
}

fn refused(id: &ProviderId, error: CommandError<Rejection>) -> WakeError {
    let provider = id.clone();
    match error {
        CommandError::Bus(BusError::Unreadable { reason, .. }) => WakeError::Unreadable { provider, reason },
        CommandError::Bus(error) => WakeError::Unavailable(error.to_string()),
        CommandError::Rejected(Rejection::Inactive { reason, since }) => WakeError::Inactive {
            provider,
            reason,
            since,
        },
        CommandError::Rejected(Rejection::NoRecipe) => WakeError::NoRecipe { provider },
        CommandError::Rejected(Rejection::RecentlyFailed {
            retry_after,
            failures,
        }) => {
            let unknown = || WakeFailure::new(WakeFailureKind::Recipe, "wake", "earlier wakes failed");
            let failure = Box::new(failures.last.unwrap_or_else(unknown));
            let (wake_id, spent) = (None, Duration::ZERO);
            WakeError::Failed {
                provider,
                wake_id,
                failure,
                retry_after: Some(retry_after),
                spent,
            }
        }
        CommandError::Rejected(_) => WakeError::Unknown { provider },
    }
}

impl WakeError {
    /// The same, told to somebody who has waited for `time`.
    fn after(mut self, time: Duration) -> Self {
        if let Self::Failed { spent, .. } | Self::TimedOut { spent, .. } = &mut self {
            *spent = time;
        }
        self
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
        if let Some(count) = waiting.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}

/// One caller's wait.
struct Waited {
    provider: ProviderId,
    begun: Instant,
    /// The wake that is waited for.
    wake: Option<WakeId>,
    /// Nothing older than this sequence tells anything any more.
    past: u64,
}

enum Seen {
    Awake,
    Waking,
    Asleep,
}

impl Waited {
    fn look(&mut self, known: &Known) -> Result<Seen, WakeError> {
        let status = &known.provider.status;
        let ours_goes_on = status
            .wake()
            .is_some_and(|wake| self.wake.is_none_or(|id| id == wake.id));
        let awake = matches!(status, Status::Active { .. });
        if !ours_goes_on
            && !awake
            && let Some(error) = self.outcome(known)
        {
            return Err(error);
        }
        // What it waits for may have come in a commit that this replica doesn't understand.
        if !awake && let Some(reason) = &known.unreadable {
            let (provider, reason) = (self.provider.clone(), reason.clone());
            return Err(WakeError::Unreadable { provider, reason });
        }
        match status {
            Status::Active { .. } => Ok(Seen::Awake),
            // Should ours have succeeded and been lost again, the next one is joined.
            Status::Waking { wake } => {
                self.wake = Some(wake.id);
                Ok(Seen::Waking)
            }
            Status::Hibernating { .. } => Ok(Seen::Asleep),
            Status::Inactive { reason, since_ms, .. } => {
                let provider = self.provider.clone();
                Err(WakeError::Inactive {
                    provider,
                    reason: *reason,
                    since: *since_ms,
                })
            }
        }
    }

    /// Why the wake that was waited for failed, if it did.
    fn outcome(&self, known: &Known) -> Option<WakeError> {
        let wake_id = self.wake?;
        let failure = Box::new(known.provider.ended_wake(wake_id)?.failure.clone()?);
        let (provider, spent) = (self.provider.clone(), self.begun.elapsed());
        Some(match failure.kind {
            WakeFailureKind::TimedOut => WakeError::TimedOut {
                provider,
                wake_id,
                failure,
                spent,
            },
            WakeFailureKind::Recipe
            | WakeFailureKind::Unavailable
            | WakeFailureKind::AgentLost
            | WakeFailureKind::AgentStopped
            | WakeFailureKind::Withdrawn
            | WakeFailureKind::Died => WakeError::Failed {
                provider,
                wake_id: Some(wake_id),
                failure,
                retry_after: None,
                spent,
            },
        })
    }

    fn began(&mut self, begun: &Begun) {
        self.past = begun.sequence;
        self.wake = begun.wake.as_ref().map(|wake| wake.id);
    }

    fn timed_out(&self) -> WakeError {
        let (provider, wake_id) = (self.provider.clone(), self.wake);
        WakeError::CallerTimedOut {
            provider,
            wake_id,
            spent: self.begun.elapsed(),
        }
    }
}
