//! The archive: commits and events as columns.

use crate::{
    columns::{Columns, big, big_ms, json},
    order::Order,
    sql,
};
use reveille_domain::{
    CommandId, WakeId,
    rows::{EventPosition, EventQuery, EventRow, RowSource, RowsError, SourceBody},
};
use serde_json::{Value, json};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row, postgres::PgRow};

/// How many rows a statement inserts. At 12 values each they are far below a statement's limit of 65,535.
const ROWS_A_STATEMENT: usize = 1_000;

const EVENT_COLUMNS: &str = "aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, \
     stream_seq, index_in_commit, at_ms, command_id, wake_id";

/// Archives the bytes of commits. An archived commit is never changed.
pub(crate) async fn insert_commits(db: &mut PgConnection, commits: &[RowSource]) -> sqlx::Result<()> {
    for commits in commits.chunks(ROWS_A_STATEMENT) {
        let mut sql = QueryBuilder::<Postgres>::new(
            "INSERT INTO commits (stream_seq, subject, headers, payload, hash, unreadable) ",
        );
        sql.push_values(commits, |mut values, commit| {
            let raw = commit.raw.as_ref();
            let headers = json(&raw.map_or(&[][..], |raw| &raw.headers));
            let unreadable = match &commit.body {
                SourceBody::Unreadable { reason } => Some(reason.as_str()),
                SourceBody::Provider { .. } | SourceBody::EventsOnly => None,
            };
            values.push_bind(big(commit.stream_seq));
            values.push_bind(&commit.subject);
            values.push_bind(headers).push_unseparated("::json");
            values.push_bind(raw.map_or(&[][..], |raw| &raw.payload));
            values.push_bind(&commit.hash);
            values.push_bind(unreadable);
        });
        sql.push(" ON CONFLICT (stream_seq) DO NOTHING");
        sql::built(&mut sql).execute(&mut *db).await?;
    }
    Ok(())
}

/// Archives events. Their payload is the JSON of the event enums, so that `get_events` can read them.
pub(crate) async fn insert_events(db: &mut PgConnection, events: &[EventRow]) -> sqlx::Result<()> {
    for events in events.chunks(ROWS_A_STATEMENT) {
        let mut sql = QueryBuilder::<Postgres>::new(format!("INSERT INTO events ({EVENT_COLUMNS}) "));
        sql.push_values(events, |mut values, event| {
            values.push_bind(&event.aggregate_type);
            values.push_bind(&event.aggregate_id);
            values.push_bind(big(event.sequence));
            values.push_bind(&event.event_type);
            values.push_bind(&event.version);
            values
                .push_bind(json(&json!({ "type": event.event_type, "data": event.data })))
                .push_unseparated("::json");
            values
                .push_bind(json(&metadata(event)))
                .push_unseparated("::json");
            values.push_bind(big(event.stream_seq));
            values.push_bind(i32::try_from(event.index).unwrap_or(i32::MAX));
            values.push_bind(big_ms(event.at_ms));
            values.push_bind(event.command_id.map(|id| id.0));
            values.push_bind(event.wake_id.map(|id| id.0));
        });
        sql.push(" ON CONFLICT (stream_seq, index_in_commit) DO NOTHING");
        sql::built(&mut sql).execute(&mut *db).await?;
    }
    Ok(())
}

/// The metadata of `cqrs_es`, which holds only texts.
fn metadata(event: &EventRow) -> Value {
    json!({
        "at_ms": event.at_ms.as_millis().to_string(),
        "command_id": event.command_id.map(|id| id.to_string()).unwrap_or_default(),
        "stream_seq": event.stream_seq.to_string(),
    })
}

/// The statement for a query. It selects one row more than the page holds.
pub(crate) fn select(query: &EventQuery) -> Result<QueryBuilder<'_, Postgres>, RowsError> {
    let range = query.range()?;
    let columns = |position: EventPosition| {
        let index = i32::try_from(position.index).unwrap_or(i32::MAX);
        (big(position.stream_seq), index)
    };
    let (seq, index) = columns(range.after);
    let mut sql = QueryBuilder::new(format!("SELECT {EVENT_COLUMNS} FROM events"));
    sql.push(" WHERE (stream_seq, index_in_commit) > (")
        .push_bind(seq);
    sql.push(", ").push_bind(index).push(")");
    if let Some(before) = range.before {
        let (seq, index) = columns(before);
        sql.push(" AND (stream_seq, index_in_commit) < (").push_bind(seq);
        sql.push(", ").push_bind(index).push(")");
    }
    if let Some(kind) = &query.aggregate_type {
        sql.push(" AND aggregate_type = ").push_bind(kind);
    }
    if let Some(id) = &query.aggregate_id {
        sql.push(" AND aggregate_id = ").push_bind(id);
    }
    if let Some(kind) = &query.event_type {
        sql.push(" AND event_type = ").push_bind(kind);
    }
    let order = Order {
        column: None,
        key: &["stream_seq", "index_in_commit"],
        descending: query.sort.descending,
    };
    order.by(&mut sql, query.limit);
    Ok(sql)
}

/// The statement for all events of the commits `first` to `last`.
pub(crate) fn select_range<'a>(first: u64, last: u64) -> QueryBuilder<'a, Postgres> {
    let mut sql = QueryBuilder::new(format!(
        "SELECT {EVENT_COLUMNS} FROM events WHERE stream_seq BETWEEN "
    ));
    sql.push_bind(big(first)).push(" AND ").push_bind(big(last));
    sql.push(" ORDER BY stream_seq, index_in_commit");
    sql
}

/// Reads a row.
pub(crate) fn read(row: &PgRow) -> sqlx::Result<EventRow> {
    let mut payload: Value = row.json("payload")?;
    Ok(EventRow {
        stream_seq: row.number("stream_seq")?,
        index: u32::try_from(row.try_get::<i32, _>("index_in_commit")?).unwrap_or(0),
        aggregate_type: row.text("aggregate_type")?,
        aggregate_id: row.text("aggregate_id")?,
        sequence: row.number("sequence")?,
        event_type: row.text("event_type")?,
        version: row.text("event_version")?,
        at_ms: row.time("at_ms")?,
        command_id: row.try_get::<Option<_>, _>("command_id")?.map(CommandId),
        data: payload.get_mut("data").map(Value::take).unwrap_or_default(),
        wake_id: row.try_get::<Option<_>, _>("wake_id")?.map(WakeId),
    })
}
