//! Every path that this process answers, and to whom.

use super::{
    ApiError, AppState, agents,
    auth::{self, Check},
    health, hub, inference, keys, metrics, models, origin, path,
    queries::{events, llms, providers, status, wakes},
    request_id,
};
use crate::{
    inference::Endpoint,
    keys::Caller,
    origin::{OriginPolicy, quoted},
    server::Refuse,
};
use axum::{
    Router,
    extract::Request,
    http::{header, uri::Authority},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use reveille_domain::Scope;
use reveille_http1_guard::ProtocolError;
use std::sync::Arc;
use tower_service::Service as _;

/// All paths. A request is routed by [`path::plain`], so every layer sees the path that is answered.
pub(crate) fn router(state: AppState, policy: OriginPolicy) -> Router {
    let routes = routes(state, policy);
    Router::new().fallback(move |request: Request| {
        let mut routes = routes.clone();
        async move { routes.call(path::plain(request)).await }
    })
}

fn routes(state: AppState, policy: OriginPolicy) -> Router {
    let scheme = policy.scheme();
    let cors = origin::cors(&policy);
    let policy = Arc::new(policy);
    let check_host = middleware::from_fn_with_state(policy.clone(), origin::check_host);
    let check_origin = middleware::from_fn_with_state(policy, origin::check);
    let authenticate = middleware::from_fn_with_state(state.clone(), auth::authenticate);
    let require = |check: Check| middleware::from_fn_with_state(check, auth::require);
    let inference = Router::new()
        .route("/v1/chat/completions", infer(Endpoint::ChatCompletions))
        .route("/v1/completions", infer(Endpoint::Completions))
        .route("/v1/embeddings", infer(Endpoint::Embeddings))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route_layer(require(Caller::require_infer));
    let queries = Router::new()
        .route("/metrics", get(metrics::page))
        .nest("/reveille/v1", queries())
        .route_layer(require(|caller| caller.require(&Scope::Query)));
    let commands = Router::new()
        .nest("/reveille/v1", commands())
        .route_layer(require(|caller| caller.require(&Scope::Admin)));
    let access = Router::new()
        .nest("/reveille/v1", access())
        .route_layer(require(Caller::require_admin_key));
    let router = inference
        .merge(queries)
        .merge(commands)
        .merge(access)
        .route_layer(authenticate)
        // The token in the body authenticates this one.
        .route("/reveille/v1/enroll", post(agents::enroll))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(move |request: Request| async move { unknown_path(&request, scheme) })
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(check_origin)
        .layer(middleware::from_fn_with_state(state.clone(), hub::refuse_loops));
    // Outside of all that refuses a page, so that an allowed one can read why; but a foreign host gets no preflight answered.
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router
        .layer(check_host)
        .layer(middleware::from_fn_with_state(state.clone(), metrics::count))
        .layer(middleware::from_fn_with_state(state.clone(), hub::name_hub))
        .layer(middleware::from_fn(request_id::name_requests))
        .with_state(state)
}

/// Names the base URL that a client should have, as this client reaches the API.
fn unknown_path(request: &Request, scheme: &str) -> ApiError {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(Authority::as_str).or(host);
    // A proxy in front may speak TLS for us.
    let forwarded = request.headers().get("x-forwarded-proto");
    let scheme = if forwarded.is_some_and(|forwarded| forwarded == "https") {
        "https"
    } else {
        scheme
    };
    ApiError::UnknownPath {
        path: quoted(request.uri().path().as_bytes()),
        base: authority.map_or_else(String::new, |authority| format!("{scheme}://{authority}")),
    }
}

fn infer(endpoint: Endpoint) -> MethodRouter<AppState> {
    post(move |state, id, request| inference::infer(endpoint, state, id, request))
}

fn queries() -> Router<AppState> {
    Router::new()
        .route("/llms", get(llms::list))
        .route("/llms/{agent}/{*model}", get(llms::one))
        .route("/providers", get(providers::list))
        .route("/providers/{agent}/{provider}", get(providers::one))
        .route("/wakes", get(wakes::list))
        .route("/wakes/{id}", get(wakes::one))
        .route("/events", get(events::list_or_follow))
        .route("/agents", get(agents::list))
        .route("/status", get(status::status))
}

fn commands() -> Router<AppState> {
    Router::new()
        .route("/providers/{agent}/{provider}/wake", post(providers::wake))
        .route("/providers/{agent}/{provider}/sleep", post(providers::sleep))
        .route("/keys", get(keys::list))
}

/// What lets somebody in or shuts somebody out.
fn access() -> Router<AppState> {
    Router::new()
        .route("/agents/{agent}", delete(agents::revoke))
        .route("/agents/{agent}/providers", delete(agents::forget))
        .route("/agents/{agent}/tokens", post(agents::issue_token))
        .route("/keys", post(keys::create))
        .route("/keys/{id}", delete(keys::revoke))
        .route("/keys/{id}/rotate", post(keys::rotate))
}

/// Makes the responses to bytes that make no request. They name the hub as all others do.
pub(crate) fn refusal(state: AppState) -> Refuse {
    Arc::new(move |error| {
        let mut response = refuse(error);
        hub::add_hub(response.headers_mut(), &state);
        response
    })
}

/// The response to bytes that make no request.
pub(crate) fn refuse(error: ProtocolError) -> Response {
    let mut response = ApiError::from(error).into_response();
    request_id::name_response(&mut response);
    response
}
