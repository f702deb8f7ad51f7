//! The key aggregate: who may ask for what, until when and how often. It holds the hash of a key's secret, never the
//! secret: that is shown once to whoever made it.
//!
//! The secret is 256 random bits, so one round of SHA-256 is enough: a slow hash protects what people choose and others
//! can guess. Nobody finds such a secret by trying, however fast a try is, and every request pays for a slow one.

mod decide;
mod scope;
mod terms;

pub use scope::{InvalidScope, MAX_SCOPES, Scope, Scopes};
pub use terms::{InvalidLimit, KeyLimits, KeyTerms, MAX_CONCURRENCY, MAX_RATE, MAX_WAKES_PER_HOUR};

use crate::{KeyId, Timestamp};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};
use thiserror::Error;

/// The longest time for which a rotated key's old secret stays valid: 30 days.
pub const MAX_GRACE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The SHA-256 of a key's secret; written as 64 hexadecimal digits, and never printed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

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

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> Self {
        hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for SecretHash {
    type Error = &'static str;
    fn try_from(raw: String) -> Result<Self, Self::Error> {
        let digits: Option<Vec<u8>> = raw.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
        let bytes = digits.filter(|digits| digits.len() == 64).map(|digits| {
            let mut bytes = [0; 32];
            for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
                *byte = pair[0] << 4 | pair[1];
            }
            bytes
        });
        bytes
            .map(Self)
            .ok_or("the hash of a secret is 64 hexadecimal digits")
    }
}

/// Everything known of a key: nothing, what it permits, or that it permits nothing any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Key {
    /// Never made.
    #[default]
    Unknown,
    /// Made, and not revoked. It may have expired.
    Issued(IssuedKey),
    /// Revoked for good.
    Revoked(RevokedKey),
}

/// A key that was made and not revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedKey {
    /// Its id.
    pub id: KeyId,
    /// What it permits.
    pub terms: KeyTerms,
    /// The hash of its secret.
    pub secret: SecretHash,
    /// The secret before the last rotation, if that one had a grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousSecret>,
    /// When it was made.
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
    /// The first moment at which it is refused.
    pub valid_until_ms: Timestamp,
}

/// A key that was revoked. Its hashes are forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedKey {
    /// Its id.
    pub id: KeyId,
    /// What it permitted.
    pub terms: KeyTerms,
    /// When it was made.
    pub created_at_ms: Timestamp,
    /// When it was revoked.
    pub revoked_at_ms: Timestamp,
}

impl IssuedKey {
    /// The hashes of the secrets that are valid at `now`, the current one first; none once the key has expired.
    pub fn secrets_at(&self, now: Timestamp) -> impl Iterator<Item = &SecretHash> {
        let previous = self.previous.as_ref().filter(|it| now < it.valid_until_ms);
        let secrets = [Some(&self.secret), previous.map(|it| &it.secret)];
        secrets
            .into_iter()
            .flatten()
            .filter(move |_| !self.terms.expired_at(now))
    }
}

/// What can be asked of a key aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyCommand {
    /// Make the key.
    Create {
        /// Its id.
        id: KeyId,
        /// What it permits.
        terms: KeyTerms,
        /// The hash of its secret.
        secret: SecretHash,
        /// Now.
        at: Timestamp,
    },
    /// Give it a new secret.
    Rotate {
        /// The hash of the new secret.
        secret: SecretHash,
        /// How long the current secret stays valid beside it; [`MAX_GRACE`] at most.
        grace: Duration,
        /// Now.
        at: Timestamp,
    },
    /// End it for good.
    Revoke {
        /// Now.
        at: Timestamp,
    },
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum KeyEvent {
    /// It was made.
    KeyCreated {
        /// Its id.
        id: KeyId,
        /// What it permits.
        terms: KeyTerms,
        /// The hash of its secret.
        secret: SecretHash,
        /// When.
        at_ms: Timestamp,
    },
    /// It got a new secret.
    KeyRotated {
        /// The hash of the new secret.
        secret: SecretHash,
        /// The first moment at which the secret before it is refused; absent when that is now.
        #[serde(skip_serializing_if = "Option::is_none")]
        previous_valid_until_ms: Option<Timestamp>,
        /// When.
        at_ms: Timestamp,
    },
    /// It permits nothing any more.
    KeyRevoked {
        /// When.
        at_ms: Timestamp,
    },
}

impl KeyEvent {
    /// The event's type, as it is written.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::KeyCreated { .. } => "KeyCreated",
            Self::KeyRotated { .. } => "KeyRotated",
            Self::KeyRevoked { .. } => "KeyRevoked",
        }
    }
}

impl DomainEvent for KeyEvent {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

/// Why a key's command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyRejection {
    /// Another key has this id.
    #[error("another key has this id")]
    IdTaken,
    /// It would be refused from the first moment on.
    #[error("a key expires in the future, not before it is made")]
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
    #[error("an old secret stays valid for at most 30 days")]
    GraceTooLong,
}

impl Aggregate for Key {
    const TYPE: &'static str = "key";
    type Command = KeyCommand;
    type Event = KeyEvent;
    type Error = KeyRejection;
    type Services = ();

    async fn handle(
        &mut self,
        command: KeyCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), KeyRejection> {
        for event in self.decide(&command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: KeyEvent) {
        *self = std::mem::take(self).evolve(&event);
    }
}

#[cfg(test)]
mod tests;
