//! The public key that authenticates an agent.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The length of a public key: its kind, 32 bytes and a checksum, in base32.
const KEY_CHARS: usize = 56;

/// The public half of an agent's key pair: an nkey of a NATS user, such as `UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentKey(String);

/// The text isn't an agent's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an agent's public key is {KEY_CHARS} characters of A-Z and 2-7, beginning with U")]
pub struct InvalidAgentKey;

impl AgentKey {
    /// Parses a public key by its shape. The checksum is left to the verification of a signature.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn parse(raw: &str) -> Result<Self, InvalidAgentKey> {
        let base32 = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
        let legal = raw.len() == KEY_CHARS && raw.starts_with('U') && raw.bytes().all(base32);
        legal.then(|| Self(raw.to_owned())).ok_or(InvalidAgentKey)
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<AgentKey> for String {
    fn from(key: AgentKey) -> Self {
        key.0
    }
}

impl TryFrom<String> for AgentKey {
    type Error = InvalidAgentKey;
    fn try_from(raw: String) -> Result<Self, Self::Error> {
        Self::parse(&raw)
    }
}
