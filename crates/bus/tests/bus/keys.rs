//! Keys in the journal: chained and folded like the other aggregates, and no row shows the hash of a secret.

use crate::events::{PATIENCE, at, check, client_key, commit, create_key, journal, meta, stored};
use crate::heartbeats::wall_clock;
use futures::StreamExt;
use reveille_bus::{AggregateId, BusError, CommandError, Journal, JournalEntry};
use reveille_domain::{
    Key, KeyCommand, Timestamp,
    rows::{SourceBody, event_rows},
};
use serde_json::json;
use std::time::Duration;

async fn entries(journal: &Journal) -> Vec<JournalEntry> {
    let read = journal.read(0, None).await.unwrap();
    read.map(Result::unwrap).collect().await
}

#[tokio::test]
async fn a_keys_life_is_chained_and_folds_to_its_state() {
    let (_nats, connection, journal) = journal().await;
    let id = client_key();
    // Made, then rotated.
    commit(&journal, &id).await;
    commit(&journal, &id).await;
    let revoke = KeyCommand::Revoke { at: at(20) };
    let revoked = journal.execute::<Key>(&id, revoke, &meta(20)).await.unwrap();
    assert!(matches!(revoked.state, Key::Revoked(_)));
    let again = journal.execute::<Key>(&id, create_key(&id), &meta(30)).await;
    assert!(matches!(again, Err(CommandError::Rejected(_))), "{again:?}");
    let all = stored(&connection).await;
    assert_eq!(all.len(), 3);
    check(&all);
}

#[tokio::test]
async fn no_row_shows_a_hash_and_the_archive_keeps_every_byte() {
    let (_nats, connection, journal) = journal().await;
    commit(&journal, &client_key()).await;
    commit(&journal, &client_key()).await;
    for (entry, stored) in entries(&journal).await.iter().zip(stored(&connection).await) {
        let Key::Issued(key) = stored.key().state else {
            panic!("issued")
        };
        let hash = hex::encode(key.secret.as_bytes());
        let committed = entry.archived();
        assert_eq!(committed.body, SourceBody::EventsOnly);
        let rows = event_rows(&committed);
        assert_eq!(
            (
                rows.len(),
                rows[0].aggregate_type.as_str(),
                rows[0].aggregate_id.as_str()
            ),
            (1, "key", "k7mq2v9x")
        );
        let shown = serde_json::to_string(&rows).unwrap();
        assert!(!shown.contains(&hash) && !shown.contains("secret"), "{shown}");
        let raw = committed.raw.unwrap().payload;
        assert_eq!(raw, stored.payload);
        assert!(String::from_utf8(raw).unwrap().contains(&hash));
    }
    let rows = event_rows(&entries(&journal).await[0].row_source());
    assert_eq!(
        rows[0].data["terms"]["scopes"],
        json!(["query", "infer:qwen3-8b"]),
        "{rows:?}"
    );
}

#[tokio::test]
async fn what_was_stored_since_a_time_is_read_up_to_the_end_and_no_further() {
    let (_nats, _connection, journal) = journal().await;
    let since = async |time| {
        let read = journal.read_since(time).await.unwrap();
        let read = read.map(|entry| entry.unwrap().sequence).collect::<Vec<_>>();
        tokio::time::timeout(PATIENCE, read).await.expect("an end")
    };
    assert_eq!(since(Timestamp::default()).await, [0; 0], "an empty journal");
    let ids = ["key00001", "key00002", "key00003"].map(|id| AggregateId::parse("key", id).unwrap());
    for id in &ids {
        commit(&journal, id).await;
        // Stored times are milliseconds: the next commit gets a later one.
        let stored_at = entries(&journal).await.last().expect("a commit").stored_at;
        while wall_clock() <= stored_at.as_millis() {
            tokio::task::yield_now().await;
        }
    }
    let stored: Vec<_> = entries(&journal)
        .await
        .iter()
        .map(|entry| entry.stored_at)
        .collect();
    assert_eq!(since(Timestamp::default()).await, [1, 2, 3]);
    assert_eq!(since(stored[1]).await, [2, 3]);
    let later = stored[2].plus(Duration::from_millis(1));
    assert_eq!(since(later).await, [0; 0], "nothing is waited for");
}

#[tokio::test]
async fn what_a_newer_version_writes_of_a_key_is_not_shown_and_closes_that_key_alone() {
    let (nats, _connection, journal) = journal().await;
    let raw = nats.connect().await;
    let id = client_key();
    let newer = json!({"v": 1, "aggregate_version": 1, "first_event_seq": 1, "at_ms": 1, "cause": "test",
        "command_id": uuid::Uuid::now_v7(), "state_version": 2, "state": {},
        "events": [{"type": "KeySplit", "version": "1", "data": {"at_ms": 1, "halves": ["aa", "bb"]}}]});
    let sent = raw.request(id.subject(), newer.to_string().into()).await;
    sent.unwrap();
    let entry = &entries(&journal).await[0];
    let rows = event_rows(&entry.row_source());
    assert_eq!(
        (rows[0].event_type.as_str(), &rows[0].data),
        ("KeySplit", &json!({"at_ms": 1}))
    );
    let refused = journal.load::<Key>(&id).await.map(|_| ());
    assert!(matches!(refused, Err(BusError::Unreadable { .. })), "{refused:?}");
    let other = AggregateId::parse("key", "another1").unwrap();
    commit(&journal, &other).await;
}
