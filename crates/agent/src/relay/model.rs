//! The model that a request asks for: by its backend's name for it, and with the preset in the request's body if it is one.

use super::{preset, rename};
use crate::{
    config::{AnswerModelName, Preset, ProviderConfig},
    models::{Memory, Served},
};
use bytes::Bytes;
use reveille_bus::relay::{FaultCode, FormReader, PRESET_PATHS, RelayFault, RequestHead, takes_presets};
use reveille_domain::{AgentName, ModelName};

/// A request as it came, as far as it may name a model.
pub(super) struct AsAsked<'a> {
    pub head: &'a RequestHead,
    pub path: &'a str,
    pub query: &'a str,
    /// Its body as far as it was read.
    pub begun: Bytes,
    /// What has read that, if it is a form.
    pub form: Option<FormReader>,
}

/// The same with the backend's name of the model.
pub(super) struct ForBackend {
    pub query: String,
    pub begun: Bytes,
    /// What it names, if anything.
    pub model: Option<String>,
    /// What that is to callers, if the provider has it.
    pub served: Option<Served>,
}

impl AsAsked<'_> {
    /// What the backend of a provider gets.
    ///
    /// # Errors
    /// When it can't be put together with the preset that it asks for.
    pub fn for_backend(
        self,
        memory: &Memory,
        agent: &AgentName,
        config: &ProviderConfig,
    ) -> Result<ForBackend, RelayFault> {
        let mut served = None;
        let mut as_backend = |asked: &str| {
            served = memory.served(agent, config, asked);
            served.as_ref().map(|served| served.id.to_string())
        };
        let (query, in_query) = rename::rename_in_query(self.query, &mut as_backend);
        let (mut begun, model) = match (in_query, &self.form) {
            (Some(model), _) => (self.begun, Some(model)),
            (None, Some(form)) => rename::rename_in_form(self.begun, form, as_backend),
            (None, None) => rename::rename(self.begun, as_backend),
        };
        if let Some(preset) = served.as_ref().and_then(|served| served.preset.as_ref()) {
            begun = with_preset(preset, self.head, self.path, begun)?;
        }
        Ok(ForBackend {
            query,
            begun,
            model,
            served,
        })
    }
}

/// The name for the model in answers, if it isn't the backend's: where the request's was changed by the config, so is the answer's.
pub(super) fn named_in_answers(config: &ProviderConfig, served: Served) -> Option<ModelName> {
    let renamed = served.public != served.id;
    let public = match config.answer_model {
        Some(answer_model) => answer_model == AnswerModelName::Public,
        None => renamed,
    };
    public.then_some(served.public)
}

/// The body with the preset in it, unless the request only asks about its model.
fn with_preset(preset: &Preset, head: &RequestHead, path: &str, body: Bytes) -> Result<Bytes, RelayFault> {
    if !PRESET_PATHS.contains(&path) && takes_presets(&head.method, path) {
        return Ok(body);
    }
    preset::put(&body, preset, path).map_err(|why| {
        let message = format!(
            "the request can't be put together with the preset `{}`: {why}",
            preset.name
        );
        RelayFault::new(FaultCode::BadRequest, message)
    })
}
