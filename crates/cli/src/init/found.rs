//! Finds out what listens on a port of this machine: whether it lists models, and which server it seems to be.

use reqwest::{Client, StatusCode};
use reveille_domain::{MAX_MODELS, ModelName};
use serde_json::Value;
use std::time::Duration;

/// How long one request may take: the server is on this machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// The largest response that is read.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

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

/// A running backend.
#[derive(Debug)]
pub struct Found {
    /// The provider's name in the config.
    pub name: String,
    /// The port it listens on.
    pub port: u16,
    /// The server it seems to be.
    pub server: Server,
    /// The models it lists.
    pub models: Vec<ModelName>,
    /// Whether it requires a key, so that its models are unknown.
    pub needs_key: bool,
    /// Whether it sleeps and wakes over HTTP, like vLLM in sleep mode.
    pub sleep_mode: bool,
    /// The model file that llama.cpp reports.
    pub model_path: Option<String>,
}

impl Found {
    /// One line for a person.
    pub fn described(&self) -> String {
        let models = match self.models.as_slice() {
            _ if self.needs_key => "requires a key, so its models are unknown".to_owned(),
            [] => "lists no models".to_owned(),
            models => {
                let names: Vec<_> = models.iter().map(ModelName::as_str).collect();
                format!("lists {}", names.join(", "))
            }
        };
        let asleep = if self.sleep_mode {
            "; supports sleep mode"
        } else {
            ""
        };
        format!("{}; {models}{asleep}", self.server.label())
    }
}

/// The backend on a port, or why there is none.
pub async fn look(client: &Client, port: u16) -> Result<Found, &'static str> {
    let base = format!("http://127.0.0.1:{port}");
    let listing = client.get(format!("{base}/v1/models")).timeout(ANSWERS_WITHIN);
    let answer = listing.send().await.map_err(|error| {
        if error.is_connect() {
            "nothing listens"
        } else {
            "something listens, but doesn't answer /v1/models"
        }
    })?;
    let needs_key = matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let listed = if needs_key { None } else { read(answer).await };
    let models = listed.as_ref().and_then(|listed| listed["data"].as_array());
    if models.is_none() && !needs_key {
        return Err("something listens, but it doesn't list models like the OpenAI API");
    }
    let names = models.into_iter().flatten().filter_map(|model| {
        let id = model["id"].as_str()?;
        ModelName::parse(id).ok()
    });
    let mut models: Vec<ModelName> = vec![];
    for name in names.take(MAX_MODELS) {
        if !models.contains(&name) {
            models.push(name);
        }
    }
    let props = get(client, &format!("{base}/props")).await;
    let server = which(client, &base, props.as_ref()).await;
    let sleeping = get(client, &format!("{base}/is_sleeping")).await;
    Ok(Found {
        name: server.provider().to_owned(),
        port,
        server,
        models,
        needs_key,
        sleep_mode: sleeping.is_some_and(|state| state["is_sleeping"].is_boolean()),
        model_path: props.and_then(|props| props["model_path"].as_str().map(str::to_owned)),
    })
}

/// Each server has a path that only it answers in this form. LM Studio answers 200 to everything, so the body counts.
async fn which(client: &Client, base: &str, props: Option<&Value>) -> Server {
    let says = async |path: &str, key: &str| {
        let body = get(client, &format!("{base}{path}")).await;
        body.is_some_and(|body| body.get(key).is_some_and(|value| !value.is_null()))
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
    let answer = client.get(url).timeout(ANSWERS_WITHIN).send().await.ok()?;
    read(answer).await
}

async fn read(answer: reqwest::Response) -> Option<Value> {
    let mut answer = answer.error_for_status().ok()?;
    let mut body = vec![];
    while let Some(chunk) = answer.chunk().await.ok()? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).ok()
}
