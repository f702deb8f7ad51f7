//! The rules of a key, and how an event changes its state.

use super::{
    command::{KeyCommand, MAX_GRACE},
    event::KeyEvent,
    rejection::KeyRejection,
    state::{IssuedKey, Key, PreviousSecret, RevokedKey},
};
use crate::{names::KeyId, secret::SecretHash, time::Timestamp};
use std::time::Duration;

impl Key {
    /// Its id; `None` when it was never created.
    #[must_use]
    pub const fn id(&self) -> Option<&KeyId> {
        match self {
            Self::Unknown => None,
            Self::Issued(key) => Some(&key.id),
            Self::Revoked(key) => Some(&key.id),
        }
    }

    /// What `command` changes. A repeated command changes nothing.
    ///
    /// # Errors
    /// When it is refused.
    pub fn decide(&self, command: &KeyCommand) -> Result<Vec<KeyEvent>, KeyRejection> {
        match (self, command) {
            (
                Self::Unknown,
                KeyCommand::Create {
                    id,
                    policy,
                    secret,
                    at,
                },
            ) => {
                if policy.expired_at(*at) {
                    return Err(KeyRejection::ExpiresBeforeItBegins);
                }
                Ok(vec![KeyEvent::KeyCreated {
                    id: id.clone(),
                    policy: policy.clone(),
                    secret: *secret,
                    at_ms: *at,
                }])
            }
            (Self::Issued(key), KeyCommand::Create { secret, .. }) if key.secret == *secret => Ok(vec![]),
            (Self::Issued(_) | Self::Revoked(_), KeyCommand::Create { .. }) => Err(KeyRejection::IdTaken),
            (Self::Issued(key), KeyCommand::Rotate { secret, grace, at }) => key.rotate(*secret, *grace, *at),
            (Self::Issued(_), KeyCommand::Revoke { at }) => Ok(vec![KeyEvent::KeyRevoked { at_ms: *at }]),
            (Self::Revoked(_), KeyCommand::Revoke { .. }) => Ok(vec![]),
            (Self::Revoked(_), KeyCommand::Rotate { .. }) => Err(KeyRejection::Revoked),
            (Self::Unknown, KeyCommand::Rotate { .. } | KeyCommand::Revoke { .. }) => {
                Err(KeyRejection::NotFound)
            }
        }
    }

    /// The state after `event`.
    #[must_use]
    pub fn evolve(self, event: &KeyEvent) -> Self {
        match (self, event) {
            (
                Self::Unknown | Self::Issued(_) | Self::Revoked(_),
                KeyEvent::KeyCreated {
                    id,
                    policy,
                    secret,
                    at_ms,
                },
            ) => Self::Issued(IssuedKey {
                id: id.clone(),
                policy: policy.clone(),
                secret: *secret,
                previous: None,
                created_at_ms: *at_ms,
                rotated_at_ms: None,
            }),
            (
                Self::Issued(key),
                KeyEvent::KeyRotated {
                    secret,
                    previous_valid_until_ms,
                    at_ms,
                },
            ) => Self::Issued(IssuedKey {
                previous: previous_valid_until_ms.map(|valid_until_ms| PreviousSecret {
                    secret: key.secret,
                    valid_until_ms,
                }),
                secret: *secret,
                rotated_at_ms: Some(*at_ms),
                ..key
            }),
            (Self::Issued(key), KeyEvent::KeyRevoked { at_ms }) => Self::Revoked(RevokedKey {
                id: key.id,
                policy: key.policy,
                created_at_ms: key.created_at_ms,
                revoked_at_ms: *at_ms,
            }),
            // Never decided, so nothing changes.
            (
                it @ (Self::Unknown | Self::Revoked(_)),
                KeyEvent::KeyRotated { .. } | KeyEvent::KeyRevoked { .. },
            ) => it,
        }
    }
}

impl IssuedKey {
    fn rotate(
        &self,
        secret: SecretHash,
        grace: Duration,
        at: Timestamp,
    ) -> Result<Vec<KeyEvent>, KeyRejection> {
        if self.secret == secret {
            return Ok(vec![]);
        }
        if self.policy.expired_at(at) {
            return Err(KeyRejection::Expired);
        }
        if grace > MAX_GRACE {
            return Err(KeyRejection::GraceTooLong);
        }
        Ok(vec![KeyEvent::KeyRotated {
            secret,
            previous_valid_until_ms: (!grace.is_zero()).then(|| at.plus(grace)),
            at_ms: at,
        }])
    }
}
