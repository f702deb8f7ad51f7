//! Why a command to a key is refused.

use thiserror::Error;

/// Why a command to a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyRejection {
    /// Another key has this id.
    #[error("another key has this id")]
    IdTaken,
    /// It would be born expired.
    #[error("a key's expiry must be in the future")]
    ExpiresBeforeItBegins,
    /// No such key.
    #[error("there is no such key")]
    NotFound,
    /// It was revoked.
    #[error("the key was revoked")]
    Revoked,
    /// It has expired.
    #[error("the key has expired")]
    Expired,
    /// The old secret would stay valid for too long.
    #[error("an old secret can stay valid for at most 30 days")]
    GraceTooLong,
}
