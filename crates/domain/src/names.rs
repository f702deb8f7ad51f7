//! Names, validated where they enter. Agent and provider names become NATS subject tokens. Model names never do, so they
//! may contain any printable text.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};
use thiserror::Error;

/// The longest agent or provider name, in bytes (a subject token, kept as short as a DNS label).
pub const MAX_TOKEN_BYTES: usize = 63;
/// The longest model name, in bytes; `agent/` or `agent/provider/` before it comes in addition.
pub const MAX_MODEL_NAME_BYTES: usize = 256;
/// The longest name of a capability, in bytes.
pub const MAX_CAPABILITY_BYTES: usize = 32;

/// The longest path at a backend, in bytes.
pub const MAX_PATH_BYTES: usize = 128;

/// How many hexadecimal digits of a preset's hash are published.
pub const PRESET_HASH_DIGITS: usize = 12;

/// The shortest and the longest key id, in bytes.
const KEY_ID_BYTES: std::ops::RangeInclusive<usize> = 8..=16;
/// The longest name of a key, in bytes.
pub const MAX_KEY_NAME_BYTES: usize = 128;

/// Why a string isn't a legal name. The error never contains the string.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidName {
    /// Agent and provider names.
    #[error("a name is 1 to {MAX_TOKEN_BYTES} of a-z, 0-9, '-' and '_', beginning with a letter or digit")]
    Token,
    /// Model names.
    #[error("a model name is 1 to {MAX_MODEL_NAME_BYTES} bytes of printable text")]
    Model,
    /// Capabilities of models.
    #[error(
        "a capability is 1 to {MAX_CAPABILITY_BYTES} of a-z, 0-9, '-' and '_', beginning with a letter or digit"
    )]
    Capability,
    /// Paths at a backend.
    #[error(
        "a path is `/` and segments of letters, digits, '-', '.', '_' and '~', at most {MAX_PATH_BYTES} bytes, and not one of \
         Reveille's own"
    )]
    Path,
    /// Hashes of presets.
    #[error("a preset's hash is {PRESET_HASH_DIGITS} of 0-9 and a-f")]
    PresetHash,
    /// Ids of keys.
    #[error("a key's id is {} to {} of a-z and 0-9", KEY_ID_BYTES.start(), KEY_ID_BYTES.end())]
    KeyId,
    /// Names of keys.
    #[error("a key's name is 1 to {MAX_KEY_NAME_BYTES} bytes of printable text")]
    KeyName,
    /// `agent/provider`.
    #[error("a provider's id is written agent/provider")]
    ProviderId,
}

fn is_token(raw: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    raw.len() <= MAX_TOKEN_BYTES
        && raw.bytes().next().is_some_and(legal)
        && raw.bytes().all(|b| legal(b) || b == b'-' || b == b'_')
}

fn is_capability(raw: &str) -> bool {
    raw.len() <= MAX_CAPABILITY_BYTES && is_token(raw)
}

fn is_model(raw: &str) -> bool {
    let fits = |name: &str| (1..=MAX_MODEL_NAME_BYTES).contains(&name.len());
    // The part behind the name of an agent or a provider.
    let behind = |raw| str::split_once(raw, '/').and_then(|(token, rest)| is_token(token).then_some(rest));
    let of_agent = behind(raw);
    let of_provider = of_agent.and_then(behind);
    let is_one = fits(raw) || of_agent.is_some_and(fits) || of_provider.is_some_and(fits);
    is_one && !raw.chars().any(char::is_control)
}

fn is_path(raw: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(legal);
    let mut segments = raw.split('/');
    let is_absolute = segments.next() == Some("");
    let is_own = segments.clone().next() == Some("reveille");
    raw.len() <= MAX_PATH_BYTES && is_absolute && !is_own && segments.all(is_segment)
}

fn is_preset_hash(raw: &str) -> bool {
    let legal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    raw.len() == PRESET_HASH_DIGITS && raw.bytes().all(legal)
}

fn is_key_id(raw: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    KEY_ID_BYTES.contains(&raw.len()) && raw.bytes().all(legal)
}

fn is_key_name(raw: &str) -> bool {
    raw.len() <= MAX_KEY_NAME_BYTES && is_model(raw)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $legal:ident, $error:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates a name.
            ///
            /// # Errors
            /// When `raw` isn't legal.
            pub fn parse(raw: &str) -> Result<Self, InvalidName> {
                if $legal(raw) { Ok(Self(raw.into())) } else { Err(InvalidName::$error) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(raw: String) -> Result<Self, InvalidName> {
                Self::parse(&raw)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(raw: &str) -> Result<Self, InvalidName> {
                Self::parse(raw)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// An agent's name: a subject token, unique in its hub.
    AgentName, is_token, Token
}
name! {
    /// A provider's name: a subject token, unique in its agent.
    ProviderName, is_token, Token
}
name! {
    /// A group's name. Providers of one agent that name the same group are never awake together.
    GroupName, is_token, Token
}
name! {
    /// A model's public name, which clients send as `model`.
    ModelName, is_model, Model
}

name! {
    /// What a model can do, such as `vision` or `tools`, in its backend's words.
    Capability, is_capability, Capability
}

name! {
    /// A path at a backend that clients may post to, beside those that every backend may have. The config takes fewer, but what agents
    /// have published stays readable.
    ExtraPath, is_path, Path
}

name! {
    /// The beginning of the SHA-256 of what a preset adds to requests. It shows that a preset has changed.
    PresetHash, is_preset_hash, PresetHash
}

name! {
    /// A key's id: its public half, a subject token. Logs, events and wakes identify a key by it.
    KeyId, is_key_id, KeyId
}
name! {
    /// A key's name, for people.
    KeyName, is_key_name, KeyName
}

/// A provider and its agent, written `agent/provider`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProviderId {
    /// The agent that publishes it.
    pub agent: AgentName,
    /// Its name.
    pub provider: ProviderName,
}

impl ProviderId {
    /// The id of `provider` of `agent`.
    #[must_use]
    pub const fn new(agent: AgentName, provider: ProviderName) -> Self {
        Self { agent, provider }
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.agent, self.provider)
    }
}

impl FromStr for ProviderId {
    type Err = InvalidName;
    fn from_str(raw: &str) -> Result<Self, InvalidName> {
        let (agent, provider) = raw.split_once('/').ok_or(InvalidName::ProviderId)?;
        Ok(Self {
            agent: AgentName::parse(agent)?,
            provider: ProviderName::parse(provider)?,
        })
    }
}

impl TryFrom<String> for ProviderId {
    type Error = InvalidName;
    fn try_from(raw: String) -> Result<Self, InvalidName> {
        raw.parse()
    }
}

impl From<ProviderId> for String {
    fn from(id: ProviderId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_that_could_reach_other_subjects_are_refused() {
        for raw in [
            "",
            "-a",
            "_a",
            "A",
            "a.b",
            "a*",
            "a>",
            "a b",
            "ä",
            "a/b",
            &"a".repeat(64),
        ] {
            assert_eq!(AgentName::parse(raw), Err(InvalidName::Token), "{raw}");
        }
        for raw in ["a", "0", "gpu-box", "a_b-1", &"a".repeat(63)] {
            assert_eq!(AgentName::parse(raw).map(|n| n.to_string()), Ok(raw.to_owned()));
        }
    }

    #[test]
    fn model_names_may_hold_anything_printable() {
        for raw in [
            "qwen2.5:7b",
            "Qwen/Qwen3-8B",
            "a > b *",
            "モデル",
            &"m".repeat(256),
            &format!("gpu-box/{}", "m".repeat(256)),
            &format!("gpu-box/vllm/{}", "m".repeat(256)),
        ] {
            assert!(ModelName::parse(raw).is_ok(), "{raw}");
        }
        let (long, nobodys) = ("m".repeat(257), format!("No Agent/{}", "m".repeat(256)));
        for raw in [
            "",
            "a\nb",
            "a\u{0}",
            "\u{7f}",
            &long,
            &format!("gpu-box/{long}"),
            &format!("gpu-box/vllm/{long}"),
            &nobodys,
        ] {
            assert_eq!(ModelName::parse(raw), Err(InvalidName::Model));
        }
    }

    proptest! {
        #[test]
        fn provider_ids_read_back_as_written(agent in "[a-z0-9][a-z0-9_-]{0,62}", provider in "[a-z0-9][a-z0-9_-]{0,62}") {
            let id: ProviderId = format!("{agent}/{provider}").parse().expect("legal");
            prop_assert_eq!(id.to_string().parse::<ProviderId>(), Ok(id));
        }
    }
}
