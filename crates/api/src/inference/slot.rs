//! Waits until a provider has a slot for a request, and wakes the provider if it sleeps.
//!
//! A request waits for all members of its pool that are awake and have no slot, and goes to the first that has one. A member that
//! sleeps is woken for it while the others have none.

use super::{
    Inference, InferenceError, Phase, WakeMode,
    choice::{Reach, Tier},
    dispatch::Run,
    options::{QUEUE_WAIT, WAIT},
    queue::{Full, Queueing, Slot, UNLIMITED_SLOTS},
};
use crate::{
    registry::ProviderSnapshot,
    wakes::{WakeError, time_until_awake},
};
use reveille_domain::{ProviderId, Status, WakeId, provider::StatusName};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};
use tracing::Span;

/// How often a request that waits looks for members of its pool that have been woken meanwhile, or may be.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// One request's search for a slot.
struct Search<'a, 'r> {
    run: &'a Run<'r>,
    queueing: Queueing,
    /// The members that it doesn't go to.
    not: Vec<ProviderId>,
    /// How long it has waited for a slot, wakes apart.
    waited: Duration,
}

impl Inference {
    /// Waits for a slot at `chosen`, which is the member afterwards that has it. The members where the request was `tried` don't get
    /// it again.
    pub(super) async fn slot(
        &self,
        run: &Run<'_>,
        chosen: &mut Arc<ProviderSnapshot>,
        tried: &[ProviderId],
    ) -> Result<(Slot, Option<WakeId>), InferenceError> {
        let flow = run.request.caller.key().cloned();
        let mut search = Search {
            run,
            queueing: self.queues.place(run.ticket, run.request.priority(), flow),
            not: tried.to_vec(),
            waited: Duration::ZERO,
        };
        let (mut target, mut woken_by) = (chosen.clone(), None);
        let slot = loop {
            let id = target.provider.id.clone();
            let (slot, wake_id) = match self.slot_at(&mut search, &mut target).await {
                Ok(gotten) => gotten,
                // One that is woken only because others have no slot may fail.
                Err(_) if search.queueing.waits_for_one_awake() => (None, None),
                Err(error) => return Err(error),
            };
            woken_by = woken_by.or(wake_id);
            if let Some(slot) = slot {
                break slot;
            }
            search.not.push(id.clone());
            if let Some(better) = self.with_room(&search) {
                target = better;
                continue;
            }
            if let Some(slot) = self.next_slot(&mut search, &id).await? {
                break slot;
            }
            search.not = tried.to_vec();
            let same = || self.registry.get(&id).ok_or_else(|| self.gone(id.clone()));
            target = self.with_room(&search).map_or_else(same, Ok)?;
        };
        self.record_wait(&search);
        let is_diverted = slot.provider != chosen.provider.id;
        let current = self.registry.get(&slot.provider);
        *chosen = current.ok_or_else(|| self.gone(slot.provider.clone()))?;
        if is_diverted {
            self.members.diverted(run.conversation(), &slot.provider);
        }
        // It may have fallen asleep meanwhile.
        let wake_id = self.once_awake(run, chosen).await?;
        Ok((slot, woken_by.or(wake_id)))
    }

    /// The provider as it is once it is awake, and the wake that did it.
    pub(super) async fn once_awake(
        &self,
        run: &Run<'_>,
        chosen: &mut Arc<ProviderSnapshot>,
    ) -> Result<Option<WakeId>, InferenceError> {
        match &chosen.provider.status {
            // Without a recipe nothing but the backend itself can tell whether it is back.
            Status::Active { .. } | Status::Down { .. } => Ok(None),
            Status::Inactive { reason, .. } => {
                let inactive = WakeError::Inactive {
                    provider: chosen.provider.id.clone(),
                    absence: self.registry.absence(&chosen.provider.id.agent, *reason),
                };
                Err(inactive.into())
            }
            Status::Hibernating { .. } | Status::Waking { .. } => {
                let (woken, wake_id) = self.wake(run, chosen).await?;
                *chosen = woken;
                Ok(wake_id)
            }
        }
    }

    /// Joins the queue of `target` and, for as long as that one wakes, of the members that are awake. Returns a slot if there is one
    /// by then.
    async fn slot_at(
        &self,
        search: &mut Search<'_, '_>,
        target: &mut Arc<ProviderSnapshot>,
    ) -> Result<(Option<Slot>, Option<WakeId>), InferenceError> {
        let id = target.provider.id.clone();
        let is_awake = is_awake(target);
        if target.provider.status.name() == StatusName::Inactive {
            self.once_awake(search.run, target).await?;
        }
        let joined = search.queueing.join(&id, slots(target), is_awake);
        self.join_others(search);
        joined.map_err(|full| full_queue(target, full))?;
        if is_awake {
            return Ok((search.queueing.slot_now(), None));
        }
        let (slot, woken_by) = {
            let mut waking = std::pin::pin!(self.once_awake(search.run, target));
            tokio::select! {
                biased;
                slot = search.queueing.slot() => {
                    // One of its own means that it is awake, which the request is about to see.
                    let woken_by = if slot.provider == id { waking.await? } else { None };
                    (Some(slot), woken_by)
                }
                woken_by = &mut waking => (None, woken_by?),
            }
        };
        if slot.is_some() {
            return Ok((slot, woken_by));
        }
        search.queueing.is_awake(&id);
        Ok((search.queueing.slot_now(), woken_by))
    }

    /// Waits for a slot; `None` when it is time to look for other members.
    async fn next_slot(
        &self,
        search: &mut Search<'_, '_>,
        at: &ProviderId,
    ) -> Result<Option<Slot>, InferenceError> {
        let (run, view, begun) = (search.run, search.queueing.view(), Instant::now());
        run.phase.enter(Phase::Queued(at.clone(), Some(view.clone())));
        let queue_wait = run.request.options.queue_wait;
        let by = queue_wait.map(|most| begun + most.saturating_sub(search.waited));
        let by = by.map_or(run.until, |by| by.min(run.until));
        let slot = tokio::select! {
            biased;
            slot = search.queueing.slot() => Some(slot),
            () = sleep_until(by.min(begun + LOOK_AGAIN)) => None,
        };
        search.waited += begun.elapsed();
        if slot.is_some() || Instant::now() < by {
            return Ok(slot);
        }
        let (waited, header) = if by < run.until {
            (search.waited, QUEUE_WAIT)
        } else {
            (run.begun.elapsed(), WAIT)
        };
        Err(InferenceError::QueueTimedOut {
            provider: at.clone(),
            waited,
            header,
            standing: view.standing(),
        })
    }

    /// A member of the request's pool that has a slot, or that can be woken.
    fn with_room(&self, search: &Search<'_, '_>) -> Option<Arc<ProviderSnapshot>> {
        let run = search.run;
        let pool = self.pool_now(run);
        if pool.len() < 2 {
            return None;
        }
        let not = [search.not.clone(), search.queueing.joined()].concat();
        let wakes = run.request.options.wake == WakeMode::Block;
        let worst = if wakes { Tier::Asleep } else { Tier::Doubted };
        let suits = |tier| tier <= worst;
        self.members
            .choose_if(|| run.conversation(), &pool, Reach::All, &not, suits)
    }

    fn join_others(&self, search: &Search<'_, '_>) {
        let pool = self.pool_now(search.run);
        if pool.len() < 2 {
            return;
        }
        for other in self.members.awake(&pool, &search.not) {
            // A full queue is one less.
            let _ = search.queueing.join(&other.provider.id, slots(&other), true);
        }
    }

    fn record_wait(&self, search: &Search<'_, '_>) {
        if !search.waited.is_zero() {
            let waited_ms = u64::try_from(search.waited.as_millis()).unwrap_or(u64::MAX);
            Span::current().record("queue.waited_ms", waited_ms);
        }
        let priority = search.run.request.priority();
        self.metrics.queued(priority, search.waited);
    }
}

/// Whether requests may be handed over: without a recipe nothing but the backend itself can tell whether it is back.
fn is_awake(snapshot: &ProviderSnapshot) -> bool {
    matches!(
        snapshot.provider.status.name(),
        StatusName::Active | StatusName::Down
    )
}

fn slots(snapshot: &ProviderSnapshot) -> u32 {
    let limit = snapshot.provider.spec.balancing().max_concurrency();
    limit.unwrap_or(UNLIMITED_SLOTS)
}

fn full_queue(snapshot: &ProviderSnapshot, full: Full) -> InferenceError {
    let wakes_in = time_until_awake(snapshot);
    let room_in = match (full.room_in, wakes_in) {
        (None, wakes_in) => wakes_in,
        (Some(room_in), wakes_in) => Some(room_in + wakes_in.unwrap_or_default()),
    };
    InferenceError::QueueFull {
        provider: snapshot.provider.id.clone(),
        length: full.length,
        room_in,
    }
}
