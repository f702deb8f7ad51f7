//! Why a command to an agent is refused.

use crate::ids::Epoch;
use std::time::Duration;
use thiserror::Error;

/// The longest lifetime of a token.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Why a command to an agent is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AgentRejection {
    /// A later session of the same name was accepted.
    #[error("this session was superseded: the agent's current epoch is {current}")]
    SessionSuperseded {
        /// The current epoch.
        current: Epoch,
    },
    /// The token doesn't exist, has another secret, was revoked, or was forgotten for later ones.
    #[error("the token is unknown: create a new one")]
    TokenUnknown,
    /// It has enrolled another key.
    #[error("the token was used: create a new one")]
    TokenUsed,
    /// It has expired.
    #[error("the token has expired: create a new one")]
    TokenExpired,
    /// Its lifetime is too long.
    #[error("a token lives for at most {} minutes", MAX_TOKEN_LIFETIME.as_secs() / 60)]
    TokenTooLong,
}
