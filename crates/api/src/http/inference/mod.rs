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

use self::{arriving::Reading, asked::Head};
use super::{ApiError, AppState, ollama, request_id::RequestId};
use crate::{
    inference::{
        BadBody, BadOption, CurrentPhase, Endpoint, InferenceError, InferenceRequest, Options, WakeMode,
        endpoint::SHOW, headers::PassedOn,
    },
    keys::Caller,
    requests::{note, within},
};
use axum::{
    Extension,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use std::borrow::Cow;

/// Answers a request for `path`, one of the endpoint's, and records it.
///
/// A request may wait for minutes. So each step is a future of its own on the heap, which ends before the next one begins: while the
/// request waits, there is no room for what reads it, and its head is gone, which would keep a buffer of its connection.
pub(super) fn infer(
    endpoint: &'static Endpoint,
    path: impl Into<Cow<'static, str>>,
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    mut request: Request,
) -> BoxFuture<'static, Result<Response, ApiError>> {
    let Some(caller) = request.extensions_mut().remove::<Caller>() else {
        return ready(Err(ApiError::NotReady)).boxed();
    };
    let path = path.into();
    let recording = recorded::begin(&state.recorder, &id, &caller, endpoint, &path);
    let reading = read(endpoint, path, state.clone(), caller, id, request).boxed();
    let answering = async move {
        let Read {
            request,
            stream,
            rest,
        } = reading.await?;
        let answering = if stream {
            waiting::respond_when_known(state, request, rest).boxed()
        } else {
            respond_whole(state, request, rest).boxed()
        };
        answering.await
    };
    let answering = within(recording.clone(), answering);
    answering
        .map(move |answered| recorded::end(&recording, answered))
        .boxed()
}

/// A request as far as it has been read.
struct Read {
    request: Box<InferenceRequest>,
    stream: bool,
    /// What reads the rest of its body, if it isn't all there.
    rest: Option<Box<Reading>>,
}

async fn read(
    endpoint: &'static Endpoint,
    path: Cow<'static, str>,
    state: AppState,
    caller: Caller,
    id: RequestId,
    request: Request,
) -> Result<Read, ApiError> {
    let (parts, body) = request.into_parts();
    let mut options = Options::read(&parts.headers, state.limits.timings.wait, caller.progress())?;
    if !endpoint.wakes {
        options.wake = WakeMode::Never;
    }
    let head = Head {
        state: &state,
        caller: &caller,
        options: &options,
        endpoint,
        path: &path,
        parts: &parts,
    };
    let asked = head.asked(body).await?;
    note(|recording| recording.asked(&asked.model, asked.stream));
    let request = Box::new(InferenceRequest {
        endpoint,
        path: asked.path,
        model: asked.model,
        member: asked.member,
        caller,
        request_id: id.as_str().to_owned(),
        options,
        headers: PassedOn::of(&parts.headers),
        body: asked.body,
    });
    Ok(Read {
        request,
        stream: asked.stream,
        rest: asked.reading,
    })
}

/// Answers a request for anything but a stream.
async fn respond_whole(
    state: AppState,
    request: Box<InferenceRequest>,
    rest: Option<Box<Reading>>,
) -> Result<Response, ApiError> {
    let phase = CurrentPhase::default();
    let answering = Box::pin(state.inference.answer(&request, &phase));
    match arriving::while_reading(rest, answering).await {
        Err(InferenceError::Asleep { .. }) if request.path == SHOW => {
            Ok(ollama::show(&state, &request).into_response())
        }
        answered => Ok(respond::respond(request.endpoint, answered?, None)?),
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
