//! Why a request is refused because of its key, or of what the key has used.

use reveille_domain::{KeyId, counted};
use std::time::Duration;
use thiserror::Error;

/// Why a caller is refused. Nothing in it reveals to a caller without a key which ids exist.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Denied {
    #[error("an API key is needed: send it as `Authorization: Bearer rv_…` or as `x-api-key`")]
    Missing,
    /// Keys and agents are made and revoked with a key only.
    #[error(
        "making and revoking keys and agents needs a key on loopback too: the root key, which `reveille` finds by itself \
         (--data-dir says where), or one with the scope admin"
    )]
    AdminKey,
    /// No key, an unknown one, or one that was rotated or revoked.
    #[error("{0}")]
    Invalid(&'static str),
    /// The secret is right, but the key has expired.
    #[error("the key {key} has expired")]
    Expired { key: KeyId },
    /// This version can't read the key's last commit.
    #[error("this replica can't read a commit of the key {key}: upgrade the replica")]
    Unreadable { key: KeyId },
    /// The journal isn't folded or NATS time isn't known: keys can't be checked yet, nor what they have used.
    #[error("this replica has not read all keys from the journal yet")]
    NotReady,
    #[error("the key needs the scope `{scope}` for this")]
    Scope { scope: String },
    #[error("the key {key} may send a replica {} per minute", counted(*limit, "request"))]
    Rate {
        key: KeyId,
        limit: u32,
        retry_after: Duration,
    },
    #[error("the key {key} has {} under way at this replica, which is its limit", counted(*limit, "request"))]
    Concurrency { key: KeyId, limit: u32 },
    #[error(
        "the key {key} has started the {} that it may start in an hour; it can still use models that are awake",
        counted(*limit, "wake")
    )]
    Wakes {
        key: KeyId,
        limit: u32,
        /// How long until the oldest of them is an hour old.
        retry_after: Duration,
    },
}
