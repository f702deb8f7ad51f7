//! The events of an agent.

use super::agent_key::AgentKey;
use crate::{
    ids::{Epoch, SessionId, TokenId},
    names::AgentName,
    secret::SecretHash,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// Why an epoch is advanced without a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvanceReason {
    /// The journal was restored and may lack the latest sessions, whose epochs must not be used again.
    JournalRestored,
    /// The agent's key was revoked.
    Revoked,
    /// The agent was forgotten while it was away: it isn't listed until it comes back.
    Forgotten,
}

/// A fact about an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(tag = "type", content = "data")]
pub enum AgentEvent {
    /// A session was accepted; every earlier one is superseded.
    AgentConnected {
        /// The agent's name.
        name: AgentName,
        /// The session.
        session: SessionId,
        /// Its epoch.
        epoch: Epoch,
        /// The version of the agent program.
        version: String,
        /// When.
        at_ms: Timestamp,
    },
    /// Every earlier session is superseded, and the next one gets an epoch above this.
    AgentEpochAdvanced {
        /// The agent's name.
        name: AgentName,
        /// The new epoch.
        epoch: Epoch,
        /// Why.
        reason: AdvanceReason,
        /// When.
        at_ms: Timestamp,
    },
    /// A token was issued.
    AgentTokenIssued {
        /// The agent's name.
        name: AgentName,
        /// The token.
        token: TokenId,
        /// The hash of its secret.
        secret: SecretHash,
        /// When it expires.
        expires_at_ms: Timestamp,
        /// When.
        at_ms: Timestamp,
    },
    /// A key was enrolled. It replaces any earlier one.
    AgentEnrolled {
        /// The agent's name.
        name: AgentName,
        /// Its public half.
        key: AgentKey,
        /// The token that was presented; none for an agent on the hub's own machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<TokenId>,
        /// The key that it replaces.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<AgentKey>,
        /// When.
        at_ms: Timestamp,
    },
    /// The agent's key and tokens were revoked.
    AgentRevoked {
        /// The agent's name.
        name: AgentName,
        /// The revoked key; none if only tokens were revoked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<AgentKey>,
        /// When.
        at_ms: Timestamp,
    },
}
