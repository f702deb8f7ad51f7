//! A whole key: `rv_<id>_<secret>`. Keys are made here, shown once, and compared in constant time.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{Rng, TryRngCore, rngs::OsRng};
use reveille_domain::{KeyId, SecretHash};
use sha2::{Digest, Sha256};
use std::fmt;
use thiserror::Error;

/// What every key begins with, so that people and secret scanners recognize it.
pub(super) const PREFIX: &str = "rv_";
/// A secret: 256 random bits.
const SECRET_BYTES: usize = 32;
/// A secret as text: base64url without padding.
const SECRET_CHARS: usize = 43;
/// The length of new ids: with 36¹² of them a clash is unlikely, and it is refused.
const ID_CHARS: usize = 12;
const ID_ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A whole key, secret included. Only [`expose`](Self::expose) prints it.
#[derive(Clone)]
pub struct SecretKey {
    id: KeyId,
    text: String,
}

/// The text isn't a key. The error doesn't repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a key has the form rv_<id>_<secret>")]
pub struct InvalidSecretKey;

impl SecretKey {
    /// A key with a new id.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, rand::rand_core::OsError> {
        let mut id = [0; ID_CHARS];
        let mut rng = OsRng.unwrap_err();
        for letter in &mut id {
            *letter = ID_ALPHABET[rng.random_range(0..ID_ALPHABET.len())];
        }
        let id: String = id.iter().map(|letter| char::from(*letter)).collect();
        let id = KeyId::parse(&id).unwrap_or_else(|_| unreachable!("the alphabet is legal"));
        Self::generate_for(id)
    }

    /// A new secret for the key `id`.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate_for(id: KeyId) -> Result<Self, rand::rand_core::OsError> {
        let mut secret = [0; SECRET_BYTES];
        OsRng.try_fill_bytes(&mut secret)?;
        let text = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        Ok(Self { id, text })
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When it isn't one.
    pub fn parse(text: &str) -> Result<Self, InvalidSecretKey> {
        let (id, secret) = split(text).ok_or(InvalidSecretKey)?;
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !secret.bytes().all(legal) {
            return Err(InvalidSecretKey);
        }
        Ok(Self {
            id: KeyId::parse(id).map_err(|_| InvalidSecretKey)?,
            text: text.to_owned(),
        })
    }

    #[must_use]
    pub const fn id(&self) -> &KeyId {
        &self.id
    }

    /// The hash of its secret.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        let (_, secret) = split(&self.text).unwrap_or_default();
        hash(secret)
    }

    /// The key itself, to be shown to its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}, …)", self.id)
    }
}

/// The id and the secret of a text that looks like a key.
pub(super) fn split(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    (secret.len() == SECRET_CHARS).then_some((id, secret))
}

/// The hash of a secret's text. See [`reveille_domain::key`] for why one round of SHA-256 is enough.
pub(super) fn hash(secret: &str) -> SecretHash {
    SecretHash::new(Sha256::digest(secret).into())
}

/// Whether two hashes are equal, in constant time.
pub(super) fn same(one: &SecretHash, other: &SecretHash) -> bool {
    use subtle::ConstantTimeEq;
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_reads_back_and_no_two_are_alike() {
        let (one, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        assert_ne!(one.expose(), other.expose());
        let read = SecretKey::parse(one.expose()).unwrap();
        assert_eq!((read.id(), read.hash()), (one.id(), one.hash()));
        let rotated = SecretKey::generate_for(one.id().clone()).unwrap();
        assert_eq!(rotated.id(), one.id());
        assert!(!same(&rotated.hash(), &one.hash()) && same(&read.hash(), &one.hash()));
    }

    #[test]
    fn a_hash_is_of_the_whole_secret() {
        let (secret, other) = (
            "A".repeat(SECRET_CHARS),
            format!("{}B", "A".repeat(SECRET_CHARS - 1)),
        );
        assert!(!same(&hash(&secret), &hash(&other)));
    }

    #[test]
    fn what_is_no_key_is_refused_and_no_key_is_printed() {
        let key = SecretKey::generate().unwrap();
        let text = key.expose();
        for damaged in [
            "",
            "rv_",
            "unused",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}a"),
            &text.to_uppercase(),
            &format!("{}+", &text[..text.len() - 1]),
        ] {
            assert!(SecretKey::parse(damaged).is_err(), "{damaged}");
        }
        assert!(!format!("{key:?}").contains(split(text).unwrap().1));
    }
}
