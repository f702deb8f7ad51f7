//! The events of a key.

use super::policy::KeyPolicy;
use crate::{names::KeyId, secret::SecretHash, time::Timestamp};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// A fact about a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(tag = "type", content = "data")]
pub enum KeyEvent {
    /// It was created.
    KeyCreated {
        /// Its id.
        id: KeyId,
        /// What it permits.
        #[serde(rename = "terms")]
        policy: KeyPolicy,
        /// The hash of its secret.
        secret: SecretHash,
        /// When.
        at_ms: Timestamp,
    },
    /// It got a new secret.
    KeyRotated {
        /// The hash of the new secret.
        secret: SecretHash,
        /// The moment from which the previous secret is refused; absent when that is now.
        #[serde(skip_serializing_if = "Option::is_none")]
        previous_valid_until_ms: Option<Timestamp>,
        /// When.
        at_ms: Timestamp,
    },
    /// It was revoked.
    KeyRevoked {
        /// When.
        at_ms: Timestamp,
    },
}
