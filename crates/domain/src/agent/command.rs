//! The commands of an agent. Each brings its time, in NATS time.

use super::{agent_key::AgentKey, event::AdvanceReason};
use crate::{
    ids::{Epoch, SessionId, TokenId},
    names::AgentName,
    secret::SecretHash,
    time::Timestamp,
};

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
