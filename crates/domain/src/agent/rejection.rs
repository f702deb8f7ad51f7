//! Why a command to an agent is refused.

use crate::ids::Epoch;
use std::time::Duration;
use thiserror::Error;

/// The longest time for which a token lets a key in.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);

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
