//! The paths that reach a backend.

mod as_events;
mod backend_error;
mod completion;
mod decoded;
mod respond;
mod sniff;
mod sse_keepalive;
mod sse_position;
mod sse_stream;
mod waiting;

pub(super) use respond::event_stream;

use super::{
    ApiError, AppState,
    body::{self, BodyLimit, check_media_type},
    request_id::RequestId,
};
use crate::{
    inference::{
        AskedModel, BadBody, BadOption, CurrentPhase, Endpoint, InferenceRequest, Options, default_for, peek,
    },
    keys::Caller,
};
use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use tokio::time::Instant;

pub(super) async fn infer(
    endpoint: Endpoint,
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let caller = parts.extensions.remove::<Caller>().ok_or(ApiError::NotReady)?;
    let options = Options::read(&parts.headers, state.limits.timings.wait)?;
    check_media_type(&parts.headers, &body)?;
    let limit = BodyLimit {
        bytes: state.limits.body_bytes,
        flag: Some("--max-body"),
    };
    let idle = state.limits.timings.body_idle;
    let mut body = body::read(&parts.headers, body, limit, idle, &state.bodies).await?;
    let peeked = peek(&body.bytes, endpoint)?;
    let model = match peeked.model {
        AskedModel::Named(model) => model,
        AskedModel::Unnamed(gap) => {
            let (registry, startup, default) =
                (&state.registry, &state.startup, state.default_model.as_ref());
            let find = || default_for(registry, startup, &caller, default, &gap);
            let model = startup.wait_for(Instant::now() + options.wait, find).await?;
            body.bytes = gap.filled(&body.bytes, &model);
            model
        }
    };
    let request = InferenceRequest {
        endpoint,
        model,
        caller,
        request_id: id.as_str().to_owned(),
        options,
        headers: parts.headers,
        body: body.bytes,
        held: body.held,
    };
    if peeked.stream {
        waiting::respond_when_known(state, request).await
    } else {
        let phase = CurrentPhase::default();
        Ok(respond::respond(
            state.inference.answer(&request, &phase).await?,
            None,
        )?)
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
