//! Sessions of an agent, and the epochs that number them.

use super::{
    event::{AdvanceReason, AgentEvent},
    rejection::AgentRejection,
};
use crate::{
    ids::{Epoch, SessionId},
    names::AgentName,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// How many earlier sessions are remembered, so that a late retry of one isn't taken for a new session.
pub(super) const REMEMBERED_SESSIONS: usize = 16;
/// The longest version that is kept, in characters. Longer ones are cut.
const MAX_VERSION_CHARS: usize = 64;

/// Whether an agent has a current session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Sessions {
    /// No session was ever accepted.
    #[default]
    Unknown,
    /// The current session.
    Connected(Session),
    /// Every session is superseded, and no new one has come.
    Fenced(Fence),
}

/// What is known of an agent without a current session after its epoch was advanced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The agent's name.
    pub name: AgentName,
    /// The lowest epoch that is accepted. No session has it.
    pub epoch: Epoch,
    /// When it was advanced.
    pub fenced_at_ms: Timestamp,
    /// The earlier sessions, latest last.
    pub earlier: Vec<SessionId>,
}

/// An agent's current session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The agent's name.
    pub name: AgentName,
    /// The session's id.
    pub id: SessionId,
    /// Its epoch.
    pub epoch: Epoch,
    /// When it was accepted.
    pub connected_at_ms: Timestamp,
    /// The version of the agent program.
    pub version: String,
    /// The earlier sessions, latest last.
    pub earlier: Vec<SessionId>,
}

impl Sessions {
    /// The lowest epoch that is accepted from the agent; `Epoch(0)` before its first session.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        match self {
            Self::Unknown => Epoch(0),
            Self::Connected(session) => session.epoch,
            Self::Fenced(fence) => fence.epoch,
        }
    }

    pub(super) const fn name(&self) -> Option<&AgentName> {
        match self {
            Self::Unknown => None,
            Self::Connected(session) => Some(&session.name),
            Self::Fenced(fence) => Some(&fence.name),
        }
    }

    pub(super) fn connect(
        &self,
        name: &AgentName,
        session: SessionId,
        version: &str,
        at: Timestamp,
    ) -> Result<Vec<AgentEvent>, AgentRejection> {
        match self {
            Self::Connected(current) if current.id == session => Ok(vec![]),
            Self::Connected(Session { earlier, .. }) | Self::Fenced(Fence { earlier, .. })
                if earlier.contains(&session) =>
            {
                Err(AgentRejection::SessionSuperseded {
                    current: self.epoch(),
                })
            }
            Self::Unknown | Self::Connected(_) | Self::Fenced(_) => Ok(vec![AgentEvent::AgentConnected {
                name: name.clone(),
                session,
                epoch: self.epoch().next(),
                version: version.chars().take(MAX_VERSION_CHARS).collect(),
                at_ms: at,
            }]),
        }
    }

    pub(super) fn advance(&self, to: Epoch, reason: AdvanceReason, at: Timestamp) -> Vec<AgentEvent> {
        match self {
            // There is no session to supersede.
            Self::Unknown => vec![],
            Self::Connected(Session { name, epoch, .. }) | Self::Fenced(Fence { name, epoch, .. }) => (to
                > *epoch)
                .then(|| AgentEvent::AgentEpochAdvanced {
                    name: name.clone(),
                    epoch: to,
                    reason,
                    at_ms: at,
                })
                .into_iter()
                .collect(),
        }
    }

    /// Supersedes every session below `to`, even of an agent that never had one, unless a later one has begun.
    pub(super) fn forget(&self, name: &AgentName, to: Epoch, at: Timestamp) -> Vec<AgentEvent> {
        let forgotten = AgentEvent::AgentEpochAdvanced {
            name: name.clone(),
            epoch: to,
            reason: AdvanceReason::Forgotten,
            at_ms: at,
        };
        Some(forgotten)
            .filter(|_| to > self.epoch())
            .into_iter()
            .collect()
    }

    /// Ends the current session, if there is one.
    pub(super) fn end(&self, reason: AdvanceReason, at: Timestamp) -> Vec<AgentEvent> {
        match self {
            Self::Unknown | Self::Fenced(_) => vec![],
            Self::Connected(session) => self.advance(session.epoch.next(), reason, at),
        }
    }

    fn earlier(self) -> Vec<SessionId> {
        let mut earlier = match self {
            Self::Unknown => vec![],
            Self::Connected(Session { mut earlier, id, .. }) => {
                earlier.push(id);
                earlier
            }
            Self::Fenced(Fence { earlier, .. }) => earlier,
        };
        earlier.drain(..earlier.len().saturating_sub(REMEMBERED_SESSIONS));
        earlier
    }

    pub(super) fn evolve(self, event: &AgentEvent) -> Self {
        match event {
            AgentEvent::AgentConnected {
                name,
                session,
                epoch,
                version,
                at_ms,
            } => Self::Connected(Session {
                name: name.clone(),
                id: *session,
                epoch: *epoch,
                connected_at_ms: *at_ms,
                version: version.clone(),
                earlier: self.earlier(),
            }),
            AgentEvent::AgentEpochAdvanced {
                name, epoch, at_ms, ..
            } => Self::Fenced(Fence {
                name: name.clone(),
                epoch: *epoch,
                fenced_at_ms: *at_ms,
                earlier: self.earlier(),
            }),
            AgentEvent::AgentTokenIssued { .. }
            | AgentEvent::AgentEnrolled { .. }
            | AgentEvent::AgentRevoked { .. } => self,
        }
    }
}
