//! Lets requests through to a backend, and knows how many are inside, whether more are expected, and when the backend was last
//! heard. Shared by a provider's owner and its requests.
//!
//! No more than the provider's `max_concurrency` of those inside have their turn at the backend. The others wait, in the order in
//! which they came, those of each replica of the API in turn with those of the others.

use parking_lot::{Mutex, MutexGuard};
use reveille_bus::permits::{Offer, Permit, Permits};
use reveille_domain::{Availability, FairLine};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

/// Those of one replica wait in one flow.
type Replica = String;

/// Lets requests through while the backend is believed to be up, and counts them.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The turns at the backend.
    turns: Permits<(), FairLine<Replica>>,
    /// Notified when the last request leaves.
    emptied: Notify,
    /// Notified when the first request after a wake enters.
    arrived: Notify,
}

#[derive(Debug)]
struct State {
    open: bool,
    /// It never opens again: another owner has the backend, or will have.
    closed_for_good: bool,
    /// Why no backend is behind it.
    refusal: Option<String>,
    in_flight: u32,
    /// How many of these have a connection to the backend.
    connected: u32,
    /// When a request last got a part of its answer.
    heard: Option<Instant>,
    /// How long requests have waited for any part of an answer until `silent_since`, since the last one got some.
    silence: Duration,
    /// Since when requests wait that have a connection, or since when the backend was last heard by them.
    silent_since: Option<Instant>,
    last_used: Instant,
    /// How many requests have entered since the agent started.
    entries: u64,
    /// Until when the first of the requests that waited for a wake is expected.
    expected_until: Option<Instant>,
    availability: Option<Availability>,
}

/// A request's slot at the backend, to be dropped at the end of the request.
#[derive(Debug)]
pub struct Slot {
    gate: Gate,
    connected: bool,
    turn: Option<Permit<(), FairLine<Replica>>>,
}

/// There was no turn in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTurn {
    /// How many requests may have one.
    pub limit: usize,
    /// How many others still waited for one.
    pub waiting: usize,
}

impl Gate {
    /// An open gate: requests may try until more is known.
    #[must_use]
    pub fn open() -> Self {
        let state = State {
            open: true,
            closed_for_good: false,
            refusal: None,
            in_flight: 0,
            connected: 0,
            heard: None,
            silence: Duration::ZERO,
            silent_since: None,
            last_used: Instant::now(),
            entries: 0,
            expected_until: None,
            availability: None,
        };
        let gate = Self(Arc::new(Shared {
            state: Mutex::new(state),
            turns: Permits::new(usize::MAX),
            emptied: Notify::new(),
            arrived: Notify::new(),
        }));
        gate.limit(None);
        gate
    }

    /// Lets no request in for this reason, or does so again as far as the gate is open.
    pub(super) fn refuse(&self, why: Option<&str>) {
        self.lock().refusal = why.map(str::to_owned);
    }

    /// Why no request is let in, whatever is done about the backend.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.lock().refusal.clone()
    }

    /// A slot at the backend, if the gate is open.
    #[must_use]
    pub fn enter(&self) -> Option<Slot> {
        let mut state = self.lock();
        if !state.open || state.refusal.is_some() {
            return None;
        }
        state.in_flight = state.in_flight.saturating_add(1);
        state.entries = state.entries.wrapping_add(1);
        if state.expected_until.take().is_some() {
            self.0.arrived.notify_one();
        }
        Some(Slot {
            gate: self.clone(),
            connected: false,
            turn: None,
        })
    }

    /// Sets how many requests may have their turn at the backend at a time. Those that have theirs keep it.
    pub(crate) fn limit(&self, limit: Option<u32>) {
        let offer = Offer {
            permits: limit.map_or(usize::MAX, |limit| limit as usize),
            is_open: true,
        };
        self.0.turns.offer(&(), Some(offer));
    }

    /// How many requests are inside.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.lock().in_flight
    }

    /// Whether a request inside has a connection to the backend, so that its machine was there a moment ago.
    pub(super) fn is_connected(&self) -> bool {
        self.lock().connected > 0
    }

    /// Whether a request has got a part of its answer since then.
    pub(super) fn heard_since(&self, since: Instant) -> bool {
        self.lock().heard.is_some_and(|heard| heard >= since)
    }

    /// How long requests have waited for any part of an answer since the last one got some, without the times when none
    /// waited. So requests that give up early count as well.
    pub(super) fn silent_for(&self) -> Duration {
        self.lock().silent_for()
    }

    /// Begins to count the silence again: the backend has shown otherwise that it answers.
    pub(super) fn forget_silence(&self) {
        self.lock().end_silence();
    }

    /// What the owner last published; `None` before its first probe.
    #[must_use]
    pub fn availability(&self) -> Option<Availability> {
        self.lock().availability
    }

    /// How many requests have entered since the agent started.
    pub(super) fn entries(&self) -> u64 {
        self.lock().entries
    }

    /// Expects a request until then: the backend was woken for requests that are still on their way. If more than `entries` have
    /// entered, the first has already come.
    pub(super) fn expect_unless_entered(&self, entries: u64, until: Instant) {
        let mut state = self.lock();
        if state.entries == entries {
            state.expected_until = Some(until);
        }
    }

    /// Whether a request is expected.
    pub(super) fn is_expecting(&self) -> bool {
        self.lock().is_expecting()
    }

    /// Waits until no request is expected: one has come, or it took too long. Cancel-safe.
    pub(super) async fn arrived(&self) {
        loop {
            let arrived = self.0.arrived.notified();
            let Some(until) = self.lock().expected_until.filter(|until| *until > Instant::now()) else {
                return;
            };
            tokio::select! {
                () = arrived => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// When the backend will have been idle for `limit`, and no request is expected; `None` while a request is inside.
    fn idle_at(&self, limit: Duration) -> Option<Instant> {
        let state = self.lock();
        let idle = state.last_used + limit;
        let due = state.expected_until.map_or(idle, |expected| idle.max(expected));
        (state.in_flight == 0).then_some(due)
    }

    /// Waits until the backend has been idle for `limit` and no request is expected, and until `not_before`. Returns `limit`.
    pub(super) async fn idle_for(&self, limit: Duration, not_before: Instant) -> Duration {
        loop {
            let left = self.0.emptied.notified();
            match self.idle_at(limit).map(|due| due.max(not_before)) {
                Some(due) if due <= Instant::now() => return limit,
                // An expected request may come and go before that.
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = left => {}
                },
                None => left.await,
            }
        }
    }

    /// Closes the gate if the backend has been idle for that long and no request is expected.
    pub(super) fn close_if_idle(&self, for_at_least: Duration) -> bool {
        let mut state = self.lock();
        let unused = state.in_flight == 0 && state.last_used.elapsed() >= for_at_least;
        let idle = unused && !state.is_expecting();
        if idle {
            state.open = false;
        }
        idle
    }

    /// Closes the gate: requests that are inside may finish, and no request is expected any longer.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        (state.open, state.expected_until) = (false, None);
    }

    /// Closes the gate for ever: requests that are inside may finish.
    pub(super) fn close_for_good(&self) {
        let mut state = self.lock();
        (state.open, state.closed_for_good, state.expected_until) = (false, true, None);
    }

    /// Whether the gate never opens again.
    #[must_use]
    pub fn is_closed_for_good(&self) -> bool {
        self.lock().closed_for_good
    }

    /// Waits until no request is inside. Cancel-safe.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            if self.in_flight() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Publishes the availability, and opens or closes the gate.
    pub(crate) fn set(&self, availability: Option<Availability>, open: bool) {
        let mut state = self.lock();
        let open = open && !state.closed_for_good;
        if open && !state.open {
            // A backend that has just come up hasn't been idle.
            state.last_used = Instant::now();
        }
        if !open {
            state.expected_until = None;
        }
        (state.availability, state.open) = (availability, open);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

impl State {
    fn is_expecting(&self) -> bool {
        self.expected_until.is_some_and(|until| Instant::now() < until)
    }

    fn silent_for(&self) -> Duration {
        self.silence + self.silent_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn end_silence(&mut self) {
        self.silence = Duration::ZERO;
        self.silent_since = (self.connected > 0).then(Instant::now);
    }
}

impl Slot {
    /// Waits until it's the request's turn at the backend. One that has its turn keeps it.
    ///
    /// # Errors
    /// When there was none by then.
    pub async fn turn(&mut self, replica: &str, by: Instant) -> Result<(), NoTurn> {
        if self.turn.is_some() {
            return Ok(());
        }
        let turns = &self.gate.0.turns;
        let mut queued = turns.come(turns.ticket(), replica.to_owned());
        let joined = queued.join(&());
        debug_assert!(joined.is_ok(), "any number may wait");
        if let Ok(turn) = timeout_at(by, queued.permit()).await {
            self.turn = Some(turn);
            return Ok(());
        }
        drop(queued);
        Err(NoTurn {
            limit: turns.offered(&()).map_or(0, |offer| offer.permits),
            waiting: turns.state(&()).waiting,
        })
    }

    /// The request has a connection to the backend, which may see it from now on.
    pub fn connected(&mut self) {
        if std::mem::replace(&mut self.connected, true) {
            return;
        }
        let mut state = self.gate.lock();
        state.connected = state.connected.saturating_add(1);
        state.silent_since.get_or_insert_with(Instant::now);
    }

    /// The request has got a part of its answer.
    pub fn heard(&self) {
        let mut state = self.gate.lock();
        state.heard = Some(Instant::now());
        state.end_silence();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        if self.connected {
            state.connected = state.connected.saturating_sub(1);
        }
        if state.connected == 0 {
            (state.silence, state.silent_since) = (state.silent_for(), None);
        }
        state.last_used = Instant::now();
        let empty = state.in_flight == 0;
        drop(state);
        if empty {
            // Only the owner waits. If it is just checking, the permit is stored for its wait.
            self.gate.0.emptied.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gate_closes_only_when_nobody_is_inside_and_lets_nobody_in_then() {
        let gate = Gate::open();
        let slot = gate.enter().expect("open");
        assert!(!gate.close_if_idle(Duration::ZERO));
        assert_eq!((gate.in_flight(), gate.idle_at(Duration::ZERO)), (1, None));
        drop(slot);
        assert!(!gate.close_if_idle(Duration::from_secs(1)), "used just now");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(gate.close_if_idle(Duration::from_secs(1)));
        assert!(gate.enter().is_none());
        gate.set(Some(Availability::Available), true);
        assert!(gate.enter().is_some());
        assert!(!gate.close_if_idle(Duration::from_secs(1)), "came up just now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_expects_a_request_is_not_idle_until_one_has_come_or_took_too_long() {
        let (gate, limit) = (Gate::open(), Duration::from_millis(1));
        let long = Duration::from_secs(30);
        gate.expect_unless_entered(gate.entries(), Instant::now() + long);
        tokio::time::advance(long - limit).await;
        assert!(gate.is_expecting() && !gate.close_if_idle(limit));
        tokio::time::advance(limit).await;
        assert!(!gate.is_expecting() && gate.close_if_idle(limit));

        gate.set(Some(Availability::Available), true);
        let began = Instant::now();
        gate.expect_unless_entered(gate.entries(), began + long);
        let idle = tokio::spawn({
            let gate = gate.clone();
            async move { gate.idle_for(limit, began).await }
        });
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(gate.enter().expect("open"));
        gate.arrived().await;
        idle.await.expect("no panic");
        let took = began.elapsed();
        assert!(
            (10..11).contains(&took.as_secs()),
            "at once after the first: {took:?}"
        );
        assert!(gate.close_if_idle(limit));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_expects_no_request_if_one_has_come_since() {
        let gate = Gate::open();
        let entries = gate.entries();
        drop(gate.enter().expect("open"));
        gate.expect_unless_entered(entries, Instant::now() + Duration::from_secs(30));
        assert!(!gate.is_expecting());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_while_requests_wait_however_short_each_waits_and_ends_with_any_part_of_an_answer()
    {
        let (gate, second) = (Gate::open(), Duration::from_secs(1));
        let connected = || {
            let mut slot = gate.enter().expect("open");
            slot.connected();
            slot
        };
        let began = Instant::now();
        let unconnected = gate.enter().expect("open");
        tokio::time::advance(second).await;
        assert!(
            !gate.is_connected() && gate.silent_for().is_zero(),
            "it may be its way that takes so long"
        );
        drop(unconnected);
        for waited in 1..=3 {
            let slots = [connected(), connected()];
            tokio::time::advance(second).await;
            assert!(gate.is_connected());
            drop(slots);
            assert_eq!(gate.silent_for(), second * waited);
            tokio::time::advance(second * 100).await;
        }
        assert_eq!(gate.silent_for(), second * 3, "nobody waits");
        assert!(!gate.is_connected() && !gate.heard_since(began));
        let slot = connected();
        tokio::time::advance(second).await;
        slot.heard();
        assert!(gate.heard_since(began) && gate.silent_for().is_zero());
        tokio::time::advance(second).await;
        assert_eq!(gate.silent_for(), second);
        gate.forget_silence();
        assert!(gate.silent_for().is_zero() && !gate.heard_since(Instant::now()));
    }

    /// A request of the replica that waits for its turn, and then has it for a second.
    fn request(gate: &Gate, replica: &'static str) -> tokio::task::JoinHandle<Result<u64, NoTurn>> {
        let (gate, began) = (gate.clone(), Instant::now());
        tokio::spawn(async move {
            let mut slot = gate.enter().expect("open");
            slot.turn(replica, began + Duration::from_secs(10)).await?;
            let waited = began.elapsed().as_secs();
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(waited)
        })
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_have_their_turn_and_replicas_take_turns() {
        let gate = Gate::open();
        gate.limit(Some(2));
        let of_a: Vec<_> = (0..6).map(|_| request(&gate, "a")).collect();
        tokio::task::yield_now().await;
        let of_b = request(&gate, "b");
        tokio::task::yield_now().await;
        assert_eq!(gate.in_flight(), 7, "those that wait are in flight");
        let mut waited = vec![];
        for request in of_a {
            waited.push(request.await.expect("no panic").expect("a turn"));
        }
        assert_eq!(waited, [0, 0, 1, 2, 2, 3]);
        assert_eq!(of_b.await.expect("no panic"), Ok(1), "behind one of a's");
        assert_eq!(gate.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_or_waits_for_too_long_holds_nobody_up() {
        let gate = Gate::open();
        gate.limit(Some(1));
        let mut holds = gate.enter().expect("open");
        holds.turn("a", Instant::now()).await.expect("free");
        holds.turn("a", Instant::now()).await.expect("it has it");
        let (leaves, stays) = (request(&gate, "a"), request(&gate, "a"));
        tokio::task::yield_now().await;
        leaves.abort();
        tokio::time::advance(Duration::from_secs(5)).await;
        let late = request(&gate, "a");
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(5)).await;
        let none = NoTurn { limit: 1, waiting: 1 };
        assert_eq!(stays.await.expect("no panic"), Err(none));
        drop(holds);
        assert_eq!(late.await.expect("no panic"), Ok(5));
        let waiting = [(); 3].map(|()| request(&gate, "a"));
        tokio::task::yield_now().await;
        gate.limit(Some(2));
        let mut waited = vec![];
        for request in waiting {
            waited.push(request.await.expect("no panic").expect("a turn"));
        }
        assert_eq!(waited, [0, 0, 1], "a raised limit counts at once");
        gate.limit(None);
        let all: Vec<_> = (0..9).map(|_| request(&gate, "a")).collect();
        for request in all {
            assert_eq!(request.await.expect("no panic"), Ok(0));
        }
    }

    #[tokio::test]
    async fn a_gate_that_is_closed_for_good_opens_for_nobody() {
        let gate = Gate::open();
        let slot = gate.enter();
        gate.close_for_good();
        gate.set(Some(Availability::Available), true);
        assert!(gate.enter().is_none() && gate.is_closed_for_good());
        drop(slot);
        gate.emptied().await;
    }

    #[tokio::test]
    async fn a_closed_gate_empties_when_the_last_one_has_left() {
        let gate = Gate::open();
        let slots = [gate.enter(), gate.enter()];
        gate.close();
        assert!(gate.enter().is_none());
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.emptied().await }
        });
        let [first, second] = slots;
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.expect("no panic");
        gate.emptied().await;
    }
}
