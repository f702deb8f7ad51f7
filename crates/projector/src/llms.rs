//! LLM rows as columns.

use crate::{
    columns::{Columns, big, big_ms, json},
    order::{Order, replace_existing},
    sql,
};
use reveille_domain::{
    AgentName, Epoch, Failures, WakeId,
    provider::WakeCounts,
    rows::{LastWake, LlmKey, LlmKind, LlmQuery, LlmRow, LlmSort, RowsError, SortKey},
};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row, postgres::PgRow};

/// How many rows a statement inserts. At 24 values each they are far below a statement's limit of 65,535.
const ROWS_A_STATEMENT: usize = 500;

const COLUMNS: &str = "agent, model, provider, name, kind, status, since_ms, epoch, wake_id, wake_deadline_ms, \
     can_wake, can_sleep, wakes_requested, wakes_succeeded, wakes_failed, last_wake_id, last_wake_took_ms, \
     last_wake_failure, failures, held_until_ms, last_failure, updated_seq, unreadable_since_seq, preset";

/// Replaces the rows of a provider. Remaining rows keep their heartbeat, and new ones take their agent's.
pub(crate) async fn replace(
    db: &mut PgConnection,
    agent: &str,
    provider: &str,
    rows: &[LlmRow],
) -> sqlx::Result<()> {
    let models: Vec<&str> = rows.iter().map(|row| row.model.as_str()).collect();
    sql::query("DELETE FROM llms WHERE agent = $1 AND provider = $2 AND model <> ALL($3)")
        .bind(agent)
        .bind(provider)
        .bind(models)
        .execute(&mut *db)
        .await?;
    for rows in rows.chunks(ROWS_A_STATEMENT) {
        upsert(db, rows).await?;
    }
    sql::query(
        "UPDATE llms SET last_heartbeat_ms = (SELECT max(last_heartbeat_ms) FROM llms WHERE agent = $1) \
         WHERE agent = $1 AND provider = $2 AND last_heartbeat_ms IS NULL",
    )
    .bind(agent)
    .bind(provider)
    .execute(db)
    .await?;
    Ok(())
}

async fn upsert(db: &mut PgConnection, rows: &[LlmRow]) -> sqlx::Result<()> {
    let mut sql = QueryBuilder::<Postgres>::new(format!("INSERT INTO llms ({COLUMNS}) "));
    sql.push_values(rows, |mut values, row| {
        let last_wake = row.last_wake.as_ref();
        values.push_bind(row.agent.as_str());
        values.push_bind(row.model.as_str());
        values.push_bind(row.provider.as_str());
        values.push_bind(&row.name);
        values.push_bind(<&str>::from(row.kind));
        values.push_bind(<&str>::from(row.status));
        values.push_bind(big_ms(row.since_ms));
        values.push_bind(big(row.epoch.0));
        values.push_bind(row.wake_id.map(|id| id.0));
        values.push_bind(row.wake_deadline_ms.map(big_ms));
        values.push_bind(row.can_wake);
        values.push_bind(row.can_sleep);
        values.push_bind(big(row.wakes.requested));
        values.push_bind(big(row.wakes.succeeded));
        values.push_bind(big(row.wakes.failed));
        values.push_bind(last_wake.map(|wake| wake.id.0));
        values.push_bind(last_wake.map(|wake| big(wake.took_ms)));
        values
            .push_bind(last_wake.and_then(|wake| wake.failure.as_ref()).map(json))
            .push_unseparated("::json");
        values.push_bind(i64::from(row.failures.count));
        values.push_bind(row.failures.held_until_ms.map(big_ms));
        values
            .push_bind(row.failures.last.as_ref().map(json))
            .push_unseparated("::json");
        values.push_bind(big(row.updated_seq));
        values.push_bind(row.unreadable_since_seq.map(big));
        values
            .push_bind(row.preset.as_ref().map(json))
            .push_unseparated("::json");
    });
    replace_existing(&mut sql, "agent, model, provider", COLUMNS);
    sql::built(&mut sql).execute(db).await?;
    Ok(())
}

/// Marks the rows of a provider whose commit `seq` can't be read. An earlier mark stays.
pub(crate) async fn mark_unreadable(
    db: &mut PgConnection,
    agent: &str,
    provider: &str,
    seq: u64,
) -> sqlx::Result<()> {
    sql::query(
        "UPDATE llms SET unreadable_since_seq = $3 \
         WHERE agent = $1 AND provider = $2 AND unreadable_since_seq IS NULL",
    )
    .bind(agent)
    .bind(provider)
    .bind(big(seq))
    .execute(db)
    .await?;
    Ok(())
}

/// Records the last heartbeats of agents, also with earlier times: NATS's clock may have been set back.
pub(crate) async fn heard(db: &mut PgConnection, agents: &[&str], at_ms: &[i64]) -> sqlx::Result<()> {
    sql::query(
        "UPDATE llms SET last_heartbeat_ms = heard.at_ms \
         FROM unnest($1::text[], $2::bigint[]) AS heard (agent, at_ms) \
         WHERE llms.agent = heard.agent AND llms.last_heartbeat_ms IS DISTINCT FROM heard.at_ms",
    )
    .bind(agents)
    .bind(at_ms)
    .execute(db)
    .await?;
    Ok(())
}

/// All rows.
pub(crate) async fn all(db: &mut PgConnection) -> sqlx::Result<Vec<PgRow>> {
    let sql = format!("SELECT {COLUMNS}, last_heartbeat_ms FROM llms");
    sql::query(&sql).fetch_all(db).await
}

/// The statement for a query. It selects one row more than the page holds.
pub(crate) fn select(query: &LlmQuery) -> Result<QueryBuilder<'_, Postgres>, RowsError> {
    let mut sql = QueryBuilder::new(format!(
        "SELECT {COLUMNS}, last_heartbeat_ms FROM llms WHERE true"
    ));
    if let Some(agent) = &query.agent {
        sql.push(" AND agent = ").push_bind(agent.as_str());
    }
    if let Some(provider) = &query.provider {
        sql.push(" AND provider = ").push_bind(provider.as_str());
    }
    if let Some(model) = &query.model {
        sql.push(" AND model = ").push_bind(model.as_str());
    }
    if let Some(status) = query.status {
        sql.push(" AND status = ").push_bind(<&str>::from(status));
    }
    let column = match query.sort.by {
        LlmSort::Name => None,
        LlmSort::Status => Some("status COLLATE \"C\""),
        LlmSort::Since => Some("since_ms"),
    };
    let order = Order {
        column,
        key: &["agent", "model", "provider"],
        descending: query.sort.descending,
    };
    if let Some(after) = &query.after {
        let SortKey { value, key } = SortKey::<LlmKey>::parse(after, query.sort.by)?;
        order.after(&mut sql, value, |sql| {
            sql.push_bind(key.agent.to_string());
            sql.push_bind(key.model.to_string());
            sql.push_bind(key.provider.to_string());
        });
    }
    order.by(&mut sql, query.limit);
    Ok(sql)
}

/// Reads a row.
pub(crate) fn read(row: &PgRow) -> sqlx::Result<LlmRow> {
    let agent: AgentName = row.tagged("agent")?;
    let last_wake = match row.try_get::<Option<_>, _>("last_wake_id")? {
        Some(id) => Some(LastWake {
            id: WakeId(id),
            took_ms: row.number("last_wake_took_ms")?,
            failure: row.json("last_wake_failure")?,
        }),
        None => None,
    };
    let LlmKind::Virtual = row.tagged("kind")?;
    Ok(LlmRow {
        name: row.text("name")?,
        agent,
        provider: row.tagged("provider")?,
        model: row.tagged("model")?,
        kind: LlmKind::Virtual,
        status: row.tagged("status")?,
        since_ms: row.time("since_ms")?,
        epoch: Epoch(row.number("epoch")?),
        wake_id: row.try_get::<Option<_>, _>("wake_id")?.map(WakeId),
        wake_deadline_ms: row.time_if_any("wake_deadline_ms")?,
        can_wake: row.try_get("can_wake")?,
        can_sleep: row.try_get("can_sleep")?,
        wakes: WakeCounts {
            requested: row.number("wakes_requested")?,
            succeeded: row.number("wakes_succeeded")?,
            failed: row.number("wakes_failed")?,
        },
        last_wake,
        failures: Failures {
            count: u32::try_from(row.number("failures")?).unwrap_or(u32::MAX),
            held_until_ms: row.time_if_any("held_until_ms")?,
            last: row.json("last_failure")?,
        },
        last_heartbeat_ms: row.time_if_any("last_heartbeat_ms")?,
        updated_seq: row.number("updated_seq")?,
        unreadable_since_seq: row.number_if_any("unreadable_since_seq")?,
        preset: row.json("preset")?,
    })
}
