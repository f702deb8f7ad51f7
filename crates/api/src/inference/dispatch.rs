//! From a request to a backend's response: choose a provider, wake it if it sleeps, hand the request over. What follows
//! an attempt that brought no response is [`super::retry_policy`]'s decision.
//!
//! A client that disconnects drops the future, which cancels the request at the agent; a wake that has begun
//! goes on.

use super::{
    CurrentPhase, InferenceError, InferenceRequest, InferenceResponse, Phase, Relay, Timings, WakeMode,
    in_flight::InFlight,
    model_access,
    retry_policy::{NextStep, Outcome, RetryPolicy, Target},
};
use crate::{
    metrics::Metrics,
    registry::{ProviderSnapshot, Registry},
    wakes::{WakeError, Waker, time_left, time_until_awake},
};
use reveille_domain::{ProviderId, ReportId, Status, WakeFailureKind, WakeId, provider::StatusName};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

pub(crate) struct Inference {
    registry: Registry,
    waker: Arc<dyn Waker>,
    relay: Arc<dyn Relay>,
    metrics: Metrics,
    in_flight: InFlight,
    timings: Timings,
}

/// How far one request has come, and until when it waits.
struct Run<'a> {
    request: &'a InferenceRequest,
    phase: &'a CurrentPhase,
    begun: Instant,
    until: Instant,
}

impl Inference {
    pub fn new(
        registry: Registry,
        waker: Arc<dyn Waker>,
        relay: Arc<dyn Relay>,
        metrics: Metrics,
        timings: Timings,
    ) -> Self {
        Self {
            registry,
            waker,
            relay,
            metrics,
            in_flight: InFlight::default(),
            timings,
        }
    }

    /// Waits for a backend's response, waking the backend if need be.
    pub async fn answer(
        &self,
        request: &InferenceRequest,
        phase: &CurrentPhase,
    ) -> Result<InferenceResponse, InferenceError> {
        let begun = Instant::now();
        let run = Run {
            request,
            phase,
            begun,
            until: begun + request.options.wait,
        };
        let mut policy = RetryPolicy::default();
        let (mut refused_by, mut first_refusal, mut woken_by) = (vec![], None, None);
        let mut chosen = self.choose(request)?;
        loop {
            let outcome = self.attempt(&run, &mut chosen).await;
            if let Outcome::Missed { wake_id, .. } = &outcome {
                woken_by = woken_by.or(*wake_id);
            }
            let next = match policy.next_step(&outcome, request.waits(run.until)) {
                NextStep::Finish => None,
                NextStep::AskAnother => {
                    refused_by.push(chosen.provider.id.clone());
                    self.best(self.registry.pool(request.model.as_str()), &refused_by)
                }
                NextStep::SendAgain(target) => self.find(target, &run, &chosen).await,
            };
            let Some(next) = next else {
                return self.conclude(&run, outcome, &chosen, woken_by, first_refusal);
            };
            if let Outcome::Refused(error) = outcome {
                first_refusal.get_or_insert(error);
            }
            chosen = next;
        }
    }

    fn choose(&self, request: &InferenceRequest) -> Result<Arc<ProviderSnapshot>, InferenceError> {
        let pool = model_access::pool_for(&self.registry, &request.caller, &request.model)?;
        self.best(pool, &[]).ok_or(InferenceError::NotReady)
    }

    /// The best of `pool` except `not`: awake before waking before asleep; of those that are awake, the least busy; of
    /// those asleep, one whose owner didn't refuse the last wake, and whose wakes don't fail.
    fn best(&self, pool: Vec<Arc<ProviderSnapshot>>, not: &[ProviderId]) -> Option<Arc<ProviderSnapshot>> {
        let others = pool
            .into_iter()
            .filter(|snapshot| !not.contains(&snapshot.provider.id));
        others.min_by_key(|snapshot| {
            let provider = &snapshot.provider;
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

    /// One attempt at `chosen`, which afterwards is the provider as it was when the request was sent.
    async fn attempt(&self, run: &Run<'_>, chosen: &mut Arc<ProviderSnapshot>) -> Outcome {
        let wake_id = match &chosen.provider.status {
            Status::Active { .. } => None,
            Status::Inactive { reason, .. } => {
                let inactive = WakeError::Inactive {
                    provider: chosen.provider.id.clone(),
                    reason: *reason,
                };
                return Outcome::Refused(inactive.into());
            }
            Status::Hibernating { .. } | Status::Waking { .. } => match self.wake(run, chosen).await {
                Ok((woken, wake_id)) => {
                    *chosen = woken;
                    wake_id
                }
                Err(error) => return Outcome::Refused(error),
            },
        };
        self.send(run, chosen, wake_id).await
    }

    /// Sends the request to `chosen` as soon as there is memory for the response.
    async fn send(
        &self,
        run: &Run<'_>,
        chosen: &mut Arc<ProviderSnapshot>,
        wake_id: Option<WakeId>,
    ) -> Outcome {
        let provider = chosen.provider.id.clone();
        run.phase.enter(Phase::Queued(provider.clone()));
        let guard = self.in_flight.enter(&provider);
        let reserved = self.relay.reserve(run.request.room_by(run.until)).await;
        // The agent may have restarted while the request waited.
        let Some(current) = self.registry.get(&provider) else {
            return Outcome::Refused(self.gone(provider));
        };
        *chosen = current;
        let sent = match reserved {
            Ok(reserved) => {
                run.phase.enter(Phase::Answering(provider.clone()));
                let (head, body) = (run.request.head(chosen, run.until), run.request.body.clone());
                let (agent, epoch) = (&provider.agent, chosen.provider.epoch);
                reserved.send(agent, epoch, head, body).await
            }
            Err(error) => Err(error),
        };
        match sent {
            Ok((head, body)) => {
                let response = InferenceResponse {
                    provider,
                    wake_id,
                    head,
                    body,
                };
                Outcome::Answered(response, guard)
            }
            Err(error) => Outcome::Missed {
                sequence: chosen.sequence,
                wake_id,
                error,
            },
        }
    }

    async fn wake(
        &self,
        run: &Run<'_>,
        chosen: &ProviderSnapshot,
    ) -> Result<(Arc<ProviderSnapshot>, Option<WakeId>), InferenceError> {
        let provider = &chosen.provider.id;
        let request = run.request;
        match request.options.wake {
            WakeMode::Never => Err(InferenceError::Asleep {
                provider: provider.clone(),
            }),
            WakeMode::Block => {
                run.phase.enter(Phase::Waking(provider.clone()));
                self.check_wait(run, chosen).await?;
                let woken = self
                    .waker
                    .ensure_awake(provider, request.cause(), run.until)
                    .await?;
                Ok((woken.snapshot, woken.wake_id))
            }
            WakeMode::Async => {
                let ticket = self.waker.begin(provider, request.cause()).await?;
                if let Some(wake) = ticket.wake {
                    return Err(InferenceError::Waking {
                        provider: provider.clone(),
                        wake_id: wake.id,
                        left: time_left(chosen, &wake),
                    });
                }
                // It is awake, and this replica is about to see it.
                let seen_by = Instant::now() + self.timings.report;
                self.registry.applied_to(ticket.sequence, seen_by).await;
                let snapshot = self.registry.get(provider);
                snapshot.map(|snapshot| (snapshot, None)).ok_or_else(|| {
                    WakeError::Unknown {
                        provider: provider.clone(),
                    }
                    .into()
                })
            }
        }
    }

    /// Refuses a request at once if the wake usually takes longer than the request waits; the wake begins all the same.
    async fn check_wait(&self, run: &Run<'_>, chosen: &ProviderSnapshot) -> Result<(), InferenceError> {
        let waits = run.until.saturating_duration_since(Instant::now());
        let Some(left) = time_until_awake(chosen).filter(|left| *left > waits) else {
            return Ok(());
        };
        let provider = chosen.provider.id.clone();
        let ticket = self.waker.begin(&provider, run.request.cause()).await?;
        match ticket.wake {
            None => Ok(()),
            Some(wake) => Err(InferenceError::WaitTooShort {
                provider,
                wake_id: wake.id,
                left,
                waits,
            }),
        }
    }

    /// The provider that `target` means for a request that `missed` didn't get; `None` when there is none.
    async fn find(
        &self,
        target: Target,
        run: &Run<'_>,
        missed: &ProviderSnapshot,
    ) -> Option<Arc<ProviderSnapshot>> {
        let id = &missed.provider.id;
        let another = || {
            let pool = self.registry.pool(run.request.model.as_str());
            let another = self.best(pool, std::slice::from_ref(id));
            another.filter(|snapshot| snapshot.provider.status.name() == StatusName::Active)
        };
        match target {
            Target::OnceBack => self.once_back(missed, run).await,
            Target::Another => another(),
            Target::AnotherOrSame { pause } => {
                run.phase.enter(Phase::Queued(id.clone()));
                sleep_until(run.until.min(Instant::now() + pause)).await;
                another().or_else(|| self.registry.get(id))
            }
            Target::AnotherOrOnceBack => match another() {
                Some(another) => Some(another),
                None => self.once_back(missed, run).await,
            },
            Target::AnotherOrOnceAsleep(report) => match another() {
                Some(another) => Some(another),
                None => self.once_asleep(missed, report, run).await,
            },
        }
    }

    /// The provider once the fold shows that it sleeps. A report that the fold had when the request was sent says nothing of
    /// this sleep.
    async fn once_asleep(
        &self,
        missed: &ProviderSnapshot,
        report: Option<ReportId>,
        run: &Run<'_>,
    ) -> Option<Arc<ProviderSnapshot>> {
        let id = &missed.provider.id;
        if report.is_none() {
            run.phase.enter(Phase::FallingAsleep(id.clone()));
        }
        let sleeps = |snapshot: &Arc<ProviderSnapshot>| {
            let reported = report.is_some_and(|report| snapshot.provider.last_report() >= report);
            reported && snapshot.sequence > missed.sequence
                || snapshot.provider.status.name() != StatusName::Active
        };
        self.changed(id, self.timings.report, run, sleeps).await
    }

    /// The provider once its agent has reported something new, or after as long as a reconnect takes.
    async fn once_back(&self, missed: &ProviderSnapshot, run: &Run<'_>) -> Option<Arc<ProviderSnapshot>> {
        let id = &missed.provider.id;
        run.phase.enter(Phase::Reaching(id.clone()));
        let is_new = |snapshot: &Arc<ProviderSnapshot>| snapshot.sequence > missed.sequence;
        self.changed(id, self.timings.absence, run, is_new).await
    }

    /// The provider once `condition` holds, or after `most`; `None` when it is gone.
    async fn changed(
        &self,
        id: &ProviderId,
        most: Duration,
        run: &Run<'_>,
        condition: impl FnMut(&Arc<ProviderSnapshot>) -> bool,
    ) -> Option<Arc<ProviderSnapshot>> {
        let mut states = self.registry.watch(id)?;
        let deadline = run.until.min(Instant::now() + most);
        // Whether the condition came to hold or not, the fold's present state decides.
        let _ = tokio::time::timeout_at(deadline, states.wait_for(condition)).await;
        self.registry.get(id)
    }

    /// What the caller gets once no step follows.
    fn conclude(
        &self,
        run: &Run<'_>,
        outcome: Outcome,
        chosen: &ProviderSnapshot,
        woken_by: Option<WakeId>,
        first_refusal: Option<InferenceError>,
    ) -> Result<InferenceResponse, InferenceError> {
        let provider = || chosen.provider.id.clone();
        match outcome {
            Outcome::Answered(mut response, guard) => {
                response.wake_id = response.wake_id.or(woken_by);
                let is_cold = response.wake_id.is_some();
                let first_byte = response
                    .is_success()
                    .then(|| self.metrics.first_byte(run.begun, is_cold));
                response.body = response.body.observed(guard, first_byte);
                Ok(response)
            }
            // The first provider's refusal says more than that a quota keeps another one out of reach.
            Outcome::Refused(error) if error.is_about_one_provider() || error.is_quota() => {
                Err(first_refusal.unwrap_or(error))
            }
            Outcome::Refused(error) => Err(error.after(run.begun.elapsed())),
            Outcome::Missed { error, .. } if error.is_leaving() => Err(if run.request.waits(run.until) {
                self.gone(provider())
            } else {
                let may_wait = run.request.options.wake == WakeMode::Block;
                InferenceError::FallingAsleep {
                    provider: provider(),
                    waited: may_wait.then(|| run.begun.elapsed()),
                }
            }),
            Outcome::Missed { wake_id, error, .. } => Err(InferenceError::Relay {
                provider: provider(),
                wake_id,
                error,
            }),
        }
    }

    /// Why a provider has left the fold.
    fn gone(&self, provider: ProviderId) -> InferenceError {
        if self.registry.is_ready() {
            WakeError::Unknown { provider }.into()
        } else {
            InferenceError::NotReady
        }
    }
}
