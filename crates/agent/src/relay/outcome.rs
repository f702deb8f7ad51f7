//! What the outcome of a request shows of its backend, and what its caller is told.

use crate::{
    fetch,
    http1::{SendError, is_gone, wrong_answer},
    provider::{Handle, Input, Symptom},
    verify::is_engine_failure,
};
use http::StatusCode;
use reveille_bus::relay::{FaultCode, RelayFault};
use std::time::Duration;
use tokio::time::Instant;

/// How long a caller must have waited for a connection when it gives up, for that to be a sign that the backend is gone.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);

/// How much of a line shows whether it ends a stream of events: `data: [DONE]` and some more.
const LINE_BYTES: usize = 24;

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

/// The backend has answered with this status; its body may still be on its way.
pub(super) fn answered(handle: &Handle, status: StatusCode) {
    if is_engine_failure(status) && handle.health.failed(format!("HTTP status {}", status.as_u16())) {
        handle.send(Input::Suspect(Symptom::Failing));
    }
}

/// The whole answer has come.
pub(super) fn completed(handle: &Handle, status: StatusCode) {
    if status.is_success() {
        handle.health.succeeded();
    }
}

/// Finds the end of a stream of events. The API leaves there, and the backend may keep its connection open.
#[derive(Debug, Default)]
pub(super) struct EndOfEvents {
    /// How the current line begins.
    line: Vec<u8>,
}

impl EndOfEvents {
    /// Whether it is in the next part of the answer.
    pub fn is_in(&mut self, part: &[u8]) -> bool {
        let mut found = false;
        for byte in part {
            if matches!(byte, b'\n' | b'\r') {
                let data = self.line.strip_prefix(b"data:");
                found |= data.is_some_and(|data| data.trim_ascii() == b"[DONE]");
                self.line.clear();
            } else if self.line.len() < LINE_BYTES {
                self.line.push(*byte);
            }
        }
        found
    }
}

/// The fault for a request that broke off after the backend may have seen it, `silent` after its beginning or the last part of
/// its answer. The owner looks whether the backend is still up.
pub(super) fn broken(handle: &Handle, error: &SendError, when: Broken, silent: Duration) -> RelayFault {
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
    use crate::provider::Gate;
    use http::Request;
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

    #[test]
    fn the_end_of_events_is_a_line_of_its_own_however_it_comes() {
        let found = |parts: &[&str]| {
            let mut end = EndOfEvents::default();
            parts.iter().filter(|part| end.is_in(part.as_bytes())).count() > 0
        };
        assert!(found(&["data: {}\n\ndata: [DONE]\n\n"]));
        assert!(found(&["data:[DO", "NE]", "\r\n"]));
        assert!(!found(&["data: {\"text\":\"data: [DONE]\"}\n\n"]));
        assert!(!found(&["data: [DONE]", " and more than a line has room for\n"]));
        assert!(!found(&["{\"data\":1}"]));
    }

    fn handle() -> (Handle, mpsc::Receiver<Input>) {
        let (handle, inputs, _) = Handle::new(ProviderName::parse("p").expect("legal"), Gate::open());
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
