//! Which backends were to sleep and stay awake, by their agents' last heartbeats. This is for lists, and for those who wait for a sleep.

use parking_lot::RwLock;
use reveille_bus::heartbeats::{Heartbeat, StaysAwake};
use reveille_domain::{AgentName, Epoch, ProviderId, ProviderName};
use std::collections::{BTreeMap, HashMap};

/// The backends of all agents that stay awake.
#[derive(Debug, Default)]
pub(crate) struct StayingAwake(RwLock<HashMap<AgentName, Awake>>);

/// Those of one agent's session.
#[derive(Debug)]
struct Awake {
    epoch: Epoch,
    providers: BTreeMap<ProviderName, StaysAwake>,
}

impl StayingAwake {
    /// Takes in an agent's last heartbeat.
    pub(crate) fn take(&self, heartbeat: &Heartbeat) {
        let pulses = heartbeat.providers.iter();
        let providers: BTreeMap<_, _> = pulses
            .filter_map(|pulse| Some((pulse.provider.clone(), pulse.stays_awake.as_ref()?.bounded())))
            .collect();
        let (agent, epoch) = (&heartbeat.agent, heartbeat.epoch);
        if !providers.is_empty() {
            self.0.write().insert(agent.clone(), Awake { epoch, providers });
        } else if self.0.read().contains_key(agent) {
            self.0.write().remove(agent);
        }
    }

    /// Why a backend of its agent's session `epoch` stays awake.
    pub(crate) fn of(&self, provider: &ProviderId, epoch: Epoch) -> Option<StaysAwake> {
        let awake = self.0.read();
        let awake = awake.get(&provider.agent).filter(|awake| awake.epoch == epoch)?;
        awake.providers.get(&provider.provider).cloned()
    }
}
