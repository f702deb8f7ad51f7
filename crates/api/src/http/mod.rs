//! The HTTP API: OpenAI's paths under `/v1`, Reveille's own under `/reveille/v1`, health at the root.
//!
//! Only inference POSTs and an explicit `wake` wake anything; a `GET` never does. Every error has the form that the
//! client's family of APIs gives it, and an `x-request-id`.

mod agents;
mod around;
mod auth;
mod body;
mod check;
mod error;
mod error_response;
mod extract;
mod health;
mod hub;
mod inference;
mod keys;
mod metrics;
mod models;
mod ollama;
mod openapi;
mod origin;
mod paging;
mod path;
mod queries;
mod request_id;
mod router;
mod state;

#[cfg(test)]
mod tests;

pub(crate) use health::Readiness;
#[cfg(test)]
pub(crate) use router::refuse;
pub(crate) use router::{refusal, router};
pub(crate) use state::{AppServices, AppState, HttpLimits};

use error::ApiError;
