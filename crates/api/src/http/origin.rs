//! What pages in browsers may do here: the check of `Origin`, and the CORS headers for the pages that are allowed.

use super::{
    error_response::{PROVIDER, WAKE_ID},
    request_id::X_REQUEST_ID,
};
use crate::{
    inference::{Endpoint, Verb},
    origin::{Origin, OriginError, OriginPolicy},
};
use axum::{
    extract::Request,
    http::{HeaderName, Method, header},
};
use std::time::Duration;
use tower_http::cors::{AllowHeaders, CorsLayer};

/// How long a browser remembers what it may send; Chromium remembers for no longer than this.
const PREFLIGHT_LASTS: Duration = Duration::from_secs(2 * 60 * 60);

/// What a page may read of an answer, beside the headers that every page may.
const EXPOSED: [HeaderName; 9] = [
    X_REQUEST_ID,
    PROVIDER,
    WAKE_ID,
    header::RETRY_AFTER,
    HeaderName::from_static("retry-after-ms"),
    HeaderName::from_static("x-should-retry"),
    HeaderName::from_static("openai-model"),
    HeaderName::from_static("openai-processing-ms"),
    HeaderName::from_static("openai-version"),
];

/// Refuses requests of foreign pages that change, wake, cost or hold something.
pub(super) fn check(policy: &OriginPolicy, request: &Request) -> Result<(), OriginError> {
    let uses_a_backend = Endpoint::find(Verb::Get, request.uri().path()).is_some();
    policy.check(request, uses_a_backend)
}

/// Answers the preflights of the allowed origins, and lets their pages read every answer. `None` when no origin is allowed.
pub(super) fn cors(policy: &OriginPolicy) -> Option<CorsLayer> {
    let origins: Vec<_> = policy.origins().iter().map(Origin::as_header).cloned().collect();
    let cors = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // OpenAI's client alone sends a dozen of its own, and a page of an allowed origin may send any.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(PREFLIGHT_LASTS)
        // A page of a public site may ask an API on loopback, if the browser's user agrees.
        .allow_private_network(true);
    (!origins.is_empty()).then(|| cors.allow_origin(origins))
}
