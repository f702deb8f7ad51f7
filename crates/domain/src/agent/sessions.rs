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

/// How many earlier sessions are remembered, so that a late retry of one isn't taken for a new one.
pub(super) const REMEMBERED_SESSIONS: usize = 16;
/// How much of an agent's version is kept, in characters; longer ones are cut.
const MAX_VERSION_CHARS: usize = 64;

/// Nothing, the current session, or that there is none because all were fenced off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Sessions {
    /// No session was ever accepted.
    #[default]
    Unknown,
    /// The current session.
    Connected(Session),
    /// Every session that was is superseded, and none came since.
    Fenced(Fence),
}

/// What is left of an agent whose epoch was advanced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The agent's name.
    pub name: AgentName,
    /// The lowest epoch that is not refused; no session has it.
    pub epoch: Epoch,
    /// When it was advanced.
    pub fenced_at_ms: Timestamp,
    /// The sessions before, latest last.
    pub earlier: Vec<SessionId>,
}

/// An agent's current session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The agent's name.
    pub name: AgentName,
    /// The session's id.
    pub id: SessionId,
    /// Its number.
    pub epoch: Epoch,
    /// When it was accepted.
    pub connected_at_ms: Timestamp,
    /// The version of the agent program.
    pub version: String,
    /// The sessions before it, latest last.
    pub earlier: Vec<SessionId>,
}

impl Sessions {
    /// The number that everything the agent says must have or exceed; `Epoch(0)` when there never was a session.
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
            // There is nobody to supersede.
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
