//! Who may pass to a backend, and who is there: shared by a provider's owner and the requests that it serves.

use reveille_domain::Availability;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Lets requests through to a backend while it is believed to be up, and counts them.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told whenever the last request has left.
    emptied: Notify,
}

#[derive(Debug)]
struct State {
    open: bool,
    in_flight: u32,
    last_used: Instant,
    /// Whether anybody has been in since it was opened.
    used: bool,
    availability: Option<Availability>,
}

/// A request's place at the backend; dropped when the request is over.
#[derive(Debug)]
pub struct Slot(Gate);

impl Gate {
    /// An open gate: until more is known, requests may try.
    #[must_use]
    pub fn open() -> Self {
        let state = State {
            open: true,
            in_flight: 0,
            last_used: Instant::now(),
            used: false,
            availability: None,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            emptied: Notify::new(),
        }))
    }

    /// A place at the backend, unless it sleeps.
    #[must_use]
    pub fn enter(&self) -> Option<Slot> {
        let mut state = self.lock();
        if !state.open {
            return None;
        }
        state.in_flight = state.in_flight.saturating_add(1);
        state.used = true;
        Some(Slot(self.clone()))
    }

    /// How many requests the backend works on.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.lock().in_flight
    }

    /// What the owner last found out; `None` before its first probe.
    #[must_use]
    pub fn availability(&self) -> Option<Availability> {
        self.lock().availability
    }

    /// Whether anybody has been in since it was opened.
    pub(super) fn is_used(&self) -> bool {
        self.lock().used
    }

    /// Since when no request has been there; `None` while one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.in_flight == 0).then_some(state.last_used)
    }

    /// Closes it if nobody is inside: from then on nobody gets in before it is opened again.
    pub(super) fn close_if_idle(&self, for_at_least: Duration) -> bool {
        let mut state = self.lock();
        let idle = state.in_flight == 0 && state.last_used.elapsed() >= for_at_least;
        if idle {
            state.open = false;
        }
        idle
    }

    /// Closes it: whoever is inside may finish, and nobody gets in before it is opened again.
    pub(super) fn close(&self) {
        self.lock().open = false;
    }

    /// Waits until nobody is inside. May be dropped and called again.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            if self.in_flight() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Tells what was found out; `open` says whether requests may try.
    pub(super) fn set(&self, availability: Option<Availability>, open: bool) {
        let mut state = self.lock();
        if open && !state.open {
            // A backend that has just come up isn't idle yet.
            state.last_used = Instant::now();
            state.used = false;
        }
        (state.availability, state.open) = (availability, open);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        state.last_used = Instant::now();
        let empty = state.in_flight == 0;
        drop(state);
        if empty {
            // Only the owner waits. Should it look just now, the permit is there when it waits.
            self.0.0.emptied.notify_one();
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
        assert_eq!((gate.in_flight(), gate.idle_since()), (1, None));
        drop(slot);
        assert!(!gate.close_if_idle(Duration::from_secs(1)), "used just now");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(gate.close_if_idle(Duration::from_secs(1)));
        assert!(gate.enter().is_none());
        gate.set(Some(Availability::Available), true);
        assert!(gate.enter().is_some());
        assert!(!gate.close_if_idle(Duration::from_secs(1)), "came up just now");
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
