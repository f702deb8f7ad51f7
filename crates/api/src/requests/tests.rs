use super::*;
use axum::body::Body;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::lazy, stream};
use reveille_bus::relay::AnswerKind;
use reveille_domain::{
    ModelName, Priority, Timestamp,
    requests::{
        PastRequests, RequestError, RequestOutcome, RequestQuery, RequestRecord, StepKind, TokenCount,
        UsageQuery,
    },
};
use std::{borrow::Cow, io, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::time::advance;

fn recorder() -> Recorder {
    Recorder::new("r1", || Some(Timestamp::from_millis(7_200_000)))
}

fn begin(recorder: &Recorder, id: &str) -> Recording {
    recorder.begin(Received {
        id,
        key: None,
        path: Cow::Borrowed("/v1/chat/completions"),
        priority: Priority::default(),
    })
}

async fn all(recorder: &Recorder) -> Vec<Arc<RequestRecord>> {
    let page = recorder.requests(&RequestQuery::default()).await;
    page.expect("no cursor").items
}

/// The only record.
async fn only(recorder: &Recorder) -> RequestRecord {
    let all = all(recorder).await;
    assert_eq!(all.len(), 1, "{all:?}");
    (*all[0]).clone()
}

#[tokio::test(start_paused = true)]
async fn a_request_is_in_flight_until_nothing_holds_its_recording() {
    let recorder = recorder();
    let recording = begin(&recorder, "r");
    advance(Duration::from_millis(3)).await;
    recording.asked(&ModelName::parse("m").unwrap(), true);
    let record = only(&recorder).await;
    assert_eq!(
        (record.outcome, record.ended_ms),
        (RequestOutcome::InFlight, None)
    );
    assert_eq!(
        (record.steps[0].after_ms, &record.steps[0].kind),
        (3, &StepKind::Read)
    );
    let other = recording.clone();
    drop(recording);
    assert_eq!(only(&recorder).await.outcome, RequestOutcome::InFlight);
    advance(Duration::from_millis(4)).await;
    drop(other);
    let record = only(&recorder).await;
    assert_eq!(
        (record.outcome, record.ended_ms),
        (RequestOutcome::Disconnected, Some(7))
    );
    assert_eq!(record.received_at_ms.as_millis(), 7_200_000);
    let usage = recorder.usage(&UsageQuery::default()).await.unwrap().items;
    assert_eq!(
        (usage[0].key.hour_ms.as_millis(), usage[0].usage.requests),
        (7_200_000, 1)
    );
    assert_eq!(recorder.request("r").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_panic_leaves_one_record_of_a_failure() {
    let recorder = recorder();
    let work = within(begin(&recorder, "r"), async { panic!("as planned") });
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    assert!(outcome.is_err());
    let record = only(&recorder).await;
    assert_eq!(record.outcome, RequestOutcome::Failed);
    assert_eq!(record.error.unwrap().code, "internal_error");
    let recorder = self::recorder();
    let pieces = stream::iter([0, 1]).map(|n| match n {
        0 => Ok::<_, io::Error>(Bytes::from_static(b"a")),
        _ => panic!("as planned"),
    });
    let body = RecordedBody::of(Body::from_stream(pieces), begin(&recorder, "r"));
    let read = AssertUnwindSafe(body.into_data_stream().count())
        .catch_unwind()
        .await;
    assert!(read.is_err());
    assert_eq!(only(&recorder).await.error.unwrap().code, "internal_error");
}

fn body(pieces: Vec<Result<&'static str, io::Error>>) -> Body {
    let pieces = stream::iter(pieces);
    Body::from_stream(pieces.map(|piece| piece.map(|text| Bytes::from_static(text.as_bytes()))))
}

#[tokio::test]
async fn the_end_of_a_body_is_the_end_of_its_request() {
    let broken = || Err(io::Error::other("it broke"));
    for (body, read, expected) in [
        (body(vec![Ok("a"), Ok("b")]), usize::MAX, RequestOutcome::Done),
        (body(vec![]), usize::MAX, RequestOutcome::Done),
        (body(vec![Ok("a"), broken()]), usize::MAX, RequestOutcome::Cut),
        (body(vec![Ok("a"), Ok("b")]), 1, RequestOutcome::Disconnected),
        (Body::from("whole"), 0, RequestOutcome::Done),
        (Body::empty(), 0, RequestOutcome::Done),
    ] {
        let recorder = recorder();
        let recording = begin(&recorder, "r");
        recording.status(200);
        let recorded = RecordedBody::of(body, recording);
        let _ = recorded.into_data_stream().take(read).count().await;
        assert_eq!(only(&recorder).await.outcome, expected);
    }
}

#[tokio::test]
async fn the_first_failure_is_the_reason_and_a_status_of_an_error_is_one() {
    let recorder = recorder();
    let recording = begin(&recorder, "r");
    let wake_failed = RequestError::new("wake_failed", "no route");
    recording.failed(wake_failed.clone(), None, None);
    recording.failed(RequestError::new("relay_failed", "later"), None, None);
    recording.ended(true);
    drop(recording);
    let record = only(&recorder).await;
    assert_eq!(
        (record.outcome, record.error),
        (RequestOutcome::Failed, Some(wake_failed))
    );
    let recorder = self::recorder();
    let recording = begin(&recorder, "r");
    recording.status(422);
    recording.ended(true);
    drop(recording);
    assert_eq!(only(&recorder).await.outcome, RequestOutcome::Failed);
}

#[tokio::test]
async fn what_somebody_called_a_model_that_does_not_exist_is_not_kept() {
    let recorder = recorder();
    let recording = begin(&recorder, "r");
    recording.asked(&ModelName::parse("my secret").unwrap(), false);
    recording.failed(RequestError::new("model_not_found", ""), None, None);
    drop(recording);
    let record = only(&recorder).await;
    assert!(
        !serde_json::to_string(&record).unwrap().contains("secret"),
        "{record:?}"
    );
}

/// The tokens of an answer in these pieces.
async fn tapped(kind: AnswerKind, is_readable: bool, pieces: &[&str], parts: u64) -> RequestRecord {
    let recorder = recorder();
    let recording = begin(&recorder, "r");
    let mut tap = Tap::new(recording.clone(), kind, is_readable);
    for piece in pieces {
        tap.piece(piece.as_bytes());
    }
    tap.parts(parts);
    drop((tap, recording));
    only(&recorder).await
}

#[tokio::test(start_paused = true)]
async fn tokens_are_the_backends_or_else_an_estimate_by_the_parts_of_a_stream() {
    let usage = [
        "data: {\"usage\":{\"prompt_to",
        "kens\":5,\"completion_tokens\":9}}\n\n",
    ];
    let count = |input, output, estimated| {
        Some(TokenCount {
            input,
            output,
            estimated,
        })
    };
    let completion = AnswerKind::Completion;
    for (kind, is_readable, pieces, parts, expected) in [
        (completion, true, &usage[..], 7, count(Some(5), Some(9), false)),
        (completion, true, &["data: {}\n\n"], 7, count(None, Some(7), true)),
        (completion, true, &["{}"], 0, None),
        (completion, false, &usage[..], 7, None),
        (AnswerKind::Aside, true, &usage[..], 7, None),
    ] {
        let record = tapped(kind, is_readable, pieces, parts).await;
        assert_eq!(record.tokens, expected, "{kind:?} {pieces:?}");
        assert_eq!(record.answer_bytes as usize, pieces.concat().len());
        assert_eq!(record.first_byte_ms, Some(0));
    }
    let nothing = tapped(completion, true, &[], 0).await;
    assert_eq!((nothing.tokens, nothing.first_byte_ms), (None, None));
}

#[tokio::test]
async fn work_on_a_request_finds_its_recording_wherever_it_goes_on() {
    let recorder = recorder();
    note(|_| panic!("there is no request"));
    let going_on = lazy(|_| in_current(async { current().status(201) }));
    let later = within(begin(&recorder, "r"), going_on).await;
    tokio::spawn(later).await.unwrap();
    assert_eq!(only(&recorder).await.status, Some(201));
}
