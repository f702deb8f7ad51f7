//! Finds out what listens on a port of this machine: whether it lists models, and which server it seems to be.

use super::process::{self, Installed, Origin};
use reqwest::StatusCode;
use reveille_agent::fetch::{Answer, Client};
use reveille_bus::HUB_HEADER;
use reveille_domain::{MAX_MODELS, MAX_TOKEN_BYTES, ModelName};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use url::Url;

/// How long one request may take: the server is on this machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// The largest response that is read.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Where servers of this machine listen. Most listen at the first.
const HOSTS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// The most models of an Ollama that are looked at more closely.
const MAX_LOADED: usize = 8;
/// The most models of a backend that are shown.
const MAX_SHOWN: usize = 12;
const NOTHING: &str = "nothing listens";

/// A model server that is known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Ollama,
    Vllm,
    /// The llama-server of llama.cpp.
    LlamaCpp,
    LmStudio,
    /// An unknown server with the OpenAI API.
    Other,
}

impl Server {
    /// Its usual name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ollama => "Ollama",
            Self::Vllm => "vLLM",
            Self::LlamaCpp => "llama.cpp",
            Self::LmStudio => "LM Studio",
            Self::Other => "an OpenAI-compatible server",
        }
    }

    const fn provider(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Vllm => "vllm",
            Self::LlamaCpp => "llama-cpp",
            Self::LmStudio => "lm-studio",
            Self::Other => "backend",
        }
    }
}

/// The server that uses a port by default.
pub const fn usual_at(port: u16) -> Option<Server> {
    match port {
        11434 => Some(Server::Ollama),
        8000 => Some(Server::Vllm),
        8080 => Some(Server::LlamaCpp),
        1234 => Some(Server::LmStudio),
        _ => None,
    }
}

/// A backend that runs, or that is installed and could be started.
#[derive(Debug)]
pub struct Found {
    /// The provider's name in the config.
    pub name: String,
    /// Where it listens, or will.
    pub address: SocketAddr,
    /// The server it seems to be.
    pub server: Server,
    /// The models it lists, as many as a provider may have.
    pub models: Vec<ModelName>,
    /// How many more there are.
    pub left_out: usize,
    /// Whether it requires a key, so that its models are unknown.
    pub needs_key: bool,
    /// Whether it sleeps and wakes over HTTP, like vLLM in sleep mode.
    pub sleep_mode: bool,
    /// The model file that llama.cpp reports.
    pub model_path: Option<String>,
    /// The models that an Ollama has in memory; or else its only one. Without those that it doesn't load on this machine to
    /// generate text.
    pub in_memory: Vec<ModelName>,
    /// How it was started, or would be.
    pub origin: Origin,
}

impl Found {
    /// Its URL.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How it would be started, if it doesn't run.
    pub fn installed(&self) -> Option<&Installed> {
        match &self.origin {
            Origin::Installed(installed) => Some(installed),
            _ => None,
        }
    }

    /// Whether it is installed and can't be started as it is.
    pub fn lacks_something(&self) -> bool {
        self.installed()
            .is_some_and(|installed| installed.lacks.is_some())
    }

    /// Whether it doesn't run, and the config would have it started.
    pub fn is_startable(&self) -> bool {
        self.installed()
            .is_some_and(|installed| installed.lacks.is_none())
    }

    /// Whether requests need a key. llama.cpp lists its models without one.
    pub fn requires_key(&self) -> bool {
        let takes_key = matches!(&self.origin, Origin::Command(command) if command.takes_key());
        self.needs_key || takes_key
    }

    /// The first few models, how many more there are, and how many of those are left out.
    fn listed(&self) -> String {
        let names: Vec<_> = self
            .models
            .iter()
            .take(MAX_SHOWN)
            .map(ModelName::as_str)
            .collect();
        let more = self.models.len() - names.len() + self.left_out;
        let mut text = names.join(", ");
        if more > 0 {
            text += &format!(" and {more} more");
        }
        if self.left_out > 0 {
            text += &format!(
                "; {} of them are left out, since a provider publishes at most {MAX_MODELS}",
                self.left_out
            );
        }
        text
    }

    /// One line for a person.
    pub fn described(&self) -> String {
        if let Some(installed) = self.installed() {
            let models = match (&installed.lacks, self.models.as_slice()) {
                (Some(_), _) | (None, []) => String::new(),
                (None, _) => format!(", with {}", self.listed()),
            };
            return format!("{} is installed and doesn't run{models}", self.server.label());
        }
        let models = match self.models.as_slice() {
            _ if self.needs_key => "requires a key, so its models are unknown".to_owned(),
            [] => "lists no models".to_owned(),
            _ => format!("lists {}", self.listed()),
        };
        let asleep = if self.sleep_mode {
            "; supports sleep mode"
        } else {
            ""
        };
        format!("{}; {models}{asleep}", self.server.label())
    }
}

/// A provider's name for one model of a backend.
pub fn name_for(backend: &str, model: &ModelName) -> String {
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() || c == '_' {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name = format!("{backend}-{}", model.as_str())
        .chars()
        .map(legal)
        .collect::<String>();
    // With room for a number.
    name.chars().take(MAX_TOKEN_BYTES - 4).collect()
}

/// The backend on a port, or why there is none.
pub async fn look(client: &Client, port: u16) -> Result<Found, &'static str> {
    for host in HOSTS {
        let found = look_at(client, SocketAddr::new(host, port)).await;
        if found.as_ref().err() != Some(&NOTHING) {
            return found;
        }
    }
    Err(NOTHING)
}

async fn look_at(client: &Client, address: SocketAddr) -> Result<Found, &'static str> {
    let base = format!("http://{address}");
    const SILENT: &str = "something listens, but doesn't answer /v1/models";
    let listing = Url::parse(&format!("{base}/v1/models")).map_err(|_| NOTHING)?;
    let answer = client.get(listing).timeout(ANSWERS_WITHIN).send().await;
    let answer = answer.map_err(|error| if error.is_unreached() { NOTHING } else { SILENT })?;
    if answer.headers().contains_key(HUB_HEADER) {
        return Err("a Reveille hub");
    }
    let needs_key = matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        return Err("something listens, but isn't ready (503): run this again once it has loaded its model");
    }
    let listed = if needs_key { None } else { read(answer).await };
    let models = listed.as_ref().and_then(|listed| listed["data"].as_array());
    if models.is_none() && !needs_key {
        return Err("something listens, but it doesn't list models like the OpenAI API");
    }
    let (models, left_out) = capped(names(models.into_iter().flatten().map(|model| &model["id"])));
    let props = get(client, &format!("{base}/props")).await;
    let server = which(client, &base, props.as_ref()).await;
    let sleeping = get(client, &format!("{base}/is_sleeping")).await;
    let in_memory = match server {
        Server::Ollama => in_memory(client, &base, &models).await,
        Server::Vllm | Server::LlamaCpp | Server::LmStudio | Server::Other => vec![],
    };
    Ok(Found {
        name: server.provider().to_owned(),
        address,
        server,
        models,
        left_out,
        needs_key,
        sleep_mode: sleeping.is_some_and(|state| state["is_sleeping"].is_boolean()),
        model_path: props.and_then(|props| props["model_path"].as_str().map(str::to_owned)),
        in_memory,
        origin: process::origin(address),
    })
}

/// The legal ones among these names, each once.
fn names<'a>(listed: impl Iterator<Item = &'a Value>) -> Vec<ModelName> {
    let legal = listed.filter_map(|name| ModelName::parse(name.as_str()?).ok());
    let mut seen = HashSet::new();
    legal.filter(|name| seen.insert(name.clone())).collect()
}

/// As many models as a provider may have, and how many more there are.
pub fn capped(mut models: Vec<ModelName>) -> (Vec<ModelName>, usize) {
    let left_out = models.len().saturating_sub(MAX_MODELS);
    models.truncate(MAX_MODELS);
    (models, left_out)
}

async fn in_memory(client: &Client, base: &str, models: &[ModelName]) -> Vec<ModelName> {
    let candidates = match models {
        [only] => vec![only.clone()],
        _ => {
            let loaded = get(client, &format!("{base}/api/ps")).await.unwrap_or_default();
            let loaded = names(
                loaded["models"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|model| &model["name"]),
            );
            loaded.into_iter().filter(|name| models.contains(name)).collect()
        }
    };
    let mut generate = vec![];
    for model in candidates.into_iter().take(MAX_LOADED) {
        let Ok(show) = Url::parse(&format!("{base}/api/show")) else {
            continue;
        };
        let shown = client.post(show).json(&json!({ "model": model.as_str() }));
        let shown = shown.timeout(ANSWERS_WITHIN).send().await;
        let shown = match shown {
            Ok(answer) => read(answer).await.unwrap_or_default(),
            Err(_) => Value::Null,
        };
        if loads_here(&model, &shown) {
            generate.push(model);
        }
    }
    generate
}

/// Whether `/api/generate` loads a model on this machine, by what `/api/show` says: a model for embeddings is refused there,
/// and one in the cloud is never in memory. Older versions don't say what a model is for.
fn loads_here(model: &ModelName, shown: &Value) -> bool {
    let generates = match shown["capabilities"].as_array() {
        Some(capabilities) => capabilities.iter().any(|capability| capability == "completion"),
        None => !model.as_str().contains("embed"),
    };
    generates && shown["remote_host"].is_null() && shown["remote_model"].is_null()
}

/// Each server has a path that only it answers in this form. LM Studio answers 200 to everything, so the body counts; and a hub,
/// which answers as Ollama does, says so.
async fn which(client: &Client, base: &str, props: Option<&Value>) -> Server {
    let says = async |path: &str, key: &str| {
        let body = get(client, &format!("{base}{path}")).await;
        body.is_some_and(|body| !body[key].is_null() && body["reveille"].is_null())
    };
    if says("/api/version", "version").await {
        Server::Ollama
    } else if says("/api/v0/models", "data").await {
        Server::LmStudio
    } else if props.is_some_and(|props| props.get("default_generation_settings").is_some()) {
        Server::LlamaCpp
    } else if says("/version", "version").await {
        Server::Vllm
    } else {
        Server::Other
    }
}

async fn get(client: &Client, url: &str) -> Option<Value> {
    let answer = client
        .get(Url::parse(url).ok()?)
        .timeout(ANSWERS_WITHIN)
        .send()
        .await;
    read(answer.ok()?).await
}

async fn read(mut answer: Answer) -> Option<Value> {
    let failed = answer.status().is_client_error() || answer.status().is_server_error();
    if failed {
        return None;
    }
    answer.json(MAX_ANSWER_BYTES).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_ollama_does_not_load_to_generate_text_gets_no_recipe() {
        let model = |name| ModelName::parse(name).unwrap();
        for (name, shown, loads) in [
            (
                "qwen2.5:7b",
                json!({ "capabilities": ["completion", "tools"] }),
                true,
            ),
            (
                "nomic-embed-text",
                json!({ "capabilities": ["embedding"] }),
                false,
            ),
            ("bge-m3", json!({ "capabilities": ["embedding"] }), false),
            (
                "gpt-oss:120b-cloud",
                json!({ "capabilities": ["completion"], "remote_host": "https://ollama.com" }),
                false,
            ),
            ("old", Value::Null, true),
            ("nomic-embed-text", Value::Null, false),
        ] {
            assert_eq!(loads_here(&model(name), &shown), loads, "{name}");
        }
    }
}
