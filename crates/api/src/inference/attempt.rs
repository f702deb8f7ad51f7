//! One attempt at one provider: wake it if it sleeps, wait for a slot and for memory, hand the request over.

use super::{
    Inference, InferenceError, InferenceResponse, Phase, WakeMode, dispatch::Run, health::Failure,
    leeway::Leeway, queue::Slot, retry_policy::Outcome,
};
use crate::{
    registry::ProviderSnapshot,
    wakes::{WakeError, time_left, time_until_awake},
};
use reveille_bus::relay::{FaultCode, RelayError, RelayFault};
use reveille_domain::WakeId;
use std::sync::Arc;
use tokio::time::Instant;

impl Inference {
    /// One attempt at `chosen`, or at another member of its pool that has a slot sooner. Afterwards `chosen` is the provider as it
    /// was when the request was sent.
    pub(super) async fn attempt(
        &self,
        run: &Run<'_>,
        chosen: &mut Arc<ProviderSnapshot>,
        leeway: &mut Leeway,
    ) -> Outcome {
        let got = if run.request.takes_a_turn() {
            let slot = self.slot(run, chosen, leeway).await;
            slot.map(|(slot, wake_id)| (Some(slot), wake_id))
        } else {
            self.once_awake(run, chosen).await.map(|wake_id| (None, wake_id))
        };
        match got {
            Ok((slot, wake_id)) => self.send(run, chosen, slot, wake_id, leeway).await,
            Err(error) if self.hides_model(run.request) => Outcome::Refused(error.without_models()),
            Err(error) => Outcome::Refused(error),
        }
    }

    /// Sends the request to `chosen` as soon as there is memory for the response.
    async fn send(
        &self,
        run: &Run<'_>,
        chosen: &mut Arc<ProviderSnapshot>,
        slot: Option<Slot>,
        wake_id: Option<WakeId>,
        leeway: &mut Leeway,
    ) -> Outcome {
        let provider = chosen.provider.id.clone();
        run.phase.enter(Phase::Queued(provider.clone(), None));
        let mut attempt = self.members.enter(chosen).with_slot(slot);
        let reserved = self.relay.reserve(run.request.room_by(run.until)).await;
        // The agent may have restarted while the request waited.
        let Some(current) = self.in_this_session(&provider, run).await else {
            return Outcome::Refused(self.gone(provider));
        };
        *chosen = current;
        attempt.sent_by(chosen);
        if !self.is_in_this_session(chosen) {
            let why = "its agent has restarted and hasn't published it yet";
            return Outcome::Missed {
                sequence: chosen.sequence,
                wake_id,
                error: RelayFault::new(FaultCode::UnknownProvider, why).into(),
            };
        }
        if !self.still_serves(&provider, run) {
            let why = "it no longer publishes what the request asks for";
            return Outcome::Missed {
                sequence: chosen.sequence,
                wake_id,
                error: RelayFault::new(FaultCode::UnknownModel, why).into(),
            };
        }
        let sent = match reserved {
            Ok(reserved) => {
                run.phase.enter(Phase::Answering(provider.clone()));
                let left = leeway.slot_wait(&run.request.options);
                let turn_by = left.map_or(run.until, |left| run.until.min(Instant::now() + left));
                let (head, body) = (
                    run.request.head(chosen, run.until, turn_by),
                    run.request.body.clone(),
                );
                let (agent, epoch, begun) = (&provider.agent, chosen.provider.epoch, Instant::now());
                let sent = reserved.send(agent, epoch, head, body).await;
                if matches!(&sent, Err(RelayError::Fault(fault)) if fault.code == FaultCode::Busy) {
                    leeway.slot_waited += begun.elapsed();
                }
                sent
            }
            Err(error) => Err(error),
        };
        let failure = match &sent {
            Ok((head, body)) => {
                let failure = Failure::in_answer(head.status, body.beginning());
                failure.map(|failure| failure.about(chosen.named(run.request.model.as_str())))
            }
            Err(error) => Failure::in_error(error),
        };
        if let Some(failure) = failure {
            attempt.failed(failure);
        }
        match sent {
            Ok((head, body)) => {
                let response = InferenceResponse {
                    provider,
                    wake_id,
                    head,
                    body,
                };
                Outcome::Answered(response, attempt)
            }
            Err(error) => Outcome::Missed {
                sequence: chosen.sequence,
                wake_id,
                error,
            },
        }
    }

    pub(super) async fn wake(
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
}
