//! The paths that reach a backend.

use super::{
    ApiError, AppState,
    body::{self, check_media_type},
    request_id::RequestId,
};
use crate::inference::{Ask, BadBody, BadOption, Options, Stage, Surface, peek, respond, respond_when_known};
use crate::keys::Caller;
use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};

pub(super) async fn chat_completions(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    infer(&state, Surface::ChatCompletions, &id, request).await
}

pub(super) async fn completions(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    infer(&state, Surface::Completions, &id, request).await
}

pub(super) async fn embeddings(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    infer(&state, Surface::Embeddings, &id, request).await
}

async fn infer(
    state: &AppState,
    surface: Surface,
    id: &RequestId,
    request: Request,
) -> Result<Response, ApiError> {
    let shared = &state.inner;
    let (mut parts, body) = request.into_parts();
    let caller = parts.extensions.remove::<Caller>().ok_or(ApiError::NotReady)?;
    let options = Options::read(&parts.headers, shared.limits.timings.wait)?;
    check_media_type(&parts.headers)?;
    let (limit, idle) = (shared.limits.body_bytes, shared.limits.timings.body_idle);
    let body = body::read(&parts.headers, body, limit, idle, &shared.bodies).await?;
    let peeked = peek(&body.bytes, surface)?;
    let ask = Ask {
        surface,
        model: peeked.model,
        caller,
        request_id: id.as_str().to_owned(),
        options,
        headers: parts.headers,
        body: body.bytes,
        held: body.held,
    };
    if peeked.stream {
        respond_when_known(shared.inference.clone(), ask).await
    } else {
        respond(shared.inference.answer(&ask, &Stage::default()).await?)
    }
}

impl From<BadBody> for ApiError {
    fn from(bad: BadBody) -> Self {
        Self::invalid(bad.code, bad.param, bad.message)
    }
}

impl From<BadOption> for ApiError {
    fn from(bad: BadOption) -> Self {
        Self::invalid(
            "invalid_header",
            bad.header,
            format!("{} must be {}", bad.header, bad.expected),
        )
    }
}
