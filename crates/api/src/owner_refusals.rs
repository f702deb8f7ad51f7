//! Which agents' owners let nothing wake now, by the agents' last heartbeats. A wake asks its agent all the same: this is for lists.

use parking_lot::RwLock;
use reveille_bus::heartbeats::Heartbeat;
use reveille_domain::{AgentName, Epoch, Timestamp, WakeFailure};
use std::collections::HashMap;

/// What each agent's last heartbeat says.
#[derive(Debug, Default)]
pub(crate) struct OwnerRefusals(RwLock<HashMap<AgentName, Said>>);

#[derive(Debug)]
struct Said {
    epoch: Epoch,
    /// When the server stored the heartbeat.
    at: Timestamp,
    refusal: Option<WakeFailure>,
}

impl OwnerRefusals {
    /// Takes in an agent's last heartbeat.
    pub(crate) fn take(&self, heartbeat: &Heartbeat, stored_at: Timestamp) {
        // One from the wire may contain anything.
        let refusal = heartbeat.refusal.as_ref();
        let refusal = refusal.map(|refusal| WakeFailure::new(refusal.kind, &refusal.stage, &refusal.reason));
        let said = Said {
            epoch: heartbeat.epoch,
            at: stored_at,
            refusal,
        };
        self.0.write().insert(heartbeat.agent.clone(), said);
    }

    /// How a wake of this agent's session would fail now.
    pub(crate) fn of(&self, agent: &AgentName, epoch: Epoch) -> Option<WakeFailure> {
        self.said(agent, epoch, |said| said.refusal.clone())
    }

    /// When this agent's session last said that its owner lets it wake backends; `None` if it has said otherwise since.
    pub(crate) fn allowed_at(&self, agent: &AgentName, epoch: Epoch) -> Option<Timestamp> {
        self.said(agent, epoch, |said| said.refusal.is_none().then_some(said.at))
    }

    fn said<T>(&self, agent: &AgentName, epoch: Epoch, what: impl FnOnce(&Said) -> Option<T>) -> Option<T> {
        let last = self.0.read();
        what(last.get(agent).filter(|said| said.epoch == epoch)?)
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
        let heard = |refusal, at| {
            let heartbeat = Heartbeat {
                agent: agent.clone(),
                session: SessionId(Uuid::nil()),
                epoch: Epoch(2),
                silent_after_ms: 30_000,
                refusal,
                providers: vec![],
            };
            refusals.take(&heartbeat, Timestamp::from_millis(at));
            refusals.allowed_at(&agent, Epoch(2))
        };
        assert_eq!(refusals.of(&agent, Epoch(2)), None);
        assert_eq!(refusals.allowed_at(&agent, Epoch(2)), None, "it has said nothing");
        let paused = WakeFailure {
            kind: WakeFailureKind::NotAllowed,
            stage: PAUSED_STAGE.to_owned(),
            reason: "its owner has paused it\u{1b}".to_owned(),
        };
        assert_eq!(heard(Some(paused), 1), None);
        let known = refusals.of(&agent, Epoch(2)).expect("it is paused");
        assert_eq!(known.reason, "its owner has paused it");
        assert_eq!(refusals.of(&agent, Epoch(3)), None, "another session");
        assert_eq!(heard(None, 2), Some(Timestamp::from_millis(2)));
        assert_eq!(refusals.allowed_at(&agent, Epoch(3)), None, "another session");
        assert_eq!(refusals.of(&agent, Epoch(2)), None);
    }
}
