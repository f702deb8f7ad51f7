//! Which agents' owners let nothing wake now, by the agents' last heartbeats. A wake asks its agent all the same: this is for lists.

use parking_lot::RwLock;
use reveille_bus::heartbeats::Heartbeat;
use reveille_domain::{AgentName, Epoch, WakeFailure};
use std::collections::HashMap;

/// The refusals of all agents.
#[derive(Debug, Default)]
pub(crate) struct OwnerRefusals(RwLock<HashMap<AgentName, (Epoch, WakeFailure)>>);

impl OwnerRefusals {
    /// Takes in an agent's last heartbeat.
    pub(crate) fn take(&self, heartbeat: &Heartbeat) {
        let agent = &heartbeat.agent;
        let Some(refusal) = &heartbeat.refusal else {
            if self.0.read().contains_key(agent) {
                self.0.write().remove(agent);
            }
            return;
        };
        // One from the wire may contain anything.
        let refusal = WakeFailure::new(refusal.kind, &refusal.stage, &refusal.reason);
        self.0.write().insert(agent.clone(), (heartbeat.epoch, refusal));
    }

    /// How a wake of this agent's session would fail now.
    pub(crate) fn of(&self, agent: &AgentName, epoch: Epoch) -> Option<WakeFailure> {
        let refusals = self.0.read();
        let (_, refusal) = refusals.get(agent).filter(|(of, _)| *of == epoch)?;
        Some(refusal.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_domain::{PAUSED_STAGE, SessionId, WakeFailureKind};
    use uuid::Uuid;

    #[test]
    fn a_pause_is_known_until_a_heartbeat_without_one_and_to_its_own_session() {
        let (refusals, agent) = (OwnerRefusals::default(), AgentName::parse("gpu-box").unwrap());
        let heard = |refusal| {
            refusals.take(&Heartbeat {
                agent: agent.clone(),
                session: SessionId(Uuid::nil()),
                epoch: Epoch(2),
                silent_after_ms: 30_000,
                refusal,
                providers: vec![],
            });
        };
        assert_eq!(refusals.of(&agent, Epoch(2)), None);
        let paused = WakeFailure {
            kind: WakeFailureKind::NotAllowed,
            stage: PAUSED_STAGE.to_owned(),
            reason: "its owner has paused it\u{1b}".to_owned(),
        };
        heard(Some(paused));
        let known = refusals.of(&agent, Epoch(2)).expect("it is paused");
        assert_eq!(known.reason, "its owner has paused it");
        assert_eq!(refusals.of(&agent, Epoch(3)), None, "another session");
        heard(None);
        assert_eq!(refusals.of(&agent, Epoch(2)), None);
    }
}
