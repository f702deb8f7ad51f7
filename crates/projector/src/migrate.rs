//! Brings the tables up to date, in one transaction: it changes everything or nothing. Tables of another program are left
//! alone.

use crate::sql;
use futures::future::BoxFuture;
use sqlx::{
    Executor, PgConnection,
    migrate::{AppliedMigration, Migrate, MigrateError, Migration},
};
use std::time::{Duration, Instant};

/// The advisory lock of a migration, held to the transaction's end: "migrate" as a number.
const LOCK: i64 = 0x6d69_6772_6174_6500;

/// sqlx's table of the migrations that were applied.
const APPLIED: &str = "CREATE TABLE IF NOT EXISTS _sqlx_migrations (version bigint PRIMARY KEY, \
     description text NOT NULL, installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, \
     checksum bytea NOT NULL, execution_time bigint NOT NULL)";

/// The tables and views in the schema where ours would be created, if no migration of ours has been there; those of extensions
/// don't count. Also whatever else has one of our names.
const FOREIGN: &str = "SELECT relname::text FROM pg_class \
     WHERE relnamespace = to_regnamespace(quote_ident(current_schema())) \
       AND (relname = ANY($1) OR relkind IN ('r', 'p', 'v', 'm', 'f') \
            AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass \
                            AND objid = pg_class.oid AND deptype = 'e')) \
       AND NOT EXISTS (SELECT FROM pg_class WHERE relname = '_sqlx_migrations' \
                       AND relnamespace = to_regnamespace(quote_ident(current_schema()))) \
     ORDER BY relname = ANY($1) DESC, relname";

/// The tables of this version.
const TABLES: [&str; 9] = [
    "checkpoint",
    "commits",
    "events",
    "llms",
    "request_checkpoint",
    "request_runs",
    "requests",
    "usage_hourly",
    "wakes",
];

/// Why the tables can't be brought up to date.
pub(crate) enum Failed {
    /// They belong to another program, or to another version.
    Schema(String),
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<MigrateError> for Failed {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Self::Database(error),
            MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
                Self::Schema(format!(
                    "it was migrated by another program, or by a newer or changed Reveille (migration {version}); {ELSEWHERE}"
                ))
            }
            error => Self::Schema(error.to_string()),
        }
    }
}

/// How many of another program's tables a text names.
const NAMED: usize = 5;

/// What to do about tables of another program.
const ELSEWHERE: &str = "give Reveille a database of its own, or a schema of its own in this one (CREATE SCHEMA reveille, \
     and ALTER ROLE … SET search_path = reveille for the role that it connects with)";

/// Brings the tables up to date in the transaction `db`.
pub(crate) async fn up_to_date(db: &mut PgConnection) -> Result<(), Failed> {
    // The migrations of two projectors wait for each other.
    sql::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *db)
        .await?;
    let foreign = foreign_tables(db).await?;
    if !foreign.is_empty() {
        return Err(Failed::Schema(format!(
            "another program has tables there ({}), and nothing was written; {ELSEWHERE}",
            listed(&foreign)
        )));
    }
    sqlx::migrate!().run_direct(&mut Unnamed(db)).await?;
    Ok(())
}

/// The first of these tables, and how many others there are.
pub(crate) fn listed(tables: &[String]) -> String {
    let (named, others) = tables.split_at(tables.len().min(NAMED));
    match others.len() {
        0 => named.join(", "),
        others => format!("{} and {others} more", named.join(", ")),
    }
}

/// Tables of another program where ours would be, those with our names first.
pub(crate) async fn foreign_tables(db: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sql::query_scalar(FOREIGN).bind(TABLES).fetch_all(db).await
}

/// sqlx's own implementation names its statements and keeps its lock in the session.
struct Unnamed<'a>(&'a mut PgConnection);

impl Migrate for Unnamed<'_> {
    fn ensure_migrations_table(&mut self) -> BoxFuture<'_, Result<(), MigrateError>> {
        Box::pin(async move {
            (&mut *self.0).execute(APPLIED).await?;
            Ok(())
        })
    }

    fn dirty_version(&mut self) -> BoxFuture<'_, Result<Option<i64>, MigrateError>> {
        Box::pin(async move {
            let dirty = sql::query_scalar(
                "SELECT version FROM _sqlx_migrations WHERE NOT success ORDER BY version LIMIT 1",
            );
            Ok(dirty.fetch_optional(&mut *self.0).await?)
        })
    }

    fn list_applied_migrations(&mut self) -> BoxFuture<'_, Result<Vec<AppliedMigration>, MigrateError>> {
        Box::pin(async move {
            let rows: Vec<(i64, Vec<u8>)> =
                sql::query_as("SELECT version, checksum FROM _sqlx_migrations ORDER BY version")
                    .fetch_all(&mut *self.0)
                    .await?;
            let applied = rows.into_iter().map(|(version, checksum)| AppliedMigration {
                version,
                checksum: checksum.into(),
            });
            Ok(applied.collect())
        })
    }

    /// The transaction has the lock.
    fn lock(&mut self) -> BoxFuture<'_, Result<(), MigrateError>> {
        Box::pin(async { Ok(()) })
    }

    fn unlock(&mut self) -> BoxFuture<'_, Result<(), MigrateError>> {
        Box::pin(async { Ok(()) })
    }

    fn apply<'e: 'm, 'm>(
        &'e mut self,
        migration: &'m Migration,
    ) -> BoxFuture<'m, Result<Duration, MigrateError>> {
        Box::pin(async move {
            let begun = Instant::now();
            (&mut *self.0).execute(&*migration.sql).await?;
            let took = begun.elapsed();
            sql::query(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES ($1, $2, true, $3, $4)",
            )
            .bind(migration.version)
            .bind(&*migration.description)
            .bind(&*migration.checksum)
            .bind(i64::try_from(took.as_nanos()).unwrap_or(i64::MAX))
            .execute(&mut *self.0)
            .await?;
            Ok(took)
        })
    }

    /// There are no migrations back.
    fn revert<'e: 'm, 'm>(
        &'e mut self,
        migration: &'m Migration,
    ) -> BoxFuture<'m, Result<Duration, MigrateError>> {
        Box::pin(async move { Err(MigrateError::VersionMissing(migration.version)) })
    }
}
