//! The agent aggregate. It accepts sessions and numbers them with epochs, which fence everything that an agent sends. It also
//! knows the key that authenticates the agent, from its enrollment with a token to its revocation.

mod access;
mod agent_key;
mod command;
mod event;
mod rejection;
mod sessions;

#[cfg(test)]
mod tests;

pub use access::{Access, EnrolledKey, EnrollmentToken};
pub use agent_key::{AgentKey, InvalidAgentKey};
pub use command::AgentCommand;
pub use event::{AdvanceReason, AgentEvent};
pub use rejection::{AgentRejection, MAX_TOKEN_LIFETIME};
pub use sessions::{Fence, Session, Sessions};

use crate::{ids::Epoch, names::AgentName};
use serde::{Deserialize, Serialize};

/// Everything known of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its sessions.
    #[serde(flatten)]
    pub sessions: Sessions,
    /// Its key and tokens.
    #[serde(default, skip_serializing_if = "Access::is_empty")]
    pub access: Access,
}

impl Agent {
    /// The lowest epoch that is accepted from the agent; `Epoch(0)` before its first session.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.sessions.epoch()
    }

    /// The agent's name; `None` before its first session.
    #[must_use]
    pub const fn name(&self) -> Option<&AgentName> {
        self.sessions.name()
    }

    /// What `command` changes.
    ///
    /// # Errors
    /// When it is refused.
    pub fn decide(&self, command: &AgentCommand) -> Result<Vec<AgentEvent>, AgentRejection> {
        let Self { sessions, access } = self;
        match command {
            AgentCommand::Connect {
                name,
                session,
                version,
                at,
            } => sessions.connect(name, *session, version, *at),
            AgentCommand::Advance { to, reason, at } => Ok(sessions.advance(*to, *reason, *at)),
            AgentCommand::IssueToken {
                name,
                token,
                secret,
                expires_at,
                at,
            } => access.issue(name, *token, *secret, *expires_at, *at),
            AgentCommand::Enroll {
                name,
                token,
                secret,
                key,
                at,
            } => access.enroll(name, *token, secret, key, *at),
            AgentCommand::Trust { name, key, at } => Ok(access.trust(name, key, *at)),
            AgentCommand::Forget { name, to, at } => Ok(sessions.forget(name, *to, *at)),
            AgentCommand::Revoke { name, at } => {
                let revoked = access.revoke(name, *at).into_iter();
                Ok(revoked.chain(sessions.end(AdvanceReason::Revoked, *at)).collect())
            }
        }
    }

    /// The state after `event`.
    #[must_use]
    pub fn evolve(self, event: &AgentEvent) -> Self {
        Self {
            sessions: self.sessions.evolve(event),
            access: self.access.evolve(event),
        }
    }
}

crate::aggregate::aggregate!(Agent, "agent", AgentCommand, AgentEvent, AgentRejection);
