//! Ollama.
//!
//! It runs whether or not a model is in memory, and `/v1/models` lists every one that was pulled. A completion loads its model by
//! itself, and the caller waits. `/api/generate` without a prompt loads a model, or unloads it with `keep_alive` 0.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{Completion, Imitated, lock};
use crate::{routes, server::Server};

/// The models in memory.
#[derive(Debug, Default)]
pub struct Ollama {
    loaded: BTreeSet<String>,
}

impl Ollama {
    pub fn completion(&mut self, server: &Server, model: &str) -> Completion {
        if self.loaded.insert(model.to_owned()) {
            server
                .log
                .write(&json!({ "event": "loaded_by_request", "model": model }));
        }
        Completion::Answered
    }
}

pub fn routes() -> Router<Arc<Server>> {
    Router::new()
        .route("/v1/models", get(routes::models))
        .route(
            "/api/version",
            get(|| async { Json(json!({ "version": "0.0.0" })) }),
        )
        .route("/api/ps", get(ps))
        .route("/api/generate", post(generate))
}

fn with<T>(server: &Server, change: impl FnOnce(&mut Ollama) -> T) -> Option<T> {
    match &server.imitated {
        Imitated::Ollama(ollama) => Some(change(&mut lock(ollama))),
        Imitated::Nobody
        | Imitated::Vllm(_)
        | Imitated::VllmWithoutSleepMode
        | Imitated::LlamaCpp(_)
        | Imitated::Router(_)
        | Imitated::LmStudio => None,
    }
}

async fn ps(State(server): State<Arc<Server>>) -> Json<Value> {
    let loaded = with(&server, |ollama| ollama.loaded.clone()).unwrap_or_default();
    let models = loaded
        .iter()
        .map(|name| json!({ "name": name, "model": name, "size": 1, "size_vram": 1 }));
    Json(json!({ "models": models.collect::<Vec<_>>() }))
}

async fn generate(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let Ok(asked) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let model = asked["model"].as_str().unwrap_or_default().to_owned();
    if !server.options.models.contains(&model) {
        let error = json!({ "error": format!("model '{model}' not found") });
        return (StatusCode::NOT_FOUND, Json(error)).into_response();
    }
    let unloads = asked["keep_alive"] == json!(0);
    let event = if unloads { "unload" } else { "load" };
    server
        .log
        .write(&json!({ "event": event, "model": model, "keep_alive": asked["keep_alive"] }));
    if !unloads {
        tokio::time::sleep(Duration::from_millis(server.options.load_delay_ms)).await;
    }
    with(&server, |ollama| {
        if unloads {
            ollama.loaded.remove(&model);
        } else {
            ollama.loaded.insert(model.clone());
        }
    });
    Json(json!({ "model": model, "response": "", "done": true, "done_reason": event })).into_response()
}
