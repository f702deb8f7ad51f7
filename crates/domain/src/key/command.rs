//! The commands of a key. Each brings its time, in NATS time.

use super::policy::KeyPolicy;
use crate::{names::KeyId, secret::SecretHash, time::Timestamp};
use std::time::Duration;

/// The longest that a rotated key's old secret stays valid: 30 days.
pub const MAX_GRACE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A command to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyCommand {
    /// Create the key.
    Create {
        /// Its id.
        id: KeyId,
        /// What it permits.
        policy: KeyPolicy,
        /// The hash of its secret.
        secret: SecretHash,
        /// Now.
        at: Timestamp,
    },
    /// Give it a new secret.
    Rotate {
        /// The hash of the new secret.
        secret: SecretHash,
        /// How long the current secret stays valid beside the new one; at most [`MAX_GRACE`].
        grace: Duration,
        /// Now.
        at: Timestamp,
    },
    /// Revoke it for good.
    Revoke {
        /// Now.
        at: Timestamp,
    },
}
