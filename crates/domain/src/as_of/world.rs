//! Everything as of a commit.

use super::{
    known::Known,
    rows::{PastAgent, PastProvider},
};
use crate::{
    agent::Agent,
    key::Key,
    names::{AgentName, KeyId, ProviderId},
    provider::Provider,
    rows::{LlmRow, llm_rows},
};
use std::collections::BTreeMap;

/// Everything as of a commit of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// The sequence of that commit; 0 before the first.
    pub sequence: u64,
    /// The agents.
    pub agents: BTreeMap<AgentName, Known<Agent>>,
    /// The providers, withdrawn ones included.
    pub providers: BTreeMap<ProviderId, Known<Provider>>,
    /// The keys.
    pub keys: BTreeMap<KeyId, Known<Key>>,
    /// The aggregates whose last commit can't be read, and why; they are in no list.
    pub unreadable: BTreeMap<String, String>,
}

impl World {
    /// One row for each model of each published provider, by name.
    #[must_use]
    pub fn llms(&self) -> Vec<LlmRow> {
        let rows = self.providers.values();
        rows.flat_map(|known| llm_rows(&known.state, known.sequence))
            .collect()
    }

    /// The published providers.
    #[must_use]
    pub fn providers(&self) -> Vec<PastProvider> {
        let rows = self.providers.values();
        rows.filter_map(PastProvider::of).collect()
    }

    /// The agents.
    #[must_use]
    pub fn agents(&self) -> Vec<PastAgent> {
        let row = |(name, known): (&AgentName, &Known<Agent>)| {
            let of_agent = self.providers.iter().filter(|(id, _)| id.agent == *name);
            let published = of_agent.filter_map(|(_, known)| known.state.registered());
            PastAgent::of(name, known, &published.collect::<Vec<_>>())
        };
        self.agents.iter().map(row).collect()
    }
}
