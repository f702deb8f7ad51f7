//! What a backend lists.

use crate::config::ModelConfig;
use reveille_domain::{ModelDetails, ModelName, latest_alias};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The servers that tell more of their models than the OpenAI API does, each in its own way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Server {
    Ollama,
    LmStudio,
    #[default]
    Other,
}

/// What a backend lists, with what it says of each model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub server: Server,
    pub models: BTreeMap<ModelName, ModelDetails>,
}

impl Listed {
    /// Whether a name without a tag means the tag `latest` there.
    #[must_use]
    pub fn has_latest_tag(&self) -> bool {
        self.server == Server::Ollama
    }

    /// The listed model that a config means by this name.
    #[must_use]
    pub fn name_of(&self, model: &ModelName) -> Option<&ModelName> {
        let find = |name: &str| self.models.keys().find(|listed| listed.as_str() == name);
        find(model.as_str()).or_else(|| {
            let alias = latest_alias(model.as_str()).filter(|_| self.has_latest_tag())?;
            find(&alias)
        })
    }

    /// The first of these models that the backend doesn't list.
    #[must_use]
    pub fn lacks<'a>(&self, models: &'a [ModelConfig]) -> Option<&'a ModelName> {
        let ids = models.iter().map(|model| &model.id);
        ids.into_iter().find(|id| !self.models.contains_key(id))
    }

    /// The same with the earliest time that is known of each model, which is `now` for a model that is new and has none. Some
    /// servers say that each model was created a moment ago.
    #[must_use]
    pub fn known_since(mut self, before: &Self, now: u64) -> Self {
        for (model, details) in &mut self.models {
            let known = before.models.get(model).and_then(|known| known.created);
            let times = [details.created, known].into_iter().flatten();
            details.created = Some(times.min().unwrap_or(now).min(now));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_was_created_at_the_earliest_time_that_is_known_of_it() {
        let at = |created: Option<u64>| {
            let details = ModelDetails {
                created,
                ..ModelDetails::default()
            };
            Listed {
                server: Server::Other,
                models: [(ModelName::parse("m").expect("legal"), details)].into(),
            }
        };
        let none = Listed::default();
        for (told, before, known) in [
            (None, &none, 100),
            (Some(40), &none, 40),
            (Some(700), &none, 100),
            (Some(99), &at(Some(40)), 40),
            (Some(30), &at(Some(40)), 30),
            (None, &at(Some(40)), 40),
        ] {
            assert_eq!(at(told).known_since(before, 100), at(Some(known)), "{told:?}");
        }
    }
}
