//! The HTTP surface: OpenAI's paths under `/v1`, Reveille's own under `/reveille/v1`, health at the root.
//!
//! Only inference POSTs and an explicit `wake` wake anything; a `GET` never does. Whatever goes wrong is answered with
//! OpenAI's error object, with an `x-request-id`.

mod agents;
mod answer;
mod auth;
mod body;
mod completions;
mod error;
mod extract;
mod health;
mod keys;
mod metrics;
mod models;
mod queries;
mod request_id;

#[cfg(test)]
mod tests;

pub(crate) use answer::name_provider;
pub(crate) use error::ApiError;
pub use health::Readiness;
pub use queries::EventFeed;

use crate::{
    inference::{BodyBudget, Fleet, Inference, Live, Timings},
    keys::Authenticator,
    server::Refusal,
    service::AgentHub,
};
use axum::{
    Router, middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use reveille_domain::rows::Rows;
use std::sync::Arc;

/// What HTTP requests may take.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// The largest request body, in bytes.
    pub body_bytes: usize,
    /// What all held request bodies of the process may take, in bytes.
    pub held_body_bytes: usize,
    /// How long things take that a request waits for.
    pub timings: Timings,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            body_bytes: 32 * 1024 * 1024,
            held_body_bytes: 512 * 1024 * 1024,
            timings: Timings::default(),
        }
    }
}

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    inner: Arc<Shared>,
}

struct Shared {
    fleet: Arc<dyn Fleet>,
    inference: Arc<Inference>,
    rows: Arc<dyn Rows>,
    feed: Arc<dyn EventFeed>,
    readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    bodies: BodyBudget,
    authenticator: Authenticator,
    agent_hub: AgentHub,
    limits: HttpLimits,
}

impl AppState {
    /// Answers those whom `authenticator` knows from the fleet and from `rows`.
    #[must_use]
    pub(crate) fn new(
        fleet: Live,
        rows: Arc<dyn Rows>,
        feed: Arc<dyn EventFeed>,
        readiness: impl Fn() -> Readiness + Send + Sync + 'static,
        authenticator: Authenticator,
        agent_hub: AgentHub,
        limits: HttpLimits,
    ) -> Self {
        let fleet = Arc::new(fleet);
        Self::over(fleet, rows, feed, readiness, authenticator, agent_hub, limits)
    }

    fn over(
        fleet: Arc<dyn Fleet>,
        rows: Arc<dyn Rows>,
        feed: Arc<dyn EventFeed>,
        readiness: impl Fn() -> Readiness + Send + Sync + 'static,
        authenticator: Authenticator,
        agent_hub: AgentHub,
        limits: HttpLimits,
    ) -> Self {
        let inference = Arc::new(Inference::new(fleet.clone(), limits.timings.clone()));
        let bodies = BodyBudget::new(limits.held_body_bytes);
        let readiness = Box::new(readiness);
        Self {
            inner: Arc::new(Shared {
                fleet,
                inference,
                rows,
                feed,
                readiness,
                bodies,
                authenticator,
                agent_hub,
                limits,
            }),
        }
    }
}

/// Every path that this process answers.
pub fn router(state: AppState) -> Router {
    let authenticate = middleware::from_fn_with_state(state.clone(), auth::authenticate);
    let inference = Router::new()
        .route("/v1/chat/completions", post(completions::chat_completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/embeddings", post(completions::embeddings))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route_layer(middleware::from_fn(auth::may_infer));
    let metrics = Router::new()
        .route("/metrics", get(metrics::page))
        .route_layer(middleware::from_fn(auth::may_query));
    inference
        .nest("/reveille/v1", queries::routes())
        .merge(metrics)
        .route_layer(authenticate)
        // The token is what lets in.
        .route("/reveille/v1/enroll", post(agents::enroll))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(async || ApiError::UnknownPath)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(middleware::from_fn_with_state(state.clone(), metrics::count))
        .layer(middleware::from_fn(request_id::name_requests))
        .with_state(state)
}

/// The answer to what is refused before there is a request.
pub(crate) fn refused(refusal: Refusal) -> Response {
    let mut answer = ApiError::from(refusal).into_response();
    request_id::name_answer(&mut answer);
    answer
}
