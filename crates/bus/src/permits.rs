//! Permits of resources, each with a fair and bounded queue of those that wait for one.
//!
//! A replica of the API holds back requests for a provider with these, and an agent requests for a backend. One that waits may wait for
//! several resources at once, and gets the first permit that is free. A resource that is closed gives out none; its queue stays as it
//! is, so whoever has waited longest is first when it opens.

use parking_lot::Mutex;
use reveille_domain::Line;
use std::{collections::HashMap, fmt::Debug, future::pending, hash::Hash, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// The share of the last permit's time in the average.
const LATEST: f64 = 0.125;

/// What a resource is known by.
pub trait Resource: Clone + Debug + Eq + Hash {}

impl<K: Clone + Debug + Eq + Hash> Resource for K {}

/// Gives out the permits of resources, each in the order of its line. Cheap to clone.
#[derive(Debug)]
pub struct Permits<K: Resource, L: Line> {
    inner: Arc<Mutex<Inner<K, L>>>,
    /// How many may wait for one resource.
    max_waiting: usize,
}

#[derive(Debug)]
struct Inner<K: Resource, L: Line> {
    queues: HashMap<K, Queue<L>>,
    /// Those that wait, by their tickets.
    waiting: HashMap<u64, Waiting<K, L>>,
    tickets: u64,
}

/// What a resource offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// How many may have a permit at a time. Those that have one keep it.
    pub permits: usize,
    /// Whether any permit is given out now.
    pub is_open: bool,
}

/// The queue of one resource.
#[derive(Debug)]
struct Queue<L> {
    /// `None` once the resource is gone; the queue lasts until its last permit is given back.
    offer: Option<Offer>,
    taken: usize,
    line: L,
    /// For how long a permit is held, on average; `None` before the first was given back.
    held: Option<Duration>,
}

#[derive(Debug)]
struct Waiting<K: Resource, L: Line> {
    flow: L::Flow,
    /// The resources whose queues it has joined.
    at: Vec<K>,
    grant: oneshot::Sender<Permit<K, L>>,
    changed: Arc<Notify>,
}

/// The right to use a resource, until this is dropped.
#[derive(Debug)]
pub struct Permit<K: Resource, L: Line> {
    permits: Permits<K, L>,
    key: K,
    since: Instant,
}

/// Somebody's place in the queues that it has joined, until this is dropped.
#[derive(Debug)]
pub struct Queued<K: Resource, L: Line> {
    permits: Permits<K, L>,
    ticket: u64,
    granted: oneshot::Receiver<Permit<K, L>>,
    changed: Arc<Notify>,
}

/// Looks from elsewhere at the place of somebody that waits.
#[derive(Debug)]
pub struct QueueView<K: Resource, L: Line> {
    permits: Permits<K, L>,
    ticket: u64,
}

/// Where somebody stands in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePosition {
    /// 1 for the next. Of several queues, it is that in which its turn comes first.
    pub place: usize,
    /// How long that usually takes.
    pub left: Option<Duration>,
}

/// Why a queue can't be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotQueued {
    /// As many wait as may.
    Full {
        /// How many.
        length: usize,
        /// How long all of them usually take, by how long permits were held.
        room_in: Option<Duration>,
    },
    /// There is no such resource.
    Gone,
}

/// What goes on at one resource, for lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueState {
    /// How many wait.
    pub waiting: usize,
    /// How many have a permit.
    pub taken: usize,
}

impl<K: Resource, L: Line> Permits<K, L> {
    /// No resource, until [`offer`](Self::offer) tells of one; at most `max_waiting` may wait for each.
    #[must_use]
    pub fn new(max_waiting: usize) -> Self {
        let inner = Inner {
            queues: HashMap::new(),
            waiting: HashMap::new(),
            tickets: 0,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            max_waiting,
        }
    }

    /// What the resource offers from now on; `None` if it is gone. Those that wait for it hear of it when it closes or is gone.
    pub fn offer(&self, key: &K, offer: Option<Offer>) {
        let mut inner = self.inner.lock();
        match offer {
            Some(offer) => {
                let queue = inner.queues.entry(key.clone()).or_default();
                let was = queue.offer.replace(offer);
                if was.is_some_and(|was| was.is_open && !offer.is_open) {
                    inner.tell_of_change(key);
                }
                inner.grant(self, key);
            }
            None => inner.withdraw(key),
        }
    }

    /// Withdraws all resources except those that `stay`.
    pub fn withdraw_except(&self, stay: impl Fn(&K) -> bool) {
        let mut inner = self.inner.lock();
        let gone: Vec<_> = inner.queues.keys().filter(|key| !stay(key)).cloned().collect();
        for key in gone {
            inner.withdraw(&key);
        }
    }

    /// What the resource offers; `None` if there is none.
    #[must_use]
    pub fn offered(&self, key: &K) -> Option<Offer> {
        self.inner.lock().queues.get(key)?.offer
    }

    /// The number of somebody that has just come: in a flow, the lowest is first.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.tickets += 1;
        inner.tickets
    }

    /// Somebody of this flow that hasn't joined any queue yet. No other one with this ticket may wait; one that has had its permit may
    /// come again with its ticket, and has its old place then.
    #[must_use]
    pub fn come(&self, ticket: u64, flow: L::Flow) -> Queued<K, L> {
        let (grant, granted) = oneshot::channel();
        let changed = Arc::new(Notify::new());
        let waiting = Waiting {
            flow,
            at: vec![],
            grant,
            changed: changed.clone(),
        };
        let other = self.inner.lock().waiting.insert(ticket, waiting);
        debug_assert!(other.is_none(), "nobody waits with this ticket");
        Queued {
            permits: self.clone(),
            ticket,
            granted,
            changed,
        }
    }

    /// What goes on at the resource.
    #[must_use]
    pub fn state(&self, key: &K) -> QueueState {
        let inner = self.inner.lock();
        let queue = inner.queues.get(key);
        queue.map_or_else(QueueState::default, |queue| QueueState {
            waiting: queue.line.len(),
            taken: queue.taken,
        })
    }

    /// How many wait in all queues; one that has joined several counts once.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let inner = self.inner.lock();
        inner
            .waiting
            .values()
            .filter(|waiting| !waiting.at.is_empty())
            .count()
    }
}

impl<K: Resource, L: Line> Clone for Permits<K, L> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            max_waiting: self.max_waiting,
        }
    }
}

impl<K: Resource, L: Line> Inner<K, L> {
    /// Gives free permits to those whose turn it is, who have them when the lock is released.
    fn grant(&mut self, permits: &Permits<K, L>, key: &K) {
        while let Some(queue) = self.queues.get_mut(key)
            && queue.is_free()
            && let Some(ticket) = queue.line.pop()
        {
            let Some(waiting) = self.waiting.remove(&ticket) else {
                continue;
            };
            queue.taken += 1;
            for other in waiting.at.iter().filter(|other| *other != key) {
                if let Some(queue) = self.queues.get_mut(other) {
                    queue.line.remove(&waiting.flow, ticket);
                }
            }
            let permit = Permit {
                permits: permits.clone(),
                key: key.clone(),
                since: Instant::now(),
            };
            // It arrives: a waiter that leaves removes itself, under the lock, before it stops listening.
            let arrived = waiting.grant.send(permit);
            debug_assert!(arrived.is_ok(), "a waiter always listens");
        }
    }

    fn tell_of_change(&self, key: &K) {
        for waiting in self.waiting.values().filter(|waiting| waiting.at.contains(key)) {
            waiting.changed.notify_one();
        }
    }

    /// The resource is gone: nobody waits for it any longer.
    fn withdraw(&mut self, key: &K) {
        self.tell_of_change(key);
        for waiting in self.waiting.values_mut() {
            waiting.at.retain(|at| at != key);
        }
        if let Some(queue) = self.queues.get_mut(key) {
            (queue.offer, queue.line) = (None, L::default());
            if queue.taken == 0 {
                self.queues.remove(key);
            }
        }
    }

    fn position(&self, ticket: u64) -> Option<QueuePosition> {
        let waiting = self.waiting.get(&ticket)?;
        let queues = waiting.at.iter().filter_map(|key| self.queues.get(key));
        let positions = queues.map(|queue| {
            let ahead = queue.line.ahead_of(&waiting.flow, ticket);
            let position = QueuePosition {
                place: ahead + 1,
                left: queue.time_for(ahead + 1),
            };
            (!queue.is_open(), position)
        });
        let first = positions.min_by_key(|(closed, position)| (*closed, position.left, position.place));
        first.map(|(_, position)| position)
    }
}

impl<L: Line> Default for Queue<L> {
    fn default() -> Self {
        Self {
            offer: None,
            taken: 0,
            line: L::default(),
            held: None,
        }
    }
}

impl<L: Line> Queue<L> {
    fn is_open(&self) -> bool {
        self.offer.is_some_and(|offer| offer.is_open)
    }

    /// Whether a permit can be given out.
    fn is_free(&self) -> bool {
        self.offer
            .is_some_and(|offer| offer.is_open && self.taken < offer.permits)
    }

    /// How long so many turns usually take.
    fn time_for(&self, turns: usize) -> Option<Duration> {
        let permits = self.offer.map_or(1, |offer| offer.permits.max(1));
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        self.held.map(|held| (held / permits).saturating_mul(turns))
    }

    fn was_held(&mut self, time: Duration) {
        let average = |held: Duration| held.mul_f64(1.0 - LATEST) + time.mul_f64(LATEST);
        self.held = Some(self.held.map_or(time, average));
    }
}

impl<K: Resource, L: Line> Queued<K, L> {
    /// Joins the queue of a resource. Nothing changes for one that has joined it, or that has its permit already.
    ///
    /// # Errors
    /// When the queue is full, or the resource gone.
    pub fn join(&self, key: &K) -> Result<(), NotQueued> {
        let mut guard = self.permits.inner.lock();
        let inner = &mut *guard;
        let Some(waiting) = inner.waiting.get_mut(&self.ticket) else {
            return Ok(());
        };
        let queue = inner.queues.get_mut(key).filter(|queue| queue.offer.is_some());
        let queue = queue.ok_or(NotQueued::Gone)?;
        if waiting.at.contains(key) {
            return Ok(());
        }
        let length = queue.line.len();
        let is_served_at_once = queue.is_free() && length == 0;
        if !is_served_at_once && length >= self.permits.max_waiting {
            return Err(NotQueued::Full {
                length,
                room_in: queue.time_for(length),
            });
        }
        queue.line.push(&waiting.flow, self.ticket);
        waiting.at.push(key.clone());
        inner.grant(&self.permits, key);
        Ok(())
    }

    /// Waits for the first permit. Cancel-safe; never ready again once it was.
    pub async fn permit(&mut self) -> Permit<K, L> {
        if !self.granted.is_terminated()
            && let Ok(permit) = (&mut self.granted).await
        {
            return permit;
        }
        pending().await
    }

    /// The same, or `None` as soon as a resource has closed or is gone for which it waits. Cancel-safe.
    pub async fn permit_or_change(&mut self) -> Option<Permit<K, L>> {
        tokio::select! {
            biased;
            Ok(permit) = &mut self.granted, if !self.granted.is_terminated() => Some(permit),
            () = self.changed.notified() => None,
        }
    }

    /// The permit, if it has one.
    pub fn permit_now(&mut self) -> Option<Permit<K, L>> {
        self.granted.try_recv().ok()
    }

    /// Whether it waits for a resource that is open.
    #[must_use]
    pub fn waits_at_open(&self) -> bool {
        let inner = self.permits.inner.lock();
        let waiting = inner.waiting.get(&self.ticket);
        let mut at = waiting.into_iter().flat_map(|waiting| &waiting.at);
        at.any(|key| inner.queues.get(key).is_some_and(Queue::is_open))
    }

    /// The resources for which it waits.
    #[must_use]
    pub fn joined(&self) -> Vec<K> {
        let inner = self.permits.inner.lock();
        let waiting = inner.waiting.get(&self.ticket);
        waiting.map_or_else(Vec::new, |waiting| waiting.at.clone())
    }

    /// Looks at its place from elsewhere.
    #[must_use]
    pub fn view(&self) -> QueueView<K, L> {
        QueueView {
            permits: self.permits.clone(),
            ticket: self.ticket,
        }
    }
}

impl<K: Resource, L: Line> Drop for Queued<K, L> {
    fn drop(&mut self) {
        let mut inner = self.permits.inner.lock();
        // Whoever had its permit may wait again by now.
        let is_own = |waiting: &Waiting<K, L>| Arc::ptr_eq(&waiting.changed, &self.changed);
        if inner.waiting.get(&self.ticket).is_some_and(is_own)
            && let Some(waiting) = inner.waiting.remove(&self.ticket)
        {
            for key in &waiting.at {
                if let Some(queue) = inner.queues.get_mut(key) {
                    queue.line.remove(&waiting.flow, self.ticket);
                }
            }
        }
    }
}

impl<K: Resource, L: Line> Permit<K, L> {
    /// The resource that it is for.
    #[must_use]
    pub const fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Resource, L: Line> Drop for Permit<K, L> {
    fn drop(&mut self) {
        let mut inner = self.permits.inner.lock();
        let Some(queue) = inner.queues.get_mut(&self.key) else {
            return;
        };
        queue.taken = queue.taken.saturating_sub(1);
        queue.was_held(self.since.elapsed());
        if queue.offer.is_none() && queue.taken == 0 {
            inner.queues.remove(&self.key);
        }
        inner.grant(&self.permits, &self.key);
    }
}

impl<K: Resource, L: Line> QueueView<K, L> {
    /// Where it stands; `None` once it waits no longer.
    #[must_use]
    pub fn position(&self) -> Option<QueuePosition> {
        self.permits.inner.lock().position(self.ticket)
    }
}

impl<K: Resource, L: Line> Clone for QueueView<K, L> {
    fn clone(&self) -> Self {
        Self {
            permits: self.permits.clone(),
            ticket: self.ticket,
        }
    }
}

impl<K: Resource, L: Line> PartialEq for QueueView<K, L> {
    fn eq(&self, other: &Self) -> bool {
        self.ticket == other.ticket
    }
}

impl<K: Resource, L: Line> Eq for QueueView<K, L> {}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_domain::FairLine;
    use tokio::{task::JoinHandle, time::sleep};

    const TURN: Duration = Duration::from_secs(10);

    type Fair = Permits<&'static str, FairLine<char>>;

    const fn open(permits: usize) -> Option<Offer> {
        let is_open = true;
        Some(Offer { permits, is_open })
    }

    const fn closed(permits: usize) -> Option<Offer> {
        let is_open = false;
        Some(Offer { permits, is_open })
    }

    fn offering(max_waiting: usize, resources: &[&'static str], permits: usize) -> Fair {
        let fair = Permits::new(max_waiting);
        for resource in resources {
            fair.offer(resource, open(permits));
        }
        fair
    }

    impl Fair {
        fn comes(&self, flow: char) -> Queued<&'static str, FairLine<char>> {
            self.come(self.ticket(), flow)
        }

        fn joins(&self, flow: char, resource: &'static str) -> Queued<&'static str, FairLine<char>> {
            let queued = self.comes(flow);
            queued.join(&resource).expect("room");
            queued
        }

        /// Somebody that has a permit for [`TURN`]; returns how many turns it waited.
        fn request(&self, flow: char, resource: &'static str) -> JoinHandle<u32> {
            let begun = Instant::now();
            let mut queued = self.joins(flow, resource);
            tokio::spawn(async move {
                let permit = queued.permit().await;
                let waited = begun.elapsed();
                sleep(TURN).await;
                drop(permit);
                u32::try_from(waited.as_secs() / TURN.as_secs()).expect("small")
            })
        }

        fn is_empty(&self) -> bool {
            let inner = self.inner.lock();
            let is_unused = |queue: &Queue<FairLine<char>>| queue.taken == 0 && queue.line.is_empty();
            inner.waiting.is_empty() && inner.queues.values().all(is_unused)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_a_flow_waits_for_one_permit_behind_a_thousand_of_another() {
        for permits in [1, 4] {
            let fair = offering(16_384, &["p"], permits);
            let many: Vec<_> = (0..1_000).map(|_| fair.request('m', "p")).collect();
            sleep(TURN / 2).await;
            let one = fair.request('o', "p");
            let state = QueueState {
                waiting: 1_001 - permits,
                taken: permits,
            };
            assert_eq!(fair.state(&"p"), state);
            // Half a turn until a permit is free.
            assert_eq!(one.await.expect("no panic"), 0, "{permits} permits");
            let mut last = 0;
            for request in many {
                let waited = request.await.expect("no panic");
                assert!(waited >= last, "first come, first served");
                last = waited;
            }
            assert_eq!(last, u32::try_from(1_000 / permits).expect("small"));
            assert!(fair.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_gives_up_its_place_or_its_permit() {
        let fair = offering(3, &["p"], 1);
        let permit = fair.joins('a', "p").permit_now().expect("a permit");
        let [second, third, fourth] = [(); 3].map(|()| fair.joins('a', "p"));
        let position = fourth.view().position().expect("it waits");
        assert_eq!((position.place, position.left), (3, None));
        let late = fair.comes('b');
        let full = NotQueued::Full {
            length: 3,
            room_in: None,
        };
        assert_eq!(late.join(&"p"), Err(full));
        drop(second);
        let mut fifth = fair.joins('b', "p");
        assert_eq!(fourth.view().position().expect("it waits").place, 3);
        drop(third);
        tokio::time::advance(TURN).await;
        // One that leaves with a permit on its way to it passes it on.
        drop(permit);
        drop(fourth);
        drop(fifth.permit_now().expect("its turn"));
        drop(late);
        assert!(fair.is_empty());
    }

    #[tokio::test]
    async fn whoever_gives_its_permit_back_at_once_comes_again_with_its_ticket_and_waits_where_it_was() {
        let fair = offering(3, &["p"], 1);
        let ticket = fair.ticket();
        let mut first = fair.come(ticket, 'a');
        first.join(&"p").expect("room");
        let other = fair.joins('a', "p");
        fair.offer(&"p", closed(1));
        drop(first.permit_now().expect("a permit"));
        assert!(first.permit_now().is_none());
        let later = tokio::time::timeout(Duration::from_millis(1), first.permit_or_change());
        assert!(later.await.is_err(), "it had its permit");
        first = fair.come(ticket, 'a');
        first.join(&"p").expect("room");
        assert_eq!(first.joined(), ["p"]);
        assert_eq!(other.view().position().expect("it waits").place, 2);
        fair.offer(&"p", open(1));
        let permit = first.permit_or_change().await.expect("it was first");
        drop((permit, first, other));
        assert!(fair.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_says_when_there_is_room_by_how_long_permits_were_held() {
        let fair = offering(4, &["p"], 2);
        for request in [fair.request('a', "p"), fair.request('a', "p")] {
            request.await.expect("no panic");
        }
        let held: Vec<_> = (0..6).map(|_| fair.request('a', "p")).collect();
        let late = fair.comes('b');
        let full = NotQueued::Full {
            length: 4,
            room_in: Some(TURN * 4 / 2),
        };
        assert_eq!(late.join(&"p"), Err(full));
        for request in held {
            request.await.expect("no panic");
        }
        late.join(&"p").expect("a permit");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_several_gets_the_first_permit_that_is_free() {
        let fair = offering(16, &["a", "b"], 1);
        let at_a = fair.request('x', "a");
        sleep(TURN / 2).await;
        let at_b = fair.request('x', "b");
        let mut of_both = [(); 3].map(|()| fair.comes('x'));
        for queued in &of_both {
            for resource in ["a", "b", "b"] {
                queued.join(&resource).expect("room");
            }
        }
        assert_eq!(fair.waiting(), 3);
        let mut got = vec![];
        for queued in &mut of_both {
            let permit = queued.permit().await;
            got.push(*permit.key());
            drop(permit);
        }
        assert_eq!(got, ["a", "a", "a"], "a's permit is free sooner each time");
        at_a.await.expect("no panic");
        at_b.await.expect("no panic");
        assert!(fair.is_empty());
    }

    #[test]
    fn those_that_came_while_it_was_closed_have_its_permits_before_anybody_that_comes_later() {
        let fair = offering(16, &["p"], 2);
        fair.offer(&"p", closed(2));
        let mut early: Vec<_> = (0..4).map(|_| fair.joins('a', "p")).collect();
        assert!(early.iter_mut().all(|queued| queued.permit_now().is_none()));
        assert!(!early[0].waits_at_open());
        fair.offer(&"p", open(2));
        let mut late = fair.joins('b', "p");
        let first = [early[0].permit_now(), early[1].permit_now()];
        assert!(first.iter().all(Option::is_some));
        assert!(late.permit_now().is_none(), "there are two permits");
        assert!(early[2].waits_at_open());
        drop(first);
        assert!(
            late.permit_now().is_some() && early[2].permit_now().is_some(),
            "flows take turns"
        );
    }

    #[test]
    fn a_raised_limit_reaches_those_that_wait_at_once_and_a_lowered_one_the_next() {
        let fair = offering(16, &["p"], 1);
        let mut all: Vec<_> = (0..6).map(|_| fair.joins('a', "p")).collect();
        let have_one =
            |all: &mut [Queued<_, _>]| all.iter_mut().filter_map(Queued::permit_now).collect::<Vec<_>>();
        let mut permits = have_one(&mut all);
        assert_eq!(permits.len(), 1);
        fair.offer(&"p", open(3));
        permits.extend(have_one(&mut all));
        assert_eq!(permits.len(), 3);
        fair.offer(&"p", open(1));
        for left in [2, 1] {
            permits.pop();
            assert_eq!((have_one(&mut all).len(), permits.len()), (0, left));
        }
        permits.pop();
        assert_eq!(have_one(&mut all).len(), 1);
    }

    #[tokio::test]
    async fn who_waits_hears_that_a_resource_has_closed_or_is_gone_and_keeps_its_place_at_the_others() {
        let fair = offering(16, &["a", "b"], 1);
        let mut busy = ["a", "b"].map(|resource| fair.joins('x', resource));
        let mut waits = fair.joins('x', "a");
        waits.join(&"b").expect("room");
        let behind = fair.joins('x', "b");
        fair.offer(&"a", closed(1));
        assert!(waits.permit_or_change().await.is_none());
        assert_eq!(waits.joined(), ["a", "b"], "it may open again");
        fair.offer(&"a", None);
        assert!(waits.permit_or_change().await.is_none());
        assert_eq!((waits.joined(), fair.offered(&"a")), (vec!["b"], None));
        assert_eq!(waits.join(&"a"), Err(NotQueued::Gone));
        assert_eq!(behind.view().position().expect("it waits").place, 2);
        drop(busy[1].permit_now());
        let permit = waits.permit_or_change().await.expect("its turn");
        assert_eq!(*permit.key(), "b");
        // Its permit is still out, and counts again if it comes back.
        fair.offer(&"a", open(1));
        let mut next = fair.joins('x', "a");
        assert!(next.permit_now().is_none());
        drop(busy[0].permit_now());
        assert!(next.permit_now().is_some());
    }

    #[test]
    fn resources_that_come_and_go_are_not_remembered() {
        let fair = offering(1, &["stays"], 1);
        let mut holds = fair.joins('a', "stays");
        for _ in 0..100 {
            fair.offer(&"goes", open(1));
            let mut holds = fair.joins('a', "goes");
            let waits = fair.joins('a', "goes");
            let permit = holds.permit_now();
            fair.withdraw_except(|key| *key == "stays");
            assert_eq!(waits.joined(), Vec::<&str>::new());
            drop((permit, waits));
            assert_eq!(fair.inner.lock().queues.len(), 1);
        }
        drop(holds.permit_now().expect("a permit"));
        assert!(fair.is_empty());
    }
}
