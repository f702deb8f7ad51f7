//! A stream whose request waits: nothing for a while, so that a failure keeps its status; then 200 and heartbeats until
//! the backend answers, and every failure from then on as an event.

use super::{
    Answered, Ask, Fleet, Inference, Phase, Progress, RelayedBody, Stage, Surface, headers,
    heartbeat::{DONE, heartbeat},
    respond,
    respond::{EventBody, error_event},
};
use crate::{
    http::{ApiError, name_provider},
    wakes::time_until_awake,
};
use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use reveille_domain::ModelName;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{Instrument, Span};

/// How often a request is looked at again that was with its backend when its quiet time was over: it may come back to
/// wait.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How much of a backend's error is read to pass it on as an event, in bytes.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// And how long it may take.
const ERROR_WITHIN: Duration = Duration::from_secs(5);

type Answering = BoxFuture<'static, Result<Answered, ApiError>>;

/// Answers a request for a stream.
pub(crate) async fn respond_when_known(inference: Arc<Inference>, ask: Ask) -> Result<Response, ApiError> {
    let begun = Instant::now();
    let stage = Arc::new(Stage::default());
    let progress = ask.options.progress;
    let told = Told {
        progress,
        surface: ask.surface,
        request_id: ask.request_id.clone(),
        model: ask.model.clone(),
        stage: stage.clone(),
        fleet: inference.fleet.clone(),
        begun,
    };
    let timings = inference.timings.clone();
    let work = inference.clone();
    let mut answering = async move { work.answer(&ask, &stage).await }.boxed();
    let quiet = tokio::time::sleep_until(begun + timings.quiet);
    tokio::pin!(quiet);
    loop {
        tokio::select! {
            biased;
            answered = &mut answering => return respond(answered?),
            () = &mut quiet, if progress != Progress::Off => {}
        }
        if told.stage.phase().is_ours() {
            return Ok(told.respond(&inference, answering, timings.heartbeat));
        }
        quiet.as_mut().reset(Instant::now() + LOOK_AGAIN);
    }
}

/// What a waiting stream tells, and of whom.
struct Told {
    progress: Progress,
    surface: Surface,
    request_id: String,
    model: ModelName,
    stage: Arc<Stage>,
    fleet: Arc<dyn Fleet>,
    begun: Instant,
}

impl Told {
    fn respond(self, inference: &Inference, answering: Answering, period: Duration) -> Response {
        let phase = self.stage.phase();
        let provider = phase.provider();
        let known = provider.and_then(|provider| inference.fleet.get(provider));
        let wake_id = known.and_then(|known| known.provider.status.wake().map(|wake| wake.id));
        let mut beats = tokio::time::interval(period);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let waiting = Waiting::Beating(Box::new(Beating {
            told: self,
            answering,
            beats,
        }));
        let span = Span::current();
        let pieces = stream::unfold(waiting, move |waiting| waiting.next().instrument(span.clone()));
        let mut response = Response::new(Body::from_stream(pieces));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        );
        headers::unbuffered(headers);
        name_provider(headers, provider, wake_id);
        response
    }

    fn heartbeat(&self) -> Bytes {
        let phase: Phase = self.stage.phase();
        let elapsed = self.begun.elapsed();
        let known = phase.provider().and_then(|provider| self.fleet.get(provider));
        let left = known.and_then(|known| time_until_awake(&known));
        heartbeat(
            self.progress,
            self.surface,
            &self.request_id,
            &self.model,
            &phase,
            (elapsed, left),
        )
    }
}

/// The body of a response that was begun before its answer was known.
enum Waiting {
    Beating(Box<Beating>),
    Passing(Box<EventBody>),
    Ended,
}

struct Beating {
    told: Told,
    answering: Answering,
    beats: Interval,
}

impl Waiting {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            self = match self {
                Self::Beating(mut beating) => tokio::select! {
                    biased;
                    answered = &mut beating.answering => match answered {
                        Ok(answered) => match pass(answered).await {
                            Ok(passing) => Self::Passing(Box::new(passing)),
                            Err(last) => return Some((Ok(last), Self::Ended)),
                        },
                        Err(error) => return Some((Ok(last_words(&error)), Self::Ended)),
                    },
                    _ = beating.beats.tick() => {
                        return Some((Ok(beating.told.heartbeat()), Self::Beating(beating)));
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
fn last_words(error: &ApiError) -> Bytes {
    let mut words = BytesMut::from(&error_event(error, true)[..]);
    if error.never_handed_over() {
        words.extend_from_slice(DONE);
    }
    words.freeze()
}

/// The backend's events; or, when it answers with something else, an error event that says so.
async fn pass(answered: Answered) -> Result<EventBody, Bytes> {
    let is_success = answered.is_success();
    let Answered {
        provider,
        wake_id,
        head,
        body,
        counted,
        first_byte,
    } = answered;
    if is_success && headers::is_event_stream(&head) {
        let pieces = match body {
            RelayedBody::Whole(bytes) => stream::iter([Ok(bytes)]).boxed(),
            RelayedBody::Pieces(pieces) => pieces,
        };
        return Ok(EventBody::new(pieces, (provider, wake_id), counted, first_byte));
    }
    if !is_success && let Ok(Some(event)) = tokio::time::timeout(ERROR_WITHIN, backends_error(body)).await {
        return Err(event);
    }
    let what = if is_success {
        "a request for a stream with something else".to_owned()
    } else {
        format!("with status {}", head.status)
    };
    Err(error_event(
        &ApiError::BadAnswer {
            provider,
            wake_id,
            what,
        },
        true,
    ))
}

/// The backend's own error object as an event, when it sent one.
async fn backends_error(body: RelayedBody) -> Option<Bytes> {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct ErrorBody {
        error: serde_json::Map<String, serde_json::Value>,
    }
    let bytes = match body {
        RelayedBody::Whole(bytes) => bytes,
        RelayedBody::Pieces(mut pieces) => {
            let mut read = BytesMut::new();
            while let Some(piece) = pieces.next().await {
                let piece = piece
                    .ok()
                    .filter(|piece| read.len() + piece.len() <= MAX_ERROR_BYTES)?;
                read.extend_from_slice(&piece);
            }
            read.freeze()
        }
    };
    let error: ErrorBody = serde_json::from_slice(&bytes).ok()?;
    Some(Bytes::from(format!(
        "data: {}\n\n",
        serde_json::to_string(&error).ok()?
    )))
}
