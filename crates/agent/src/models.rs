//! The models that a provider publishes: those of its config, or those that its backend lists, remembered while the backend
//! sleeps.

use crate::{
    config::{ModelConfig, ProviderConfig},
    fetch,
    state_dir::{StateDir, agent_file},
};
use parking_lot::Mutex;
use reqwest::Client;
use reveille_domain::{AgentName, MAX_MODELS, ModelName, ProviderName};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::Arc,
    time::Duration,
};

const FILE: &str = "models.json";
/// How long the backend may take to list its models.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest accepted list.
const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;

/// The models that backends have listed, kept in the state directory; without one, only in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    kept: Option<(StateDir, String)>,
    known: Arc<Mutex<BTreeMap<String, Vec<ModelName>>>>,
}

impl Memory {
    /// Reads what the state directory has of an agent's providers. An unreadable file is ignored: the backends will be asked
    /// again.
    #[must_use]
    pub fn open(state: Option<StateDir>, agent: &AgentName) -> Self {
        let kept = state.map(|state| (state, agent_file(agent, FILE)));
        let read = kept.as_ref().and_then(|(state, file)| state.read(file).ok()?);
        let known = read
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Self {
            kept,
            known: Arc::new(Mutex::new(known)),
        }
    }

    /// The models that a provider's backend last listed.
    #[must_use]
    pub fn recall(&self, provider: &ProviderName) -> Vec<ModelName> {
        let known = self.known.lock();
        known.get(provider.as_str()).cloned().unwrap_or_default()
    }

    /// Remembers the models of a provider.
    ///
    /// # Errors
    /// When the file can't be written; until the process ends they are remembered all the same.
    pub fn remember(&self, provider: &ProviderName, models: &[ModelName]) -> io::Result<()> {
        let mut known = self.known.lock();
        known.insert(provider.to_string(), models.to_vec());
        let Some((state, file)) = &self.kept else {
            return Ok(());
        };
        state.write(file, &serde_json::to_vec_pretty(&*known)?)
    }
}

/// The backend's name for the model that a request names by its public name or as `agent/model`; `None` for a model of
/// another provider.
#[must_use]
pub fn backend_id<'a>(models: &'a [ModelConfig], agent: &AgentName, asked: &str) -> Option<&'a ModelName> {
    let find = |name: &str| {
        models
            .iter()
            .find(|model| model.public.as_str() == name)
            .map(|model| &model.id)
    };
    find(asked).or_else(|| find(asked.strip_prefix(agent.as_str())?.strip_prefix('/')?))
}

#[derive(Deserialize)]
struct Listing {
    data: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
}

/// Asks the backend for its models: the first [`MAX_MODELS`] legal names, without repetitions. `None` when it lists none.
pub async fn discover(client: Client, provider: ProviderConfig) -> Option<Vec<ModelName>> {
    let request = client.get(provider.base_url.at("/v1/models").ok()?);
    let request = fetch::authorized(request, provider.api_key.as_ref()).timeout(LIST_TIMEOUT);
    let answer = request.send().await.ok()?.error_for_status().ok()?;
    let body = fetch::read_body(answer, MAX_LIST_BYTES).await.ok()?;
    let listing: Listing = serde_json::from_slice(&body).ok()?;
    let mut seen = HashSet::new();
    let names = listing
        .data
        .iter()
        .filter_map(|listed| ModelName::parse(&listed.id).ok());
    let models: Vec<_> = names
        .filter(|name| seen.insert(name.clone()))
        .take(MAX_MODELS)
        .collect();
    (!models.is_empty()).then_some(models)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(raw: &str) -> ModelName {
        ModelName::parse(raw).expect("legal")
    }

    #[test]
    fn a_request_may_name_a_model_with_its_agent() {
        let agent = AgentName::parse("box").expect("legal");
        let models = [
            ModelConfig {
                id: name("Qwen/Qwen3-8B"),
                public: name("qwen"),
            },
            ModelConfig {
                id: name("odd"),
                public: name("box/qwen"),
            },
        ];
        let id = |asked: &str| backend_id(&models, &agent, asked).map(ModelName::as_str);
        assert_eq!(id("qwen"), Some("Qwen/Qwen3-8B"));
        assert_eq!(id("box/qwen"), Some("odd"), "the exact name first");
        assert_eq!(id("box/box/qwen"), Some("odd"));
        assert_eq!(id("Qwen/Qwen3-8B"), None);
    }

    #[test]
    fn discovered_models_survive_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDir::new(directory.path().join("state"));
        let [agent, other] = ["box", "other"].map(|name| AgentName::parse(name).expect("legal"));
        let provider = ProviderName::parse("p").expect("legal");
        let open = |agent| Memory::open(Some(state.clone()), agent);
        let memory = open(&agent);
        assert!(memory.recall(&provider).is_empty());
        memory
            .remember(&provider, &[name("a"), name("b")])
            .expect("written");
        assert_eq!(open(&agent).recall(&provider), [name("a"), name("b")]);
        assert!(
            open(&other).recall(&provider).is_empty(),
            "another agent's provider"
        );
        state.write("box.models.json", b"garbage").expect("written");
        assert!(open(&agent).recall(&provider).is_empty());
    }
}
