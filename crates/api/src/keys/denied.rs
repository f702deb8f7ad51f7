//! Why a request is refused because of who asks, or of how much he has asked already.

use reveille_domain::{KeyId, Scope};
use std::time::Duration;
use thiserror::Error;

/// Why a caller is refused. Nothing in it tells whoever has no key which ids there are.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Denied {
    /// No key came.
    #[error("a key is needed: send it as `Authorization: Bearer rv_…` or as `x-api-key`")]
    Missing,
    /// No key came for what needs one everywhere.
    #[error(
        "making and revoking keys and agents needs a key on loopback too: the root key, which `reveille` finds by itself \
         (--data-dir says where), or one with the scope admin"
    )]
    AdminKey,
    /// What came is no key, or one that never was, or that was rotated or revoked.
    #[error("{0}")]
    Invalid(&'static str),
    /// Whoever asks has the secret, but too late.
    #[error("the key {key} has expired")]
    Expired {
        /// Which.
        key: KeyId,
    },
    /// The key's last commit can't be read by this version.
    #[error("a commit of the key {key} can't be read by this replica: upgrade it")]
    Unreadable {
        /// Which.
        key: KeyId,
    },
    /// The journal isn't folded, or NATS time not known: nobody can be told from a stranger yet, nor what he has used.
    #[error("this replica has not read all of what it must know of the keys yet")]
    NotReady,
    /// The key doesn't allow it.
    #[error("the key needs the scope `{scope}` for this")]
    Scope {
        /// What it lacks; `infer` stands for any of that kind.
        scope: NeededScope,
    },
    /// Too many requests a minute.
    #[error("the key {key} may send {limit} requests a minute to a replica")]
    Rate {
        /// Which.
        key: KeyId,
        /// How many.
        limit: u32,
        /// When the next one is taken.
        retry_after: Duration,
    },
    /// Too many requests at once.
    #[error("the key {key} has {limit} requests under way at this replica, as many as it may")]
    Concurrency {
        /// Which.
        key: KeyId,
        /// How many.
        limit: u32,
    },
    /// Too many wakes.
    #[error("the key {key} may start {limit} wakes an hour and has; what is awake can be asked")]
    Wakes {
        /// Which.
        key: KeyId,
        /// How many.
        limit: u32,
        /// When the oldest of them is an hour ago.
        retry_after: Duration,
    },
}

/// A scope that a path needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NeededScope {
    /// This one.
    One(Scope),
    /// Any that allows a model.
    AnyInfer,
}

impl std::fmt::Display for NeededScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(scope) => scope.fmt(f),
            Self::AnyInfer => f.write_str("infer:<model>"),
        }
    }
}
