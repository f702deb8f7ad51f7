//! What a provider publishes. Its recipes stay in the agent's config; only their kind and budget are published.

use crate::{
    balancing::Balancing,
    model::{MAX_CAPABILITIES, ModelDetails},
    names::{ExtraPath, GroupName, ModelName, PresetHash},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};
use thiserror::Error;

/// The most models one provider may publish.
pub const MAX_MODELS: usize = 256;
/// The most groups one provider may belong to.
pub const MAX_GROUPS: usize = 16;
/// The most paths of its own that one provider may publish.
pub const MAX_EXTRA_PATHS: usize = 32;
/// The longest wake budget: a day.
pub const MAX_WAKE_BUDGET: Duration = Duration::from_secs(24 * 60 * 60);

/// What the agent's probe found out about the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// The probe succeeded.
    Available,
    /// The probe failed, or found the backend asleep.
    Unavailable,
}

/// The kind of a wake recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipeKind {
    /// One HTTP request.
    Http,
    /// One command that runs to its end.
    Command,
    /// A command that is itself the backend.
    Serve,
    /// Several steps.
    Steps,
}

/// What is published of a wake recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeSpec {
    /// Its kind.
    pub kind: RecipeKind,
    /// The longest wake in milliseconds: the steps' timeouts and the waits for the backend and for its group.
    pub budget_ms: u64,
}

impl WakeSpec {
    /// The budget as a duration.
    #[must_use]
    pub const fn budget(&self) -> Duration {
        Duration::from_millis(self.budget_ms)
    }
}

/// What is published of a preset: a name for one of the provider's models, with a system prompt and parameters that stay in the
/// agent's config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresetSpec {
    /// The model that answers.
    pub model: ModelName,
    /// Tells whether what it adds has changed.
    pub hash: PresetHash,
}

/// What a provider publishes: its models, how long a wake may take if it can be woken, and its groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawSpec")]
pub struct ProviderSpec {
    models: Vec<ModelName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wake: Option<WakeSpec>,
    can_sleep: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupName>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    details: BTreeMap<ModelName, ModelDetails>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    presets: BTreeMap<ModelName, PresetSpec>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    latest_tag: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extra_paths: Vec<ExtraPath>,
    #[serde(skip_serializing_if = "Balancing::is_default")]
    balancing: Balancing,
}

#[derive(Deserialize)]
struct RawSpec {
    models: Vec<ModelName>,
    #[serde(default)]
    wake: Option<WakeSpec>,
    #[serde(default)]
    can_sleep: bool,
    #[serde(default)]
    groups: Vec<GroupName>,
    #[serde(default)]
    details: BTreeMap<ModelName, ModelDetails>,
    #[serde(default)]
    presets: BTreeMap<ModelName, PresetSpec>,
    #[serde(default)]
    latest_tag: bool,
    #[serde(default)]
    extra_paths: Vec<ExtraPath>,
    #[serde(default)]
    balancing: Balancing,
}

impl TryFrom<RawSpec> for ProviderSpec {
    type Error = InvalidSpec;
    fn try_from(raw: RawSpec) -> Result<Self, InvalidSpec> {
        let spec = Self::new(raw.models, raw.wake, raw.can_sleep)?;
        let spec = spec.in_groups(raw.groups)?.with_details(raw.details)?;
        spec.with_latest_tag(raw.latest_tag)
            .with_balancing(raw.balancing)
            .with_extra_paths(raw.extra_paths)?
            .with_presets(raw.presets)
    }
}

/// Why a provider's spec is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidSpec {
    /// Too many models.
    #[error("a provider publishes at most {MAX_MODELS} models")]
    TooManyModels,
    /// A model is listed twice.
    #[error("model {0} is published twice")]
    DuplicateModel(ModelName),
    /// The wake budget is zero or longer than a day.
    #[error("a wake budget is more than zero and at most a day")]
    Budget,
    /// Too many groups.
    #[error("a provider belongs to at most {MAX_GROUPS} groups")]
    TooManyGroups,
    /// Too many paths.
    #[error("a provider publishes at most {MAX_EXTRA_PATHS} paths")]
    TooManyPaths,
    /// Details of a model that isn't published.
    #[error("there are details of {0}, which isn't published")]
    UnknownModel(ModelName),
    /// A preset that isn't published as a model, or whose model isn't.
    #[error("the preset {0} isn't among the models, or its model isn't")]
    UnknownPreset(ModelName),
    /// Too many capabilities of a model.
    #[error("a model has at most {MAX_CAPABILITIES} capabilities")]
    TooManyCapabilities,
}

impl ProviderSpec {
    /// A spec with these models. It may have none, because they may be discovered later.
    ///
    /// # Errors
    /// When a limit is exceeded or a model is listed twice.
    pub fn new(models: Vec<ModelName>, wake: Option<WakeSpec>, can_sleep: bool) -> Result<Self, InvalidSpec> {
        if models.len() > MAX_MODELS {
            return Err(InvalidSpec::TooManyModels);
        }
        let mut seen = HashSet::new();
        if let Some(twice) = models.iter().find(|model| !seen.insert(*model)) {
            return Err(InvalidSpec::DuplicateModel(twice.clone()));
        }
        if wake.is_some_and(|wake| wake.budget().is_zero() || wake.budget() > MAX_WAKE_BUDGET) {
            return Err(InvalidSpec::Budget);
        }
        Ok(Self {
            models,
            wake,
            can_sleep,
            groups: vec![],
            details: BTreeMap::new(),
            presets: BTreeMap::new(),
            latest_tag: false,
            extra_paths: vec![],
            balancing: Balancing::default(),
        })
    }

    /// The same with what the backend says of its models.
    ///
    /// # Errors
    /// When one of them isn't published, or has too many capabilities.
    pub fn with_details(self, details: BTreeMap<ModelName, ModelDetails>) -> Result<Self, InvalidSpec> {
        if let Some(unknown) = details.keys().find(|model| !self.models.contains(model)) {
            return Err(InvalidSpec::UnknownModel(unknown.clone()));
        }
        if details
            .values()
            .any(|details| details.capabilities.len() > MAX_CAPABILITIES)
        {
            return Err(InvalidSpec::TooManyCapabilities);
        }
        Ok(Self { details, ..self })
    }

    /// The same where these of its models are presets.
    ///
    /// # Errors
    /// When one of them isn't published, or the model of one isn't, or is a preset itself.
    pub fn with_presets(self, presets: BTreeMap<ModelName, PresetSpec>) -> Result<Self, InvalidSpec> {
        let is_model = |model| self.models.contains(model) && !presets.contains_key(model);
        let unknown = presets
            .iter()
            .find(|(name, preset)| !self.models.contains(name) || !is_model(&preset.model));
        if let Some((name, _)) = unknown {
            return Err(InvalidSpec::UnknownPreset(name.clone()));
        }
        Ok(Self { presets, ..self })
    }

    /// The same for a backend where a name without a tag means the tag `latest`, as with Ollama.
    #[must_use]
    pub fn with_latest_tag(self, latest_tag: bool) -> Self {
        Self { latest_tag, ..self }
    }

    /// The same for a backend that clients may also reach by these paths.
    ///
    /// # Errors
    /// When there are too many.
    pub fn with_extra_paths(self, extra_paths: Vec<ExtraPath>) -> Result<Self, InvalidSpec> {
        if extra_paths.len() > MAX_EXTRA_PATHS {
            return Err(InvalidSpec::TooManyPaths);
        }
        Ok(Self { extra_paths, ..self })
    }

    /// The same with this share of the requests for its models.
    #[must_use]
    pub fn with_balancing(self, balancing: Balancing) -> Self {
        Self { balancing, ..self }
    }

    /// The same for a member of these groups of its agent: of each, one provider is awake at a time.
    ///
    /// # Errors
    /// When there are too many.
    pub fn in_groups(self, groups: Vec<GroupName>) -> Result<Self, InvalidSpec> {
        if groups.len() > MAX_GROUPS {
            return Err(InvalidSpec::TooManyGroups);
        }
        Ok(Self { groups, ..self })
    }

    /// The public names of its models, presets included.
    #[must_use]
    pub fn models(&self) -> &[ModelName] {
        &self.models
    }

    /// What the backend says of a model, if anything.
    #[must_use]
    pub fn details(&self, model: &ModelName) -> Option<&ModelDetails> {
        self.details.get(model)
    }

    /// The preset with this name, if the model is one.
    #[must_use]
    pub fn preset(&self, model: &ModelName) -> Option<&PresetSpec> {
        self.presets.get(model)
    }

    /// Whether any of its models is a preset.
    #[must_use]
    pub fn has_presets(&self) -> bool {
        !self.presets.is_empty()
    }

    /// Whether a name without a tag means the tag `latest` there.
    #[must_use]
    pub const fn has_latest_tag(&self) -> bool {
        self.latest_tag
    }

    /// The paths by which clients may reach it beside those that every backend may have.
    #[must_use]
    pub fn extra_paths(&self) -> &[ExtraPath] {
        &self.extra_paths
    }

    /// Its share of the requests for its models.
    #[must_use]
    pub const fn balancing(&self) -> &Balancing {
        &self.balancing
    }

    /// Its wake recipe, if it has one.
    #[must_use]
    pub const fn wake(&self) -> Option<&WakeSpec> {
        self.wake.as_ref()
    }

    /// The groups of its agent that it belongs to.
    #[must_use]
    pub fn groups(&self) -> &[GroupName] {
        &self.groups
    }

    /// Whether it has a sleep recipe.
    #[must_use]
    pub const fn can_sleep(&self) -> bool {
        self.can_sleep
    }
}
