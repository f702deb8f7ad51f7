//! One inference request: choose a provider, wake it when it sleeps, hand the request over once, and bring the answer
//! back unchanged.
//!
//! A request is sent again only when no backend can have seen it: once at most, or for as long as its caller waits when its
//! backend fell asleep again, is being put to sleep, or its agent is at a limit. One that a provider can't be woken for goes to another one of its pool. Whoever leaves drops the future, which
//! cancels the request at the agent; the wake goes on.

mod ask;
mod budget;
mod fleet;
mod headers;
mod heartbeat;
mod in_flight;
mod options;
mod peek;
mod respond;
mod stage;
mod visible;
mod waiting;

pub use ask::Timings;
pub(crate) use ask::{Answered, Ask};
pub(crate) use budget::{BodyBudget, HeldBytes};
#[cfg(test)]
pub(crate) use fleet::KeyCommandAt;
pub(crate) use fleet::{AgentCommandAt, Fleet, Live, Relayed, RelayedBody};
pub(crate) use in_flight::Counted;
pub(crate) use options::{BadOption, Options, Progress, WakeMode};
pub(crate) use peek::{BadBody, Surface, peek};
pub(crate) use respond::respond;
pub(crate) use stage::{Phase, Stage};
pub(crate) use visible::{pool_for, pools_for};
pub(crate) use waiting::respond_when_known;

use crate::{
    http::ApiError,
    metrics::FirstByte,
    registry::Known,
    wakes::{WakeError, time_left, time_until_awake},
};
use backon::{BackoffBuilder, ExponentialBuilder};
use in_flight::InFlight;
use reveille_bus::relay::{FaultCode, RelayError, RelayFault};
use reveille_domain::{ProviderId, ReportId, Status, WakeFailureKind, WakeId, provider::StatusName};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// How often a request is told that its backend sleeps, though the journal says nothing new of it, before it is given up.
const MAX_ASLEEP: u32 = 5;
/// How long a request whose agent is at a limit pauses before it asks again, doubling up to the longest.
const FIRST_FULL_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_FULL_PAUSE: Duration = Duration::from_secs(2);
/// How often it is sent again for any other reason.
const MAX_MISSED: u32 = 1;

/// Why an attempt brought no answer.
enum NoAnswer {
    /// Nothing was sent.
    Refused(ApiError),
    /// It was sent, or should have been.
    Missed {
        known: Arc<Known>,
        wake_id: Option<WakeId>,
        error: RelayError,
    },
}

impl From<ApiError> for NoAnswer {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<WakeError> for NoAnswer {
    fn from(error: WakeError) -> Self {
        Self::Refused(error.into())
    }
}

/// Answers inference requests.
pub(crate) struct Inference {
    fleet: Arc<dyn Fleet>,
    in_flight: InFlight,
    timings: Timings,
}

impl Inference {
    /// Requests go to `fleet`.
    pub fn new(fleet: Arc<dyn Fleet>, timings: Timings) -> Self {
        Self {
            fleet,
            in_flight: InFlight::default(),
            timings,
        }
    }

    /// Waits for a backend's answer, waking it if need be.
    pub async fn answer(&self, ask: &Ask, stage: &Stage) -> Result<Answered, ApiError> {
        let begun = Instant::now();
        let until = begun + ask.options.wait;
        let mut chosen = self.choose(ask)?;
        let mut woken_by = None;
        let (mut asleep, mut asleep_at, mut missed) = (0, 0, 0);
        let mut full_pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_FULL_PAUSE)
            .with_max_delay(LONGEST_FULL_PAUSE)
            .with_jitter()
            .without_max_times()
            .build();
        let (mut unwoken, mut first_refusal) = (vec![], None);
        loop {
            let asked = chosen.provider.id.clone();
            let (known, wake_id, error) = match self.attempt(ask, chosen, until, stage).await {
                Ok(mut answered) => {
                    answered.wake_id = answered.wake_id.or(woken_by);
                    if answered.is_success() {
                        let metrics = self.fleet.metrics();
                        answered.first_byte = metrics.first_byte(begun, answered.wake_id.is_some());
                    }
                    return Ok(answered);
                }
                Err(NoAnswer::Refused(error)) if error.is_about_one_provider() => {
                    unwoken.push(asked);
                    let error = first_refusal.unwrap_or(error);
                    chosen = match self.best(self.fleet.pool(ask.model.as_str()), &unwoken) {
                        Some(other) => other,
                        None => return Err(error),
                    };
                    first_refusal = Some(error);
                    continue;
                }
                // Another one may be out of this key's reach, which says less than why the first wasn't woken.
                Err(NoAnswer::Refused(error)) if error.is_quota() => {
                    return Err(first_refusal.unwrap_or(error));
                }
                Err(NoAnswer::Refused(error)) => return Err(error.after(begun.elapsed())),
                Err(NoAnswer::Missed {
                    known,
                    wake_id,
                    error,
                }) => (known, wake_id, error),
            };
            woken_by = woken_by.or(wake_id);
            if known.sequence > asleep_at {
                // It was awake in between: another wake is another try.
                (asleep, asleep_at) = (0, known.sequence);
            }
            let may_go_on = if error.is_agent_full() && ask.waits(until) {
                let pause = full_pauses.next().unwrap_or(LONGEST_FULL_PAUSE);
                sleep_until(until.min(Instant::now() + pause)).await;
                true
            } else if error.is_leaving() && ask.waits(until) {
                true
            } else {
                let (times, most) = if error.is_asleep() {
                    (&mut asleep, MAX_ASLEEP)
                } else {
                    (&mut missed, MAX_MISSED)
                };
                *times += 1;
                error.never_handed_over() && *times <= most
            };
            let next = if may_go_on {
                self.next(ask, &known, &error, until, stage).await
            } else {
                None
            };
            let Some(next) = next else {
                let provider = known.provider.id.clone();
                return Err(match error.is_leaving() {
                    true if ask.waits(until) => self.gone(provider),
                    true => ApiError::Leaving {
                        provider,
                        waited: (ask.options.wake == WakeMode::Block).then(|| begun.elapsed()),
                    },
                    false => ApiError::Relay {
                        provider,
                        wake_id,
                        error,
                    },
                });
            };
            chosen = next;
        }
    }

    /// Nobody publishes it any more, as far as is known.
    fn gone(&self, provider: ProviderId) -> ApiError {
        if self.fleet.is_ready() {
            WakeError::Unknown { provider }.into()
        } else {
            ApiError::NotReady
        }
    }

    fn choose(&self, ask: &Ask) -> Result<Arc<Known>, ApiError> {
        let pool = pool_for(&*self.fleet, &ask.caller, &ask.model)?;
        let chosen = if pool.len() == 1 {
            pool.into_iter().next()
        } else {
            self.best(pool, &[])
        };
        chosen.ok_or(ApiError::NotReady)
    }

    /// The best of `pool` but `not`: awake before waking before asleep; of those that are awake, the least busy; of those
    /// asleep, one whose owner didn't say no at the last wake, and whose wakes don't fail.
    fn best(&self, pool: Vec<Arc<Known>>, not: &[ProviderId]) -> Option<Arc<Known>> {
        let others = pool.into_iter().filter(|known| !not.contains(&known.provider.id));
        others.min_by_key(|known| {
            let provider = &known.provider;
            let asleep = || {
                let last = provider.failures.last.as_ref();
                let declined = last.is_some_and(|failure| failure.kind == WakeFailureKind::NotAllowed);
                (2, declined, provider.failures.count)
            };
            let rank = match provider.status.name() {
                StatusName::Active => (0, false, 0),
                StatusName::Waking => (1, false, 0),
                StatusName::Hibernating => asleep(),
                StatusName::Inactive => (3, false, 0),
            };
            (rank, self.in_flight.of(&provider.id))
        })
    }

    async fn attempt(
        &self,
        ask: &Ask,
        chosen: Arc<Known>,
        until: Instant,
        stage: &Stage,
    ) -> Result<Answered, NoAnswer> {
        let (known, wake_id) = match &chosen.provider.status {
            Status::Active { .. } => (chosen, None),
            Status::Inactive { reason, since_ms, .. } => {
                let provider = chosen.provider.id.clone();
                return Err(WakeError::Inactive {
                    provider,
                    reason: *reason,
                    since: *since_ms,
                }
                .into());
            }
            Status::Hibernating { .. } | Status::Waking { .. } => {
                self.wake(ask, &chosen, until, stage).await?
            }
        };
        let provider = known.provider.id.clone();
        stage.enter(Phase::Answering(provider.clone()));
        let counted = self.in_flight.enter(&provider);
        let sent = self.fleet.relay(
            &provider.agent,
            known.provider.epoch,
            ask.head(&known, until),
            ask.body.clone(),
            ask.room_by(until),
        );
        match sent.await {
            Ok(Relayed { head, body }) => Ok(Answered {
                provider,
                wake_id,
                head,
                body,
                counted,
                first_byte: FirstByte::default(),
            }),
            Err(error) => Err(NoAnswer::Missed {
                known,
                wake_id,
                error,
            }),
        }
    }

    async fn wake(
        &self,
        ask: &Ask,
        chosen: &Known,
        until: Instant,
        stage: &Stage,
    ) -> Result<(Arc<Known>, Option<WakeId>), ApiError> {
        let provider = &chosen.provider.id;
        match ask.options.wake {
            WakeMode::Never => Err(ApiError::Asleep {
                provider: provider.clone(),
            }),
            WakeMode::Block => {
                stage.enter(Phase::Waking(provider.clone()));
                self.in_time(ask, chosen, until).await?;
                let woken = self.fleet.ensure_awake(provider, ask.cause(), until).await?;
                Ok((woken.known, woken.wake_id))
            }
            WakeMode::Async => {
                let begun = self.fleet.begin(provider, ask.cause()).await?;
                if let Some(wake) = begun.wake {
                    let left = time_left(chosen, &wake);
                    return Err(ApiError::Waking {
                        provider: provider.clone(),
                        wake_id: wake.id,
                        left,
                    });
                }
                // It is awake, and this replica is about to see it.
                self.fleet
                    .applied_to(begun.sequence, Instant::now() + self.timings.report)
                    .await;
                let known = self.fleet.get(provider);
                known.map(|known| (known, None)).ok_or_else(|| {
                    WakeError::Unknown {
                        provider: provider.clone(),
                    }
                    .into()
                })
            }
        }
    }

    /// Refuses at once whom the wake would keep waiting in vain, as far as earlier ones tell; it is begun all the same.
    async fn in_time(&self, ask: &Ask, chosen: &Known, until: Instant) -> Result<(), ApiError> {
        let waits = until.saturating_duration_since(Instant::now());
        let Some(left) = time_until_awake(chosen).filter(|left| *left > waits) else {
            return Ok(());
        };
        let provider = chosen.provider.id.clone();
        let begun = self.fleet.begin(&provider, ask.cause()).await?;
        let Some(wake) = begun.wake else {
            return Ok(());
        };
        Err(ApiError::TooLate {
            provider,
            wake_id: Some(wake.id),
            left,
            waits,
        })
    }

    /// Whom to ask once more, after a request that no backend saw: another one that is awake, or the same one as soon as
    /// there is a reason to.
    async fn next(
        &self,
        ask: &Ask,
        missed: &Known,
        error: &RelayError,
        until: Instant,
        stage: &Stage,
    ) -> Option<Arc<Known>> {
        let id = &missed.provider.id;
        let other = || {
            let other = self.best(self.fleet.pool(ask.model.as_str()), std::slice::from_ref(id));
            other.filter(|known| known.provider.status.name() == StatusName::Active)
        };
        match error {
            RelayError::Fault(RelayFault { code, report, .. }) => match code {
                FaultCode::Asleep => match other() {
                    Some(other) => Some(other),
                    None if report.is_none() && !ask.waits(until) => None,
                    None => {
                        if report.is_none() {
                            stage.enter(Phase::Leaving(id.clone()));
                        }
                        self.once_reported(id, *report, until).await
                    }
                },
                FaultCode::UnknownProvider | FaultCode::ShuttingDown => match other() {
                    Some(other) => Some(other),
                    None => self.once_back(missed, until, stage).await,
                },
                FaultCode::BackendUnavailable => other(),
                FaultCode::Overloaded if ask.options.wake == WakeMode::Block => {
                    other().or_else(|| self.fleet.get(id))
                }
                FaultCode::Overloaded => other(),
                FaultCode::BackendFailed
                | FaultCode::BackendTimeout
                | FaultCode::Cancelled
                | FaultCode::BadFrame
                | FaultCode::Lost
                | FaultCode::Unknown => None,
            },
            RelayError::NoResponders => match other() {
                Some(other) => Some(other),
                None => self.once_back(missed, until, stage).await,
            },
            RelayError::Disconnected => self.once_back(missed, until, stage).await,
            RelayError::Overloaded
            | RelayError::HeadTooLarge
            | RelayError::Gap { .. }
            | RelayError::Silent { .. }
            | RelayError::Overdrawn
            | RelayError::Malformed(_)
            | RelayError::Closed => None,
        }
    }

    /// The provider once the fold shows what its agent reported: that it sleeps.
    async fn once_reported(
        &self,
        id: &ProviderId,
        report: Option<ReportId>,
        until: Instant,
    ) -> Option<Arc<Known>> {
        let told = |known: &Arc<Known>| {
            let passed = report.is_some_and(|report| known.provider.last_report() >= report);
            passed || known.provider.status.name() != StatusName::Active
        };
        self.changed(id, self.timings.report, until, told).await
    }

    /// The provider once its agent has said something new, or after as long as a reconnect takes.
    async fn once_back(&self, missed: &Known, until: Instant, stage: &Stage) -> Option<Arc<Known>> {
        let id = &missed.provider.id;
        stage.enter(Phase::Reaching(id.clone()));
        let told = |known: &Arc<Known>| known.sequence > missed.sequence;
        self.changed(id, self.timings.absence, until, told).await
    }

    /// The provider when `told` is true of it, or after `most`; `None` when it is gone.
    async fn changed(
        &self,
        id: &ProviderId,
        most: Duration,
        until: Instant,
        told: impl FnMut(&Arc<Known>) -> bool,
    ) -> Option<Arc<Known>> {
        let mut states = self.fleet.watch(id)?;
        // Whether it came or not, what the fold says now decides.
        let _ = tokio::time::timeout_at(until.min(Instant::now() + most), states.wait_for(told)).await;
        self.fleet.get(id)
    }
}
