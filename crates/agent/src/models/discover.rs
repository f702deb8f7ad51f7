//! Asks a backend for its models.

use super::{
    dialects,
    listed::{Listed, Server},
};
use crate::{
    backend_client::BackendClient,
    config::{MODELS_PATH, ModelConfig, ProviderConfig},
    fetch::Request,
};
use futures::{StreamExt, stream};
use reveille_domain::{MAX_MODELS, ModelDetails, ModelName};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::timeout;

/// How long the backend may take to list its models.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to say more about all of them. What comes later is left out until the next time.
const DETAILS_TIMEOUT: Duration = Duration::from_secs(5);
/// How many models Ollama is asked about at once.
const SHOWN_AT_ONCE: usize = 4;
/// The largest accepted answer.
pub(crate) const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;

/// Asks the backend for its models: at most [`MAX_MODELS`] with legal names, by name; of a provider whose config has its models,
/// only those. `None` when it gives no list. What is `known` of a backend that has been up since isn't asked for again.
pub async fn discover(
    client: impl Into<BackendClient>,
    provider: ProviderConfig,
    known: Option<Listed>,
) -> Option<Listed> {
    let client = client.into();
    let backend = Asked { client, provider };
    let list = backend.get(MODELS_PATH, LIST_TIMEOUT).await?;
    let models = dialects::models(&list)?;
    let server = match &known {
        Some(known) => known.server,
        None => backend.server().await,
    };
    let mut listed = Listed { server, models };
    listed.models = match &backend.provider.models {
        Some(wanted) => only(&listed, wanted),
        None => listed.models.into_iter().take(MAX_MODELS).collect(),
    };
    // Those that were reached count even if it takes longer.
    let details = backend.add_details(&mut listed, &list, known.as_ref());
    if timeout(DETAILS_TIMEOUT, details).await.is_err() {
        keep(&mut listed, known.as_ref());
    }
    Some(listed)
}

/// What the list says of the configured models, by the names in the config.
fn only(listed: &Listed, wanted: &[ModelConfig]) -> BTreeMap<ModelName, ModelDetails> {
    let details = |id: &ModelName| listed.models.get(listed.name_of(id)?);
    let found = wanted
        .iter()
        .filter_map(|model| Some((model.id.clone(), details(&model.id)?.clone())));
    found.collect()
}

/// Completes what is listed by what was `known`, when the server doesn't say it this time.
fn keep(listed: &mut Listed, known: Option<&Listed>) {
    for (model, details) in &mut listed.models {
        let Some(known) = known.and_then(|known| known.models.get(model)) else {
            continue;
        };
        details.context_length = details.context_length.or(known.context_length);
        details.capabilities = dialects::union(&details.capabilities, &known.capabilities);
    }
}

struct Asked {
    client: BackendClient,
    provider: ProviderConfig,
}

impl Asked {
    /// Only these answer these paths in this form. LM Studio answers 200 to everything, so the body counts; and another hub
    /// answers as Ollama does, but lists all that it knows as any server does.
    async fn server(&self) -> Server {
        let version = self.get("/api/version", LIST_TIMEOUT).await;
        if version.is_some_and(|answer| answer["version"].is_string() && answer["reveille"].is_null()) {
            return Server::Ollama;
        }
        match self.lm_studio().await {
            Some(_) => Server::LmStudio,
            None => Server::Other,
        }
    }

    async fn lm_studio(&self) -> Option<BTreeMap<ModelName, ModelDetails>> {
        dialects::models(&self.get("/api/v0/models", LIST_TIMEOUT).await?)
    }

    async fn add_details(&self, listed: &mut Listed, list: &Value, known: Option<&Listed>) {
        match listed.server {
            Server::Ollama => self.show(listed, known).await,
            Server::LmStudio => {
                let Some(more) = self.lm_studio().await else {
                    return keep(listed, known);
                };
                for (model, details) in &mut listed.models {
                    let Some(more) = more.get(model) else { continue };
                    details.context_length = details.context_length.or(more.context_length);
                    details.capabilities = dialects::union(&details.capabilities, &more.capabilities);
                }
            }
            Server::Other if dialects::lacks_the_context_it_runs_with(list) => {
                // The length in the list is that which the model was trained for. It may run with less.
                for details in listed.models.values_mut() {
                    details.context_length = None;
                }
                let props = self.get("/props", DETAILS_TIMEOUT).await;
                let Some(length) = props.as_ref().and_then(dialects::context_of_props) else {
                    return keep(listed, known);
                };
                for details in listed.models.values_mut() {
                    details.context_length = Some(length);
                }
            }
            Server::Other => {}
        }
    }

    /// Asks Ollama about each model that isn't known yet, which doesn't load it.
    async fn show(&self, listed: &mut Listed, known: Option<&Listed>) {
        let mut new = Vec::new();
        for (model, details) in &mut listed.models {
            let known = known.and_then(|known| known.models.get(model));
            match known.filter(|known| known.context_length.is_some() || !known.capabilities.is_empty()) {
                Some(known) => {
                    details.context_length = known.context_length;
                    details.capabilities.clone_from(&known.capabilities);
                }
                None => new.push(model.clone()),
            }
        }
        let shown = stream::iter(new).map(async |model: ModelName| {
            let request = self.request(BackendClient::post, "/api/show");
            let body = json!({ "model": model.as_str() });
            let request = request?.json(&body).timeout(DETAILS_TIMEOUT);
            let answer = self.client.json(request, MAX_LIST_BYTES).await?;
            Some((model, dialects::shown(&answer)))
        });
        let mut shown = std::pin::pin!(shown.buffer_unordered(SHOWN_AT_ONCE));
        while let Some(answer) = shown.next().await {
            let Some((model, more)) = answer else { continue };
            if let Some(details) = listed.models.get_mut(&model) {
                details.context_length = more.context_length;
                details.capabilities = more.capabilities;
            }
        }
    }

    async fn get(&self, path: &str, limit: Duration) -> Option<Value> {
        let request = self.request(BackendClient::get, path)?;
        self.client.json(request.timeout(limit), MAX_LIST_BYTES).await
    }

    fn request(
        &self,
        method: impl FnOnce(&BackendClient, url::Url) -> Request,
        path: &str,
    ) -> Option<Request> {
        let url = self.provider.base_url.at(path).ok()?;
        Some(method(&self.client, url).authorized(self.provider.api_key.as_ref()))
    }
}
