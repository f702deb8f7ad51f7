use super::{
    Answer, Served,
    fake_hub::{Reply, active, hibernating, id},
};
use crate::wakes::WakeError;
use bytes::Bytes;
use reveille_bus::relay::{FaultCode, RelayError, RelayFault};
use reveille_domain::{WakeFailure, WakeFailureKind, WakeId};
use serde_json::Value;
use std::{sync::atomic::Ordering, time::Duration};

pub(super) const EVENTS: &str = "text/event-stream; charset=utf-8";

pub(super) fn piece(text: &str) -> Result<Bytes, RelayError> {
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}

pub(super) fn failed() -> WakeError {
    WakeError::Failed {
        provider: id("gpu-box/vllm"),
        wake_id: Some(WakeId(uuid::Uuid::now_v7())),
        failure: Box::new(WakeFailure::new(
            WakeFailureKind::Recipe,
            "step 1 http",
            "the controller answered 500",
        )),
        retry_after: None,
        spent: Duration::from_secs(1),
    }
}

/// What begins to talk almost at once.
pub(super) async fn impatient() -> Served {
    let served = Served::with_timings(|timings| timings.quiet = Duration::from_millis(30)).await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    served
}

/// Begins a stream, and returns it once it has sent its first heartbeats.
pub(super) async fn waiting(served: &Served, progress: &str) -> (reqwest::Response, String) {
    let request = served.chat("m", true).header("x-reveille-progress", progress);
    let mut response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let mut text = String::new();
    while text
        .lines()
        .filter(|line| line.starts_with(':') || line.starts_with("data:"))
        .count()
        < 2
    {
        let chunk = response.chunk().await.expect("a piece").expect("not the end");
        text += std::str::from_utf8(&chunk).expect("text");
    }
    (response, text)
}

pub(super) async fn rest(mut response: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.expect("the stream ends well") {
        bytes.extend_from_slice(&chunk);
    }
    // Heartbeats may have come before what the test waits for.
    let text = String::from_utf8(bytes).expect("text");
    text.split_inclusive('\n')
        .filter(|line| !line.starts_with(':'))
        .collect()
}

#[tokio::test]
async fn a_stream_passes_byte_by_byte_with_headers_against_buffering() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let pieces = vec![
        piece("data: {\"a\""),
        piece(":1}\r\n\r\ndata: [DO"),
        piece("NE]\n\n"),
    ];
    served.hub.replies([Reply::Pieces(200, EVENTS, pieces)]);
    let answer = Answer::of(served.chat("m", true)).await;
    assert_eq!(answer.text(), "data: {\"a\":1}\r\n\r\ndata: [DONE]\n\n");
    assert!(answer.whole);
    assert_eq!(answer.header("content-type"), Some(EVENTS));
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error_and_never_with_done() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for (begun, between) in [("data: 1\n\n", ""), ("data: {\"a", "\n\n")] {
        let pieces = vec![piece(begun), Err(RelayError::Silent { silent_ms: 15_000 })];
        served.hub.replies([Reply::Pieces(200, EVENTS, pieces)]);
        let answer = Answer::of(served.chat("m", true)).await;
        let text = answer.text();
        let error = text
            .strip_prefix(&format!("{begun}{between}data: "))
            .expect("what was sent stays");
        let error: Value = serde_json::from_str(error.strip_suffix("\n\n").expect("an event")).expect("JSON");
        assert_eq!(error["error"]["code"], "relay_failed");
    }
}

#[tokio::test]
async fn a_wake_that_fails_soon_keeps_its_status() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    served.hub.refuse(failed());
    let answer = Answer::of(served.chat("m", true)).await;
    assert_eq!((answer.status, answer.error().as_str()), (503, "wake_failed"));
}

#[tokio::test]
async fn a_stream_that_waits_says_so_and_then_passes_the_answer() {
    let served = impatient().await;
    let (response, text) = waiting(&served, "comment").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-reveille-provider"], "gpu-box/vllm");
    assert!(response.headers().contains_key("x-reveille-wake-id"));
    assert!(
        text.split_inclusive('\n')
            .all(|line| line == ": waking gpu-box/m elapsed=0s\n"),
        "{text:?}"
    );
    served.hub.replies([Reply::Pieces(
        200,
        EVENTS,
        vec![piece("data: 1\n\n"), piece("data: [DONE]\n\n")],
    )]);
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.status = active());
    assert_eq!(rest(response).await, "data: 1\n\ndata: [DONE]\n\n");
}

#[tokio::test]
async fn a_stream_that_waits_its_turn_says_so_and_then_passes_the_answer() {
    let served = Served::with_timings(|timings| {
        timings.quiet = Duration::from_millis(30);
        timings.wait = Duration::from_secs(5);
    })
    .await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let answer = || Reply::Pieces(200, EVENTS, vec![piece("data: [DONE]\n\n")]);
    let says_so = |text: &str| text.starts_with(": waiting gpu-box/m elapsed=");

    served.hub.full.send_replace(true);
    let (response, text) = waiting(&served, "comment").await;
    assert!(says_so(&text), "{text:?}");
    served.hub.replies([answer()]);
    served.hub.full.send_replace(false);
    assert_eq!(rest(response).await, "data: [DONE]\n\n");

    let full = || Reply::Fails(RelayFault::new(FaultCode::Overloaded, "a sentence").into());
    served.hub.replies((0..5).map(|_| full()));
    served.hub.replies([answer()]);
    let (response, text) = waiting(&served, "comment").await;
    assert!(says_so(&text), "{text:?}");
    assert_eq!(rest(response).await, "data: [DONE]\n\n");
    assert_eq!(served.hub.sent().len(), 7);
}

#[tokio::test]
async fn a_wake_that_fails_later_is_an_error_event_and_the_end() {
    let served = impatient().await;
    let (response, _) = waiting(&served, "comment").await;
    served.hub.fail_wakes(failed());
    let text = rest(response).await;
    let error = text
        .strip_prefix("data: ")
        .and_then(|text| text.strip_suffix("\n\ndata: [DONE]\n\n"));
    let error: Value = serde_json::from_str(error.expect("an error, then the end")).expect("JSON");
    assert_eq!(error["error"]["code"], "wake_failed");
    assert!(served.hub.sent().is_empty());
}

#[tokio::test]
async fn a_caller_chooses_how_it_is_told() {
    for (progress, field) in [("delta", "content"), ("reasoning", "reasoning_content")] {
        let served = impatient().await;
        let (_, text) = waiting(&served, progress).await;
        let event = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("data: "))
            .expect("an event");
        let chunk: Value = serde_json::from_str(event).expect("JSON");
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert!(chunk["choices"][0]["delta"][field].is_string(), "{chunk}");
    }
}

#[tokio::test]
async fn a_caller_that_wants_no_progress_gets_the_status_however_late() {
    let served = impatient().await;
    let asking = tokio::spawn(Answer::of(
        served.chat("m", true).header("x-reveille-progress", "off"),
    ));
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    served.hub.fail_wakes(failed());
    let answer = asking.await.expect("an answer");
    assert_eq!((answer.status, answer.error().as_str()), (503, "wake_failed"));
}

#[tokio::test]
async fn a_silent_backend_that_is_awake_gets_keepalives_until_it_answers_and_between_its_events() {
    let served = Served::with_timings(|timings| timings.quiet = Duration::from_millis(10)).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let is_keepalive = |line: &str| line.starts_with(": waiting gpu-box/m elapsed=");

    served.hub.replies([Reply::Hangs]);
    let (response, text) = waiting(&served, "comment").await;
    assert!(text.lines().all(is_keepalive), "{text:?}");
    assert_eq!(response.headers()["x-reveille-provider"], "gpu-box/vllm");

    served
        .hub
        .replies([Reply::Stalls(EVENTS, Bytes::from_static(b"data: 1\n\n"))]);
    let (response, text) = waiting(&served, "comment").await;
    let between = text.strip_prefix("data: 1\n\n").expect("the event first");
    assert!(
        between.lines().all(is_keepalive) && !between.is_empty(),
        "{between:?}"
    );
    assert_eq!(response.headers()["content-type"], EVENTS, "its own head");
    assert!(!response.headers().contains_key("content-length"));
}

#[tokio::test]
async fn whoever_wants_no_progress_waits_in_silence_for_a_backend_that_is_awake() {
    let served = Served::with_timings(|timings| timings.quiet = Duration::from_millis(10)).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let off = || served.chat("m", true).header("x-reveille-progress", "off");
    served.hub.replies([Reply::Hangs]);
    let asking = tokio::time::timeout(Duration::from_millis(150), off().send());
    assert!(asking.await.is_err(), "nothing before the backend answers");

    served
        .hub
        .replies([Reply::Stalls(EVENTS, Bytes::from_static(b"data: 1\n\n"))]);
    let mut response = off().send().await.expect("an answer");
    assert_eq!(
        response.chunk().await.expect("a piece").as_deref(),
        Some(&b"data: 1\n\n"[..])
    );
    let next = tokio::time::timeout(Duration::from_millis(150), response.chunk());
    assert!(next.await.is_err(), "nothing between events");
}

#[tokio::test]
async fn a_stream_is_over_at_its_end_and_its_backend_is_left() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for kind in [EVENTS, "text/plain"] {
        served.hub.replies([Reply::Stalls(
            kind,
            Bytes::from_static(b"data: 1\n\ndata: [DONE]\n\n"),
        )]);
        let answer = Answer::of(served.chat("m", true)).await;
        assert!(answer.whole, "{kind}");
        assert_eq!(answer.text(), "data: 1\n\ndata: [DONE]\n\n");
        served
            .hub
            .until("the backend is left", |hub| hub.open.load(Ordering::SeqCst) == 0)
            .await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_at_once_keeps_its_status_and_what_has_come() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for status in [200, 400, 500] {
        let words = Bytes::from_static(b"{\"er");
        let pieces = vec![Ok(words.clone()), Err(RelayError::Closed)];
        let reply = Reply::Pieces(status, "application/json", pieces);
        served.hub.replies([reply]);
        let mut answer = served.chat("m", false).send().await.expect("a head");
        assert_eq!(answer.status(), status);
        assert_eq!(answer.chunk().await.expect("a piece"), Some(words));
        assert!(answer.chunk().await.is_err(), "it is cut");
    }
}
