//! The last heartbeat of each agent.

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

/// An agent that is heard in another epoch than the journal has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct OtherEpoch {
    pub(crate) agent: AgentName,
    /// Its heartbeat's epoch.
    pub(crate) heard: Epoch,
    /// The journal's; 0 if the journal doesn't have the agent.
    pub(crate) current: Epoch,
}

impl Presence {
    /// Takes in heartbeats for as long as this is polled.
    pub(crate) async fn run(&self, mut watch: HeartbeatWatch, registry: &Registry) {
        let rows = registry.rows();
        loop {
            let heard = watch.next().await;
            rows.set_last_heartbeat(&heard.heartbeat.agent, heard.stored_at);
            registry.owner_refusals().take(&heard.heartbeat, heard.stored_at);
            registry.staying_awake().take(&heard.heartbeat);
            self.take(heard);
        }
    }

    fn take(&self, mut heard: ReceivedHeartbeat) {
        let mut last = self.last.write();
        let agent = heard.heartbeat.agent.clone();
        // After a reconnect the stream delivers its last heartbeats once more.
        let before = last.get(&agent).and_then(|before| before.heard_at);
        heard.heard_at = heard.heard_at.or(before);
        last.insert(agent, heard);
    }

    /// When the server stored the last heartbeat of an agent's session `epoch`.
    pub(crate) fn stored_at(&self, agent: &AgentName, epoch: Epoch) -> Option<Timestamp> {
        self.of_session(agent, epoch, |heard| Some(heard.stored_at))
    }

    /// When the last heartbeat of an agent's session `epoch` arrived, in listened time; `None` if none has arrived since this
    /// replica listens.
    pub(crate) fn heard_at(&self, agent: &AgentName, epoch: Epoch) -> Option<Duration> {
        self.of_session(agent, epoch, |heard| heard.heard_at)
    }

    fn of_session<T>(
        &self,
        agent: &AgentName,
        epoch: Epoch,
        what: impl FnOnce(&ReceivedHeartbeat) -> Option<T>,
    ) -> Option<T> {
        let last = self.last.read();
        let heard = last.get(agent).filter(|heard| heard.heartbeat.epoch == epoch)?;
        what(heard)
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

    /// Agents whose last heartbeat is of another epoch than `current` says, with both. An agent that isn't known at all is one
    /// only if its heartbeat has arrived since this replica listens.
    pub(crate) fn of_other_epochs(&self, current: impl Fn(&AgentName) -> Option<Epoch>) -> Vec<OtherEpoch> {
        let last = self.last.read();
        let other = |(agent, heard): (&AgentName, &ReceivedHeartbeat)| {
            let known = current(agent).or_else(|| heard.heard_at.map(|_| Epoch::default()))?;
            (known != heard.heartbeat.epoch).then(|| OtherEpoch {
                agent: agent.clone(),
                heard: heard.heartbeat.epoch,
                current: known,
            })
        };
        last.iter().filter_map(other).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_bus::heartbeats::Heartbeat;
    use reveille_domain::SessionId;
    use uuid::Uuid;

    #[test]
    fn a_heartbeat_that_the_stream_had_kept_is_no_sign_of_life_and_takes_none_away() {
        let (presence, agent) = (Presence::default(), AgentName::parse("gpu-box").expect("legal"));
        let take = |heard_at| {
            presence.take(ReceivedHeartbeat {
                heartbeat: Heartbeat {
                    agent: agent.clone(),
                    session: SessionId(Uuid::nil()),
                    epoch: Epoch(2),
                    silent_after_ms: 30_000,
                    refusal: None,
                    providers: vec![],
                },
                stored_at: Timestamp::from_millis(1),
                heard_at,
            });
            presence.heard_at(&agent, Epoch(2))
        };
        let [first, second] = [5, 7].map(|seconds| Some(Duration::from_secs(seconds)));
        assert_eq!(take(None), None);
        assert_eq!(take(first), first);
        assert_eq!(take(None), first, "it was delivered once more");
        assert_eq!(take(second), second);
        assert_eq!(presence.heard_at(&agent, Epoch(3)), None, "another session");
    }
}
