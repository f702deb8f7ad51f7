//! LM Studio's server, whose own list of models is beside OpenAI's. It answers 200 to paths that it doesn't have.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    routing::{any, get},
};
use serde_json::{Value, json};

use crate::{routes, server::Server};

pub fn routes() -> Router<Arc<Server>> {
    let unknown = || async { Json(json!({ "error": "Unexpected endpoint or method" })) };
    Router::new()
        .route("/v1/models", get(routes::models))
        .route("/api/v0/models", get(models))
        // Those that others are known by.
        .route("/api/version", any(unknown))
        .route("/version", any(unknown))
        .route("/props", any(unknown))
        .route("/is_sleeping", any(unknown))
}

async fn models(State(server): State<Arc<Server>>) -> Json<Value> {
    let models = server.options.models.iter();
    let models = models.map(|id| json!({ "id": id, "type": "llm", "state": "not-loaded" }));
    Json(json!({ "object": "list", "data": models.collect::<Vec<_>>() }))
}
