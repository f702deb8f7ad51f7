//! The last heartbeat of each agent, by NATS time.

use crate::registry::Registry;
use parking_lot::RwLock;
use reveille_bus::heartbeats::{HeartbeatWatch, ReceivedHeartbeat};
use reveille_domain::{AgentName, Epoch, Timestamp};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// When an agent without a period of its own counts as silent: after three times the usual ten seconds.
const DEFAULT_SILENT_AFTER: Duration = Duration::from_secs(30);
/// The shortest and the longest period that an agent may choose.
const SILENT_AFTER_BOUNDS: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(600));

/// The last heartbeats. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Presence {
    last: Arc<RwLock<HashMap<AgentName, ReceivedHeartbeat>>>,
}

impl Presence {
    /// Takes in heartbeats for as long as this is polled.
    pub(crate) async fn run(&self, mut watch: HeartbeatWatch, registry: &Registry) {
        let rows = registry.rows();
        loop {
            let heard = watch.next().await;
            rows.set_last_heartbeat(&heard.heartbeat.agent, heard.stored_at);
            let mut last = self.last.write();
            last.insert(heard.heartbeat.agent.clone(), heard);
        }
    }

    /// When the last heartbeat of an agent's session `epoch` came.
    pub(crate) fn heard(&self, agent: &AgentName, epoch: Epoch) -> Option<Timestamp> {
        let last = self.last.read();
        last.get(agent)
            .filter(|heard| heard.heartbeat.epoch == epoch)
            .map(|heard| heard.stored_at)
    }

    /// How long without a sign of life an agent has to be to count as silent.
    pub(crate) fn silent_after(&self, agent: &AgentName) -> Duration {
        let last = self.last.read();
        let asked = last
            .get(agent)
            .map(|heard| Duration::from_millis(heard.heartbeat.silent_after_ms));
        let (shortest, longest) = SILENT_AFTER_BOUNDS;
        asked.unwrap_or(DEFAULT_SILENT_AFTER).clamp(shortest, longest)
    }

    /// Agents whose last heartbeat is of an epoch older than `current` says.
    pub(crate) fn superseded(
        &self,
        current: impl Fn(&AgentName) -> Option<Epoch>,
    ) -> Vec<(AgentName, Epoch)> {
        let last = self.last.read();
        let newer = |(agent, heard): (&AgentName, &ReceivedHeartbeat)| {
            current(agent)
                .filter(|epoch| *epoch > heard.heartbeat.epoch)
                .map(|epoch| (agent.clone(), epoch))
        };
        last.iter().filter_map(newer).collect()
    }
}
