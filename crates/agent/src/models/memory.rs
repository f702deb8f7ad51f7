//! What backends have listed, for the time that they sleep.

use super::listed::Listed;
use crate::{
    config::{BaseUrl, Preset, ProviderConfig},
    state_dir::{StateDir, agent_file},
};
use parking_lot::Mutex;
use reveille_domain::{AgentName, ModelName, ProviderId, ProviderName, named};
use std::{
    collections::{BTreeMap, HashMap},
    io, iter,
    sync::Arc,
};

const FILE: &str = "models.json";

/// A model of a provider by both its names.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// The clients' name for it.
    pub public: ModelName,
    /// The backend's name for it.
    pub id: ModelName,
    /// The preset, if the name is one's.
    pub preset: Option<Arc<Preset>>,
}

/// What backends have listed, kept in the state directory; without one, only in memory. It also has which models the config names.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    kept: Option<(StateDir, String)>,
    known: Arc<Mutex<BTreeMap<String, Arc<Listed>>>>,
    claims: Arc<Mutex<HashMap<ProviderName, Claim>>>,
}

/// The models that the config names of a backend. Another provider of the same backend doesn't publish them too: it would take the
/// requests that are to wake this one.
#[derive(Debug)]
struct Claim {
    backend: BaseUrl,
    models: Vec<ModelName>,
    /// Their names belong to no model of the agent.
    presets: Vec<Arc<Preset>>,
}

impl Memory {
    /// Reads what the state directory has of an agent's providers. An unreadable file is ignored: the backends will be asked
    /// again.
    #[must_use]
    pub fn open(state: Option<StateDir>, agent: &AgentName) -> Self {
        let kept = state.map(|state| (state, agent_file(agent, FILE)));
        let read = kept.as_ref().and_then(|(state, file)| state.read(file).ok()?);
        let known: BTreeMap<String, Listed> = read
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let known = known.into_iter().map(|(name, listed)| (name, Arc::new(listed)));
        Self {
            kept,
            known: Arc::new(Mutex::new(known.collect())),
            claims: Arc::default(),
        }
    }

    /// Claims the models that a provider's config names, in place of those that it named before.
    pub fn claim(&self, provider: &ProviderConfig) {
        let models = provider.models.iter().flatten();
        let claim = Claim {
            backend: provider.base_url.clone(),
            models: models.map(|model| model.public.clone()).collect(),
            presets: provider.presets.clone(),
        };
        self.claims.lock().insert(provider.name.clone(), claim);
    }

    /// Releases what a provider has claimed.
    pub fn release(&self, provider: &ProviderName) {
        self.claims.lock().remove(provider);
    }

    /// Whether a preset has claimed the name of this model, or another provider of the same backend the model.
    #[must_use]
    pub fn is_claimed(&self, provider: &ProviderConfig, model: &ModelName) -> bool {
        self.claims.lock().iter().any(|(by, claim)| {
            let by_another =
                *by != provider.name && claim.backend == provider.base_url && claim.models.contains(model);
            by_another || claim.presets.iter().any(|preset| preset.takes_name(model))
        })
    }

    /// What a provider's backend last listed.
    #[must_use]
    pub fn recall(&self, provider: &ProviderName) -> Arc<Listed> {
        let known = self.known.lock();
        known.get(provider.as_str()).cloned().unwrap_or_default()
    }

    /// Remembers what a provider's backend lists.
    ///
    /// # Errors
    /// When the file can't be written; until the process ends it is remembered all the same.
    pub fn remember(&self, provider: &ProviderName, listed: Listed) -> io::Result<()> {
        let mut known = self.known.lock();
        known.insert(provider.to_string(), Arc::new(listed));
        let Some((state, file)) = &self.kept else {
            return Ok(());
        };
        let known: BTreeMap<&String, &Listed> =
            known.iter().map(|(name, listed)| (name, &**listed)).collect();
        state.write(file, &serde_json::to_vec_pretty(&known)?)
    }

    /// The model that a request means by `asked`; `None` for one that the provider doesn't publish.
    #[must_use]
    pub fn served(&self, agent: &AgentName, provider: &ProviderConfig, asked: &str) -> Option<Served> {
        let listed = self.recall(&provider.name);
        let latest_tag = listed.has_latest_tag();
        let of = ProviderId::new(agent.clone(), provider.name.clone());
        let is_free = |model: &&ModelName| provider.presets.iter().all(|preset| !preset.takes_name(model));
        let is_meant = |model: &&ModelName| named(&iter::once(*model), latest_tag, &of, asked).is_some();
        let is_own = |model: &&ModelName| !self.is_claimed(provider, model);
        let names: Vec<_> = match &provider.models {
            Some(models) => models.iter().map(|model| &model.public).collect(),
            None => {
                let meant = listed.models.keys().filter(is_meant);
                meant.filter(is_free).filter(is_own).collect()
            }
        };
        let presets = provider.presets.iter().map(|preset| &preset.name);
        let public = named(&presets.chain(names.iter().copied()), latest_tag, &of, asked)?;
        let preset = provider.presets.iter().find(|preset| preset.name == *public);
        let model = preset.map_or(public, |preset| &preset.model);
        let id = match &provider.models {
            Some(models) => &models.iter().find(|own| own.public == *model)?.id,
            None => listed.name_of(model)?,
        };
        Some(Served {
            public: public.clone(),
            id: id.clone(),
            preset: preset.cloned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, models::listed::Server};
    use reveille_domain::ModelDetails;

    fn name(raw: &str) -> ModelName {
        ModelName::parse(raw).expect("legal")
    }

    fn provider(raw: &str) -> ProviderName {
        ProviderName::parse(raw).expect("legal")
    }

    fn listed(server: Server, models: &[&str]) -> Listed {
        let models = models.iter().map(|model| (name(model), ModelDetails::default()));
        Listed {
            server,
            models: models.collect(),
        }
    }

    #[test]
    fn a_request_reaches_the_backends_name_whichever_way_it_names_the_model() {
        let agent = AgentName::parse("box").expect("legal");
        let text = "[[provider]]\nname = \"named\"\nbase_url = \"http://h:1\"\nmodels = [{ id = \"Org/Qwen\", as = \"qwen\" }]\n\
                    [[provider]]\nname = \"asked\"\nbase_url = \"http://h:2\"";
        let providers = Config::parse(text, "test.toml", &|_| None)
            .expect("legal")
            .providers;
        let memory = Memory::default();
        let id = |index: usize, asked: &str| {
            let served = memory.served(&agent, &providers[index], asked);
            served.map(|served| (served.public.to_string(), served.id.to_string()))
        };
        let renamed = Some(("qwen".to_owned(), "Org/Qwen".to_owned()));
        assert_eq!(id(0, "qwen"), renamed);
        assert_eq!(id(0, "box/qwen"), renamed);
        assert_eq!(id(0, "box/named/qwen"), renamed);
        assert_eq!(id(0, "box/asked/qwen"), None);
        assert_eq!((id(0, "Org/Qwen"), id(0, "qwen:latest")), (None, None));
        let remember = |of: &str, listed| memory.remember(&provider(of), listed).expect("in memory");
        remember("named", listed(Server::Ollama, &["Org/Qwen"]));
        remember("asked", listed(Server::Ollama, &["llama3:latest"]));
        assert_eq!(id(0, "qwen:latest"), renamed);
        let same = Some(("llama3:latest".to_owned(), "llama3:latest".to_owned()));
        assert_eq!(
            (id(1, "llama3"), id(1, "box/llama3:latest")),
            (same.clone(), same)
        );
        remember("asked", listed(Server::Other, &["llama3:latest"]));
        assert_eq!(id(1, "llama3"), None);
    }

    #[test]
    fn a_preset_reaches_its_model_and_no_model_is_taken_for_it() {
        let agent = AgentName::parse("box").expect("legal");
        let text = "[[provider]]\nname = \"named\"\nbase_url = \"http://h:1\"\nmodels = [{ id = \"Org/Qwen\", as = \"qwen\" }]\n\
                    [[provider]]\nname = \"asked\"\nbase_url = \"http://h:2\"\n\
                    [[preset]]\nname = \"bot\"\nmodel = \"qwen\"\nsystem = \"x\"\n\
                    [[preset]]\nname = \"only\"\nprovider = \"named\"\nmodel = \"qwen\"\nsystem = \"x\"\n";
        let providers = Config::parse(text, "test.toml", &|_| None)
            .expect("legal")
            .providers;
        let memory = Memory::default();
        let served = |index: usize, asked: &str| {
            let served = memory.served(&agent, &providers[index], asked)?;
            let preset = served.preset.map(|preset| preset.name.to_string());
            Some((served.public.to_string(), served.id.to_string(), preset))
        };
        let is = |public: &str, id: &str, preset: Option<&str>| {
            Some((public.to_owned(), id.to_owned(), preset.map(str::to_owned)))
        };
        let of_named = is("bot", "Org/Qwen", Some("bot"));
        assert_eq!(served(0, "bot"), of_named);
        assert_eq!(served(0, "box/bot"), of_named);
        assert_eq!(served(0, "box/named/bot"), of_named);
        assert_eq!(served(0, "qwen"), is("qwen", "Org/Qwen", None));
        assert_eq!(served(0, "only"), is("only", "Org/Qwen", Some("only")));
        assert_eq!(served(1, "bot"), None, "its model isn't listed");
        let remember = |models: &[&str]| {
            let listed = listed(Server::Ollama, models);
            memory.remember(&provider("asked"), listed).expect("in memory");
        };
        remember(&["qwen:latest", "bot:latest"]);
        let of_asked = is("bot", "qwen:latest", Some("bot"));
        assert_eq!(
            (served(1, "bot"), served(1, "bot:latest")),
            (of_asked.clone(), of_asked)
        );
        assert_eq!(served(1, "only"), None);
        for provider in &providers {
            memory.claim(provider);
        }
        let claimed = |index: usize, model| memory.is_claimed(&providers[index], &name(model));
        assert!(claimed(1, "bot:latest") && claimed(0, "bot") && claimed(1, "only"));
        assert!(!claimed(1, "qwen:latest"));
    }

    #[test]
    fn what_is_listed_survives_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDir::new(directory.path().join("state"));
        let [agent, other] = ["box", "other"].map(|name| AgentName::parse(name).expect("legal"));
        let open = |agent| Memory::open(Some(state.clone()), agent);
        let memory = open(&agent);
        assert!(memory.recall(&provider("p")).models.is_empty());
        let mut known = listed(Server::Ollama, &["a", "b"]);
        known.models.insert(
            name("c"),
            ModelDetails {
                context_length: Some(8192),
                ..ModelDetails::default()
            },
        );
        memory.remember(&provider("p"), known.clone()).expect("written");
        assert_eq!(*open(&agent).recall(&provider("p")), known);
        assert!(
            open(&other).recall(&provider("p")).models.is_empty(),
            "another agent's provider"
        );
        state.write("box.models.json", b"garbage").expect("written");
        assert!(open(&agent).recall(&provider("p")).models.is_empty());
    }

    #[test]
    fn a_model_that_a_config_names_is_claimed_at_its_backend_until_the_provider_has_gone() {
        let text = "[[provider]]\nname = \"named\"\nbase_url = \"http://h:1\"\nmodels = [\"a\"]\n\
                    [[provider]]\nname = \"all\"\nbase_url = \"http://h:1/v1\"\n\
                    [[provider]]\nname = \"elsewhere\"\nbase_url = \"http://h:2\"";
        let config = Config::parse(text, "test.toml", &|_| None).expect("legal");
        let [named, all, elsewhere] = config.providers.as_slice() else {
            panic!("three providers")
        };
        let memory = Memory::default();
        for provider in &config.providers {
            memory.claim(provider);
        }
        let claimed = |provider, model| memory.is_claimed(provider, &name(model));
        assert!(claimed(all, "a"));
        assert!(!claimed(all, "b") && !claimed(named, "a") && !claimed(elsewhere, "a"));
        memory.release(&named.name);
        assert!(!claimed(all, "a"));
    }
}
