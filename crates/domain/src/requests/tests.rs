use super::*;
use crate::{
    ids::RecordId,
    key::Priority,
    names::{KeyId, ModelName},
    rows::{Cursor, PageLimit, RowsError},
    time::Timestamp,
};
use serde_json::json;
use std::{borrow::Cow, sync::Arc};
use uuid::Uuid;

/// A request that was answered at once, the `n`th that was received.
fn record(n: u128) -> RequestRecord {
    RequestRecord {
        record_id: RecordId(Uuid::from_u128(n)),
        request_id: format!("request-{n}"),
        replica: "r1".into(),
        key: None,
        path: Cow::Borrowed("/v1/chat/completions"),
        model: ModelName::parse("qwen3-8b").ok(),
        stream: false,
        priority: Priority::default(),
        received_at_ms: Timestamp::from_millis(1_000 * u64::try_from(n).expect("small")),
        steps: vec![],
        steps_left_out: 0,
        provider: "gpu-box/vllm".parse().ok(),
        wake_id: None,
        handed_over_ms: Some(1),
        first_byte_ms: Some(5),
        ended_ms: Some(11),
        outcome: RequestOutcome::Done,
        status: Some(200),
        error: None,
        tokens: None,
        answer_bytes: 40,
        stands_for: 1,
    }
}

fn held(records: impl IntoIterator<Item = RequestRecord>) -> RecentRequests {
    let mut recent = RecentRequests::default();
    for record in records {
        recent.push(Arc::new(record));
    }
    recent
}

fn ids(page: &RequestPage) -> Vec<u128> {
    page.items
        .iter()
        .map(|record| record.record_id.0.as_u128())
        .collect()
}

#[test]
fn the_oldest_are_dropped_for_want_of_room_in_number_or_in_bytes() {
    let bytes = record(1).bytes();
    for (max_requests, max_bytes) in [(3, usize::MAX), (usize::MAX, 3 * bytes)] {
        let mut recent = RecentRequests::bounded(max_requests, max_bytes);
        let dropped: Vec<_> = (1..=5)
            .filter_map(|n| recent.push(Arc::new(record(n))))
            .map(|record| record.record_id.0.as_u128())
            .collect();
        assert_eq!(dropped, [1, 2]);
        assert_eq!(ids(&recent.page(&RequestQuery::default()).unwrap()), [5, 4, 3]);
        assert_eq!(recent.len(), 3);
    }
}

#[test]
fn pages_go_on_where_the_last_one_ended_whatever_ended_first() {
    let recent = held([3, 1, 5, 2, 4].map(record));
    let mut query = RequestQuery {
        limit: PageLimit::new(2),
        ..RequestQuery::default()
    };
    let mut pages = vec![];
    loop {
        let page = recent.page(&query).unwrap();
        pages.push(ids(&page));
        let Some(next) = page.next else { break };
        query.after = Some(next);
    }
    assert_eq!(pages, [vec![5, 4], vec![3, 2], vec![1]]);
    query.after = Some(Cursor::new("gpu-box/vllm"));
    assert_eq!(recent.page(&query), Err(RowsError::BadCursor));
}

#[test]
fn each_filter_keeps_what_it_names() {
    let key = KeyId::parse("k7mq2v9x4a1b").unwrap();
    let wake = crate::ids::WakeId(Uuid::from_u128(77));
    let recent = held([
        record(1),
        RequestRecord {
            model: ModelName::parse("gpu-box/qwen3-8b").ok(),
            first_byte_ms: Some(9_000),
            ..record(2)
        },
        RequestRecord {
            model: ModelName::parse("other-qwen3-8b").ok(),
            key: Some(key.clone()),
            ..record(3)
        },
        RequestRecord {
            outcome: RequestOutcome::Failed,
            first_byte_ms: None,
            ended_ms: Some(6_000),
            wake_id: Some(wake),
            provider: "nas/ollama".parse().ok(),
            ..record(4)
        },
        RequestRecord {
            outcome: RequestOutcome::Disconnected,
            ..record(5)
        },
    ]);
    let all = RequestQuery::default;
    for (query, expected) in [
        (all(), vec![5, 4, 3, 2, 1]),
        (
            RequestQuery {
                model: ModelName::parse("qwen3-8b").ok(),
                ..all()
            },
            vec![5, 4, 2, 1],
        ),
        (
            RequestQuery {
                key: Some(key),
                ..all()
            },
            vec![3],
        ),
        (
            RequestQuery {
                slow_ms: Some(SLOW_MS),
                ..all()
            },
            vec![4, 2],
        ),
        (
            RequestQuery {
                failed: true,
                ..all()
            },
            vec![4],
        ),
        (
            RequestQuery {
                wake: Some(wake),
                ..all()
            },
            vec![4],
        ),
        (
            RequestQuery {
                provider: "nas/ollama".parse().ok(),
                ..all()
            },
            vec![4],
        ),
        (
            RequestQuery {
                since: Some(Timestamp::from_millis(4_000)),
                ..all()
            },
            vec![5, 4],
        ),
    ] {
        assert_eq!(ids(&recent.page(&query).unwrap()), expected, "{query:?}");
    }
}

#[test]
fn a_request_is_found_by_its_id_and_by_that_of_its_record() {
    let again = RequestRecord {
        request_id: "request-1".to_owned(),
        ..record(3)
    };
    let recent = held([record(1), record(2), again]);
    let found = |id: &str| -> Vec<u128> {
        let found = recent.find(id).into_iter();
        found.map(|record| record.record_id.0.as_u128()).collect()
    };
    assert_eq!(found("request-1"), [3, 1], "its client used the id again");
    assert_eq!(found(&Uuid::from_u128(2).to_string()), [2]);
    assert_eq!(found("request-9"), [0_u128; 0]);
}

#[test]
fn the_first_and_the_last_of_many_steps_are_kept_and_repetitions_are_not() {
    let mut record = record(1);
    let provider = || "gpu-box/vllm".parse().unwrap();
    record.step(0, StepKind::Read);
    for n in 0..100 {
        let place = Some(u32::try_from(100 - n).unwrap());
        record.step(
            n,
            StepKind::Queued {
                provider: provider(),
                place,
            },
        );
    }
    assert_eq!(record.steps.len(), 2, "it waits in one queue");
    for n in 0..50 {
        record.step(100 + n, StepKind::Sent { provider: provider() });
        record.step(100 + n, StepKind::missed(provider(), "its agent is full\u{1b}"));
    }
    assert_eq!(record.steps.len(), MAX_STEPS);
    assert_eq!(record.steps_left_out as usize, 102 - MAX_STEPS);
    assert_eq!(record.steps[0].kind, StepKind::Read);
    let last = record.steps.last().unwrap();
    assert_eq!(last.after_ms, 149);
    assert_eq!(last.kind, StepKind::missed(provider(), "its agent is full"));
}

#[test]
fn usage_is_summed_up_by_the_hour_in_which_requests_ended() {
    let hour = 3_600_000;
    let tokens = TokenCount {
        input: Some(30),
        output: Some(7),
        estimated: true,
    };
    let at = |ms: u64, outcome| RequestRecord {
        received_at_ms: Timestamp::from_millis(ms),
        outcome,
        tokens: Some(tokens),
        ..record(1)
    };
    let mut table = UsageTable::default();
    for record in [
        at(hour - 5, RequestOutcome::Done),
        at(hour, RequestOutcome::Cut),
        at(2 * hour, RequestOutcome::Disconnected),
    ] {
        table.add(UsageKey::of(&record), Usage::of(&record));
    }
    let rows = |query: &UsageQuery| UsagePage::of(table.rows(), query).unwrap();
    let all = UsageQuery::default;
    let sums: Vec<_> = rows(&all())
        .items
        .iter()
        .map(|row| (row.key.hour_ms.as_millis() / hour, row.usage))
        .collect();
    let usage = |requests, failures| Usage {
        requests,
        failures,
        tokens_in: 30 * requests,
        tokens_out: 7 * requests,
        tokens_estimated: 7 * requests,
        busy_ms: 10 * requests,
    };
    assert_eq!(sums, [(2, usage(1, 0)), (1, usage(2, 1))]);
    let since = UsageQuery {
        since: Some(Timestamp::from_millis(2 * hour)),
        ..all()
    };
    assert_eq!(rows(&since).items.len(), 1);
    let mut one = UsageQuery {
        limit: PageLimit::new(1),
        ..all()
    };
    let first = rows(&one);
    assert_eq!(first.items[0].key.hour_ms.as_millis(), 2 * hour);
    one.after = first.next;
    let second = rows(&one);
    assert_eq!(
        (second.items[0].key.hour_ms.as_millis(), second.next),
        (hour, None)
    );
    assert_eq!(table.take().len(), 2);
    assert!(table.is_empty());
}

#[test]
fn old_hours_make_room_for_new_ones() {
    let mut table = UsageTable::default();
    for n in 0..=MAX_USAGE_ROWS {
        let key = UsageKey {
            hour_ms: Timestamp::from_millis(n as u64 / 1_000),
            model: ModelName::parse(&n.to_string()).ok(),
            ..UsageKey::of(&record(1))
        };
        table.add(key, Usage::default());
    }
    let rows: Vec<_> = table.rows().collect();
    assert_eq!(rows.len(), MAX_USAGE_ROWS + 1 - 1_000);
    assert!(rows.iter().all(|row| row.key.hour_ms.as_millis() > 0));
}

#[test]
fn a_record_reads_as_it_was_written_and_an_older_one_without_later_fields() {
    let mut full = RequestRecord {
        error: Some(RequestError::new("wake_failed", "exit code 1")),
        tokens: Some(TokenCount::default()),
        stands_for: 12,
        ..record(1)
    };
    let provider = || "gpu-box/vllm".parse().unwrap();
    full.step(
        1,
        StepKind::Chosen {
            provider: provider(),
            of: 2,
            why: Cow::Borrowed("it is awake"),
            others: vec![NotChosen {
                provider: "nas/ollama".parse().unwrap(),
                why: Cow::Borrowed("it is asleep"),
            }],
        },
    );
    let text = serde_json::to_string(&full).unwrap();
    assert_eq!(serde_json::from_str::<RequestRecord>(&text).unwrap(), full);
    assert_eq!(
        serde_json::to_value(&full.steps[0]).unwrap(),
        json!({"after_ms": 1, "step": "chosen", "provider": "gpu-box/vllm", "of": 2, "why": "it is awake",
            "others": [{"provider": "nas/ollama", "why": "it is asleep"}]})
    );
    let least = json!({"record_id": record(1).record_id, "request_id": "r", "replica": "r1", "path": "/v1/rerank",
        "received_at_ms": 5, "outcome": "failed"});
    let read: RequestRecord = serde_json::from_value(least).unwrap();
    assert_eq!((read.stands_for, read.status, read.steps.len()), (1, None, 0));
}
