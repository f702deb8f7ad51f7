//! What must hold whatever dies or comes twice.

use crate::{
    history::some_history,
    reference::expected,
    stores::{InPostgres, Store},
};
use futures::future::join_all;
use reveille_domain::rows::{EventQuery, LlmQuery, MAX_PAGE_ROWS, PageLimit, Rows, SourceBody};
use reveille_projector::{Applied, Mark};
use sqlx::Row;

#[tokio::test(flavor = "multi_thread")]
async fn of_several_projectors_with_the_same_batch_one_takes_it_in() {
    let store = InPostgres::create().await;
    let history = some_history();
    let (first, rest) = history.split_at(40);
    for batch in [first, rest] {
        let from = store.projection.mark().await.expect("a checkpoint");
        let rivals = join_all((0..3).map(|_| store.projection.apply(&from, batch))).await;
        let taken = rivals.into_iter().map(|applied| applied.expect("a database"));
        let taken: Vec<_> = taken.filter(|applied| *applied != Applied::Fenced).collect();
        assert_eq!(taken, [Applied::To(Mark::after(&batch[batch.len() - 1]))]);
    }
    let events = store
        .rows
        .events(&EventQuery {
            limit: PageLimit::new(MAX_PAGE_ROWS),
            ..Default::default()
        })
        .await;
    assert_eq!(events.expect("an answer").items, expected(&history).events);
}

#[tokio::test]
async fn a_checkpoint_with_another_hash_takes_nothing_in() {
    let mut store = InPostgres::create().await;
    let history = some_history();
    store.take(&history[..10]).await;
    let from = Mark {
        hash: "of another journal".into(),
        ..Mark::after(&history[9])
    };
    let applied = store
        .projection
        .apply(&from, &history[10..20])
        .await
        .expect("a database");
    assert_eq!(applied, Applied::Fenced);
    assert_eq!(store.rows.applied().await, Ok(10));
    let events = store
        .rows
        .events(&EventQuery {
            after_seq: Some(10),
            ..Default::default()
        })
        .await;
    assert_eq!(events.expect("an answer").items, []);
}

#[tokio::test]
async fn a_batch_that_is_cut_off_leaves_nothing() {
    let store = InPostgres::create().await;
    let history = some_history();
    let before = Mark::default();
    let mut db = store.database.connect().await;
    // The transaction waits for this lock after it has moved the checkpoint and written rows.
    sqlx::raw_sql("BEGIN; LOCK TABLE commits")
        .execute(&mut db)
        .await
        .expect("a lock");
    let apply = store.projection.apply(&before, &history);
    let cut = tokio::time::timeout(std::time::Duration::from_millis(700), apply).await;
    assert!(cut.is_err(), "it waits for the lock");
    sqlx::raw_sql("COMMIT").execute(&mut db).await.expect("unlocked");
    assert_eq!(store.projection.mark().await.expect("a checkpoint"), before);
    assert_eq!(
        store
            .rows
            .llms(&LlmQuery::default())
            .await
            .expect("an answer")
            .items,
        []
    );
    let applied = store
        .projection
        .apply(&before, &history)
        .await
        .expect("a database");
    assert_eq!(applied, Applied::To(Mark::after(&history[history.len() - 1])));
}

#[tokio::test]
async fn a_commit_that_the_database_refuses_is_archived_and_holds_nothing_up() {
    let mut store = InPostgres::create().await;
    let mut history = some_history();
    let poison = history
        .iter()
        .position(|commit| commit.body == SourceBody::EventsOnly)
        .expect("one");
    // A column of text holds no NUL.
    history[poison].events[0].event_type = "Agent\0Connected".into();
    store.take(&history).await;
    history[poison].events.clear();
    let events = store
        .rows
        .events(&EventQuery {
            limit: PageLimit::new(MAX_PAGE_ROWS),
            ..Default::default()
        })
        .await;
    assert_eq!(events.expect("an answer").items, expected(&history).events);
    let mut db = store.database.connect().await;
    let unreadable = sqlx::query("SELECT unreadable FROM commits WHERE stream_seq = $1")
        .bind(history[poison].stream_seq as i64)
        .fetch_one(&mut db)
        .await
        .expect("a row");
    let reason: String = unreadable.get("unreadable");
    assert!(reason.contains("the database refuses it"), "{reason}");
}

#[tokio::test]
async fn the_archive_holds_every_message_byte_for_byte() {
    let mut store = InPostgres::create().await;
    let history = some_history();
    store.take(&history).await;
    let mut db = store.database.connect().await;
    let rows = sqlx::query("SELECT * FROM commits ORDER BY stream_seq")
        .fetch_all(&mut db)
        .await
        .expect("rows");
    assert_eq!(rows.len(), history.len());
    for (row, commit) in rows.iter().zip(&history) {
        let raw = commit.raw.as_ref().expect("bytes");
        let headers: sqlx::types::Json<Vec<(String, String)>> = row.get("headers");
        let unreadable: Option<String> = row.get("unreadable");
        assert_eq!(row.get::<String, _>("subject"), commit.subject);
        assert_eq!(
            (&headers.0, &row.get::<Vec<u8>, _>("payload")),
            (&raw.headers, &raw.payload)
        );
        assert_eq!(row.get::<String, _>("hash"), commit.hash);
        assert_eq!(
            unreadable.is_some(),
            matches!(commit.body, SourceBody::Unreadable { .. })
        );
    }
}
