//! vLLM with `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1`.
//!
//! `/health` and `/v1/models` say yes while it sleeps. A sleep with requests under way is answered 200, and the engine is gone a
//! moment later; so is an engine that is asked for a completion while it sleeps. After a sleep of level 2 `/wake_up` makes room
//! for the weights, and only `reload_weights` puts them there: until then it answers nonsense. Reloading beside a KV cache that
//! is back already takes more memory than there is.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{Completion, Imitated, lock};
use crate::{answers, routes, server::Server};

const WEIGHTS: &str = "weights";
const KV_CACHE: &str = "kv_cache";
/// How long an engine whose memory was taken away goes on.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// What of it sleeps, and what its weights are.
#[derive(Debug, Default)]
pub struct Vllm {
    asleep: BTreeSet<&'static str>,
    weights: Weights,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Weights {
    #[default]
    Loaded,
    /// In the machine's memory.
    Offloaded,
    Discarded,
    /// Room for them.
    Empty,
}

impl Vllm {
    pub fn completion(&self) -> Completion {
        if !self.asleep.is_empty() {
            return Completion::Crash("a completion while it sleeps");
        }
        match self.weights {
            Weights::Loaded => Completion::Answered,
            Weights::Offloaded | Weights::Discarded | Weights::Empty => Completion::Nonsense,
        }
    }

    fn sleep(&mut self, level: u32) {
        self.weights = match (level, self.weights) {
            (1, Weights::Loaded) => Weights::Offloaded,
            (1, other) => other,
            _ => Weights::Discarded,
        };
        self.asleep = [WEIGHTS, KV_CACHE].into();
    }

    fn wake_up(&mut self, tags: &[String]) {
        let wanted = |tag: &&'static str| tags.is_empty() || tags.iter().any(|wanted| wanted == tag);
        let woken: Vec<_> = self.asleep.iter().copied().filter(wanted).collect();
        for tag in woken {
            self.asleep.remove(tag);
            if tag == WEIGHTS {
                self.weights = match self.weights {
                    Weights::Offloaded => Weights::Loaded,
                    Weights::Discarded => Weights::Empty,
                    other @ (Weights::Loaded | Weights::Empty) => other,
                };
            }
        }
    }

    fn reload_weights(&mut self) -> Result<(), &'static str> {
        match self.weights {
            Weights::Offloaded | Weights::Discarded => Err("an illegal memory access was encountered"),
            Weights::Empty if !self.asleep.contains(KV_CACHE) => Err("out of memory"),
            Weights::Loaded | Weights::Empty => {
                self.weights = Weights::Loaded;
                Ok(())
            }
        }
    }
}

pub fn routes_without_sleep_mode() -> Router<Arc<Server>> {
    Router::new()
        .route("/v1/models", get(routes::models))
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/version", get(|| async { Json(json!({ "version": "0.0.0" })) }))
}

pub fn routes() -> Router<Arc<Server>> {
    routes_without_sleep_mode()
        .route("/is_sleeping", get(is_sleeping))
        .route("/sleep", post(sleep))
        .route("/wake_up", post(wake_up))
        .route("/collective_rpc", post(collective_rpc))
}

fn with<T>(server: &Server, change: impl FnOnce(&mut Vllm) -> T) -> Option<T> {
    match &server.imitated {
        Imitated::Vllm(vllm) => Some(change(&mut lock(vllm))),
        Imitated::Nobody
        | Imitated::Ollama(_)
        | Imitated::VllmWithoutSleepMode
        | Imitated::LlamaCpp(_)
        | Imitated::Router(_)
        | Imitated::LmStudio => None,
    }
}

/// All values of a parameter.
fn values(query: Option<&str>, name: &str) -> Vec<String> {
    let pairs = query.unwrap_or_default().split('&');
    let pairs = pairs.filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
        .collect()
}

async fn is_sleeping(State(server): State<Arc<Server>>) -> Json<Value> {
    let asleep = with(&server, |vllm| !vllm.asleep.is_empty());
    Json(json!({ "is_sleeping": asleep }))
}

async fn sleep(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> StatusCode {
    let level = values(query.as_deref(), "level");
    let level = level.first().and_then(|level| level.parse().ok()).unwrap_or(1);
    server.log.write(&json!({ "event": "sleep", "level": level }));
    if server.under_way() > 0 {
        server
            .log
            .write(&json!({ "event": "crash", "why": "a sleep with requests under way" }));
        tokio::spawn(async {
            tokio::time::sleep(LAST_WORDS).await;
            answers::die()
        });
        return StatusCode::OK;
    }
    with(&server, |vllm| vllm.sleep(level));
    StatusCode::OK
}

async fn wake_up(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> StatusCode {
    let tags = values(query.as_deref(), "tags");
    server.log.write(&json!({ "event": "wake_up", "tags": tags }));
    tokio::time::sleep(Duration::from_millis(server.options.load_delay_ms)).await;
    with(&server, |vllm| vllm.wake_up(&tags));
    StatusCode::OK
}

async fn collective_rpc(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    server
        .log
        .write(&json!({ "event": "collective_rpc", "method": body["method"] }));
    if body["method"] != "reload_weights" {
        return StatusCode::BAD_REQUEST.into_response();
    }
    match with(&server, Vllm::reload_weights) {
        Some(Ok(())) => Json(json!({ "results": [null] })).into_response(),
        Some(Err(why)) => (StatusCode::INTERNAL_SERVER_ERROR, why).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
