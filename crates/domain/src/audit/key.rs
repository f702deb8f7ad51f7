//! The rules of a key.

use super::{findings::Findings, invariant::Invariant};
use crate::{
    key::{Key, KeyEvent},
    names::KeyId,
};

pub(super) fn check(id: &KeyId, before: &Key, event: &KeyEvent, found: &mut Findings) {
    let kind = <&str>::from(event);
    if let KeyEvent::KeyCreated { id: named, .. } = event {
        found.apply(Invariant::Readable, named == id, || {
            format!("{kind} names the key {named}")
        });
    }
    let wrong = match (before, event) {
        (Key::Unknown, KeyEvent::KeyCreated { .. }) | (Key::Issued(_), KeyEvent::KeyRevoked { .. }) => None,
        (Key::Issued(key), KeyEvent::KeyRotated { at_ms, .. }) => key
            .policy
            .expired_at(*at_ms)
            .then_some("of a key that had expired"),
        (Key::Issued(_) | Key::Revoked(_), KeyEvent::KeyCreated { .. }) => {
            Some("with the id of an earlier key")
        }
        (Key::Unknown, KeyEvent::KeyRotated { .. } | KeyEvent::KeyRevoked { .. }) => {
            Some("of a key that was never created")
        }
        (Key::Revoked(_), KeyEvent::KeyRotated { .. } | KeyEvent::KeyRevoked { .. }) => {
            Some("of a key that was revoked")
        }
    };
    found.apply(Invariant::Key, wrong.is_none(), || {
        format!("{kind} {}", wrong.unwrap_or_default())
    });
}
