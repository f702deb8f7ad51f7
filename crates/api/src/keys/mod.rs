//! Who may do what: the fold of the keys in memory, and what each key has used in this replica.
//!
//! It is part of the journal's fold, so a revocation takes effect in every replica as soon as its commit arrives. Requests
//! read it without waiting.

mod authenticator;
mod caller;
mod denied;
mod limits;
mod quota;
mod secret;

pub use authenticator::AuthMode;
pub(crate) use authenticator::Authenticator;
pub(crate) use caller::Caller;
pub(crate) use denied::Denied;
pub(crate) use quota::{Quota, Reservation};
pub use secret::{InvalidSecretKey, SecretKey};

use limits::{Limits, Permit};
use parking_lot::RwLock;
use reveille_domain::{
    Key, KeyId, Timestamp,
    key::{IssuedKey, RevokedKey},
};
use std::{collections::BTreeMap, sync::Arc};

/// The most keys that can be made, revoked ones included: each replica holds them all.
pub(crate) const MAX_KEYS: usize = 10_000;

/// The keys of the journal. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the id's text, so that a lookup needs no allocation.
    table: RwLock<BTreeMap<String, Arc<KeySnapshot>>>,
    quota: Quota,
}

/// A key as this replica knows it.
#[derive(Debug)]
pub(crate) struct KeySnapshot {
    pub state: KeyState,
    /// The journal sequence of its last commit.
    pub sequence: u64,
    /// What it has used in this replica.
    pub limits: Arc<Limits>,
}

/// What the journal says of a key.
#[derive(Debug)]
pub(crate) enum KeyState {
    /// Valid until it expires.
    Issued(IssuedKey),
    Revoked(RevokedKey),
    /// This version can't read its last commit, so the key is refused.
    Unreadable(KeyId),
}

impl KeyState {
    pub(crate) const fn id(&self) -> &KeyId {
        match self {
            Self::Issued(key) => &key.id,
            Self::Revoked(key) => &key.id,
            Self::Unreadable(id) => id,
        }
    }

    /// When it was made, if this version can read that.
    pub(crate) const fn created_at(&self) -> Option<Timestamp> {
        match self {
            Self::Issued(key) => Some(key.created_at_ms),
            Self::Revoked(key) => Some(key.created_at_ms),
            Self::Unreadable(_) => None,
        }
    }
}

impl Keys {
    /// Takes in the state after a commit.
    pub(crate) fn take(&self, key: &Key, sequence: u64) {
        let state = match key {
            Key::Unknown => return,
            Key::Issued(key) => KeyState::Issued(key.clone()),
            Key::Revoked(key) => KeyState::Revoked(key.clone()),
        };
        self.put(state, sequence);
    }

    /// Takes in a commit that this version can't read.
    pub(crate) fn take_unreadable(&self, id: KeyId, sequence: u64) {
        self.put(KeyState::Unreadable(id), sequence);
    }

    fn put(&self, state: KeyState, sequence: u64) {
        let id = state.id().as_str().to_owned();
        let mut table = self.inner.table.write();
        // A key's limits never change, and what it has used stays used.
        let kept = table.get(&id).map(|known| known.limits.clone());
        let limits = kept.unwrap_or_else(|| match &state {
            KeyState::Issued(key) => Arc::new(Limits::of(&key.policy.limits)),
            KeyState::Revoked(_) | KeyState::Unreadable(_) => Arc::default(),
        });
        let known = KeySnapshot {
            state,
            sequence,
            limits,
        };
        table.insert(id, Arc::new(known));
    }

    /// Forgets everything, because the journal was replaced.
    pub(crate) fn reset(&self) {
        self.inner.table.write().clear();
        self.inner.quota.reset();
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<KeySnapshot>> {
        self.inner.table.read().get(id).cloned()
    }

    pub(crate) fn count(&self) -> usize {
        self.inner.table.read().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<KeySnapshot>> {
        self.inner.table.read().values().cloned().collect()
    }

    pub(crate) fn quota(&self) -> &Quota {
        &self.inner.quota
    }

    /// Reserves a wake at `now` for `key`, if the key has a limit.
    pub(crate) fn start_wake(&self, key: &KeyId, now: Timestamp) -> Result<Option<Reservation>, Denied> {
        let known = self.get(key.as_str());
        let limit = known.and_then(|known| match &known.state {
            KeyState::Issued(issued) => issued.policy.limits.wakes_per_hour,
            KeyState::Revoked(_) | KeyState::Unreadable(_) => None,
        });
        limit
            .map(|limit| self.inner.quota.reserve(key, limit, now))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_domain::{
        KeyName, Scope, SecretHash,
        key::{KeyLimits, KeyPolicy, Priority},
    };
    use std::collections::BTreeSet;

    #[test]
    fn a_key_starts_no_more_wakes_than_its_terms_allow() {
        let at = Timestamp::from_millis(1_764_000_000_000);
        let keys = Keys::default();
        keys.quota().counted(0);
        let issued = |id: &str, wakes_per_hour| {
            let scopes = BTreeSet::from([Scope::InferAny]);
            let key = IssuedKey {
                id: id.parse().expect("legal"),
                policy: KeyPolicy {
                    name: KeyName::parse("n").expect("legal"),
                    scopes: scopes.try_into().expect("one"),
                    expires_at_ms: None,
                    limits: KeyLimits::new(None, None, wakes_per_hour).expect("legal"),
                    progress: None,
                    priority: Priority::Normal,
                },
                secret: SecretHash::new([1; 32]),
                previous: None,
                created_at_ms: at,
                rotated_at_ms: None,
            };
            keys.take(&Key::Issued(key.clone()), 1);
            key.id
        };
        let (limited, free) = (issued("limited1", Some(1)), issued("without1", None));
        let first = keys.start_wake(&limited, at);
        assert!(matches!(first, Ok(Some(_))), "{first:?}");
        assert!(matches!(
            keys.start_wake(&limited, at),
            Err(Denied::Wakes { limit: 1, .. })
        ));
        assert!(matches!(keys.start_wake(&free, at), Ok(None)));
    }
}
