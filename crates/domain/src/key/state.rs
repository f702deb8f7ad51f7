//! What is known of a key.

use super::policy::KeyPolicy;
use crate::{names::KeyId, secret::SecretHash, time::Timestamp};
use serde::{Deserialize, Serialize};

/// Everything known of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Key {
    /// Never created.
    #[default]
    Unknown,
    /// Created and not revoked. It may have expired.
    Issued(IssuedKey),
    /// Revoked for good.
    Revoked(RevokedKey),
}

/// A key that was created and not revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedKey {
    /// Its id.
    pub id: KeyId,
    /// What it permits.
    #[serde(rename = "terms")]
    pub policy: KeyPolicy,
    /// The hash of its secret.
    pub secret: SecretHash,
    /// The secret before the last rotation, if the rotation granted it a grace period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousSecret>,
    /// When it was created.
    pub created_at_ms: Timestamp,
    /// When it was last rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotated_at_ms: Option<Timestamp>,
}

/// A secret that a rotation has replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSecret {
    /// Its hash.
    pub secret: SecretHash,
    /// The moment from which it is refused.
    pub valid_until_ms: Timestamp,
}

/// A revoked key. Its hashes are forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedKey {
    /// Its id.
    pub id: KeyId,
    /// What it permitted.
    #[serde(rename = "terms")]
    pub policy: KeyPolicy,
    /// When it was created.
    pub created_at_ms: Timestamp,
    /// When it was revoked.
    pub revoked_at_ms: Timestamp,
}

impl IssuedKey {
    /// The hashes of the secrets that are valid at `now`, the current one first; none after the key has expired.
    pub fn secrets_at(&self, now: Timestamp) -> impl Iterator<Item = &SecretHash> {
        let previous = self.previous.as_ref().filter(|it| now < it.valid_until_ms);
        let secrets = [Some(&self.secret), previous.map(|it| &it.secret)];
        secrets
            .into_iter()
            .flatten()
            .filter(move |_| !self.policy.expired_at(now))
    }
}
