//! What the outcome of a request shows of its backend, and what its caller is told.

use crate::{
    config::ProviderConfig,
    fetch,
    http1::{SendError, SendProgress, is_gone, wrong_answer},
    provider::{Handle, Input, Slot, Symptom},
    verify::is_engine_failure,
};
use http::{StatusCode, header::CONTENT_ENCODING, response::Parts};
use reveille_bus::relay::{AnswerKind, Content, FaultCode, RelayFault, Said};
use std::time::Duration;
use tokio::time::Instant;

/// How long a caller must have waited when it gives up, for a connection or for an answer, for that to be a sign that the backend is
/// gone or dead.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);

/// When a request broke off.
#[derive(Debug, Clone, Copy)]
pub(super) enum Broken {
    /// Before the head of its answer.
    BeforeAnswer,
    /// In the middle of its answer.
    MidAnswer,
}

/// A request that waits for its connection. If it is dropped meanwhile, because its caller has left, the owner hears of it: callers
/// may all be more impatient than the time-out of connections.
pub(super) struct Connecting<'a> {
    handle: &'a Handle,
    began: Instant,
    has_ended: bool,
}

impl<'a> Connecting<'a> {
    pub fn begin(handle: &'a Handle) -> Self {
        Self {
            handle,
            began: Instant::now(),
            has_ended: false,
        }
    }

    pub fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        if !self.has_ended && self.began.elapsed() >= GIVEN_UP_AFTER {
            self.handle.send(Input::Suspect(Symptom::Unreachable));
        }
    }
}

/// A request that the backend may see, from its connection to the end of its answer. If it is dropped before, because its caller
/// has left, the owner hears how: callers may all be more impatient than `answer_timeout`.
pub(super) struct Answering {
    handle: Handle,
    began: Instant,
    /// How long the backend may say nothing.
    answer_timeout: Duration,
    /// The same until it begins its answer, if the config has another time for that.
    first_byte_timeout: Option<Duration>,
    /// Whether a part of its answer has come that says something.
    has_begun: bool,
    /// How far its body has been sent, if that is still coming in.
    upload: Option<SendProgress>,
    /// When the backend last said something, or else when it got the request.
    heard: Instant,
    status: StatusCode,
    content: Content,
    /// Whether a success shows that the engine works.
    shows_engine: bool,
    /// Whether nothing of a completion has come.
    is_silent: bool,
    /// Whether the request's outcome is known.
    is_over: bool,
}

impl Answering {
    pub fn begin(handle: &Handle, config: &ProviderConfig, upload: Option<&SendProgress>) -> Self {
        Self {
            handle: handle.clone(),
            began: Instant::now(),
            answer_timeout: config.answer_timeout,
            first_byte_timeout: config.first_byte_timeout,
            has_begun: false,
            upload: upload.cloned(),
            heard: Instant::now(),
            status: StatusCode::OK,
            content: Content::new(AnswerKind::Completion, false),
            shows_engine: true,
            is_silent: true,
            is_over: false,
        }
    }

    /// The head of an answer of this kind; its body may still be on its way.
    pub fn head(&mut self, head: &Parts, kind: AnswerKind) {
        self.heard = Instant::now();
        self.status = head.status;
        let encoding = head.headers.get(CONTENT_ENCODING);
        self.content = Content::new(kind, encoding.is_some_and(|encoding| encoding != "identity"));
        self.shows_engine = kind != AnswerKind::Aside;
        if !head.status.is_success() {
            self.is_over = true;
            if is_engine_failure(head.status) {
                self.failed(format!("HTTP status {}", head.status.as_u16()));
            }
        }
    }

    /// Until when the backend may say nothing.
    pub fn silent_until(&self) -> Instant {
        self.heard + self.awaited_first_byte().unwrap_or(self.answer_timeout)
    }

    /// How long it waits for the beginning of the answer, if that is what it waits for and the config has a time for it.
    fn awaited_first_byte(&self) -> Option<Duration> {
        self.first_byte_timeout.filter(|_| !self.has_begun)
    }

    /// The next part of the answer. `slot` is the request's.
    pub fn part(&mut self, part: &[u8], slot: &Slot) {
        if !self.status.is_success() {
            (self.heard, self.has_begun) = (Instant::now(), true);
            return;
        }
        let said = self.content.next(part);
        if said != Said::Nothing {
            (self.heard, self.has_begun) = (Instant::now(), true);
        }
        if said == Said::Content {
            self.is_silent = false;
            if self.shows_engine {
                self.handle.health.heard();
                slot.heard();
            }
        }
        if self.content.is_over() {
            self.ended(slot);
        }
    }

    /// The whole answer has come.
    pub fn ended(&mut self, slot: &Slot) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        match self.content.end() {
            Ok(()) if !self.shows_engine => {}
            Ok(()) => {
                slot.heard();
                self.handle.health.succeeded();
            }
            // That it says no to a request shows neither that it works nor that it doesn't.
            Err(_) if self.content.is_error_object() => {}
            Err(content) => self.failed(format!("HTTP status {} with {content}", self.status.as_u16())),
        }
    }

    /// The answer broke off, or none came.
    pub fn broke(&mut self, error: &SendError, when: Broken) -> RelayFault {
        self.is_over = true;
        if let Some(fault) = self.upload.as_ref().and_then(SendProgress::fault) {
            return fault;
        }
        let silent = self.waits_since(self.heard).elapsed();
        let fault = broken(&self.handle, error, when, silent);
        if fault.code != FaultCode::BackendTimeout || self.awaited_first_byte().is_none() {
            return fault;
        }
        let silence = fetch::rounded(silent).as_secs_f64();
        let message = format!("the backend didn't begin its answer for {silence} s (`first_byte_timeout`)");
        RelayFault::new(FaultCode::FirstByteTimeout, message)
    }

    /// Since when an answer is waited for, if it is since `begun`: not before the last piece of the request was sent.
    fn waits_since(&self, begun: Instant) -> Instant {
        let moved = self.upload.as_ref().map(SendProgress::moved_at);
        moved.map_or(begun, |moved| moved.max(begun))
    }

    /// Nothing about the backend ended it.
    pub fn forget(&mut self) {
        self.is_over = true;
    }

    fn failed(&self, why: String) {
        if self.handle.health.failed(why) {
            self.handle.send(Input::Suspect(Symptom::Failing));
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let is_sent = self.upload.as_ref().is_none_or(SendProgress::is_whole);
        let has_waited = is_sent && self.waits_since(self.began).elapsed() >= GIVEN_UP_AFTER;
        let waited_in_vain = !self.is_over && self.is_silent && has_waited;
        if waited_in_vain && self.handle.health.was_left() {
            self.handle.send(Input::Suspect(Symptom::Failing));
        }
    }
}

/// The fault for a request that broke off after the backend may have seen it, `silent` after its beginning or the last part of
/// its answer. The owner looks whether the backend is still up.
fn broken(handle: &Handle, error: &SendError, when: Broken, silent: Duration) -> RelayFault {
    let silence = format!("{} s", fetch::rounded(silent).as_secs_f64());
    let (symptom, code, message) = match error {
        SendError::Silent(_) => {
            let message = format!("the backend was silent for {silence} (`answer_timeout`)");
            (Symptom::Failing, FaultCode::BackendTimeout, message)
        }
        SendError::Broken(error) if is_gone(error) => {
            let message =
                format!("its machine has not answered for {silence}, so it is off, asleep or unreachable");
            (Symptom::Unreachable, FaultCode::BackendFailed, message)
        }
        SendError::Broken(_) | SendError::Connect(_) => {
            let when = match when {
                Broken::BeforeAnswer => format!("before its answer, {silence} after the request"),
                Broken::MidAnswer => {
                    format!("in the middle of its answer, {silence} after the last part of it")
                }
            };
            let wrong = match error {
                SendError::Broken(error) => wrong_answer(error),
                SendError::Silent(_) | SendError::Connect(_) => None,
            };
            let message = match wrong {
                Some(wrong) => format!("the backend's answer {wrong}"),
                None => format!("the backend broke off {when}"),
            };
            (Symptom::BrokeOff, FaultCode::BackendFailed, message)
        }
    };
    handle.health.failed(message.clone());
    handle.send(Input::Suspect(symptom));
    RelayFault::new(code, &message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        http1::SentBody,
        provider::{Gate, LEFT_IN_A_ROW},
    };
    use bytes::Bytes;
    use futures::{FutureExt, StreamExt, stream};
    use http::Request;
    use http_body_util::BodyExt;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use reveille_domain::ProviderName;
    use rustix::io::Errno;
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };
    use tokio::{
        io::{AsyncRead, AsyncWrite, ReadBuf},
        sync::mpsc,
        time::advance,
    };

    /// A provider that may be silent for 4 s.
    fn config(more: &str) -> ProviderConfig {
        let text = "[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\nanswer_timeout = \"4s\"";
        let config = Config::parse(&format!("{text}{more}\n"), "test.toml", &|_| None);
        config.expect("legal").providers.swap_remove(0)
    }

    fn handle() -> (Handle, mpsc::Receiver<Input>) {
        let (handle, inputs, _) = Handle::new(
            ProviderName::parse("p").expect("legal"),
            Gate::open(),
            std::sync::Arc::default(),
        );
        (handle, inputs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_at_once_shows_nothing_of_the_backend() {
        let (handle, mut inputs) = handle();
        for (waited, shows) in [
            (GIVEN_UP_AFTER.saturating_sub(Duration::from_millis(1)), false),
            (GIVEN_UP_AFTER, true),
        ] {
            let connecting = Connecting::begin(&handle);
            advance(waited).await;
            drop(connecting);
            let shown = matches!(inputs.try_recv(), Ok(Input::Suspect(Symptom::Unreachable)));
            assert_eq!(shown, shows, "{waited:?}");
            let connected = Connecting::begin(&handle);
            advance(waited).await;
            connected.end();
            assert!(inputs.try_recv().is_err(), "it got its connection");
        }
    }

    /// A connection to a machine that has vanished, as the kernel tells it.
    struct Vanished;

    impl AsyncRead for Vanished {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(Errno::TIMEDOUT.into()))
        }
    }

    impl AsyncWrite for Vanished {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The backend has answered a completion so, as a whole.
    fn answers(handle: &Handle, status: u16, body: &str) {
        answers_with(handle, AnswerKind::Completion, status, body);
    }

    fn answers_with(handle: &Handle, kind: AnswerKind, status: u16, body: &str) {
        let slot = handle.gate.enter().expect("open");
        let mut answering = Answering::begin(handle, &config(""), None);
        let answer = http::Response::builder().status(status).body(());
        let (head, ()) = answer.expect("a head").into_parts();
        answering.head(&head, kind);
        answering.part(body.as_bytes(), &slot);
        answering.ended(&slot);
    }

    const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";

    #[tokio::test]
    async fn an_engine_is_dead_that_answers_200_without_anything_of_a_completion_in_between() {
        let error = "data: {\"error\":{\"message\":\"EngineDeadError\"}}\n\ndata: [DONE]\n\n";
        for (status, body) in [(500, ""), (200, error), (200, ""), (200, "data: [DONE]\n\n")] {
            let (handle, mut inputs) = handle();
            let mut suspected = |status, body| {
                answers(&handle, status, body);
                matches!(inputs.try_recv(), Ok(Input::Suspect(Symptom::Failing)))
            };
            assert!(!suspected(200, body) || status == 500, "{body}");
            assert!(!suspected(500, ""), "{body}");
            assert!(suspected(status, body), "{body}");
            assert!(
                !suspected(200, TOKEN) && !suspected(status, body),
                "{body}: it works"
            );
        }
    }

    #[tokio::test]
    async fn a_200_that_is_an_error_object_shows_nothing() {
        let whole = "{\"error\":{\"message\":\"no\"}}";
        let (handle, mut inputs) = handle();
        let mut suspected = |status, body| {
            answers(&handle, status, body);
            matches!(inputs.try_recv(), Ok(Input::Suspect(Symptom::Failing)))
        };
        assert!((0..5).all(|_| !suspected(200, whole)));
        assert!(!suspected(500, "") && !suspected(500, "") && !suspected(200, whole));
        assert!(suspected(500, ""));
    }

    #[tokio::test]
    async fn only_an_answer_that_takes_the_engine_shows_that_it_works() {
        for (kind, shows) in [(AnswerKind::Aside, false), (AnswerKind::Other, true)] {
            let (handle, mut inputs) = handle();
            answers(&handle, 500, "");
            answers(&handle, 500, "");
            answers_with(&handle, kind, 200, "{\"tokens\":[1]}");
            answers(&handle, 500, "");
            let is_suspected = matches!(inputs.try_recv(), Ok(Input::Suspect(Symptom::Failing)));
            assert_eq!(is_suspected, !shows, "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_leave_without_anything_of_an_answer_leave_a_trace_unless_one_hears_something() {
        let (handle, mut inputs) = handle();
        let role =
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n: ping\n\n";
        let mut leaves = async |body: &str, waited: Duration| {
            let slot = handle.gate.enter().expect("open");
            let mut answering = Answering::begin(&handle, &config(""), None);
            answering.part(body.as_bytes(), &slot);
            advance(waited).await;
            drop(answering);
            matches!(inputs.try_recv(), Ok(Input::Suspect(Symptom::Failing)))
        };
        for body in [role, TOKEN, role] {
            for left in 1..LEFT_IN_A_ROW {
                assert!(!leaves(body, GIVEN_UP_AFTER).await, "{left}");
            }
        }
        assert!(!leaves(role, GIVEN_UP_AFTER / 2).await, "it didn't wait");
        assert!(leaves(role, GIVEN_UP_AFTER).await);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_leave_before_all_of_their_request_has_come_leave_no_trace() {
        let (handle, mut inputs) = handle();
        let mut leaves = async |has_come: bool| {
            let pieces = stream::iter(has_come.then(|| Ok(Bytes::from_static(b"x"))));
            let mut upload = SentBody::arriving(1, pieces.chain(stream::pending()));
            let answering = Answering::begin(&handle, &config(""), upload.progress());
            advance(GIVEN_UP_AFTER).await;
            let _ = upload.frame().now_or_never();
            advance(GIVEN_UP_AFTER).await;
            drop(answering);
            matches!(inputs.try_recv(), Ok(Input::Suspect(Symptom::Failing)))
        };
        for _ in 0..2 * LEFT_IN_A_ROW {
            assert!(!leaves(false).await);
        }
        for _ in 1..LEFT_IN_A_ROW {
            assert!(!leaves(true).await);
        }
        assert!(leaves(true).await);
    }

    #[tokio::test(start_paused = true)]
    async fn comments_do_not_lengthen_the_time_that_the_backend_may_say_nothing() {
        let (handle, _inputs) = handle();
        let slot = handle.gate.enter().expect("open");
        for (first, key) in [(4, ""), (7, "\nfirst_byte_timeout = \"7s\"")] {
            let mut answering = Answering::begin(&handle, &config(key), None);
            let (limit, began) = (Duration::from_secs(4), Instant::now());
            for part in [": ping\n\n", "\n", "data: {\"", "a"] {
                advance(Duration::from_secs(1)).await;
                answering.part(part.as_bytes(), &slot);
                let until = began + Duration::from_secs(first);
                assert_eq!(answering.silent_until(), until, "{part:?}");
            }
            answering.part(b"\"}\n", &slot);
            assert_eq!(answering.silent_until(), Instant::now() + limit);
        }
    }

    #[tokio::test]
    async fn the_reason_of_a_request_whose_machine_has_vanished_has_the_time_that_has_really_passed() {
        let io = TokioIo::new(Vanished);
        let (mut sender, connection) = http1::handshake(io).await.expect("a connection");
        let (error, _) = tokio::join!(sender.send_request(Request::new(String::new())), connection);
        let error = SendError::Broken(error.expect_err("nobody answers"));
        let (handle, mut inputs) = handle();
        let silent = Duration::from_millis(20_340);
        let fault = broken(&handle, &error, Broken::BeforeAnswer, silent);
        assert_eq!(
            fault.message,
            "its machine has not answered for 20.3 s, so it is off, asleep or unreachable"
        );
        assert!(matches!(
            inputs.try_recv(),
            Ok(Input::Suspect(Symptom::Unreachable))
        ));
    }
}
