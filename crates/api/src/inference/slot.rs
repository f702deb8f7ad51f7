//! Waits until a provider has a slot for a request, and wakes the provider if it sleeps.
//!
//! A request waits for all members of its pool that are awake and have no slot, and goes to the first that has one. A member that
//! sleeps is woken for it while the others have none. [`super::slot_policy`] decides what is next; the queues tell the search when a
//! member for which it waits falls asleep, or is gone.

use super::{
    Inference, InferenceError, Phase,
    choice::Tier,
    dispatch::Run,
    leeway::Leeway,
    options::{QUEUE_WAIT, WAIT, WakeMode},
    queue::{NotQueued, Queueing, Slot, flow},
    slot_policy::{Found, InQueue, Step, next_step},
};
use crate::{
    registry::ProviderSnapshot,
    wakes::{WakeError, time_until_awake},
};
use futures::{
    FutureExt,
    future::{BoxFuture, OptionFuture},
};
use reveille_domain::{ProviderId, Status, WakeId, provider::StatusName};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::Span;

/// How often a request that waits looks for members of its pool that are new, or that somebody else has woken.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How long a slot waits for the word of the wake that brought it.
const WAKE_TOLD_WITHIN: Duration = Duration::from_millis(100);

/// One request's search for a slot.
struct Search<'a, 'r> {
    run: &'a Run<'r>,
    leeway: &'a mut Leeway,
    /// The member that was chosen for it.
    chosen: ProviderId,
    queueing: Queueing,
    /// The members whose queues have no room for it.
    full: Vec<ProviderId>,
    /// Why the first member that it asked couldn't take it.
    refusal: Option<InferenceError>,
    /// Whether it has too little time left for wakes.
    is_late: bool,
    /// How long it has waited for a slot, wakes apart.
    waited: Duration,
    woken_by: Option<WakeId>,
}

/// The provider that was woken, and the wake that did it.
type Woken = Result<(Arc<ProviderSnapshot>, Option<WakeId>), InferenceError>;

/// A wake that a search waits for.
struct Waking<'a> {
    provider: ProviderId,
    woken: BoxFuture<'a, Woken>,
}

/// What ends a wait.
enum Event {
    Slot(Slot),
    /// A wake has ended.
    Woken(Woken),
    /// A member for which it waits has fallen asleep or is gone, or it is time to look for others.
    Change,
}

impl Inference {
    /// Waits for a slot at `chosen` or at another member of its pool, which is `chosen` afterwards.
    pub(super) async fn slot(
        &self,
        run: &Run<'_>,
        chosen: &mut Arc<ProviderSnapshot>,
        leeway: &mut Leeway,
    ) -> Result<(Slot, Option<WakeId>), InferenceError> {
        let mut search = Search {
            run,
            leeway,
            chosen: chosen.provider.id.clone(),
            queueing: self.come(run),
            full: vec![],
            refusal: None,
            is_late: false,
            waited: Duration::ZERO,
            woken_by: None,
        };
        let slot = loop {
            let slot = self.search(&mut search).await?;
            if !self.registry.is_ready() && timeout_at(run.until, self.registry.ready()).await.is_err() {
                return Err(self.gone(slot.key().clone()));
            }
            // It may have fallen asleep, or gone, just now.
            if let Some(current) = self.registry.get(slot.key()).filter(|current| is_awake(current)) {
                *chosen = current;
                break slot;
            }
            drop(slot);
            search.queueing = self.come(run);
        };
        self.record_wait(&search);
        if *slot.key() != search.chosen {
            self.members.diverted(run.conversation(), slot.key());
        }
        Ok((slot, search.woken_by))
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
            Status::Inactive { .. } => Err(self.inactive(chosen)),
            Status::Hibernating { .. } | Status::Waking { .. } => {
                let (woken, wake_id) = self.wake(run, chosen).await?;
                *chosen = woken;
                Ok(wake_id)
            }
        }
    }

    /// A request that hasn't joined any queue; its number gives it its old place in each.
    fn come(&self, run: &Run<'_>) -> Queueing {
        let flow = flow(run.request.priority(), run.request.caller.key().cloned());
        self.queues.come(run.ticket, flow)
    }

    /// The first slot that the request gets.
    async fn search(&self, search: &mut Search<'_, '_>) -> Result<Slot, InferenceError> {
        let run = search.run;
        let mut waking: Option<Waking<'_>> = None;
        let chosen = search.chosen.clone();
        if self.registry.get(&chosen).is_some_and(|chosen| is_awake(&chosen)) {
            self.join(search, &chosen);
        }
        loop {
            if let Some(slot) = search.queueing.permit_now() {
                search.note_wake_of(&slot, waking).await;
                return Ok(slot);
            }
            match self.next_step(search, waking.is_some()) {
                Step::Join(member) => _ = self.join(search, &member),
                Step::Wake(member) => {
                    if self.join(search, &member)
                        && let Some(snapshot) = self.registry.get(&member)
                    {
                        let woken = async move { self.wake(run, &snapshot).await }.boxed();
                        let provider = member;
                        waking = Some(Waking { provider, woken });
                    }
                }
                Step::Answer(member) => {
                    if let Some(snapshot) = self.registry.get(&member)
                        && let Err(error) = self.wake(run, &snapshot).await
                    {
                        search.leeway.wake_failed.push(member);
                        return Err(error);
                    }
                    // It is awake, but this replica doesn't get to see it.
                    if Instant::now() >= run.until {
                        return Err(InferenceError::Asleep { provider: member });
                    }
                }
                Step::Wait => match self.wait(search, waking.as_mut()).await? {
                    Event::Change => search.full.clear(),
                    Event::Slot(slot) => {
                        search.note_wake_of(&slot, waking).await;
                        return Ok(slot);
                    }
                    Event::Woken(outcome) => {
                        if let Some(waking) = waking.take() {
                            search.wake_ended(waking.provider, outcome)?;
                        }
                    }
                },
                Step::End => return Err(self.ended(search)),
            }
        }
    }

    fn next_step(&self, search: &Search<'_, '_>, is_waking: bool) -> Step {
        let joined = search.queueing.joined();
        // While the journal is being read again, nothing is known of anybody.
        if !self.registry.is_ready() && !joined.is_empty() {
            return Step::Wait;
        }
        let (run, leeway) = (search.run, &*search.leeway);
        let waits_for_wakes = run.request.options.wake == WakeMode::Block;
        let is_late = search.is_late || waits_for_wakes && Instant::now() >= run.until && !joined.is_empty();
        let tiers = self
            .members
            .tiers(&self.pool_now(run), leeway.reach, &leeway.tried, &joined);
        let found = tiers.into_iter().map(|(provider, tier)| Found {
            queue: match &provider {
                provider if joined.contains(provider) => InQueue::Yes,
                provider if search.full.contains(provider) => InQueue::Full,
                _ => InQueue::No,
            },
            can_wake: !is_late && !leeway.wake_failed.contains(&provider),
            tier,
            provider,
        });
        let found: Vec<_> = found.collect();
        let step = next_step(&found, is_waking, run.request.options.wake);
        if let Step::Join(member) = &step
            && found
                .iter()
                .any(|found| found.provider == *member && found.tier == Tier::Trial)
        {
            self.members.tries(member);
        }
        step
    }

    /// Joins the queue of a member. Returns whether it has.
    fn join(&self, search: &mut Search<'_, '_>, member: &ProviderId) -> bool {
        let refused = match search.queueing.join(member) {
            Ok(()) => return true,
            Err(refused) => refused,
        };
        search.full.push(member.clone());
        let snapshot = self.registry.get(member);
        let error = match (refused, snapshot) {
            (NotQueued::Full { length, room_in }, Some(snapshot)) => full_queue(&snapshot, length, room_in),
            (NotQueued::Full { .. }, None) | (NotQueued::Gone, _) => self.gone(member.clone()),
        };
        search.refusal.get_or_insert(error);
        false
    }

    /// Waits for a slot, for the end of a wake, or for a change.
    async fn wait(
        &self,
        search: &mut Search<'_, '_>,
        mut waking: Option<&mut Waking<'_>>,
    ) -> Result<Event, InferenceError> {
        let (run, begun) = (search.run, Instant::now());
        // The clock of slots stands still during a wake.
        let is_waking = waking.is_some();
        let most = search
            .leeway
            .slot_wait(&run.request.options)
            .filter(|_| !is_waking);
        let by = most.map_or(run.until, |most| run.until.min(begun + most));
        let look_again = begun + LOOK_AGAIN;
        // A wake ends by itself in time.
        let look_by = if is_waking { look_again } else { by.min(look_again) };
        let view = search.queueing.view();
        let at = search.waits_at();
        if !is_waking {
            run.phase.enter(Phase::Queued(at.clone(), Some(view.clone())));
        }
        let woken = OptionFuture::from(waking.as_mut().map(|waking| &mut waking.woken));
        let event = tokio::select! {
            biased;
            slot = search.queueing.permit_or_change() => slot.map_or(Event::Change, Event::Slot),
            Some(outcome) = woken => Event::Woken(outcome),
            () = sleep_until(look_by) => Event::Change,
        };
        if is_waking {
            return Ok(event);
        }
        search.waited += begun.elapsed();
        search.leeway.slot_waited += begun.elapsed();
        if matches!(event, Event::Slot(_)) || Instant::now() < by {
            return Ok(event);
        }
        let (waited, header) = if by < run.until {
            (search.leeway.slot_waited, QUEUE_WAIT)
        } else {
            (run.begun.elapsed(), WAIT)
        };
        Err(InferenceError::QueueTimedOut {
            provider: at,
            waited,
            header,
            position: view.position(),
        })
    }

    /// What the request gets when no member is left for it.
    fn ended(&self, search: &mut Search<'_, '_>) -> InferenceError {
        search.leeway.tried.append(&mut search.full);
        if let Some(refusal) = search.refusal.take() {
            return refusal;
        }
        let (run, chosen) = (search.run, &search.chosen);
        if self.registry.get(chosen).is_some() && self.pool_now(run).is_empty() {
            return self.no_longer_served(run);
        }
        let inactive = |snapshot: &Arc<ProviderSnapshot>| {
            let id = &snapshot.provider.id;
            snapshot.provider.status.name() == StatusName::Inactive && !search.leeway.tried.contains(id)
        };
        match self.registry.get(chosen) {
            Some(snapshot) if !inactive(&snapshot) => InferenceError::Asleep {
                provider: chosen.clone(),
            },
            Some(snapshot) => self.inactive(&snapshot),
            None => match self.pool_now(run).iter().find(|member| inactive(member)) {
                Some(member) => self.inactive(member),
                None => self.gone(chosen.clone()),
            },
        }
    }

    fn inactive(&self, snapshot: &ProviderSnapshot) -> InferenceError {
        let id = &snapshot.provider.id;
        let Status::Inactive { reason, .. } = snapshot.provider.status else {
            return self.gone(id.clone());
        };
        let inactive = WakeError::Inactive {
            provider: id.clone(),
            absence: self.registry.absence(&id.agent, reason),
        };
        inactive.into()
    }

    fn record_wait(&self, search: &Search<'_, '_>) {
        if !search.waited.is_zero() {
            let waited_ms = u64::try_from(search.waited.as_millis()).unwrap_or(u64::MAX);
            Span::current().record("queue.waited_ms", waited_ms);
        }
        self.metrics.queued(search.run.request.priority(), search.waited);
    }
}

impl Search<'_, '_> {
    /// The member to name for the wait: the one that was chosen, or else the first whose queue it has joined.
    fn waits_at(&self) -> ProviderId {
        let joined = self.queueing.joined();
        let other = || joined.first().cloned();
        let chosen = Some(&self.chosen)
            .filter(|chosen| joined.contains(chosen))
            .cloned();
        chosen.or_else(other).unwrap_or_else(|| self.chosen.clone())
    }

    /// A wake has ended. If it has failed and the request waits nowhere else, that is the outcome.
    fn wake_ended(&mut self, provider: ProviderId, outcome: Woken) -> Result<(), InferenceError> {
        match outcome {
            Ok((_, wake_id)) => self.woken_by = self.woken_by.or(wake_id),
            Err(error) => {
                if is_for_want_of_time(&error) {
                    self.is_late = true;
                } else {
                    self.leeway.wake_failed.push(provider);
                }
                if !self.queueing.waits_at_open() {
                    return Err(error);
                }
                self.refusal.get_or_insert(error);
            }
        }
        Ok(())
    }

    /// A slot of the provider that it wakes means that this one is awake, which the wake is about to tell.
    async fn note_wake_of(&mut self, slot: &Slot, waking: Option<Waking<'_>>) {
        if let Some(waking) = waking.filter(|waking| waking.provider == *slot.key())
            && let Ok(Ok((_, wake_id))) = timeout(WAKE_TOLD_WITHIN, waking.woken).await
        {
            self.woken_by = self.woken_by.or(wake_id);
        }
    }
}

/// Whether requests may be handed over: without a recipe nothing but the backend itself can tell whether it is back.
fn is_awake(snapshot: &ProviderSnapshot) -> bool {
    matches!(
        snapshot.provider.status.name(),
        StatusName::Active | StatusName::Down
    )
}

/// Whether the request's time is what a wake lacked: any other one would lack it too.
fn is_for_want_of_time(error: &InferenceError) -> bool {
    match error {
        InferenceError::WaitTooShort { .. } => true,
        InferenceError::Wake(error) => matches!(**error, WakeError::CallerTimedOut { .. }),
        _ => false,
    }
}

fn full_queue(snapshot: &ProviderSnapshot, length: usize, room_in: Option<Duration>) -> InferenceError {
    let wakes_in = time_until_awake(snapshot);
    let room_in = match (room_in, wakes_in) {
        (None, wakes_in) => wakes_in,
        (Some(room_in), wakes_in) => Some(room_in + wakes_in.unwrap_or_default()),
    };
    InferenceError::QueueFull {
        provider: snapshot.provider.id.clone(),
        length,
        room_in,
    }
}
