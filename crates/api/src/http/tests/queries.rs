use super::{
    Served,
    fake_hub::{active, hibernating},
    limits,
};
use async_trait::async_trait;
use reveille_domain::{
    Timestamp, WakeId,
    rows::{Cursor, EventQuery, EventRow, LlmQuery, LlmRow, Page, Rows, RowsError, WakeQuery, WakeRow},
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Rows that answer events, and say of the rest what a test wants.
struct GivenRows {
    error: RowsError,
    asked: Mutex<Option<EventQuery>>,
}

#[async_trait]
impl Rows for GivenRows {
    async fn llms(&self, _: &LlmQuery) -> Result<Page<LlmRow>, RowsError> {
        Err(self.error.clone())
    }
    async fn wakes(&self, _: &WakeQuery) -> Result<Page<WakeRow>, RowsError> {
        Err(self.error.clone())
    }
    async fn wake(&self, _: WakeId) -> Result<Option<WakeRow>, RowsError> {
        Ok(None)
    }
    async fn events(&self, query: &EventQuery) -> Result<Page<EventRow>, RowsError> {
        *self.asked.lock().expect("lock") = Some(query.clone());
        Ok(Page {
            items: vec![event(7, 0)],
            next: Some(Cursor::new("7.0")),
            applied_seq: 9,
        })
    }
    async fn applied(&self) -> Result<u64, RowsError> {
        Ok(9)
    }
}

fn event(seq: u64, index: u32) -> EventRow {
    EventRow {
        stream_seq: seq,
        index,
        aggregate_type: "provider".to_owned(),
        aggregate_id: "gpu-box.vllm".to_owned(),
        sequence: seq,
        event_type: "WakeRequested".to_owned(),
        version: "1".to_owned(),
        at_ms: Timestamp::from_millis(5),
        command_id: None,
        data: json!({ "n": seq }),
        wake_id: None,
    }
}

async fn served(error: RowsError) -> (Served, Arc<GivenRows>) {
    let rows = Arc::new(GivenRows {
        error,
        asked: Mutex::default(),
    });
    (Served::with(limits(), rows.clone()).await, rows)
}

#[tokio::test]
async fn rows_that_cannot_answer_are_told_apart_and_tell_no_secret() {
    for (error, status, code) in [
        (
            RowsError::Unavailable("password=secret".to_owned()),
            503,
            "rows_unavailable",
        ),
        (RowsError::Behind { at: 3 }, 503, "rows_behind"),
        (RowsError::BadCursor, 400, "invalid_cursor"),
        (RowsError::NotHeld { from_seq: 4 }, 410, "events_not_held"),
    ] {
        let (served, _) = served(error).await;
        for path in ["llms", "llms/a/m", "wakes"] {
            let answer = served.get(&format!("/reveille/v1/{path}")).await;
            assert_eq!((answer.status, answer.error().as_str()), (status, code), "{path}");
            assert!(!answer.text().contains("secret"));
        }
        assert_eq!(
            served.get("/v1/models").await.status,
            200,
            "inference and models do without rows"
        );
    }
}

#[tokio::test]
async fn a_page_has_its_rows_its_next_and_what_it_took_in() {
    let (served, rows) = served(RowsError::BadCursor).await;
    let query = "aggregate_id=gpu-box.vllm&event_type=WakeRequested&after_seq=3&limit=1&min_seq=9";
    let page = served.get(&format!("/reveille/v1/events?{query}")).await.json();
    assert_eq!((&page["next"], &page["applied"]), (&json!("7.0"), &json!(9)));
    assert_eq!(page["data"][0]["event_type"], "WakeRequested");
    let asked = rows.asked.lock().expect("lock").clone().expect("a query");
    assert_eq!(
        (asked.after_seq, asked.limit.rows(), asked.min_seq),
        (Some(3), 1, Some(9))
    );
    assert_eq!(asked.aggregate_id.as_deref(), Some("gpu-box.vllm"));
    for bad in ["limit=x", "after_seq=-1", "follow=perhaps", "nonsense=1"] {
        assert_eq!(
            served.get(&format!("/reveille/v1/events?{bad}")).await.error(),
            "invalid_query",
            "{bad}"
        );
    }
    let missing = served
        .get("/reveille/v1/wakes/0190a000-0000-7000-8000-000000000000")
        .await;
    assert_eq!((missing.status, missing.error().as_str()), (404, "not_found"));
    assert_eq!(served.get("/reveille/v1/wakes/7").await.error(), "invalid_path");
}

#[tokio::test]
async fn lists_are_told_as_of_a_moment_without_what_only_a_running_process_knows() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "qwen", hibernating());
    let first = served.get("/reveille/v1/providers").await.json()["data"][0]["updated_seq"].clone();
    served.hub.publish("b/vllm", "phi", active());
    let ids = async |query: &str| {
        let page = served
            .get(&format!("/reveille/v1/providers?{query}"))
            .await
            .json();
        let rows = page["data"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| row["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids("").await, ["a/vllm", "b/vllm"]);
    assert_eq!(ids(&format!("at={first}")).await, ["a/vllm"]);
    assert_eq!(ids("at=9000&sort=-name").await, ["b/vllm", "a/vllm"]);
    assert_eq!(ids("at=9000&status=active").await, ["b/vllm"]);
    let past = served
        .get(&format!("/reveille/v1/providers?at={first}"))
        .await
        .json();
    assert_eq!(
        (&past["applied"], &past["data"][0]["status"]),
        (&first, &json!("hibernating"))
    );
    assert_eq!(past["data"][0].get("waiting"), None);
    let llms = served.get("/reveille/v1/llms?at=9000").await.json();
    assert_eq!(llms["data"][1]["name"], "b/phi");
    let refused = served.get("/reveille/v1/llms?at=yesterday").await;
    assert_eq!(refused.error(), "invalid_query");
    assert!(
        refused.text().contains("such as 2026-11-28T10:00:00Z"),
        "{}",
        refused.text()
    );
    let lost = served.get("/reveille/v1/agents?at=2026-11-28T10:00:00Z").await;
    assert_eq!((lost.status, lost.error().as_str()), (503, "journal_unavailable"));
}

#[tokio::test]
async fn events_are_followed_from_where_their_reader_was() {
    let (served, _) = served(RowsError::BadCursor).await;
    let other = EventRow {
        event_type: "WakeSucceeded".to_owned(),
        ..event(8, 0)
    };
    let events = [
        Ok(event(7, 0)),
        Ok(event(7, 1)),
        Ok(other),
        Ok(event(9, 0)),
        Err(RowsError::Unavailable("x".into())),
    ];
    *served.feed.events.lock().expect("lock") = events.into();
    let url = format!(
        "{}/reveille/v1/events?follow=true&event_type=WakeRequested",
        served.url
    );
    let answer = super::Answer::of(served.client.get(url).header("last-event-id", "7.0")).await;
    assert_eq!(
        *served.feed.asked_after.lock().expect("lock"),
        Some(6),
        "the rest of the last commit is read too"
    );
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let text = answer.text();
    let ids: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    assert_eq!(ids, ["7.1", "9.0"]);
    let data = text
        .lines()
        .find_map(|line| line.strip_prefix("data: "))
        .expect("an event");
    assert_eq!(
        serde_json::from_str::<Value>(data).expect("JSON")["data"],
        json!({ "n": 7 })
    );
    assert!(
        text.contains("event: WakeRequested\n") && text.contains("event: error\ndata: {\"error\""),
        "{text}"
    );
    let bad = super::Answer::of(
        served
            .client
            .get(format!("{}/reveille/v1/events?follow=true&after=x", served.url)),
    );
    assert_eq!(bad.await.error(), "invalid_cursor");
}
