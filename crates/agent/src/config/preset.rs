//! `[[preset]]`: a name for a model with a system prompt and parameters. What it adds never leaves the agent but to the backend;
//! only its hash is published.

use super::secret::Secret;
use reveille_domain::{ModelName, PRESET_HASH_DIGITS, PresetHash, PresetSpec, ProviderName, latest_alias};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fmt};

/// Parameters by their names.
pub type Parameters = BTreeMap<String, Value>;

/// One `[[preset]]`.
#[derive(Clone, PartialEq)]
pub struct Preset {
    /// The clients' name for it.
    pub name: ModelName,
    /// The public name of the model that answers.
    pub model: ModelName,
    /// The only provider that serves it; without one, all that have its model.
    pub provider: Option<ProviderName>,
    /// Comes before the request's own system prompt.
    pub system: Option<Secret>,
    /// Used where the request has none.
    pub parameters: Parameters,
    /// Used whatever the request has.
    pub pinned: Parameters,
}

impl Preset {
    /// The beginning of the SHA-256 of all that it adds to a request.
    #[must_use]
    pub fn hash(&self) -> PresetHash {
        let system = self.system.as_ref().map(Secret::reveal);
        let added = serde_json::json!([system, self.parameters, self.pinned]).to_string();
        let digest = Sha256::digest(added);
        let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        PresetHash::parse(&digits[..PRESET_HASH_DIGITS]).expect("hexadecimal digits")
    }

    /// What is published of it at a provider that publishes its model by this name.
    #[must_use]
    pub fn spec(&self, model: ModelName) -> PresetSpec {
        PresetSpec {
            model,
            hash: self.hash(),
        }
    }

    /// Whether no model can have this name beside it.
    #[must_use]
    pub fn takes_name(&self, model: &ModelName) -> bool {
        is_same_name(&self.name, model)
    }
}

/// Whether two names may mean the same model: at some backends one without a tag has the tag `latest`.
pub(super) fn is_same_name(one: &ModelName, other: &ModelName) -> bool {
    one == other || latest_alias(one.as_str()).is_some_and(|alias| alias == other.as_str())
}

impl fmt::Debug for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preset")
            .field("name", &self.name)
            .field("model", &self.model)
            .field("hash", &self.hash())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset(system: &str, pinned: &[(&str, Value)]) -> Preset {
        let named = |raw| ModelName::parse(raw).expect("legal");
        Preset {
            name: named("bot"),
            model: named("m"),
            provider: None,
            system: Some(Secret::new(system.to_owned())),
            parameters: Parameters::new(),
            pinned: pinned
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        }
    }

    #[test]
    fn a_hash_changes_with_all_that_is_added_and_shows_none_of_it() {
        let one = preset("You are terse.", &[]);
        assert_eq!(one.hash(), preset("You are terse.", &[]).hash());
        let renamed = Preset {
            name: ModelName::parse("other").expect("legal"),
            ..one.clone()
        };
        assert_eq!(one.hash(), renamed.hash());
        let pinned = preset("You are terse.", &[("temperature", 0.into())]);
        let default = Preset {
            parameters: pinned.pinned.clone(),
            pinned: Parameters::new(),
            ..one.clone()
        };
        for other in [preset("You are terse!", &[]), pinned.clone(), default.clone()] {
            assert_ne!(one.hash(), other.hash(), "{other:?}");
        }
        assert_ne!(pinned.hash(), default.hash());
        assert!(!format!("{pinned:?}").contains("terse"));
    }

    #[test]
    fn a_name_is_taken_with_and_without_the_tag_latest() {
        let of = |name: &str, model: &str| {
            let named = |raw| ModelName::parse(raw).expect("legal");
            let preset = Preset {
                name: named(name),
                ..preset("", &[])
            };
            preset.takes_name(&named(model))
        };
        assert!(of("bot", "bot") && of("bot", "bot:latest") && of("bot:latest", "bot"));
        assert!(!of("bot", "bot:7b") && !of("bot:7b", "bot") && !of("bot", "Bot"));
    }
}
