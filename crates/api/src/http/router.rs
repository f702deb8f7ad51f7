//! Every path that this process answers, and to whom.

use super::{
    ApiError, AppState, agents,
    around::AroundAll,
    auth::Authenticate,
    check::Check,
    health, hub, inference, keys, metrics, models, ollama, openapi, origin, path,
    queries::{events, llms, providers, requests, status, wakes, why},
    request_id::{self, RequestId},
};
use crate::{
    inference::{
        Endpoint, Verb,
        endpoint::{ENDPOINTS, EXTRA, nearest_path},
    },
    keys::{Caller, Denied},
    origin::{OriginPolicy, quoted},
    registry::ProviderSnapshot,
    server::Refuse,
};
use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{header, uri::Authority},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, any, delete, get, on, post},
};
use reveille_domain::Scope;
use reveille_http1_guard::ProtocolError;
use std::{
    sync::Arc,
    task::{Context, Poll},
};
use tower::{Service, util::option_layer};

/// Answers requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Router);

/// All paths.
pub(crate) fn router(state: AppState, policy: OriginPolicy) -> Api {
    Api(routes(state, policy))
}

impl<B> Service<Request<B>> for Api
where
    Router: Service<Request<B>>,
{
    type Response = <Router as Service<Request<B>>>::Response;
    type Error = <Router as Service<Request<B>>>::Error;
    type Future = <Router as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<B>>::poll_ready(&mut self.0, cx)
    }

    /// Routes the request by [`path::plain`], so that every layer sees the path that is answered.
    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.call(path::plain(request))
    }
}

fn routes(state: AppState, policy: OriginPolicy) -> Router {
    let (scheme, cors) = (policy.scheme(), origin::cors(&policy));
    let authenticate = |check: fn(&Caller) -> Result<(), Denied>| Authenticate {
        state: state.clone(),
        check,
    };
    let extra_path = on(MethodFilter::POST, extra_path)
        .fallback(async || ApiError::MethodNotAllowed)
        .with_state(state.clone());
    // Which paths the providers' configs have is for callers alone.
    let other_paths = any(move |State(state): State<AppState>, request: Request| {
        extra_path_or_unknown(state, extra_path.clone(), request, scheme)
    });
    let inference = inference_paths()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one).post(models::command))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::running))
        .route("/api/version", get(ollama::version))
        .route("/openapi.json", get(openapi::document))
        .route_layer(authenticate(Caller::require_infer));
    let queries = Router::new()
        .route("/metrics", get(metrics::page))
        .nest("/reveille/v1", queries())
        .route_layer(authenticate(|caller| caller.require(&Scope::Query)));
    // Each key sees its own.
    let own = Router::new()
        .nest("/reveille/v1", own())
        .route_layer(authenticate(|_| Ok(())));
    let commands = Router::new()
        .nest("/reveille/v1", commands())
        .route_layer(authenticate(|caller| caller.require(&Scope::Admin)));
    let access = Router::new()
        .nest("/reveille/v1", access())
        .route_layer(authenticate(Caller::require_admin_key));
    let router = inference
        .merge(queries)
        .merge(own)
        .merge(commands)
        .merge(access)
        // The token in the body authenticates this one.
        .route("/reveille/v1/enroll", post(agents::enroll))
        .route("/", get(ollama::root))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback_service(
            other_paths
                .layer(authenticate(|_| Ok(())))
                .with_state(state.clone()),
        )
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    let (policy, hubs) = (Arc::new(policy), state.clone());
    let origins = policy.clone();
    let layers = (
        AroundAll(state.clone()),
        Check(move |request: &Request| policy.check_host(request)),
        // Outside of all that refuses a page, so that an allowed one can read why; but a foreign host gets no preflight answered.
        option_layer(cors),
        Check(move |request: &Request| hub::check_loops(&hubs, request.headers())),
        Check(move |request: &Request| origin::check(&origins, request)),
    );
    router.layer(layers).with_state(state)
}

/// Answers a path that some provider has in its config.
async fn extra_path_or_unknown(
    state: AppState,
    mut extra_path: MethodRouter,
    request: Request,
    scheme: &'static str,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let has = |snapshot: &Arc<ProviderSnapshot>| {
        let mut extra = snapshot.provider.spec.extra_paths().iter();
        extra.any(|extra| extra.as_str() == path)
    };
    if !state.registry.all().iter().any(has) {
        return Err(unknown_path(&request, scheme));
    }
    let caller = request.extensions().get::<Caller>().ok_or(ApiError::NotReady)?;
    caller.require_infer()?;
    let Ok(response) = extra_path.call(request).await;
    Ok(response)
}

async fn extra_path(
    state: State<AppState>,
    id: Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let path = request.uri().path().to_owned();
    inference::infer(&EXTRA, path, state, id, request).await
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
        nearest: nearest_path(request.uri().path()),
        base: authority.map_or_else(String::new, |authority| format!("{scheme}://{authority}")),
    }
}

/// Each path of each endpoint.
fn inference_paths() -> Router<AppState> {
    let paths = ENDPOINTS
        .iter()
        .flat_map(|endpoint| endpoint.paths.iter().map(move |path| (endpoint, *path)));
    paths.fold(Router::new(), |router, (endpoint, path)| {
        router.route(path, infer(endpoint, path))
    })
}

fn infer(endpoint: &'static Endpoint, path: &'static str) -> MethodRouter<AppState> {
    let method = match endpoint.verb {
        Verb::Get => MethodFilter::GET,
        Verb::Post => MethodFilter::POST,
        Verb::Delete => MethodFilter::DELETE,
    };
    on(method, move |state, id, request| {
        inference::infer(endpoint, path, state, id, request)
    })
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

fn own() -> Router<AppState> {
    Router::new()
        .route("/requests", get(requests::list))
        .route("/requests/{id}", get(requests::one))
        .route("/usage", get(requests::usage))
        .route("/why/{*id}", get(why::why))
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
