//! A request for a stream: nothing for a while, so that an early failure keeps its status; then 200 and keep-alives until
//! the backend answers, and every later failure as an event.

use super::{
    arriving::{Reading, while_reading},
    as_events::as_events,
    recorded,
    respond::{begun_stream, respond},
    sse_keepalive::Keepalives,
    sse_stream::{self, Break},
};
use crate::{
    http::{ApiError, AppState, error_response::name_provider},
    inference::{CurrentPhase, Endpoint, Family, InferenceRequest},
    requests::{in_current, note},
};
use axum::{body::Body, response::Response};
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span};

/// Answers a request for a stream.
pub(super) async fn respond_when_known(
    state: AppState,
    request: Box<InferenceRequest>,
    rest: Option<Box<Reading>>,
) -> Result<Response, ApiError> {
    let phase = Arc::new(CurrentPhase::default());
    let keepalives = Keepalives::new(&state, &request, phase.clone());
    let (quiet, endpoint) = (state.limits.timings.quiet, request.endpoint);
    let family = endpoint.family;
    let ignores_should_retry = request.options.ignores_should_retry;
    let answering = async move {
        let answering = Box::pin(state.inference.answer(&request, &phase));
        while_reading(rest, answering).await
    };
    let mut answering = in_current(answering.instrument(Span::current())).boxed();
    let Some(keepalives) = keepalives else {
        return Ok(respond(endpoint, answering.await?, None)?);
    };
    tokio::select! {
        biased;
        answered = &mut answering => match answered {
            Ok(response) => return Ok(respond(endpoint, response, Some(keepalives))?),
            Err(error) => return refused(endpoint, ApiError::from(error), ignores_should_retry),
        },
        () = sleep(quiet) => {}
    }
    let (phase, snapshot) = (keepalives.phase(), keepalives.snapshot());
    let wake_id = snapshot.and_then(|snapshot| snapshot.provider.status.wake().map(|wake| wake.id));
    let events = answering.then(move |answered| as_events(family, answered).boxed());
    let events = events.into_stream().flatten().boxed();
    let body = sse_stream::body(events, endpoint, Break::Event, Some(keepalives), Instant::now());
    let mut response = begun_stream(family, body);
    name_provider(response.headers_mut(), phase.provider(), wake_id);
    Ok(response)
}

/// An error before the stream has begun: with its status, or as the only event for a client that would send the request again.
fn refused(
    endpoint: &'static Endpoint,
    error: ApiError,
    ignores_should_retry: bool,
) -> Result<Response, ApiError> {
    let (family, response) = (endpoint.family, error.response());
    if family != Family::Responses || !ignores_should_retry || !response.is_lasting {
        return Err(error);
    }
    error.log(&response);
    note(|recording| recorded::failed(recording, &error));
    let event = Body::from(response.event_for(family));
    Ok(begun_stream(family, event))
}
