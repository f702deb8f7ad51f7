//! Requests and usage as columns: written from the stream of requests, apart from the fold of the journal, and read by the query port.

use crate::{
    columns::{Columns, big, big_ms, json},
    order::Order,
    sql,
};
use reveille_bus::requests::StoredBatch;
use reveille_domain::{
    KeyId, ModelName, ProviderId, Timestamp,
    requests::{RequestPage, RequestQuery, RequestRecord, Usage, UsageKey, UsagePage, UsageQuery, UsageRow},
    rows::{RowsError, SortValue},
};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row, postgres::PgRow};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// The tables that aren't folded from the journal.
pub(crate) const TABLES: [&str; 4] = ["request_checkpoint", "request_runs", "requests", "usage_hourly"];
/// How many rows a statement inserts. At 11 values each they are far below a statement's limit of 65,535.
const ROWS_A_STATEMENT: usize = 500;
/// How many old requests a transaction deletes.
const DELETED_AT_ONCE: u64 = 5_000;

const COLUMNS: &str = "record_id, request_id, key_id, model, agent, provider, wake_id, received_at_ms, waited_ms, failed, record";
const USAGE_KEY: &str = "hour_ms, key_id, model, agent, provider";
const SUMS: [&str; 6] = [
    "requests",
    "failures",
    "tokens_in",
    "tokens_out",
    "tokens_estimated",
    "busy_ms",
];

/// How far the stream is taken in.
pub(crate) async fn mark(db: &mut PgConnection) -> sqlx::Result<u64> {
    let row = sql::query("SELECT stream_seq FROM request_checkpoint");
    row.fetch_one(db).await?.number("stream_seq")
}

/// Moves the mark; false if it wasn't where it should have been.
pub(crate) async fn move_mark(db: &mut PgConnection, from: u64, to: u64) -> sqlx::Result<bool> {
    let moved = sql::query("UPDATE request_checkpoint SET stream_seq = $1 WHERE stream_seq = $2")
        .bind(big(to))
        .bind(big(from))
        .execute(db)
        .await?;
    Ok(moved.rows_affected() == 1)
}

/// Writes what is new in `batches`.
pub(crate) async fn write(db: &mut PgConnection, batches: &[StoredBatch]) -> sqlx::Result<()> {
    let (mut records, mut usage) = (vec![], BTreeMap::<_, Usage>::new());
    for stored in batches {
        let Some(batch) = &stored.batch else { continue };
        if !is_new(db, batch.run, batch.number, stored.stored_at).await? {
            continue;
        }
        records.extend(batch.records.iter());
        for row in &batch.usage {
            *usage.entry(row.key.clone()).or_default() += row.usage;
        }
    }
    for records in records.chunks(ROWS_A_STATEMENT) {
        insert(db, records).await?;
    }
    let usage: Vec<_> = usage.into_iter().collect();
    for usage in usage.chunks(ROWS_A_STATEMENT) {
        add(db, usage).await?;
    }
    Ok(())
}

/// Whether no batch with this number of that run was written before.
async fn is_new(db: &mut PgConnection, run: Uuid, number: u64, at: Timestamp) -> sqlx::Result<bool> {
    let written = sql::query(
        "INSERT INTO request_runs (run, number, stored_at_ms) VALUES ($1, $2, $3) \
         ON CONFLICT (run) DO UPDATE SET number = excluded.number, stored_at_ms = excluded.stored_at_ms \
         WHERE request_runs.number < excluded.number",
    )
    .bind(run)
    .bind(big(number))
    .bind(big_ms(at))
    .execute(db)
    .await?;
    Ok(written.rows_affected() == 1)
}

async fn insert(db: &mut PgConnection, records: &[&Arc<RequestRecord>]) -> sqlx::Result<()> {
    let mut sql = QueryBuilder::<Postgres>::new(format!("INSERT INTO requests ({COLUMNS}) "));
    sql.push_values(records, |mut values, record| {
        let provider = record.provider.as_ref();
        values.push_bind(record.record_id.0);
        values.push_bind(record.request_id.as_str());
        values.push_bind(record.key.as_ref().map(KeyId::as_str));
        values.push_bind(record.model.as_ref().map(ModelName::as_str));
        values.push_bind(provider.map(|provider| provider.agent.as_str()));
        values.push_bind(provider.map(|provider| provider.provider.as_str()));
        values.push_bind(record.wake_id.map(|wake| wake.0));
        values.push_bind(big_ms(record.received_at_ms));
        values.push_bind(record.waited_ms().map(big));
        values.push_bind(record.outcome.is_failure());
        values.push_bind(json(record)).push_unseparated("::json");
    });
    sql.push(" ON CONFLICT (record_id) DO NOTHING");
    sql::built(&mut sql).execute(db).await?;
    Ok(())
}

async fn add(db: &mut PgConnection, usage: &[(UsageKey, Usage)]) -> sqlx::Result<()> {
    let sums = SUMS.join(", ");
    let mut sql = QueryBuilder::<Postgres>::new(format!("INSERT INTO usage_hourly ({USAGE_KEY}, {sums}) "));
    sql.push_values(usage, |mut values, (key, usage)| {
        let (agent, provider) = names(key.provider.as_ref());
        values.push_bind(big_ms(key.hour_ms));
        values.push_bind(key.key.as_ref().map_or("", KeyId::as_str));
        values.push_bind(key.model.as_ref().map_or("", ModelName::as_str));
        values.push_bind(agent);
        values.push_bind(provider);
        values.push_bind(big(usage.requests));
        values.push_bind(big(usage.failures));
        values.push_bind(big(usage.tokens_in));
        values.push_bind(big(usage.tokens_out));
        values.push_bind(big(usage.tokens_estimated));
        values.push_bind(big(usage.busy_ms));
    });
    let added = SUMS.map(|sum| format!("{sum} = usage_hourly.{sum} + excluded.{sum}"));
    sql.push(format!(
        " ON CONFLICT ({USAGE_KEY}) DO UPDATE SET {}",
        added.join(", ")
    ));
    sql::built(&mut sql).execute(db).await?;
    Ok(())
}

fn names(provider: Option<&ProviderId>) -> (&str, &str) {
    provider.map_or(("", ""), |id| (id.agent.as_str(), id.provider.as_str()))
}

/// Deletes some of the requests that were received before `before`. How many, and whether there may be more.
pub(crate) async fn forget(db: &mut PgConnection, before: Timestamp) -> sqlx::Result<bool> {
    let deleted = sql::query(
        "DELETE FROM requests WHERE record_id IN \
         (SELECT record_id FROM requests WHERE received_at_ms < $1 ORDER BY received_at_ms LIMIT $2)",
    )
    .bind(big_ms(before))
    .bind(big(DELETED_AT_ONCE))
    .execute(&mut *db)
    .await?;
    sql::query("DELETE FROM request_runs WHERE stored_at_ms < $1")
        .bind(big_ms(before))
        .execute(db)
        .await?;
    Ok(deleted.rows_affected() == DELETED_AT_ONCE)
}

/// The statement for a query. It selects one row more than the page holds.
pub(crate) fn select(query: &RequestQuery) -> Result<QueryBuilder<'_, Postgres>, RowsError> {
    let mut sql = QueryBuilder::new("SELECT record FROM requests WHERE true");
    if let Some(since) = query.since {
        sql.push(" AND received_at_ms >= ").push_bind(big_ms(since));
    }
    if let Some(model) = &query.model {
        // With or without an agent's and a provider's name before it; right() takes no pattern, so no name is one.
        let behind = format!("/{model}");
        let chars = i32::try_from(behind.chars().count()).unwrap_or(i32::MAX);
        sql.push(" AND (model = ").push_bind(model.as_str());
        sql.push(" OR right(model, ").push_bind(chars);
        sql.push(") = ").push_bind(behind).push(")");
    }
    if let Some(key) = &query.key {
        sql.push(" AND key_id = ").push_bind(key.as_str());
    }
    if let Some(id) = &query.provider {
        sql.push(" AND agent = ").push_bind(id.agent.as_str());
        sql.push(" AND provider = ").push_bind(id.provider.as_str());
    }
    if let Some(wake) = query.wake {
        sql.push(" AND wake_id = ").push_bind(wake.0);
    }
    if let Some(slow_ms) = query.slow_ms {
        sql.push(" AND waited_ms >= ").push_bind(big(slow_ms));
    }
    if query.failed {
        sql.push(" AND failed");
    }
    let order = Order {
        column: None,
        key: &["record_id"],
        descending: true,
    };
    if let Some(before) = query.before()? {
        order.after(&mut sql, SortValue::None, |sql| {
            sql.push_bind(before.0);
        });
    }
    order.by(&mut sql, query.limit);
    Ok(sql)
}

/// The page that a query's statement has selected.
pub(crate) fn page(rows: &[PgRow], query: &RequestQuery) -> sqlx::Result<RequestPage> {
    let records = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
    Ok(RequestPage::cut(records, query.limit))
}

/// The statement that reads the requests with this id, or the one with this record's id.
pub(crate) fn select_one<'a>(id: &'a str) -> QueryBuilder<'a, Postgres> {
    let mut sql = QueryBuilder::new("SELECT record FROM requests WHERE request_id = ");
    sql.push_bind(id);
    if let Ok(record_id) = Uuid::try_parse(id) {
        sql.push(" OR record_id = ").push_bind(record_id);
    }
    sql.push(" ORDER BY record_id DESC LIMIT 100");
    sql
}

/// Reads a request.
pub(crate) fn read(row: &PgRow) -> sqlx::Result<Arc<RequestRecord>> {
    row.json("record").map(Arc::new)
}

/// The statement for a query. It selects one row more than the page holds.
pub(crate) fn select_usage(query: &UsageQuery) -> Result<QueryBuilder<'_, Postgres>, RowsError> {
    let sums = SUMS.join(", ");
    let mut sql = QueryBuilder::new(format!("SELECT {USAGE_KEY}, {sums} FROM usage_hourly WHERE true"));
    if let Some(since) = query.since {
        sql.push(" AND hour_ms > ")
            .push_bind(big_ms(since.minus(UsageKey::HOUR)));
    }
    if let Some(key) = &query.key {
        sql.push(" AND key_id = ").push_bind(key.as_str());
    }
    if let Some(model) = &query.model {
        sql.push(" AND model = ").push_bind(model.as_str());
    }
    if let Some(id) = &query.provider {
        sql.push(" AND agent = ").push_bind(id.agent.as_str());
        sql.push(" AND provider = ").push_bind(id.provider.as_str());
    }
    if let Some(after) = query.after_key()? {
        let (agent, provider) = names(after.provider.as_ref());
        sql.push(" AND (hour_ms < ").push_bind(big_ms(after.hour_ms));
        sql.push(" OR hour_ms = ").push_bind(big_ms(after.hour_ms));
        sql.push(" AND (key_id, model, agent, provider) > (");
        let mut values = sql.separated(", ");
        values.push_bind(after.key.as_ref().map_or("", KeyId::as_str).to_owned());
        values.push_bind(after.model.as_ref().map_or("", ModelName::as_str).to_owned());
        values.push_bind(agent.to_owned());
        values.push_bind(provider.to_owned());
        sql.push("))");
    }
    sql.push(" ORDER BY hour_ms DESC, key_id, model, agent, provider LIMIT ");
    sql.push_bind(big(query.limit.rows() as u64 + 1));
    Ok(sql)
}

/// The page that a query's statement has selected.
pub(crate) fn usage_page(rows: &[PgRow], query: &UsageQuery) -> sqlx::Result<UsagePage> {
    let rows = rows.iter().map(read_usage).collect::<sqlx::Result<_>>()?;
    Ok(UsagePage::cut(rows, query.limit))
}

fn read_usage(row: &PgRow) -> sqlx::Result<UsageRow> {
    let has = |column: &str| Ok::<_, sqlx::Error>(!row.try_get::<&str, _>(column)?.is_empty());
    Ok(UsageRow {
        key: UsageKey {
            hour_ms: row.time("hour_ms")?,
            key: if has("key_id")? {
                Some(row.tagged("key_id")?)
            } else {
                None
            },
            model: if has("model")? {
                Some(row.tagged("model")?)
            } else {
                None
            },
            provider: if has("agent")? {
                Some(ProviderId::new(row.tagged("agent")?, row.tagged("provider")?))
            } else {
                None
            },
        },
        usage: Usage {
            requests: row.number("requests")?,
            failures: row.number("failures")?,
            tokens_in: row.number("tokens_in")?,
            tokens_out: row.number("tokens_out")?,
            tokens_estimated: row.number("tokens_estimated")?,
            busy_ms: row.number("busy_ms")?,
        },
    })
}
