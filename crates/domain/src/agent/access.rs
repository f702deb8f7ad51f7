//! The key that authenticates an agent, and the tokens that enroll one. Only the hash of a token's secret is stored, and
//! only the public half of a key ever leaves the agent.

use super::{
    agent_key::AgentKey,
    event::AgentEvent,
    rejection::{AgentRejection, MAX_TOKEN_LIFETIME},
};
use crate::{ids::TokenId, names::AgentName, secret::SecretHash, time::Timestamp};
use serde::{Deserialize, Serialize};

/// How many tokens are remembered, used ones included. The oldest is forgotten first.
const REMEMBERED_TOKENS: usize = 8;
/// How many former keys are remembered. The oldest is forgotten first.
const REMEMBERED_KEYS: usize = 8;

/// The key that authenticates an agent, and its latest tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The key; none before the enrollment and after a revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<EnrolledKey>,
    /// The tokens issued since the last revocation, latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<EnrollmentToken>,
    /// When it was last revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_at_ms: Option<Timestamp>,
    /// Keys that were revoked or replaced, latest last: a machine that has one can be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former_keys: Vec<AgentKey>,
}

/// The key of an enrolled agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolledKey {
    /// Its public half.
    pub public: AgentKey,
    /// When it was enrolled.
    pub since_ms: Timestamp,
}

/// A token that enrolls one key, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentToken {
    /// Its id.
    pub id: TokenId,
    /// The hash of its secret.
    pub secret: SecretHash,
    /// When it expires.
    pub expires_at_ms: Timestamp,
    /// The key that it has enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<AgentKey>,
}

impl Access {
    /// The key that authenticates the agent.
    #[must_use]
    pub fn key(&self) -> Option<&AgentKey> {
        self.key.as_ref().map(|key| &key.public)
    }

    /// When that key was enrolled.
    #[must_use]
    pub fn enrolled_at(&self) -> Option<Timestamp> {
        self.key.as_ref().map(|key| key.since_ms)
    }

    /// When it was last revoked.
    #[must_use]
    pub const fn revoked_at(&self) -> Option<Timestamp> {
        self.revoked_at_ms
    }

    /// Keys that were revoked or replaced, latest last.
    #[must_use]
    pub fn former_keys(&self) -> &[AgentKey] {
        &self.former_keys
    }

    /// The token with this id, if it was issued since the last revocation and is among the latest.
    pub(crate) fn token(&self, id: TokenId) -> Option<&EnrollmentToken> {
        self.tokens.iter().find(|it| it.id == id)
    }

    /// Whether a token with this id and secret was issued since the last revocation. It may be used, or have expired.
    #[must_use]
    pub fn knows_token(&self, token: TokenId, secret: &SecretHash) -> bool {
        self.tokens
            .iter()
            .any(|it| it.id == token && it.secret == *secret)
    }

    /// Whether this token enrolls `key` no more at this time: it was used or has expired. That of a state which is older than the
    /// latest holds for the latest too, unless the token is unknown there.
    #[must_use]
    pub fn spent_token(
        &self,
        token: TokenId,
        secret: &SecretHash,
        key: &AgentKey,
        at: Timestamp,
    ) -> Option<AgentRejection> {
        match self.token_for(token, secret, key, at) {
            Err(rejection @ (AgentRejection::TokenUsed | AgentRejection::TokenExpired)) => Some(rejection),
            _ => None,
        }
    }

    /// Whether the token enrolls the key now; it doesn't need to if the token has enrolled this key already.
    fn token_for(
        &self,
        token: TokenId,
        secret: &SecretHash,
        key: &AgentKey,
        at: Timestamp,
    ) -> Result<bool, AgentRejection> {
        // The hashes need no comparison in constant time: its duration tells a guesser nothing about the secret.
        let known = self
            .tokens
            .iter()
            .find(|it| it.id == token && it.secret == *secret);
        let known = known.ok_or(AgentRejection::TokenUnknown)?;
        match &known.used_by {
            // A retry, because the answer to the first request was lost.
            Some(used_by) if used_by == key && self.key() == Some(key) => Ok(false),
            Some(_) => Err(AgentRejection::TokenUsed),
            None if at >= known.expires_at_ms => Err(AgentRejection::TokenExpired),
            None => Ok(true),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.key.is_none() && self.tokens.is_empty() && self.revoked_at_ms.is_none()
    }

    pub(super) fn issue(
        &self,
        name: &AgentName,
        token: TokenId,
        secret: SecretHash,
        expires_at: Timestamp,
        at: Timestamp,
    ) -> Result<Vec<AgentEvent>, AgentRejection> {
        if expires_at.since(at) > MAX_TOKEN_LIFETIME {
            return Err(AgentRejection::TokenTooLong);
        }
        if self.tokens.iter().any(|it| it.id == token) {
            return Ok(vec![]);
        }
        Ok(vec![AgentEvent::AgentTokenIssued {
            name: name.clone(),
            token,
            secret,
            expires_at_ms: expires_at,
            at_ms: at,
        }])
    }

    pub(super) fn enroll(
        &self,
        name: &AgentName,
        token: TokenId,
        secret: &SecretHash,
        key: &AgentKey,
        at: Timestamp,
    ) -> Result<Vec<AgentEvent>, AgentRejection> {
        if !self.token_for(token, secret, key, at)? {
            return Ok(vec![]);
        }
        Ok(vec![AgentEvent::AgentEnrolled {
            name: name.clone(),
            key: key.clone(),
            token: Some(token),
            replaces: self.replaced_by(key),
            at_ms: at,
        }])
    }

    pub(super) fn trust(&self, name: &AgentName, key: &AgentKey, at: Timestamp) -> Vec<AgentEvent> {
        if self.key() == Some(key) {
            return vec![];
        }
        vec![AgentEvent::AgentEnrolled {
            name: name.clone(),
            key: key.clone(),
            token: None,
            replaces: self.replaced_by(key),
            at_ms: at,
        }]
    }

    /// The key that stops working when `key` is enrolled.
    fn replaced_by(&self, key: &AgentKey) -> Option<AgentKey> {
        self.key().filter(|current| *current != key).cloned()
    }

    pub(super) fn revoke(&self, name: &AgentName, at: Timestamp) -> Option<AgentEvent> {
        let something = self.key.is_some() || !self.tokens.is_empty();
        something.then(|| AgentEvent::AgentRevoked {
            name: name.clone(),
            key: self.key().cloned(),
            at_ms: at,
        })
    }

    pub(super) fn evolve(mut self, event: &AgentEvent) -> Self {
        match event {
            AgentEvent::AgentConnected { .. } | AgentEvent::AgentEpochAdvanced { .. } => {}
            AgentEvent::AgentTokenIssued {
                token,
                secret,
                expires_at_ms,
                ..
            } => {
                self.tokens.push(EnrollmentToken {
                    id: *token,
                    secret: *secret,
                    expires_at_ms: *expires_at_ms,
                    used_by: None,
                });
                self.tokens
                    .drain(..self.tokens.len().saturating_sub(REMEMBERED_TOKENS));
            }
            AgentEvent::AgentEnrolled {
                key,
                token,
                replaces,
                at_ms,
                ..
            } => {
                for used in self.tokens.iter_mut().filter(|it| Some(it.id) == *token) {
                    used.used_by = Some(key.clone());
                }
                self.key = Some(EnrolledKey {
                    public: key.clone(),
                    since_ms: *at_ms,
                });
                self.former_keys.retain(|former| former != key);
                self.retire(replaces.as_ref());
            }
            AgentEvent::AgentRevoked { key, at_ms, .. } => {
                self = Self {
                    revoked_at_ms: Some(*at_ms),
                    former_keys: self.former_keys,
                    ..Self::default()
                };
                self.retire(key.as_ref());
            }
        }
        self
    }

    fn retire(&mut self, key: Option<&AgentKey>) {
        self.former_keys.extend(key.cloned());
        self.former_keys
            .drain(..self.former_keys.len().saturating_sub(REMEMBERED_KEYS));
    }
}
