//! What Ollama's clients ask of the server itself, answered from memory: sleeping models are listed, and listing wakes none.

use super::{
    ApiError, AppState,
    models::{common, listed, rfc3339},
};
use crate::{inference::InferenceRequest, keys::Caller, registry::ProviderSnapshot};
use axum::{Extension, Json, extract::State};
use reveille_domain::Status;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// The release of Ollama whose paths are served here. Some clients refuse a server that looks older than they need.
const AS_OLLAMA: &str = "0.12.0";
/// When a model is unloaded that stays.
const NEVER: &str = "9999-01-01T00:00:00Z";

/// Something that answers, for clients that look whether anything does.
pub(super) async fn root() -> &'static str {
    "Reveille is running\n"
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({ "version": AS_OLLAMA, "reveille": env!("CARGO_PKG_VERSION") }))
}

/// All models.
pub(super) async fn tags(state: State<AppState>, caller: Extension<Caller>) -> Result<Json<Value>, ApiError> {
    list(&state, &caller, |_| true).await
}

/// The models that are awake.
pub(super) async fn running(
    state: State<AppState>,
    caller: Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    list(&state, &caller, |pool| {
        pool.iter()
            .any(|snapshot| matches!(snapshot.provider.status, Status::Active { .. }))
    })
    .await
}

async fn list(
    state: &AppState,
    caller: &Caller,
    is_listed: impl Fn(&[Arc<ProviderSnapshot>]) -> bool,
) -> Result<Json<Value>, ApiError> {
    let pools = listed(state, caller).await?;
    let listed = pools.into_iter().filter(|(_, pool)| is_listed(pool));
    let models: Vec<_> = listed.map(|(name, pool)| model(&name, &pool)).collect();
    Ok(Json(json!({ "models": models })))
}

/// A model as both lists have it. What Reveille doesn't know is there and empty, since clients read it without looking; they
/// also cut a digest short, so there is one of the name.
fn model(name: &str, pool: &[Arc<ProviderSnapshot>]) -> Value {
    let details = common(name, pool);
    let digest: String = Sha256::digest(name)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    json!({
        "name": name,
        "model": name,
        "modified_at": rfc3339(details.created.unwrap_or_default()),
        "expires_at": NEVER,
        "size": 0,
        "size_vram": 0,
        "context_length": details.context_length.unwrap_or_default(),
        "digest": digest,
        "details": {
            "parent_model": "", "format": "", "family": "", "families": [], "parameter_size": "",
            "quantization_level": "",
        },
        "capabilities": details.capabilities,
    })
}

/// What is known of the model of a request while its backend sleeps. The family of a model is unknown, so the key of its context
/// length has a made-up one.
pub(super) fn show(state: &AppState, request: &InferenceRequest) -> Json<Value> {
    let asked = request.model.as_str();
    let pool = state.registry.pool(asked);
    let details = common(asked, &pool);
    let mut shown = model(asked, &pool);
    let facts = details
        .context_length
        .map(|length| json!({ "general.architecture": "unknown", "unknown.context_length": length }));
    shown["model_info"] = facts.unwrap_or_else(|| json!({}));
    for unknown in ["license", "modelfile", "parameters", "template"] {
        shown[unknown] = "".into();
    }
    Json(shown)
}
