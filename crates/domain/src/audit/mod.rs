//! Whether a history obeys the rules that docs/invariants.md publishes: pure checks on events, in the journal's order.
//!
//! `decide` keeps the rules when a command comes. These checks ask afterwards, from the events alone, whether they were
//! kept, so they share no code with it.

mod agent;
mod findings;
mod groups;
mod invariant;
mod key;
mod provider;

#[cfg(test)]
mod tests;

pub use findings::{Findings, Violation};
pub use invariant::Invariant;

use crate::{
    agent::{Agent, AgentEvent},
    ids::Epoch,
    key::{Key, KeyEvent},
    names::{AgentName, KeyId, ProviderId},
    provider::{Provider, ProviderEvent},
};
use groups::Groups;
use std::collections::HashMap;

/// Checks the commits of all aggregates, one after the other. It remembers the state of each aggregate that others depend
/// on, and nothing of the history.
#[derive(Debug, Default)]
pub struct HistoryAudit {
    epochs: HashMap<AgentName, Epoch>,
    groups: Groups,
}

impl HistoryAudit {
    /// Checks the next commit of an agent: its events after the state `before`.
    pub fn agent(&mut self, name: &AgentName, before: &Agent, events: &[AgentEvent], found: &mut Findings) {
        each(before, events, Agent::evolve, |before, event| {
            agent::check(name, before, event, found);
            if let AgentEvent::AgentConnected { epoch, .. } | AgentEvent::AgentEpochAdvanced { epoch, .. } =
                event
            {
                self.epochs.insert(name.clone(), *epoch);
            }
        });
    }

    /// Checks the next commit of a provider, which is at `sequence` in the journal.
    pub fn provider(
        &mut self,
        id: &ProviderId,
        before: &Provider,
        events: &[ProviderEvent],
        sequence: u64,
        found: &mut Findings,
    ) {
        let issued = self.epochs.get(&id.agent).copied().unwrap_or_default();
        each(before, events, Provider::evolve, |before, event| {
            provider::check(id, before, event, issued, found);
            self.groups.check(id, event, sequence, found);
        });
    }

    /// Checks the next commit of a key.
    pub fn key(&mut self, id: &KeyId, before: &Key, events: &[KeyEvent], found: &mut Findings) {
        each(before, events, Key::evolve, |before, event| {
            key::check(id, before, event, found);
        });
    }
}

/// Hands each event over with the state before it.
fn each<S: Clone, E>(before: &S, events: &[E], evolve: fn(S, &E) -> S, mut check: impl FnMut(&S, &E)) {
    let Some((first, rest)) = events.split_first() else {
        return;
    };
    check(before, first);
    // Nearly every commit has one event, and its state is needed only for a second one.
    let mut last = first;
    let mut state = None;
    for event in rest {
        let after = evolve(state.unwrap_or_else(|| before.clone()), last);
        check(&after, event);
        state = Some(after);
        last = event;
    }
}
