//! The body of a stream: a backend's bytes as they come, keep-alives while it is silent, and a visible end.

use super::{
    recorded,
    sse_keepalive::Keepalives,
    sse_position::{Outcome, Position},
};
use crate::{
    http::ApiError,
    inference::{Endpoint, Family, InferenceError, endpoint::StreamEnd},
    requests::{self, Recording},
};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    future::OptionFuture,
    stream::{self, BoxStream},
};
use std::time::Duration;
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};
use tracing::{Instrument, Span};

/// The end of a stream of OpenAI's.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";
/// How long a backend's connection may stay open after the end of its stream: as a rule both come together.
const OPEN_AFTER_END: Duration = Duration::from_secs(1);

/// The pieces of a backend's body; an error means that it broke off, or may have: [`InferenceError::CutShort`] ends every
/// stream, and counts if the stream has told no outcome.
pub(super) type Pieces = BoxStream<'static, Result<Bytes, InferenceError>>;

/// What is sent when the pieces break off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// An event with the error: what is sent are events.
    Event,
    /// Nothing; the connection breaks too.
    Connection,
}

/// A body of these pieces, an answer of this endpoint's. It ends with them, or soon after the last event. The first of
/// `keepalives` is due at `due`.
pub(super) fn body(
    pieces: Pieces,
    endpoint: &Endpoint,
    on_break: Break,
    keepalives: Option<Keepalives>,
    due: Instant,
) -> Body {
    let (family, end) = (endpoint.family, endpoint.stream_end());
    // On the heap, so that its future holds one of them and not three.
    let stream = Box::new(SseStream {
        pieces,
        family,
        end,
        on_break,
        keepalives,
        due,
        position: Position::new(end),
        has_begun: false,
        ends_by: None,
        recording: requests::current(),
    });
    let span = Span::current();
    let pieces = stream::unfold(Some(stream), move |stream| {
        let next = async { stream?.next().await };
        next.instrument(span.clone())
    });
    Body::from_stream(pieces)
}

struct SseStream {
    pieces: Pieces,
    family: Family,
    end: StreamEnd,
    on_break: Break,
    keepalives: Option<Keepalives>,
    /// When the next keep-alive is due, if nothing comes before.
    due: Instant,
    position: Position,
    /// Whether a piece has come.
    has_begun: bool,
    /// When the stream ends even if the backend leaves its connection open.
    ends_by: Option<Instant>,
    recording: Recording,
}

type Next = (Result<Bytes, ApiError>, Option<Box<SseStream>>);

impl SseStream {
    async fn next(mut self: Box<Self>) -> Option<Next> {
        let keepalives = self.keepalives.as_ref();
        let speaking = keepalives.filter(|_| self.ends_by.is_none() && self.position.is_between_events());
        let due = speaking.map(|_| sleep_until(self.due));
        tokio::select! {
            biased;
            piece = self.pieces.next() => match piece? {
                Ok(piece) => Some((Ok(self.pass(piece)), Some(self))),
                Err(error @ InferenceError::CutShort { .. }) => self.ended(error).map(|last| (last, None)),
                Err(error) => {
                    if self.on_break == Break::Connection {
                        // Lets hyper send what it has. It would drop that with the connection, and a caller that hears
                        // nothing sends its request again.
                        yield_now().await;
                    }
                    Some((self.broke_off(error), None))
                }
            },
            Some(()) = OptionFuture::from(self.ends_by.map(sleep_until)) => None,
            Some(()) = OptionFuture::from(due) => {
                let keepalives = self.keepalives.as_mut()?;
                let keepalive = keepalives.next(self.has_begun);
                self.due = Instant::now() + keepalives.every();
                Some((Ok(keepalive), Some(self)))
            }
        }
    }

    fn pass(&mut self, piece: Bytes) -> Bytes {
        self.has_begun = true;
        self.position.pass(&piece);
        let now = Instant::now();
        if let Some(keepalives) = &self.keepalives {
            self.due = now + keepalives.quiet();
        }
        if self.position.has_ended() {
            self.ends_by.get_or_insert(now + OPEN_AFTER_END);
        }
        piece
    }

    /// The last of a body that ended without breaking off; `error` if it did so too early.
    fn ended(&self, error: InferenceError) -> Option<Result<Bytes, ApiError>> {
        let end = match self.position.outcome() {
            Outcome::Done => return None,
            Outcome::Finished if self.end == StreamEnd::Finish => DONE,
            Outcome::Error | Outcome::Finished if self.position.is_between_events() => return None,
            Outcome::Error | Outcome::Finished => b"",
            Outcome::Missing => return Some(self.broke_off(error)),
        };
        Some(Ok(Bytes::from([self.closing(), end].concat())))
    }

    /// What closes the event or line that is open.
    fn closing(&self) -> &'static [u8] {
        if self.position.is_between_events() {
            b""
        } else if self.end == StreamEnd::Done {
            b"\n"
        } else {
            b"\n\n"
        }
    }

    /// The last of a body that broke off.
    fn broke_off(&self, error: InferenceError) -> Result<Bytes, ApiError> {
        let never_handed_over = !self.has_begun && error.never_handed_over();
        let error = ApiError::from(error);
        let response = error.response();
        error.log(&response);
        recorded::failed(&self.recording, &error);
        if self.on_break == Break::Connection {
            return Err(error);
        }
        let mut last = BytesMut::from(self.closing());
        last.extend_from_slice(&response.event_for(self.family));
        // No backend's stream was cut short, so this is its regular end.
        if never_handed_over && self.family == Family::OpenAi {
            last.extend_from_slice(DONE);
        }
        Ok(last.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sse_keepalive::tests::every, *};
    use crate::inference::{BodyFault, endpoint::tests::at};
    use axum::body::BodyDataStream;
    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use reveille_bus::relay::RelayError;

    const QUIET: Duration = Duration::from_secs(8);
    const EVERY: Duration = Duration::from_secs(5);

    type Backend = UnboundedSender<Result<Bytes, InferenceError>>;

    /// A body, and the backend that its pieces come from.
    fn stream() -> (Backend, BodyDataStream) {
        stream_at("/v1/chat/completions")
    }

    fn stream_at(path: &str) -> (Backend, BodyDataStream) {
        let (backend, pieces) = unbounded();
        let keepalives = every(QUIET, EVERY);
        let body = body(
            pieces.boxed(),
            at(path),
            Break::Event,
            Some(keepalives),
            Instant::now() + QUIET,
        );
        (backend, body.into_data_stream())
    }

    fn send(backend: &Backend, piece: &'static str) {
        backend
            .unbounded_send(Ok(Bytes::from_static(piece.as_bytes())))
            .expect("it is read");
    }

    /// The next piece, and how long it took.
    async fn next(body: &mut BodyDataStream) -> (String, Duration) {
        let began = Instant::now();
        let piece = body.next().await.expect("a piece").expect("no error");
        (String::from_utf8(piece.to_vec()).expect("text"), began.elapsed())
    }

    fn secs((piece, took): (String, Duration)) -> (String, u64) {
        (piece, took.as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_backend_gets_keepalives_between_its_events_and_none_within_one() {
        let (backend, mut body) = stream();
        let keepalive = |elapsed| format!(": waking gpu-box/m elapsed={elapsed}s\n");
        assert_eq!(
            secs(next(&mut body).await),
            (keepalive(8), 8),
            "before the first event"
        );
        assert_eq!(secs(next(&mut body).await), (keepalive(13), 5));
        send(&backend, "data: 1\n\n");
        assert_eq!(next(&mut body).await.0, "data: 1\n\n");
        assert_eq!(secs(next(&mut body).await), (keepalive(21), 8), "between events");
        for half in ["data: {\"a", "data: 1\n", "event: x\r\n", ": a comm"] {
            send(&backend, half);
            assert_eq!(next(&mut body).await.0, half);
            let silence = tokio::time::timeout(10 * QUIET, body.next()).await;
            assert!(silence.is_err(), "within an event: {half:?}");
            send(&backend, "\n\n");
            assert_eq!(next(&mut body).await.0, "\n\n");
        }
        assert!(next(&mut body).await.0.starts_with(": waking "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_over_soon_after_its_end_even_if_the_backend_leaves_the_connection_open() {
        for end in [
            "data: [DONE]\n\n",
            "data: [DONE]\r\r",
            "data:[DONE]\n",
            "data: [DONE]",
        ] {
            let (backend, mut body) = stream();
            send(&backend, end);
            send(&backend, ": bye\n\n");
            assert_eq!(next(&mut body).await.0, end);
            assert_eq!(next(&mut body).await.0, ": bye\n\n");
            let began = Instant::now();
            assert!(body.next().await.is_none());
            assert_eq!(began.elapsed(), OPEN_AFTER_END);
            drop(body);
            assert!(backend.is_closed(), "the backend's connection is closed");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_ends_its_stream_is_not_waited_for() {
        let (backend, mut body) = stream();
        send(&backend, "data: [DONE]\n\n");
        drop(backend);
        assert_eq!(next(&mut body).await.0, "data: [DONE]\n\n");
        let began = Instant::now();
        assert!(body.next().await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    /// What is added to a stream of a path that ends after these bytes.
    async fn added(path: &str, sent: &'static str) -> String {
        let (backend, body) = stream_at(path);
        send(&backend, sent);
        let end = InferenceError::CutShort {
            provider: "gpu-box/vllm".parse().expect("legal"),
            wake_id: None,
        };
        backend.unbounded_send(Err(end)).expect("it is read");
        drop(backend);
        let pieces: Vec<_> = body.map(|piece| piece.expect("no error")).collect().await;
        let all = String::from_utf8(pieces.concat()).expect("text");
        all.strip_prefix(sent).expect("what was sent").to_owned()
    }

    #[tokio::test]
    async fn only_a_stream_that_ends_as_its_familys_do_ends_without_an_error() {
        for (path, cut, whole) in [
            (
                "/v1/messages",
                "event: message_delta\ndata: {\"finish_reason\":\"stop\",\"done\":true}\n\n",
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ),
            (
                "/v1/responses",
                "event: response.output_text.done\ndata: {}\n\n",
                "event: response.completed\ndata: {}\n\n",
            ),
            (
                "/v1/messages",
                "event: ping\ndata: {}\n\n",
                "event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n",
            ),
            (
                "/completion",
                "data: {\"content\":\"a\",\"stop\":false}\n\n",
                "data: {\"content\":\"\", \"stop\": true}\n\n",
            ),
            (
                "/api/chat",
                "{\"done\":false}\n",
                "{\"message\":{},\"done\":true}\n",
            ),
            ("/api/chat", "{\"done\":", "{\"error\":\"no\"}\n"),
            (
                "/v1/audio/transcriptions",
                "data: {\"a\"",
                "data: {\"type\":\"transcript.text.done\"}\n\n",
            ),
        ] {
            let error = added(path, cut).await;
            let code = "\"code\":\"backend_failed\"";
            assert!(
                error.contains(code) && !error.contains("[DONE]"),
                "{path}: {error}"
            );
            assert!(error.ends_with('\n'), "{path}: {error}");
            assert_eq!(added(path, whole).await, "", "{path}");
        }
        // Its last line needs no end.
        for last in ["{\"done\":true}", "{\"error\":\"no\"}"] {
            assert_eq!(added("/api/generate", last).await, "\n", "{last}");
        }
        let finished = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n";
        assert_eq!(added("/v1/completions", finished).await, "data: [DONE]\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_ends_a_stream_regularly_only_if_no_backend_can_have_begun_its_answer() {
        let not_reached = || InferenceError::Relay {
            provider: "gpu-box/vllm".parse().expect("legal"),
            wake_id: None,
            error: Box::new(RelayError::NoResponders),
            failing_for: None,
        };
        // The backend may have got the beginning of the form.
        let broke_off = || InferenceError::Body(BodyFault::BrokeOff);
        for (error, is_regular) in [(not_reached(), true), (broke_off(), false)] {
            let (backend, mut body) = stream();
            assert!(next(&mut body).await.0.starts_with(": waking "));
            backend.unbounded_send(Err(error)).expect("it is read");
            let last = next(&mut body).await.0;
            assert_eq!(last.contains("[DONE]"), is_regular, "{last}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_breaks_within_an_event_closes_the_event_before_the_error() {
        for (begun, between) in [("data: 1\n\n", ""), ("data: 1\r\r", ""), ("data: {\"a", "\n\n")] {
            let (backend, mut body) = stream();
            send(&backend, begun);
            let error = InferenceError::Relay {
                provider: "gpu-box/vllm".parse().expect("legal"),
                wake_id: None,
                error: Box::new(RelayError::NoResponders),
                failing_for: None,
            };
            backend.unbounded_send(Err(error)).expect("it is read");
            assert_eq!(next(&mut body).await.0, begun);
            let last = next(&mut body).await.0;
            assert!(
                last.starts_with(&format!("{between}data: {{\"error\":")),
                "{last}"
            );
            assert!(body.next().await.is_none() && !last.contains("[DONE]"));
        }
    }
}
