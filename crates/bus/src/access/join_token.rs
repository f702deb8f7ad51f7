//! The token with which a machine joins a hub, as it shows it when it connects: as the password of the user `join`, beside the
//! machine's own key.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use reveille_domain::{AgentName, SecretHash, TokenId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// The user name of a connection that asks to join.
pub(super) const JOIN_USER: &str = "join";

/// A token that enrolls one machine's key as the key of one agent, once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The agent.
    pub agent: AgentName,
    /// The token's id.
    pub id: TokenId,
    /// Its secret, in base64.
    pub secret: String,
}

impl JoinToken {
    /// The hash of its secret, by which the journal knows it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        hash_of(&self.secret)
    }

    /// The user name and the password to connect with.
    #[must_use]
    pub fn login(&self) -> (String, String) {
        (
            JOIN_USER.to_owned(),
            format!("{}.{}.{}", self.agent, self.id, self.secret),
        )
    }

    /// The token in such a password.
    pub(super) fn parse(password: &str) -> Option<Self> {
        let (agent, rest) = password.split_once('.')?;
        let (id, secret) = rest.split_once('.')?;
        Some(Self {
            agent: AgentName::parse(agent).ok()?,
            id: TokenId(id.parse().ok()?),
            secret: secret.to_owned(),
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

/// The hash of a token's secret in base64. A text that isn't base64 has the hash of nothing, which no token has.
fn hash_of(secret: &str) -> SecretHash {
    SecretHash::new(Sha256::digest(BASE64.decode(secret).unwrap_or_default()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_from_its_password_and_hides_its_secret() {
        let token = JoinToken {
            agent: AgentName::parse("gpu-box").expect("legal"),
            id: TokenId(uuid::Uuid::from_u128(7)),
            secret: "AAAA".to_owned(),
        };
        let (_, password) = token.login();
        assert_eq!(JoinToken::parse(&password), Some(token.clone()));
        assert!(!format!("{token:?}").contains("AAAA"));
        for wrong in [
            "",
            "gpu-box",
            "gpu-box.x.AAAA",
            "GPU.00000000-0000-0000-0000-000000000007.AAAA",
        ] {
            assert_eq!(JoinToken::parse(wrong), None, "{wrong}");
        }
    }
}
