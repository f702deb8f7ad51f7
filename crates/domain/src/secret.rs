//! The hash of a secret: all that is ever stored of a key's or a token's secret.
//!
//! One round of SHA-256 is enough, because the secret is 256 random bits. A slow hash protects passwords, which others can
//! guess; nobody finds 256 random bits by trying, and every request would pay for the slow hash.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The SHA-256 of a secret of 256 random bits. Serialized as 64 hexadecimal digits, and never printed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(#[serde(with = "hex::serde")] [u8; 32]);

impl SecretHash {
    /// The hash whose bytes these are.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes. Compare them in constant time.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}
