//! Where requests wait for a slot at a provider: in each replica one queue per provider, bounded and fair.
//!
//! A replica has handed over at most as many requests to a provider as the provider's `max_concurrency` says; the others wait here.
//! The agent holds the same limit for all replicas together. A request may wait for several members of its pool at once, and goes to
//! the first that has a slot.
//!
//! A request joins the queue of a provider that sleeps when it comes, not when the provider is awake, so that a wake changes nothing of
//! the order. It can have a slot only once one of those that joined has seen the provider awake.

mod classes;

use classes::{Classes, Flow, Place};
use parking_lot::Mutex;
use reveille_domain::{Priority, ProviderId};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// How many requests a replica has handed over to a provider without `max_concurrency` at most. Two replicas fill what an agent takes
/// at once, and half of a replica's memory for the beginnings of responses is left for other providers.
pub(crate) const UNLIMITED_SLOTS: u32 = 2_048;
/// The share of the last slot's time in the average.
const LATEST: f64 = 0.125;

/// The queues of this replica. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Queues {
    inner: Arc<Mutex<Inner>>,
    /// How many may wait for one provider.
    limit: usize,
}

#[derive(Debug, Default)]
struct Inner {
    queues: HashMap<ProviderId, Queue>,
    /// Those that wait, by their tickets.
    waiting: HashMap<u64, Waiting>,
    tickets: u64,
}

/// The queue of one provider.
#[derive(Debug, Default)]
struct Queue {
    slots: usize,
    taken: usize,
    /// The tickets of those that joined while the provider wasn't awake.
    asleep: BTreeSet<u64>,
    /// Those that can have a slot.
    awake: Classes,
    /// For how long a slot is held, on average; `None` before the first was given back.
    held: Option<Duration>,
}

#[derive(Debug)]
struct Waiting {
    place: Place,
    at: Vec<ProviderId>,
    grant: oneshot::Sender<Slot>,
}

/// A request's place in the queues that it has joined, until this is dropped.
#[derive(Debug)]
pub(super) struct Queueing {
    queues: Queues,
    ticket: u64,
    granted: oneshot::Receiver<Slot>,
}

/// One of a provider's slots, until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    queues: Queues,
    pub provider: ProviderId,
    since: Instant,
}

/// How a request stands in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// 1 for the next. Of several queues, it is that in which the request has its turn first.
    pub place: usize,
    /// How long that usually takes.
    pub left: Option<Duration>,
}

/// Looks at a request's place from elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct QueueView {
    queues: Queues,
    ticket: u64,
}

/// A queue that takes no more requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub length: usize,
    /// How long all of them usually take, by how long slots were held.
    pub room_in: Option<Duration>,
}

/// What waits for one provider, for lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct QueueState {
    pub waiting: usize,
    /// How many requests this replica has handed over.
    pub handed_over: usize,
}

impl Queues {
    /// Queues for at most `limit` requests each.
    pub fn new(limit: usize) -> Self {
        Self {
            inner: Arc::default(),
            limit,
        }
    }

    /// The number of a request that has just come: in its flow it comes before those with higher ones.
    pub fn ticket(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.tickets += 1;
        inner.tickets
    }

    /// A place for a request that hasn't joined any queue yet. No other one with this ticket may wait.
    pub(super) fn place(&self, ticket: u64, priority: Priority, flow: Flow) -> Queueing {
        let (grant, granted) = oneshot::channel();
        let waiting = Waiting {
            place: Place {
                priority,
                flow,
                ticket,
            },
            at: vec![],
            grant,
        };
        self.inner.lock().waiting.insert(ticket, waiting);
        Queueing {
            queues: self.clone(),
            ticket,
            granted,
        }
    }

    pub fn state(&self, provider: &ProviderId) -> QueueState {
        let inner = self.inner.lock();
        let queue = inner.queues.get(provider);
        queue.map_or_else(QueueState::default, |queue| QueueState {
            waiting: queue.waiting(),
            handed_over: queue.taken,
        })
    }

    /// How many requests wait in all queues; one that has joined several counts once.
    pub fn waiting(&self) -> usize {
        let inner = self.inner.lock();
        let waits = |waiting: &&Waiting| !waiting.at.is_empty();
        inner.waiting.values().filter(waits).count()
    }

    /// Forgets the queues of providers that aren't published any more, as soon as there are more than `published`.
    pub fn forget_withdrawn(&self, published: usize, is_published: impl Fn(&ProviderId) -> bool) {
        let mut inner = self.inner.lock();
        if inner.queues.len() > published {
            inner
                .queues
                .retain(|id, queue| queue.taken > 0 || queue.waiting() > 0 || is_published(id));
        }
    }
}

impl Inner {
    /// Gives the provider's free slots to those whose turn it is, who have them when the lock is released.
    fn grant(&mut self, queues: &Queues, provider: &ProviderId) {
        while let Some(queue) = self.queues.get_mut(provider)
            && queue.taken < queue.slots
            && let Some(ticket) = queue.awake.pop()
        {
            let Some(waiting) = self.waiting.remove(&ticket) else {
                continue;
            };
            queue.taken += 1;
            for other in waiting.at.iter().filter(|other| *other != provider) {
                if let Some(queue) = self.queues.get_mut(other) {
                    queue.leave(&waiting.place);
                }
            }
            let slot = Slot {
                queues: queues.clone(),
                provider: provider.clone(),
                since: Instant::now(),
            };
            // It arrives: whoever leaves takes itself out, under the lock, before it stops listening.
            let arrived = waiting.grant.send(slot);
            debug_assert!(arrived.is_ok(), "who waits listens");
        }
    }

    fn standing(&self, ticket: u64) -> Option<Standing> {
        let waiting = self.waiting.get(&ticket)?;
        let queues = waiting.at.iter().filter_map(|id| self.queues.get(id));
        let standings = queues.map(|queue| {
            let ahead = queue.ahead_of(&waiting.place);
            Standing {
                place: ahead + 1,
                left: queue.time_for(ahead + 1),
            }
        });
        standings.min_by_key(|standing| (standing.left, standing.place))
    }
}

impl Queue {
    fn waiting(&self) -> usize {
        self.asleep.len() + self.awake.len()
    }

    fn leave(&mut self, place: &Place) {
        if !self.asleep.remove(&place.ticket) {
            self.awake.remove(place);
        }
    }

    fn ahead_of(&self, place: &Place) -> usize {
        if self.asleep.contains(&place.ticket) {
            self.asleep.range(..place.ticket).count() + self.awake.len()
        } else {
            self.awake.ahead_of(place)
        }
    }

    /// How long so many turns usually take.
    fn time_for(&self, turns: usize) -> Option<Duration> {
        let slots = u32::try_from(self.slots.max(1)).unwrap_or(u32::MAX);
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        self.held.map(|held| (held / slots).saturating_mul(turns))
    }

    fn was_held(&mut self, time: Duration) {
        let average = |held: Duration| held.mul_f64(1.0 - LATEST) + time.mul_f64(LATEST);
        self.held = Some(self.held.map_or(time, average));
    }
}

impl Queueing {
    /// Joins the queue of a provider with so many slots. Without `awake`, there is none before [`Self::is_awake`].
    pub fn join(&self, provider: &ProviderId, slots: u32, awake: bool) -> Result<(), Full> {
        let mut guard = self.queues.inner.lock();
        let inner = &mut *guard;
        // It may have a slot already.
        let Some(waiting) = inner.waiting.get_mut(&self.ticket) else {
            return Ok(());
        };
        let queue = inner.queues.entry(provider.clone()).or_default();
        queue.slots = slots as usize;
        if waiting.at.contains(provider) {
            if awake && queue.asleep.remove(&self.ticket) {
                queue.awake.push(&waiting.place);
            }
        } else {
            let has_slot = awake && queue.taken < queue.slots && queue.awake.is_empty();
            if !has_slot && queue.waiting() >= self.queues.limit {
                return Err(Full {
                    length: queue.waiting(),
                    room_in: queue.time_for(queue.waiting()),
                });
            }
            if awake {
                queue.awake.push(&waiting.place);
            } else {
                queue.asleep.insert(self.ticket);
            }
            waiting.at.push(provider.clone());
        }
        inner.grant(&self.queues, provider);
        Ok(())
    }

    /// The provider is awake, for all that have joined its queue by now.
    pub fn is_awake(&self, provider: &ProviderId) {
        let mut guard = self.queues.inner.lock();
        let inner = &mut *guard;
        if let Some(queue) = inner.queues.get_mut(provider) {
            for ticket in std::mem::take(&mut queue.asleep) {
                if let Some(waiting) = inner.waiting.get(&ticket) {
                    queue.awake.push(&waiting.place);
                }
            }
        }
        inner.grant(&self.queues, provider);
    }

    /// Waits for the first slot. Cancel-safe; never ready again once it was.
    pub async fn slot(&mut self) -> Slot {
        match (&mut self.granted).await {
            Ok(slot) => slot,
            // It was taken before.
            Err(_) => std::future::pending().await,
        }
    }

    /// The slot, if it has one.
    pub fn slot_now(&mut self) -> Option<Slot> {
        self.granted.try_recv().ok()
    }

    /// Whether it waits for a provider that is awake.
    pub fn waits_for_one_awake(&self) -> bool {
        let inner = self.queues.inner.lock();
        let Some(waiting) = inner.waiting.get(&self.ticket) else {
            return false;
        };
        let mut queues = waiting.at.iter().filter_map(|id| inner.queues.get(id));
        queues.any(|queue| !queue.asleep.contains(&self.ticket))
    }

    /// The providers whose queues it has joined.
    pub fn joined(&self) -> Vec<ProviderId> {
        let inner = self.queues.inner.lock();
        let waiting = inner.waiting.get(&self.ticket);
        waiting.map_or_else(Vec::new, |waiting| waiting.at.clone())
    }

    pub fn view(&self) -> QueueView {
        QueueView {
            queues: self.queues.clone(),
            ticket: self.ticket,
        }
    }
}

impl Drop for Queueing {
    fn drop(&mut self) {
        let mut inner = self.queues.inner.lock();
        if let Some(waiting) = inner.waiting.remove(&self.ticket) {
            for provider in &waiting.at {
                if let Some(queue) = inner.queues.get_mut(provider) {
                    queue.leave(&waiting.place);
                }
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.queues.inner.lock();
        if let Some(queue) = inner.queues.get_mut(&self.provider) {
            queue.taken = queue.taken.saturating_sub(1);
            queue.was_held(self.since.elapsed());
        }
        inner.grant(&self.queues, &self.provider);
    }
}

impl QueueView {
    /// How the request stands; `None` once it waits no longer.
    pub fn standing(&self) -> Option<Standing> {
        self.queues.inner.lock().standing(self.ticket)
    }
}

impl PartialEq for QueueView {
    fn eq(&self, other: &Self) -> bool {
        self.ticket == other.ticket
    }
}

impl Eq for QueueView {}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{task::JoinHandle, time::sleep};

    const TURN: Duration = Duration::from_secs(10);

    fn id(text: &str) -> ProviderId {
        text.parse().expect("a provider's id")
    }

    impl Queues {
        fn comes(&self, flow: &str, priority: Priority) -> Queueing {
            let flow = (flow != "-").then(|| format!("{flow:k<8}").parse().expect("a key's id"));
            self.place(self.ticket(), priority, flow)
        }

        /// A request that takes a slot at the provider for [`TURN`]; returns how many turns it waited.
        fn request(&self, flow: &str, provider: &str, slots: u32) -> JoinHandle<u32> {
            let (begun, provider) = (Instant::now(), id(provider));
            let mut queueing = self.comes(flow, Priority::Normal);
            queueing.join(&provider, slots, true).expect("room");
            tokio::spawn(async move {
                let slot = queueing.slot().await;
                let waited = begun.elapsed();
                sleep(TURN).await;
                drop(slot);
                u32::try_from(waited.as_secs() / TURN.as_secs()).expect("small")
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_with_one_request_waits_for_one_slot_behind_a_thousand_of_another() {
        for slots in [1, 4] {
            let queues = Queues::new(16_384);
            let many: Vec<_> = (0..1_000).map(|_| queues.request("many", "a/p", slots)).collect();
            sleep(TURN / 2).await;
            let one = queues.request("one", "a/p", slots);
            assert_eq!(
                queues.state(&id("a/p")),
                QueueState {
                    waiting: 1_001 - slots as usize,
                    handed_over: slots as usize
                }
            );
            // Half a turn until a slot is free.
            assert_eq!(one.await.expect("no panic"), 0, "{slots} slots");
            let mut last = 0;
            for request in many {
                let waited = request.await.expect("no panic");
                assert!(waited >= last, "first come, first served");
                last = waited;
            }
            assert_eq!(last, 1_000 / slots);
            assert_eq!(queues.state(&id("a/p")), QueueState::default());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_gives_up_its_place_or_its_slot() {
        let queues = Queues::new(3);
        let p = id("a/p");
        let join = |flow| {
            let queueing = queues.comes(flow, Priority::Normal);
            queueing.join(&p, 1, true).map(|()| queueing)
        };
        let mut first = join("a").expect("a slot");
        let slot = first.slot().await;
        let waiting = [join("a"), join("a"), join("a")].map(|joined| joined.expect("room"));
        let standing = waiting[2].view().standing().expect("it waits");
        assert_eq!((standing.place, standing.left), (3, None));
        assert_eq!(join("b").expect_err("full").length, 3);
        let [second, third, fourth] = waiting;
        drop(second);
        let fifth = join("b").expect("room again");
        assert_eq!(fourth.view().standing().expect("it waits").place, 3);
        // One that leaves with a slot on its way to it passes it on.
        drop(third);
        tokio::time::advance(TURN).await;
        drop(slot);
        drop(fourth);
        let mut fifth = fifth;
        let slot = fifth.slot_now().expect("its turn");
        drop(slot);
        assert_eq!(queues.state(&p), QueueState::default());
        assert!(queues.inner.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_says_when_there_is_room_by_how_long_slots_were_held() {
        let queues = Queues::new(4);
        let requests: Vec<_> = (0..2).map(|_| queues.request("a", "a/p", 2)).collect();
        for request in requests {
            request.await.expect("no panic");
        }
        let held: Vec<_> = (0..6).map(|_| queues.request("a", "a/p", 2)).collect();
        let late = queues.comes("b", Priority::High);
        let full = late.join(&id("a/p"), 2, true).expect_err("full");
        assert_eq!(
            full,
            Full {
                length: 4,
                room_in: Some(TURN * 4 / 2)
            }
        );
        for request in held {
            request.await.expect("no panic");
        }
        late.join(&id("a/p"), 2, true).expect("a slot");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_goes_to_the_first_of_its_pool_that_has_a_slot() {
        let queues = Queues::new(16);
        let (a, b) = (id("a/p"), id("b/p"));
        let at_a = queues.request("x", "a/p", 1);
        sleep(TURN / 2).await;
        let at_b = queues.request("x", "b/p", 1);
        let mut of_both = [(); 3].map(|()| queues.comes("x", Priority::Normal));
        for request in &of_both {
            request.join(&a, 1, true).expect("room");
            request.join(&b, 1, true).expect("room");
            request.join(&b, 1, true).expect("it has joined");
        }
        assert_eq!(queues.waiting(), 3);
        let mut went = vec![];
        for request in &mut of_both {
            let slot = request.slot().await;
            went.push(slot.provider.to_string());
            drop(slot);
        }
        assert_eq!(went, ["a/p", "a/p", "a/p"], "a's slot is free sooner each time");
        assert_eq!([a, b].map(|id| queues.state(&id).waiting), [0, 0]);
        at_a.await.expect("no panic");
        at_b.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_came_while_it_slept_have_slots_once_it_is_awake_in_the_order_in_which_they_came() {
        let queues = Queues::new(16);
        let p = id("a/p");
        let mut came = [(); 4].map(|()| queues.comes("-", Priority::Normal));
        for request in &came[..3] {
            request.join(&p, 1, false).expect("room");
        }
        assert!(came[0].slot_now().is_none() && !came[0].waits_for_one_awake());
        // The last of them sees it first.
        came[2].is_awake(&p);
        came[3].join(&p, 1, false).expect("room");
        assert!(came[1].waits_for_one_awake() && !came[3].waits_for_one_awake());
        for request in &mut came[..3] {
            drop(request.slot_now().expect("its turn"));
        }
        assert!(came[3].slot_now().is_none(), "it sleeps again");
        came[3].join(&p, 1, true).expect("it has joined");
        came[3].slot_now().expect("its turn");
    }

    #[tokio::test(start_paused = true)]
    async fn classes_take_turns_by_weight_and_limits_change_at_once() {
        let queues = Queues::new(100);
        let p = id("a/p");
        let mut waiting = vec![];
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            for _ in 0..20 {
                let request = queues.comes("a", priority);
                request.join(&p, 0, true).expect("room");
                waiting.push((priority, request));
            }
        }
        waiting[0].1.join(&p, 21, true).expect("it has joined");
        let has_slot =
            |(priority, request): &mut (Priority, Queueing)| request.slot_now().map(|slot| (*priority, slot));
        let slots: Vec<_> = waiting.iter_mut().filter_map(has_slot).collect();
        let shares =
            Priority::ALL.map(|priority| slots.iter().filter(|(class, _)| *class == priority).count());
        assert_eq!(shares, [16, 4, 1]);
    }

    #[test]
    fn queues_of_providers_that_come_and_go_are_not_remembered() {
        let queues = Queues::new(1);
        for round in 0..100 {
            let stays = queues.comes("a", Priority::Normal);
            stays.join(&id("a/p"), 1, false).expect("room");
            let leaves = queues.comes("a", Priority::Normal);
            leaves.join(&id(&format!("b/p{round}")), 1, false).expect("room");
            drop(leaves);
            queues.forget_withdrawn(1, |_| false);
            assert!(queues.inner.lock().queues.len() == 1);
        }
    }
}
