//! llama.cpp's server, with one model and as a router.
//!
//! With one model it listens at once and answers 503 until the model is loaded; only the list of models is there before. As a
//! router its `/health` is its own, `/models` lists what it could load with the status of each, `/models/load` answers before the
//! model is loaded, and both that and `/models/unload` refuse what is so already.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{Completion, Imitated, lock};
use crate::{options::Options, routes, server::Server};

/// A model on its way into memory.
#[derive(Debug, Clone, Copy)]
pub struct Loading(Instant);

impl Loading {
    pub fn begun(options: &Options) -> Self {
        Self(Instant::now() + Duration::from_millis(options.load_delay_ms))
    }

    fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    pub fn completion(self) -> Completion {
        if self.is_over() {
            Completion::Answered
        } else {
            Completion::Refused(StatusCode::SERVICE_UNAVAILABLE, "Loading model")
        }
    }
}

/// The models of a router that are in memory, or on their way.
#[derive(Debug, Default)]
pub struct Router {
    running: HashMap<String, Loading>,
}

impl Router {
    fn status(&self, model: &str) -> &'static str {
        match self.running.get(model) {
            None => "unloaded",
            Some(loading) if loading.is_over() => "loaded",
            Some(_) => "loading",
        }
    }

    pub fn completion(&self, server: &Server, model: &str) -> Completion {
        if self.status(model) == "loaded" {
            return Completion::Answered;
        }
        server
            .log
            .write(&json!({ "event": "not_loaded", "model": model }));
        Completion::Refused(StatusCode::BAD_REQUEST, "model is not loaded")
    }
}

pub fn routes() -> axum::Router<Arc<Server>> {
    axum::Router::new()
        .route("/v1/models", get(routes::models))
        .route("/props", get(props))
        .route("/health", get(health))
}

async fn props() -> Json<Value> {
    Json(json!({ "default_generation_settings": { "n_ctx": 4096 }, "model_path": "/models/model.gguf" }))
}

async fn health(State(server): State<Arc<Server>>) -> Response {
    match &server.imitated {
        Imitated::LlamaCpp(loading) if !loading.is_over() => error(
            StatusCode::SERVICE_UNAVAILABLE,
            "Loading model",
            "unavailable_error",
        ),
        Imitated::LlamaCpp(_)
        | Imitated::Nobody
        | Imitated::Vllm(_)
        | Imitated::VllmWithoutSleepMode
        | Imitated::Ollama(_)
        | Imitated::Router(_)
        | Imitated::LmStudio => Json(json!({ "status": "ok" })).into_response(),
    }
}

pub fn router_routes() -> axum::Router<Arc<Server>> {
    axum::Router::new()
        .route("/v1/models", get(listed))
        .route("/models", get(listed))
        .route("/models/load", post(load))
        .route("/models/unload", post(unload))
        .route("/health", get(health))
}

async fn listed(State(server): State<Arc<Server>>) -> Json<Value> {
    let models = server.options.models.iter().map(|id| {
        let status = with(&server, |router| router.status(id));
        json!({ "id": id, "object": "model", "status": { "value": status } })
    });
    Json(json!({ "object": "list", "data": models.collect::<Vec<_>>() }))
}

async fn load(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    change(&server, "load", &body, |router, model| {
        if router.running.contains_key(model) {
            return Err("model is already running");
        }
        router
            .running
            .insert(model.to_owned(), Loading::begun(&server.options));
        Ok(())
    })
}

async fn unload(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    change(&server, "unload", &body, |router, model| {
        let was = router.running.remove(model);
        was.map(|_| ()).ok_or("model is not running")
    })
}

fn change(
    server: &Server,
    event: &str,
    body: &[u8],
    change: impl FnOnce(&mut Router, &str) -> Result<(), &'static str>,
) -> Response {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let model = body["model"].as_str().unwrap_or_default();
    server.log.write(&json!({ "event": event, "model": model }));
    if !server.options.models.iter().any(|known| known == model) {
        return error(StatusCode::NOT_FOUND, "model is not found", "not_found_error");
    }
    match with(server, |router| change(router, model)) {
        Some(Ok(())) => Json(json!({ "success": true })).into_response(),
        Some(Err(why)) => error(StatusCode::BAD_REQUEST, why, "invalid_request_error"),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn with<T>(server: &Server, change: impl FnOnce(&mut Router) -> T) -> Option<T> {
    match &server.imitated {
        Imitated::Router(router) => Some(change(&mut lock(router))),
        Imitated::Nobody
        | Imitated::Vllm(_)
        | Imitated::VllmWithoutSleepMode
        | Imitated::Ollama(_)
        | Imitated::LlamaCpp(_)
        | Imitated::LmStudio => None,
    }
}

fn error(status: StatusCode, message: &str, kind: &str) -> Response {
    let error = json!({ "message": message, "type": kind, "code": status.as_u16() });
    (status, Json(json!({ "error": error }))).into_response()
}
