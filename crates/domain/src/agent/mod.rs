//! The agent aggregate. It accepts sessions and numbers them: the number, the epoch, fences everything else. And it knows by
//! which key an agent proves who it is, from the token that let the key in to its revocation.

mod access;
mod sessions;
#[cfg(test)]
mod tests;

pub use access::{Access, AgentKey, EnrolledKey, EnrolmentToken, InvalidAgentKey, MAX_TOKEN_LIFETIME};
pub use sessions::{AdvanceReason, Fence, Session, Sessions};

use crate::{AgentName, Epoch, SecretHash, SessionId, Timestamp, TokenId};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Everything known of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Which session is the current one.
    #[serde(flatten)]
    pub sessions: Sessions,
    /// By which key it is known.
    #[serde(default, skip_serializing_if = "Access::is_empty")]
    pub access: Access,
}

/// What can be asked of an agent aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentCommand {
    /// An agent process asks to be *the* process of its name.
    Connect {
        /// The agent's name.
        name: AgentName,
        /// The process's session; repeated as it is when the request is retried.
        session: SessionId,
        /// The version of the agent program.
        version: String,
        /// Now.
        at: Timestamp,
    },
    /// Supersede every session up to an epoch, those that this journal never saw included.
    Advance {
        /// The first epoch that may still be accepted.
        to: Epoch,
        /// Why.
        reason: AdvanceReason,
        /// Now.
        at: Timestamp,
    },
    /// Give out a token by which a machine makes its key this agent's.
    IssueToken {
        /// The agent's name.
        name: AgentName,
        /// The token.
        token: TokenId,
        /// The hash of its secret.
        secret: SecretHash,
        /// The first moment at which it lets nobody in; [`MAX_TOKEN_LIFETIME`] from now at most.
        expires_at: Timestamp,
        /// Now.
        at: Timestamp,
    },
    /// A machine that holds a token shows the public half of its key.
    Enroll {
        /// The agent's name.
        name: AgentName,
        /// The token.
        token: TokenId,
        /// The hash of the secret that it showed.
        secret: SecretHash,
        /// Its key.
        key: AgentKey,
        /// Now.
        at: Timestamp,
    },
    /// Know the agent by this key, without a token: said by whoever runs the hub on the agent's own machine.
    Trust {
        /// The agent's name.
        name: AgentName,
        /// Its key.
        key: AgentKey,
        /// Now.
        at: Timestamp,
    },
    /// Know the agent no more: neither by its key nor by a token that was given out. Its session ends.
    Revoke {
        /// The agent's name.
        name: AgentName,
        /// Now.
        at: Timestamp,
    },
}

/// What happened to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum AgentEvent {
    /// A session was accepted; every earlier one is superseded.
    AgentConnected {
        /// The agent's name.
        name: AgentName,
        /// The session.
        session: SessionId,
        /// Its number.
        epoch: Epoch,
        /// The version of the agent program.
        version: String,
        /// When.
        at_ms: Timestamp,
    },
    /// Every session up to now is superseded, and the next one gets an epoch above this.
    AgentEpochAdvanced {
        /// The agent's name.
        name: AgentName,
        /// The epoch that is reached.
        epoch: Epoch,
        /// Why.
        reason: AdvanceReason,
        /// When.
        at_ms: Timestamp,
    },
    /// A token was given out.
    AgentTokenIssued {
        /// The agent's name.
        name: AgentName,
        /// The token.
        token: TokenId,
        /// The hash of its secret.
        secret: SecretHash,
        /// The first moment at which it lets nobody in.
        expires_at_ms: Timestamp,
        /// When.
        at_ms: Timestamp,
    },
    /// From now on the agent is known by this key, and by no earlier one.
    AgentEnrolled {
        /// The agent's name.
        name: AgentName,
        /// The public half.
        key: AgentKey,
        /// The token that let it in; none when the hub's own machine did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<TokenId>,
        /// When.
        at_ms: Timestamp,
    },
    /// The agent is known by no key and no token any more.
    AgentRevoked {
        /// The agent's name.
        name: AgentName,
        /// When.
        at_ms: Timestamp,
    },
}

impl DomainEvent for AgentEvent {
    fn event_type(&self) -> String {
        match self {
            Self::AgentConnected { .. } => "AgentConnected",
            Self::AgentEpochAdvanced { .. } => "AgentEpochAdvanced",
            Self::AgentTokenIssued { .. } => "AgentTokenIssued",
            Self::AgentEnrolled { .. } => "AgentEnrolled",
            Self::AgentRevoked { .. } => "AgentRevoked",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

/// Why an agent's command is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AgentRejection {
    /// A later session of the same name was accepted.
    #[error("this session was superseded: the agent's current epoch is {current}")]
    SessionSuperseded {
        /// The current epoch.
        current: Epoch,
    },
    /// No such token, or it has another secret, or later ones and a revocation have replaced it.
    #[error("the token is not known: make a new one")]
    TokenUnknown,
    /// Another key was let in by it.
    #[error("the token was used: make a new one")]
    TokenUsed,
    /// It came too late.
    #[error("the token has expired: make a new one")]
    TokenExpired,
    /// It would live for too long.
    #[error("a token lives for at most {} minutes", MAX_TOKEN_LIFETIME.as_secs() / 60)]
    TokenTooLong,
}

impl Agent {
    /// The number that everything the agent says must have or exceed; `Epoch(0)` when there never was a session.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.sessions.epoch()
    }

    /// The agent's name; `None` when there never was a session.
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

impl Aggregate for Agent {
    const TYPE: &'static str = "agent";
    type Command = AgentCommand;
    type Event = AgentEvent;
    type Error = AgentRejection;
    type Services = ();

    async fn handle(
        &mut self,
        command: AgentCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), AgentRejection> {
        for event in self.decide(&command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: AgentEvent) {
        *self = std::mem::take(self).evolve(&event);
    }
}
