//! From a request to a backend's response: choose a provider, wake it if it sleeps, hand the request over. What follows
//! an attempt that brought no response is [`super::retry_policy`]'s decision.
//!
//! A client that disconnects drops the future, which cancels the request at the agent; a wake that has begun
//! goes on.

use super::{
    CurrentPhase, FailedRequests, InferenceError, InferenceRequest, InferenceResponse, Relay, ResponseBody,
    Startup, Timings, WakeMode,
    affinity::Conversation,
    choice::Reach,
    leeway::Leeway,
    members::{Attempt, Members},
    model_access,
    queue::Queues,
    retry_policy::{NextStep, Outcome, RetryPolicy, Target},
    startup::Missing,
    stored::{Stored, StoredResponses},
};
use crate::{
    metrics::Metrics,
    registry::{Kind, ProviderSnapshot, Registry},
    requests::note,
    wakes::{WakeError, Waker},
};
use reveille_bus::relay::AnswerKind;
use reveille_domain::{ProviderId, WakeId, provider::StatusName};
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;

pub(crate) struct Inference {
    pub(super) registry: Registry,
    pub(super) waker: Arc<dyn Waker>,
    pub(super) relay: Arc<dyn Relay>,
    pub(super) members: Members,
    /// Where requests wait for slots.
    pub(crate) queues: Queues,
    pub(super) timings: Timings,
    /// The responses that backends keep.
    pub(crate) stored: StoredResponses,
    startup: Startup,
    pub(super) metrics: Metrics,
}

/// How far one request has come, and until when it waits.
pub(super) struct Run<'a> {
    pub request: &'a InferenceRequest,
    pub phase: &'a CurrentPhase,
    pub until: Instant,
    pub begun: Instant,
    /// Its number among those that came.
    pub ticket: u64,
    /// The conversation that it belongs to, once that matters.
    conversation: OnceLock<Option<Conversation>>,
    /// Whether its model's name was a preset's when the first provider was chosen. It is never answered by the other.
    pub kind: OnceLock<Kind>,
}

impl Run<'_> {
    pub(super) fn conversation(&self) -> Option<Conversation> {
        let InferenceRequest {
            caller,
            model,
            endpoint,
            body,
            ..
        } = self.request;
        let conversation = || Conversation::of(caller.key(), model.as_str(), endpoint, &body.at_once()?);
        *self.conversation.get_or_init(conversation)
    }
}

/// What a request's attempts so far came to. What most requests never have is on the heap, so that no request holds room for it while it
/// waits.
#[derive(Default)]
struct Earlier {
    /// The first that weren't sent anything.
    refusal: Option<Box<InferenceError>>,
    /// The last answer of a backend that doesn't serve the request.
    answer: Option<Box<(InferenceResponse, Attempt)>>,
    /// The last that brought no answer, and its provider.
    missed: Option<Box<(Outcome, Arc<ProviderSnapshot>)>>,
    woken_by: Option<WakeId>,
}

impl Earlier {
    fn keep(&mut self, outcome: Outcome, provider: &Arc<ProviderSnapshot>) {
        match outcome {
            missed @ Outcome::Missed { .. } => self.missed = Some(Box::new((missed, provider.clone()))),
            Outcome::Refused(error) => _ = self.refusal.get_or_insert_with(|| Box::new(error)),
            // One that comes in pieces would hold up its agent.
            Outcome::Answered(response, mut attempt) if matches!(response.body, ResponseBody::Whole(_)) => {
                attempt.give_slot_back();
                self.answer = Some(Box::new((response, attempt)));
            }
            Outcome::Answered(..) => {}
        }
    }

    /// What the caller gets of all: a backend's own words say more than that no other provider could be asked, and what became of
    /// the request at one says more than that another sleeps, which may not be woken for it any more.
    fn conclusion(
        &mut self,
        last: Outcome,
        provider: Arc<ProviderSnapshot>,
    ) -> (Outcome, Arc<ProviderSnapshot>) {
        match (last, self.answer.take(), self.missed.take()) {
            (Outcome::Refused(_) | Outcome::Missed { .. }, Some(answered), _) => {
                let (response, attempt) = *answered;
                (Outcome::Answered(response, attempt), provider)
            }
            (Outcome::Refused(error), None, Some(missed)) if missed.0.was_seen() || error.is_asleep() => {
                *missed
            }
            (last, _, _) => (last, provider),
        }
    }
}

impl Inference {
    pub fn new(
        registry: Registry,
        waker: Arc<dyn Waker>,
        relay: Arc<dyn Relay>,
        metrics: Metrics,
        timings: Timings,
        startup: Startup,
        max_waiting: usize,
    ) -> Self {
        let queues = Queues::new(max_waiting);
        registry.observe(Arc::new(queues.clone()));
        Self {
            registry,
            waker,
            relay,
            members: Members::new(metrics.clone()),
            queues,
            timings,
            stored: StoredResponses::default(),
            startup,
            metrics,
        }
    }

    /// The members of `pool` in the order in which a request would try them now.
    pub fn in_order(&self, pool: &[Arc<ProviderSnapshot>]) -> Vec<Arc<ProviderSnapshot>> {
        self.members.in_order(pool)
    }

    /// The members of `pool` in that order, each with what it is for a request now.
    pub fn explained(&self, pool: &[Arc<ProviderSnapshot>]) -> Vec<(Arc<ProviderSnapshot>, String)> {
        self.members.explained(pool)
    }

    /// The last requests of this replica that failed at the provider in a row.
    pub fn failed_requests(&self, snapshot: &ProviderSnapshot) -> Option<FailedRequests> {
        self.members.failed_requests(snapshot)
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
            until: begun + request.options.wait,
            begun,
            ticket: self.queues.ticket(),
            conversation: OnceLock::new(),
            kind: OnceLock::new(),
        };
        let (mut policy, mut earlier, mut leeway) =
            (RetryPolicy::default(), Earlier::default(), Leeway::whole());
        let mut chosen = self.startup.wait_for(run.until, || self.choose(&run)).await?;
        run.kind.get_or_init(|| Kind::at(&chosen, request.model.as_str()));
        loop {
            let outcome = Box::new(self.attempt(&run, &mut chosen, &mut leeway).await);
            earlier.woken_by = earlier.woken_by.or(outcome.wake_id());
            if let Some(missed) = outcome.missed(&chosen.provider.id) {
                note(|recording| recording.step(missed));
            }
            if let Outcome::Missed { error, .. } = &*outcome {
                // It is asleep, and the journal can't say so, so it can't be woken.
                if error.is_leaving()
                    && let Some(trouble) = self.waker.trouble()
                {
                    return Err(WakeError::Journal(trouble).into());
                }
            }
            let next = match policy.next_step(&outcome, request.waits(run.until)) {
                NextStep::Finish => None,
                NextStep::AskAnother(reach) => {
                    leeway.tried.push(chosen.provider.id.clone());
                    leeway.reach = reach;
                    self.another(&run, reach, &leeway.ruled_out())
                }
                NextStep::SendAgain(target) => {
                    let found = self.find(target, &run, &chosen, &leeway.ruled_out()).await;
                    let is_another = |found: &Arc<ProviderSnapshot>| found.provider.id != chosen.provider.id;
                    if target == Target::AnotherOrOncePublished && found.as_ref().is_some_and(is_another) {
                        // It is awake and would have a slot sooner, but not what the request asks for.
                        leeway.tried.push(chosen.provider.id.clone());
                    }
                    found
                }
            };
            let Some(next) = next else {
                return self.conclude(&run, *outcome, chosen, earlier);
            };
            earlier.keep(*outcome, &chosen);
            chosen = next;
        }
    }

    /// Whether the request is for a preset whose model its caller has no name for.
    pub(super) fn hides_model(&self, request: &InferenceRequest) -> bool {
        let asked = request.model.as_str();
        let pool = self.registry.pool(asked);
        pool.iter().any(|snapshot| {
            let preset = snapshot.preset(asked);
            preset.is_some_and(|preset| !model_access::sees_model(&request.caller, snapshot, preset))
        })
    }

    /// The member that a request begins with.
    pub(super) fn choose(&self, run: &Run<'_>) -> Result<Arc<ProviderSnapshot>, InferenceError> {
        let request = run.request;
        let pool = self.allowed(request)?;
        self.members.forget_withdrawn(&self.registry);
        // What an earlier run of the agent has left inactive is about to be published again.
        if let Some(missing) = self.startup.missing()
            && pool
                .iter()
                .all(|snapshot| snapshot.provider.status.name() == StatusName::Inactive)
        {
            return Err(InferenceError::NotReady(missing));
        }
        let has_presets = || {
            pool.iter()
                .any(|snapshot| snapshot.preset(request.model.as_str()).is_some())
        };
        let lacks_place = !request.takes_presets() && has_presets();
        let pool = request.at_its_path(pool);
        let best = self
            .members
            .choose_for(|| run.conversation(), &pool, Reach::All, &[]);
        best.ok_or_else(|| match &request.member {
            Some(member) => self.gone(member.clone()),
            None if lacks_place => InferenceError::NoPlaceForPreset {
                model: request.model.clone(),
                path: request.plain_path().to_owned(),
            },
            None => InferenceError::LacksPath {
                model: request.model.clone(),
                path: request.plain_path().to_owned(),
            },
        })
    }

    /// The providers that have the model of a request, if its caller may use it.
    fn allowed(&self, request: &InferenceRequest) -> Result<Vec<Arc<ProviderSnapshot>>, InferenceError> {
        model_access::pool_for(&self.registry, &self.startup, &request.caller, &request.model)
    }

    /// What the caller gets once no step follows.
    fn conclude(
        &self,
        run: &Run<'_>,
        outcome: Outcome,
        chosen: Arc<ProviderSnapshot>,
        mut earlier: Earlier,
    ) -> Result<InferenceResponse, InferenceError> {
        let (outcome, chosen) = earlier.conclusion(outcome, chosen);
        let provider = || chosen.provider.id.clone();
        match outcome {
            Outcome::Answered(mut response, attempt) => {
                response.wake_id = response.wake_id.or(earlier.woken_by);
                let (provider, status) = (&response.provider, response.head.status);
                note(|recording| recording.answered(provider, response.wake_id, status));
                let is_cold = response.wake_id.is_some();
                let first_byte = response
                    .is_success()
                    .then(|| self.metrics.first_byte(run.begun, is_cold));
                let kind = AnswerKind::of_path(&run.request.path);
                response.body = response.body.observed(&response.head, kind, attempt, first_byte);
                if run.request.endpoint.keeps_answers() && response.is_success() {
                    let stored = Stored {
                        provider: response.provider.clone(),
                        model: run.request.model.clone(),
                        key: run.request.caller.key().cloned(),
                    };
                    response.body = self.stored.watching(response.body, stored);
                }
                Ok(response)
            }
            // The first provider's refusal says more than that a quota keeps another one out of reach.
            Outcome::Refused(error) if error.is_about_one_provider() || error.is_quota() => {
                Err(earlier.refusal.map_or(error, |refusal| *refusal))
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
            Outcome::Missed { wake_id, error, .. } => {
                // The model may have gone altogether.
                if error.is_unknown_model() {
                    self.allowed(run.request)?;
                }
                Err(InferenceError::Relay {
                    provider: provider(),
                    wake_id,
                    error: Box::new(error),
                    failing_for: self.members.failing_for(&chosen),
                })
            }
        }
    }

    /// Why a provider has left the fold.
    pub(super) fn gone(&self, provider: ProviderId) -> InferenceError {
        if self.registry.is_ready() {
            WakeError::Unknown { provider }.into()
        } else {
            InferenceError::NotReady(Missing::Journal)
        }
    }
}
