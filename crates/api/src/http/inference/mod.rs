//! The paths that reach a backend.

mod arriving;
mod as_events;
mod asked;
mod backend_error;
mod completion;
mod decoded;
mod recorded;
mod respond;
mod sniff;
mod sse_keepalive;
mod sse_position;
mod sse_stream;
mod waiting;

pub(super) use respond::event_stream;

use self::asked::{Asked, Head};
use super::{ApiError, AppState, ollama, request_id::RequestId};
use crate::{
    inference::{
        BadBody, BadOption, CurrentPhase, Endpoint, InferenceError, InferenceRequest, Options, WakeMode,
        endpoint::SHOW, headers,
    },
    keys::Caller,
    requests::{note, within},
};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::request::Parts,
    response::{IntoResponse, Response},
};

/// Answers a request for `path`, one of the endpoint's, and records it.
pub(super) async fn infer(
    endpoint: &'static Endpoint,
    path: &str,
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let caller = parts.extensions.remove::<Caller>().ok_or(ApiError::NotReady)?;
    let recording = recorded::begin(&state.recorder, &id, &caller, endpoint, path);
    let answering = answer(endpoint, path, state, caller, id, parts, body);
    recorded::end(&recording, within(recording.clone(), answering).await)
}

async fn answer(
    endpoint: &'static Endpoint,
    path: &str,
    state: AppState,
    caller: Caller,
    id: RequestId,
    parts: Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let mut options = Options::read(&parts.headers, state.limits.timings.wait, caller.progress())?;
    if !endpoint.wakes {
        options.wake = WakeMode::Never;
    }
    let head = Head {
        state: &state,
        caller: &caller,
        options: &options,
        endpoint,
        path,
        parts: &parts,
    };
    // On the heap, so that a request that waits holds no room for what reads requests.
    let Asked {
        model,
        member,
        stream,
        path: sent_path,
        body,
        reading,
    } = Box::pin(head.asked(body)).await?;
    note(|recording| recording.asked(&model, stream));
    let request = InferenceRequest {
        endpoint,
        path: sent_path,
        model,
        member,
        caller,
        request_id: id.as_str().to_owned(),
        options,
        headers: headers::passed_on(&parts.headers),
        body,
    };
    drop(parts);
    if stream {
        waiting::respond_when_known(state, request, reading).await
    } else {
        let phase = CurrentPhase::default();
        let answering = Box::pin(state.inference.answer(&request, &phase));
        match arriving::while_reading(reading, answering).await {
            Err(InferenceError::Asleep { .. }) if path == SHOW => {
                Ok(ollama::show(&state, &request).into_response())
            }
            answered => Ok(respond::respond(endpoint, answered?, None)?),
        }
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
