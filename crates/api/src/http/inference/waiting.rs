//! A stream whose request waits: nothing for a while, so that an early failure keeps its status; then 200 and keep-alives
//! until the backend answers, and every later failure as an event.

use super::{
    respond::{Events, Source, error_event, event_stream, events, respond},
    sse_keepalive::{DONE, keepalive},
};
use crate::{
    http::{ApiError, AppState, error_response::name_provider},
    inference::{
        CurrentPhase, Endpoint, InferenceError, InferenceRequest, InferenceResponse, Progress, ResponseBody,
        headers,
    },
    wakes::time_until_awake,
};
use axum::{
    body::{Body, to_bytes},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use reveille_domain::ModelName;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{Instrument, Span};

/// How often a request is checked again that was with its backend when its quiet time was over: it may come back to wait.
const CHECK_AGAIN: Duration = Duration::from_secs(1);
/// How much of a backend's error is read to pass it on as an event, in bytes.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// How long that may take.
const ERROR_WITHIN: Duration = Duration::from_secs(5);

type Answering = BoxFuture<'static, Result<InferenceResponse, InferenceError>>;

/// Answers a request for a stream.
pub(super) async fn respond_when_known(
    state: AppState,
    request: InferenceRequest,
) -> Result<Response, ApiError> {
    let begun = Instant::now();
    let phase = Arc::new(CurrentPhase::default());
    let progress = request.options.progress;
    let keepalives = Keepalives {
        progress,
        endpoint: request.endpoint,
        request_id: request.request_id.clone(),
        model: request.model.clone(),
        phase: phase.clone(),
        state: state.clone(),
        begun,
    };
    let quiet = tokio::time::sleep_until(begun + state.limits.timings.quiet);
    let mut answering = async move { state.inference.answer(&request, &phase).await }.boxed();
    tokio::pin!(quiet);
    loop {
        tokio::select! {
            biased;
            answered = &mut answering => return Ok(respond(answered?)?),
            () = &mut quiet, if progress != Progress::Off => {}
        }
        if keepalives.phase.get().is_ours() {
            return Ok(keepalives.respond(answering));
        }
        quiet.as_mut().reset(Instant::now() + CHECK_AGAIN);
    }
}

/// What a waiting stream says of its request.
struct Keepalives {
    progress: Progress,
    endpoint: Endpoint,
    request_id: String,
    model: ModelName,
    phase: Arc<CurrentPhase>,
    state: AppState,
    begun: Instant,
}

impl Keepalives {
    fn respond(self, answering: Answering) -> Response {
        let phase = self.phase.get();
        let provider = phase.provider();
        let snapshot = provider.and_then(|provider| self.state.registry.get(provider));
        let wake_id = snapshot.and_then(|snapshot| snapshot.provider.status.wake().map(|wake| wake.id));
        let mut ticks = tokio::time::interval(self.state.limits.timings.keepalive);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let waiting = Waiting::ForResponse(Box::new(Pending {
            keepalives: self,
            answering,
            ticks,
        }));
        let span = Span::current();
        let pieces = stream::unfold(waiting, move |waiting| waiting.next().instrument(span.clone()));
        let mut response = event_stream(Body::from_stream(pieces));
        name_provider(response.headers_mut(), provider, wake_id);
        response
    }

    fn next(&self) -> Bytes {
        let phase = self.phase.get();
        let provider = phase.provider();
        let snapshot = provider.and_then(|provider| self.state.registry.get(provider));
        let left = snapshot.and_then(|snapshot| time_until_awake(&snapshot));
        keepalive(
            self.progress,
            self.endpoint,
            &self.request_id,
            &self.model,
            &phase,
            (self.begun.elapsed(), left),
        )
    }
}

/// The body of a response that began before its backend had answered.
enum Waiting {
    ForResponse(Box<Pending>),
    Passing(Events),
    Ended,
}

struct Pending {
    keepalives: Keepalives,
    answering: Answering,
    ticks: Interval,
}

impl Waiting {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            self = match self {
                Self::ForResponse(mut pending) => tokio::select! {
                    biased;
                    answered = &mut pending.answering => match answered {
                        Ok(response) => match pass(response).await {
                            Ok(passing) => Self::Passing(passing),
                            Err(last) => return Some((Ok(last), Self::Ended)),
                        },
                        Err(error) => return Some((Ok(last_events(error)), Self::Ended)),
                    },
                    _ = pending.ticks.tick() => {
                        return Some((Ok(pending.keepalives.next()), Self::ForResponse(pending)));
                    }
                },
                Self::Passing(mut passing) => {
                    let piece = passing.next().await?;
                    return Some((piece, Self::Passing(passing)));
                }
                Self::Ended => return None,
            };
        }
    }
}

/// The error, and the end of the stream if no backend can have seen the request.
fn last_events(error: InferenceError) -> Bytes {
    let is_end = error.never_handed_over();
    let mut events = BytesMut::from(error_event(error, true));
    if is_end {
        events.extend_from_slice(DONE);
    }
    events.freeze()
}

/// The backend's events; or, when it answers with something else, an error event that says so.
async fn pass(response: InferenceResponse) -> Result<Events, Bytes> {
    let is_success = response.is_success();
    let InferenceResponse {
        provider,
        wake_id,
        head,
        body,
    } = response;
    if is_success && headers::is_event_stream(&head) {
        let pieces = match body {
            ResponseBody::Whole(bytes) => stream::iter([Ok(bytes)]).boxed(),
            ResponseBody::Pieces(pieces) => pieces,
        };
        let source = Source {
            provider,
            wake_id,
            span: Span::current(),
        };
        return Ok(events(pieces, source));
    }
    if !is_success && let Ok(Some(event)) = tokio::time::timeout(ERROR_WITHIN, backends_error(body)).await {
        return Err(event);
    }
    let what = if is_success {
        "a request for a stream with something else".to_owned()
    } else {
        format!("with status {}", head.status)
    };
    let error = InferenceError::BadResponse {
        provider,
        wake_id,
        what,
    };
    Err(error_event(error, true))
}

/// The backend's own error object as an event, if it sent one.
async fn backends_error(body: ResponseBody) -> Option<Bytes> {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct BackendError {
        error: serde_json::Map<String, serde_json::Value>,
    }
    let bytes = match body {
        ResponseBody::Whole(bytes) => bytes,
        ResponseBody::Pieces(pieces) => to_bytes(Body::from_stream(pieces), MAX_ERROR_BYTES).await.ok()?,
    };
    let error: BackendError = serde_json::from_slice(&bytes).ok()?;
    let json = serde_json::to_string(&error).ok()?;
    Some(Bytes::from(format!("data: {json}\n\n")))
}
