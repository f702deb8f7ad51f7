//! The stream of requests: stored, followed and searched.

use crate::events::{PATIENCE, open};
use reveille_bus::{
    REQUESTS_STREAM,
    requests::{RequestBatch, RequestFollower, RequestLog, StoredBatch},
};
use reveille_domain::{
    RecordId, Timestamp,
    requests::{RequestOutcome, RequestRecord, Usage, UsageKey, UsageRow},
};
use reveille_tests::{Nats, wait_until};
use std::{borrow::Cow, sync::Arc, time::Duration};
use tokio::time::timeout;
use uuid::Uuid;

fn record(id: &str) -> Arc<RequestRecord> {
    Arc::new(RequestRecord {
        record_id: RecordId(Uuid::now_v7()),
        request_id: id.to_owned(),
        replica: "r1".into(),
        key: None,
        path: Cow::Borrowed("/v1/chat/completions"),
        model: None,
        stream: false,
        priority: reveille_domain::Priority::default(),
        received_at_ms: Timestamp::from_millis(1_000),
        steps: vec![],
        steps_left_out: 0,
        provider: None,
        wake_id: None,
        handed_over_ms: None,
        first_byte_ms: None,
        ended_ms: Some(3),
        outcome: RequestOutcome::Done,
        status: Some(200),
        error: None,
        tokens: None,
        answer_bytes: 0,
        stands_for: 1,
    })
}

/// A batch of one request.
fn batch(run: Uuid, number: u64) -> RequestBatch {
    let record = record(&format!("request-{number}"));
    let usage = UsageRow {
        key: UsageKey::of(&record),
        usage: Usage::of(&record),
    };
    RequestBatch {
        records: vec![record],
        usage: vec![usage],
        ..RequestBatch::new("r1".to_owned(), run, number)
    }
}

async fn next(follower: &mut RequestFollower) -> StoredBatch {
    timeout(PATIENCE, follower.next()).await.expect("a batch")
}

fn number(stored: &StoredBatch) -> u64 {
    stored.batch.as_ref().expect("a batch").number
}

#[tokio::test]
async fn what_is_stored_is_followed_from_the_last_few_and_from_a_place() {
    let nats = Nats::start().await;
    let connection = open(&nats.url()).await;
    let (log, run) = (RequestLog::of(&connection), Uuid::now_v7());
    let mut early = RequestFollower::from_last(&log, 100);
    assert!(log.store(&batch(run, 1)).await.is_err(), "there is no stream");
    log.ensure().await.unwrap();
    log.ensure().await.unwrap();
    for number in 1..=5 {
        log.store(&batch(run, number)).await.unwrap();
    }
    let first = next(&mut early).await;
    assert_eq!((first.sequence, number(&first)), (1, 1));
    let read = first.batch.unwrap();
    let expected = batch(run, 1);
    assert_eq!(
        (read.replica, read.run, read.usage),
        (expected.replica, run, expected.usage)
    );
    assert_eq!(read.records[0].request_id, "request-1");
    let mut last_two = RequestFollower::from_last(&log, 2);
    assert_eq!(number(&next(&mut last_two).await), 4);
    let mut behind = RequestFollower::after(&log, 4);
    assert_eq!(number(&next(&mut behind).await), 5);
    let mut another_stream = RequestFollower::after(&log, 900);
    assert_eq!(
        number(&next(&mut another_stream).await),
        1,
        "it is another stream's place"
    );
}

#[tokio::test]
async fn a_batch_that_is_stored_twice_is_there_once_and_what_is_none_is_passed_over() {
    let nats = Nats::start().await;
    let connection = open(&nats.url()).await;
    let (log, run) = (RequestLog::of(&connection), Uuid::now_v7());
    log.ensure().await.unwrap();
    for _ in 0..2 {
        log.store(&batch(run, 1)).await.unwrap();
    }
    let client = nats.connect().await;
    for (subject, text) in [
        ("reveille.requests.r1", "no JSON".to_owned()),
        (
            "reveille.requests.other",
            serde_json::to_string(&batch(run, 2)).unwrap(),
        ),
    ] {
        client.publish(subject, text.into()).await.unwrap();
    }
    client.flush().await.unwrap();
    wait_until("all are stored", PATIENCE, async || {
        let stream = connection.jetstream().get_stream(REQUESTS_STREAM).await.ok()?;
        (stream.cached_info().state.last_sequence == 3).then_some(())
    })
    .await;
    let mut follower = RequestFollower::after(&log, 0);
    assert_eq!(number(&next(&mut follower).await), 1);
    for sequence in [2, 3] {
        let stored = next(&mut follower).await;
        assert_eq!((stored.sequence, stored.batch), (sequence, None));
    }
}

#[tokio::test]
async fn a_follower_goes_on_behind_what_it_has_read_after_a_restart_of_the_server() {
    let mut nats = Nats::start().await;
    let connection = open(&nats.url()).await;
    let (log, run) = (RequestLog::of(&connection), Uuid::now_v7());
    log.ensure().await.unwrap();
    log.store(&batch(run, 1)).await.unwrap();
    let mut follower = RequestFollower::from_last(&log, 100);
    assert_eq!(number(&next(&mut follower).await), 1);
    nats.restart().await;
    wait_until("the next one is stored", PATIENCE, async || {
        log.store(&batch(run, 2)).await.ok()
    })
    .await;
    assert_eq!(number(&next(&mut follower).await), 2);
}

#[tokio::test]
async fn a_request_is_found_by_a_search_from_its_time_on() {
    let nats = Nats::start().await;
    let connection = open(&nats.url()).await;
    let (log, run) = (RequestLog::of(&connection), Uuid::now_v7());
    log.ensure().await.unwrap();
    for number in 1..=3 {
        log.store(&batch(run, number)).await.unwrap();
    }
    let (all, end) = (Timestamp::from_millis(0), Timestamp::from_millis(u64::MAX));
    let search = async |id: &str, from, to| {
        let id = id.to_owned();
        let within = Duration::from_secs(5);
        let find =
            move |batch: RequestBatch| batch.records.into_iter().find(|record| record.request_id == id);
        log.search(from, to, within, find).await.unwrap()
    };
    let found = search("request-3", all, end).await.expect("it is there");
    assert_eq!(found.request_id, "request-3");
    assert_eq!(search("request-9", all, end).await, None);
    assert_eq!(search("request-3", all, all).await, None, "it is later");
}
