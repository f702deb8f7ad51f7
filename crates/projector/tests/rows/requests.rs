//! Requests and usage in Postgres: what is written is found again as in memory, once, and a rebuild leaves it alone.

use crate::{journal::Hub, rebuild::rebuilt, stores::InPostgres};
use reveille_bus::requests::{RequestBatch, StoredBatch};
use reveille_domain::{
    KeyId, ModelName, RecordId, Timestamp, WakeId,
    requests::{
        PastRequests, RequestOutcome, RequestPage, RequestQuery, RequestRecord, Usage, UsageKey, UsagePage,
        UsageQuery, UsageRow,
    },
    rows::{Cursor, PageLimit, RowsError},
};
use std::{borrow::Cow, sync::Arc};
use uuid::Uuid;

const HOUR: u64 = 3_600_000;

/// Requests of different keys, models, providers and outcomes, an hour apart.
fn some_requests() -> Vec<Arc<RequestRecord>> {
    let request = |n: u64| RequestRecord {
        record_id: RecordId(Uuid::from_u128(u128::from(n))),
        request_id: format!("request-{}", n % 5),
        replica: "r1".into(),
        key: (!n.is_multiple_of(3)).then(|| KeyId::parse(&format!("k7mq2v9x4a1{}", n % 3)).expect("legal")),
        path: Cow::Borrowed("/v1/chat/completions"),
        model: ModelName::parse(["m", "gpu-box/m", "100%", "x/100%", "no_m"][(n % 5) as usize]).ok(),
        stream: n.is_multiple_of(2),
        priority: reveille_domain::Priority::default(),
        received_at_ms: Timestamp::from_millis(n * HOUR / 2),
        steps: vec![],
        steps_left_out: 0,
        provider: (!n.is_multiple_of(4)).then(|| format!("gpu-box/p{}", n % 4).parse().expect("legal")),
        wake_id: n.is_multiple_of(7).then(|| WakeId(Uuid::from_u128(77))),
        handed_over_ms: Some(1),
        first_byte_ms: n.is_multiple_of(2).then_some(n * 1_000),
        ended_ms: Some(n * 1_000 + 50),
        outcome: if n.is_multiple_of(4) {
            RequestOutcome::Failed
        } else {
            RequestOutcome::Done
        },
        status: Some(200),
        error: None,
        tokens: None,
        answer_bytes: n,
        stands_for: 1,
    };
    (1..=20).map(|n| Arc::new(request(n))).collect()
}

fn batch(sequence: u64, number: u64, records: &[Arc<RequestRecord>]) -> StoredBatch {
    let usage = records.iter().map(|record| UsageRow {
        key: UsageKey::of(record),
        usage: Usage::of(record),
    });
    let run = Uuid::from_u128(99);
    StoredBatch {
        sequence,
        stored_at: Timestamp::from_millis(HOUR),
        batch: Some(RequestBatch {
            usage: usage.collect(),
            records: records.to_vec(),
            ..RequestBatch::new("r1".to_owned(), run, number)
        }),
    }
}

async fn filled() -> (InPostgres, Vec<Arc<RequestRecord>>) {
    let (store, all) = (InPostgres::create().await, some_requests());
    let batches = [batch(1, 1, &all[..8]), batch(2, 2, &all[8..])];
    assert!(
        store
            .projection
            .take_requests(0, 2, &batches)
            .await
            .expect("a database")
    );
    (store, all)
}

/// All pages of a query.
async fn pages(rows: &dyn PastRequests, mut query: RequestQuery) -> Vec<Arc<RequestRecord>> {
    let mut found = vec![];
    loop {
        let page = rows.requests(&query).await.expect("a page");
        found.extend(page.items);
        query.after = page.next;
        if query.after.is_none() {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_finds_in_postgres_what_it_finds_in_memory() {
    let (store, all) = filled().await;
    let any = RequestQuery::default;
    let model = |name: &str| ModelName::parse(name).ok();
    for query in [
        any(),
        RequestQuery {
            since: Some(Timestamp::from_millis(5 * HOUR)),
            ..any()
        },
        RequestQuery {
            model: model("m"),
            ..any()
        },
        RequestQuery {
            model: model("100%"),
            ..any()
        },
        RequestQuery {
            model: model("gpu-box/m"),
            ..any()
        },
        RequestQuery {
            key: KeyId::parse("k7mq2v9x4a11").ok(),
            ..any()
        },
        RequestQuery {
            provider: "gpu-box/p2".parse().ok(),
            ..any()
        },
        RequestQuery {
            wake: Some(WakeId(Uuid::from_u128(77))),
            ..any()
        },
        RequestQuery {
            slow_ms: Some(10_000),
            ..any()
        },
        RequestQuery {
            failed: true,
            slow_ms: Some(9_000),
            ..any()
        },
    ] {
        let expected = RequestPage::of(all.iter().cloned(), &query)
            .expect("no cursor")
            .items;
        assert!(!expected.is_empty(), "{query:?}");
        let short = RequestQuery {
            limit: PageLimit::new(3),
            ..query.clone()
        };
        assert_eq!(pages(&store.rows, short).await, expected, "{query:?}");
    }
    let bad = RequestQuery {
        after: Some(Cursor::new("x")),
        ..any()
    };
    assert_eq!(store.rows.requests(&bad).await, Err(RowsError::BadCursor));
    let found = store.rows.request("request-3").await.expect("a database");
    let ids: Vec<_> = found.iter().map(|record| record.record_id.0.as_u128()).collect();
    assert_eq!(ids, [18, 13, 8, 3]);
    let one = store
        .rows
        .request(&Uuid::from_u128(4).to_string())
        .await
        .expect("a database");
    assert_eq!(one, [all[3].clone()]);
    assert_eq!(store.rows.request("' OR true --").await.expect("a database"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_summed_up_once_however_often_a_batch_comes() {
    let (store, all) = filled().await;
    assert_eq!(store.projection.request_mark().await.expect("a mark"), 2);
    let fenced = store
        .projection
        .take_requests(0, 1, &[batch(1, 1, &all[..8])])
        .await;
    assert!(!fenced.expect("a database"), "another projector was faster");
    // The stream has it twice.
    let again = [batch(3, 2, &all[8..]), batch(4, 3, &all[..1])];
    assert!(
        store
            .projection
            .take_requests(2, 4, &again)
            .await
            .expect("a database")
    );
    let mut expected: Vec<UsageRow> = vec![];
    for record in all.iter().chain(&all[..1]) {
        let (key, usage) = (UsageKey::of(record), Usage::of(record));
        match expected.iter_mut().find(|row| row.key == key) {
            Some(row) => row.usage += usage,
            None => expected.push(UsageRow { key, usage }),
        }
    }
    for query in [
        UsageQuery::default(),
        UsageQuery {
            since: Some(Timestamp::from_millis(4 * HOUR)),
            ..UsageQuery::default()
        },
        UsageQuery {
            key: KeyId::parse("k7mq2v9x4a12").ok(),
            ..UsageQuery::default()
        },
        UsageQuery {
            model: ModelName::parse("m").ok(),
            ..UsageQuery::default()
        },
        UsageQuery {
            provider: "gpu-box/p1".parse().ok(),
            ..UsageQuery::default()
        },
    ] {
        let expected = UsagePage::of(expected.clone(), &query).expect("no cursor").items;
        assert!(!expected.is_empty(), "{query:?}");
        let mut short = UsageQuery {
            limit: PageLimit::new(2),
            ..query.clone()
        };
        let mut found = vec![];
        loop {
            let page = store.rows.usage(&short).await.expect("a page");
            found.extend(page.items);
            short.after = page.next;
            if short.after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "{query:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_requests_are_deleted_and_their_sums_stay() {
    let (store, all) = filled().await;
    let before = UsageQuery::default();
    let sums = store.rows.usage(&before).await.expect("a page");
    let more = store
        .projection
        .forget_requests(Timestamp::from_millis(5 * HOUR))
        .await;
    assert!(!more.expect("a database"), "that was all");
    let left = pages(&store.rows, RequestQuery::default()).await;
    assert_eq!(
        left.len(),
        all.iter()
            .filter(|record| record.received_at_ms.as_millis() >= 5 * HOUR)
            .count()
    );
    assert_eq!(store.rows.usage(&before).await.expect("a page"), sums);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_leaves_requests_and_usage_alone() {
    let (store, all) = filled().await;
    let hub = Hub::start().await;
    hub.wakes_once("a").await;
    rebuilt(&hub, &store.database).await;
    assert_eq!(pages(&store.rows, RequestQuery::default()).await.len(), all.len());
    assert_eq!(store.projection.request_mark().await.expect("a mark"), 2);
}
