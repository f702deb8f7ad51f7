//! The commands of an agent. Each brings its time, in NATS time.

use super::{agent_key::AgentKey, event::AdvanceReason};
use crate::{
    ids::{Epoch, SessionId, TokenId},
    names::AgentName,
    secret::SecretHash,
    time::Timestamp,
};

/// A command to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentCommand {
    /// An agent process asks to be the only process of its name.
    Connect {
        /// The agent's name.
        name: AgentName,
        /// The process's session; the same in every retry.
        session: SessionId,
        /// The version of the agent program.
        version: String,
        /// Now.
        at: Timestamp,
    },
    /// Supersede every session up to an epoch, including those that this journal never saw.
    Advance {
        /// The first epoch that remains acceptable.
        to: Epoch,
        /// Why.
        reason: AdvanceReason,
        /// Now.
        at: Timestamp,
    },
    /// Issue a token with which a machine enrolls its key as this agent's.
    IssueToken {
        /// The agent's name.
        name: AgentName,
        /// The token.
        token: TokenId,
        /// The hash of its secret.
        secret: SecretHash,
        /// When it expires; at most [`MAX_TOKEN_LIFETIME`](super::MAX_TOKEN_LIFETIME) from now.
        expires_at: Timestamp,
        /// Now.
        at: Timestamp,
    },
    /// Enroll the public key of a machine that presents a token.
    Enroll {
        /// The agent's name.
        name: AgentName,
        /// The token.
        token: TokenId,
        /// The hash of the secret that it presents.
        secret: SecretHash,
        /// Its key.
        key: AgentKey,
        /// Now.
        at: Timestamp,
    },
    /// Enroll a key without a token: the hub runs on the agent's own machine.
    Trust {
        /// The agent's name.
        name: AgentName,
        /// Its key.
        key: AgentKey,
        /// Now.
        at: Timestamp,
    },
    /// Forget an agent that is away: its sessions so far are superseded, and it isn't listed until it comes back.
    Forget {
        /// The agent's name.
        name: AgentName,
        /// The epoch after the last that it was away in; one that has connected since isn't forgotten.
        to: Epoch,
        /// Now.
        at: Timestamp,
    },
    /// Revoke the agent's key and its tokens, and end its session.
    Revoke {
        /// The agent's name.
        name: AgentName,
        /// Now.
        at: Timestamp,
    },
}
