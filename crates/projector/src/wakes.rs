//! Wake rows as columns.

use crate::{
    columns::{Columns, big, big_ms, json, tag},
    order::{Order, replace_existing},
    sql,
};
use reveille_domain::{
    KeyId, ProviderId, WakeCause, WakeFailure, WakeId,
    rows::{RowsError, SortKey, WakeChange, WakePosition, WakeQuery, WakeRow, WakeSort},
};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row, postgres::PgRow};
use std::collections::BTreeMap;
use uuid::Uuid;

/// How many rows a statement inserts. At 17 values each they are far below a statement's limit of 65,535.
const ROWS_A_STATEMENT: usize = 500;

const COLUMNS: &str = "wake_id, agent, provider, cause_by, request_id, model, key_id, requested_at_ms, deadline_ms, \
     ended_at_ms, outcome, failure_kind, failure_stage, failure_reason, stages, requested_seq, ended_seq";

/// How long a wake took, as in [`WakeRow::sort_key`]. An index uses the same expression.
const TOOK: &str = "greatest(coalesce(ended_at_ms - requested_at_ms, 9223372036854775807), 0)";

/// Applies `changes` to the rows of wakes, in order.
pub(crate) async fn change(db: &mut PgConnection, changes: Vec<WakeChange>) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = changes.iter().map(|change| change.wake_id().0).collect();
    let mut rows = BTreeMap::new();
    for row in these(db, ids).await? {
        let row = read(&row)?;
        rows.insert(row.wake_id, row);
    }
    for change in changes {
        let id = change.wake_id();
        let row = change.after(rows.remove(&id));
        rows.insert(id, row);
    }
    let rows: Vec<WakeRow> = rows.into_values().collect();
    for rows in rows.chunks(ROWS_A_STATEMENT) {
        upsert(db, rows).await?;
    }
    Ok(())
}

/// The rows of these wakes, as far as there are any.
pub(crate) async fn these(db: &mut PgConnection, ids: Vec<Uuid>) -> sqlx::Result<Vec<PgRow>> {
    let sql = format!("SELECT {COLUMNS} FROM wakes WHERE wake_id = ANY($1)");
    sql::query(&sql).bind(ids).fetch_all(db).await
}

async fn upsert(db: &mut PgConnection, rows: &[WakeRow]) -> sqlx::Result<()> {
    let mut sql = QueryBuilder::<Postgres>::new(format!("INSERT INTO wakes ({COLUMNS}) "));
    sql.push_values(rows, |mut values, row| {
        let (by, request_id, model) = match &row.cause {
            Some(WakeCause::Request {
                request_id, model, ..
            }) => (Some("request"), Some(request_id.as_str()), Some(model.as_str())),
            Some(WakeCause::Operator { .. }) => (Some("operator"), None, None),
            None => (None, None, None),
        };
        let key = row.cause.as_ref().and_then(WakeCause::key);
        let failure = row.failure.as_ref();
        values.push_bind(row.wake_id.0);
        values.push_bind(row.provider.agent.as_str());
        values.push_bind(row.provider.provider.as_str());
        values.push_bind(by);
        values.push_bind(request_id);
        values.push_bind(model);
        values.push_bind(key.map(KeyId::as_str));
        values.push_bind(big_ms(row.requested_at_ms));
        values.push_bind(row.deadline_ms.map(big_ms));
        values.push_bind(row.ended_at_ms.map(big_ms));
        values.push_bind(<&str>::from(row.outcome));
        values.push_bind(failure.map(|failure| tag(failure.kind)));
        values.push_bind(failure.map(|failure| failure.stage.as_str()));
        values.push_bind(failure.map(|failure| failure.reason.as_str()));
        values.push_bind(json(&row.stages)).push_unseparated("::json");
        values.push_bind(row.requested_seq.map(big));
        values.push_bind(row.ended_seq.map(big));
    });
    replace_existing(&mut sql, "wake_id", COLUMNS);
    sql::built(&mut sql).execute(db).await?;
    Ok(())
}

/// The statement for a query. It selects one row more than the page holds.
pub(crate) fn select(query: &WakeQuery) -> Result<QueryBuilder<'_, Postgres>, RowsError> {
    let mut sql = QueryBuilder::new(format!("SELECT {COLUMNS} FROM wakes WHERE true"));
    if let Some(id) = &query.provider {
        sql.push(" AND agent = ").push_bind(id.agent.as_str());
        sql.push(" AND provider = ").push_bind(id.provider.as_str());
    }
    if let Some(agent) = &query.agent {
        sql.push(" AND agent = ").push_bind(agent.as_str());
    }
    if let Some(outcome) = query.outcome {
        sql.push(" AND outcome = ")
            .push_bind(<&str>::from(outcome.outcome()));
        if let Some(kind) = outcome.kind() {
            sql.push(" AND failure_kind = ").push_bind(tag(kind));
        }
        for other in outcome.other_kinds() {
            sql.push(" AND failure_kind IS DISTINCT FROM ")
                .push_bind(tag(other));
        }
    }
    let order = Order {
        column: match query.sort.by {
            WakeSort::Requested => None,
            WakeSort::Took => Some(TOOK),
        },
        key: &["requested_at_ms", "wake_id"],
        descending: query.sort.descending,
    };
    if let Some(after) = &query.after {
        let SortKey { value, key } = SortKey::<WakePosition>::parse(after, query.sort.by)?;
        order.after(&mut sql, value, |sql| {
            sql.push_bind(big_ms(key.requested_at_ms));
            sql.push_bind(key.wake_id.0);
        });
    }
    order.by(&mut sql, query.limit);
    Ok(sql)
}

/// The statement that reads one wake.
pub(crate) fn select_one<'a>(id: WakeId) -> QueryBuilder<'a, Postgres> {
    let mut sql = QueryBuilder::new(format!("SELECT {COLUMNS} FROM wakes WHERE wake_id = "));
    sql.push_bind(id.0);
    sql
}

/// Reads a row.
pub(crate) fn read(row: &PgRow) -> sqlx::Result<WakeRow> {
    let key = row.tagged_if_any("key_id")?;
    let cause = match row.try_get::<Option<String>, _>("cause_by")?.as_deref() {
        Some("request") => Some(WakeCause::Request {
            request_id: row.text("request_id")?,
            model: row.tagged("model")?,
            key,
        }),
        Some(_) => Some(WakeCause::Operator { key }),
        None => None,
    };
    let failure = match row.try_get::<Option<String>, _>("failure_kind")? {
        Some(_) => Some(WakeFailure {
            kind: row.tagged("failure_kind")?,
            stage: row.text("failure_stage")?,
            reason: row.text("failure_reason")?,
        }),
        None => None,
    };
    Ok(WakeRow {
        wake_id: WakeId(row.try_get("wake_id")?),
        provider: ProviderId::new(row.tagged("agent")?, row.tagged("provider")?),
        cause,
        requested_at_ms: row.time("requested_at_ms")?,
        deadline_ms: row.time_if_any("deadline_ms")?,
        ended_at_ms: row.time_if_any("ended_at_ms")?,
        outcome: row.tagged("outcome")?,
        failure,
        stages: row.json("stages")?,
        requested_seq: row.number_if_any("requested_seq")?,
        ended_seq: row.number_if_any("ended_seq")?,
    })
}
