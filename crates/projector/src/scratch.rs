//! The schema in which rows are rebuilt, and the switch to its tables.
//!
//! Readers and projectors name tables without a schema, and a statement uses the table that has the name when it gets its
//! lock. So the switch is one transaction that moves tables, and no reader needs to know about it.

use crate::{Mark, Projection, ProjectionError, ProjectorError, columns::big, requests, sql};
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tokio::time::Instant;

/// Where rows are rebuilt.
pub(crate) const SCHEMA: &str = "reveille_rebuild";
/// The schema's comment. Another version may fold differently, so it starts over.
const COMMENT: &str = concat!("rows being rebuilt by reveille ", env!("CARGO_PKG_VERSION"));
/// How the comment of every version begins. A schema without it isn't Reveille's.
const COMMENT_BEGINS: &str = "rows being rebuilt by reveille ";
/// The advisory lock of a rebuild: the word "reveille" as a number.
const LOCK: i64 = 0x7265_7665_696c_6c65;
/// How long the switch waits for a table that is being read. It is short because other statements queue behind it.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";
/// How long the lock of a killed rebuild may last, until the database notices.
const RIVAL_GONE_WITHIN: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(200);
/// What transactions in the schema begin with. They don't wait for the disk: a crash loses the checkpoint together with its
/// rows, and the switch is a durable commit.
const SETTINGS: &str = "SET LOCAL search_path = reveille_rebuild; SET LOCAL synchronous_commit = off";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the work on the schema stops.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The database or NATS failed. What is written stays, and the work resumes from there.
    Again(String),
    /// Another lock lasts longer than the switch may wait: a time-out or a deadlock.
    Barred(String),
    /// It can't continue.
    Never(ProjectorError),
}

impl From<ProjectorError> for Stop {
    fn from(error: ProjectorError) -> Self {
        Self::Never(error)
    }
}

impl From<ProjectionError> for Stop {
    fn from(error: ProjectionError) -> Self {
        match error {
            ProjectionError::Unavailable(error) => error.into(),
            ProjectionError::Refused(_) => Self::Never(ProjectorError::Schema(error.to_string())),
        }
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        let database = error.as_database_error();
        let code = database.and_then(sqlx::error::DatabaseError::code);
        let code = code.unwrap_or_default();
        // Classes of SQLSTATE: 2B dependent objects still exist, 42 access rules and names.
        match (code.get(..2), &*code) {
            (Some("2B" | "42"), _) => Self::Never(ProjectorError::Schema(error.to_string())),
            (_, "55P03" | "40P01") => Self::Barred(error.to_string()),
            _ => Self::Again(error.to_string()),
        }
    }
}

/// What happened to the old rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Old {
    /// They were dropped, because the new rows contain everything in them.
    Dropped,
    /// They were kept in this schema, because the journal no longer holds what they came from.
    KeptIn(String),
}

/// The schema, and the lock that keeps other rebuilds out of it.
pub(crate) struct Scratch {
    db: PgConnection,
    /// A transaction that does nothing but hold the lock, which ends with it.
    lock: PgConnection,
    /// The schema of the current tables.
    current: String,
    /// Writes to the schema.
    pub(crate) projection: Projection,
}

impl Scratch {
    /// Takes the lock, and creates the schema with empty tables unless an earlier rebuild has left one.
    pub(crate) async fn open(url: &str) -> Result<Self, Stop> {
        let db = connect(url).await?;
        let mut lock = connect(url).await?;
        sqlx::raw_sql("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0")
            .execute(&mut lock)
            .await?;
        take(&mut lock).await?;
        let current: Option<String> = sql::query_scalar("SELECT current_schema()::text")
            .fetch_one(&mut lock)
            .await?;
        let current =
            current.ok_or_else(|| ProjectorError::Schema("the search path names none".to_owned()))?;
        let mut scratch = Self {
            db,
            lock,
            current,
            projection: Projection::with_settings(url, SETTINGS)?,
        };
        scratch.create().await?;
        Ok(scratch)
    }

    /// Discards what was rebuilt so far and starts over.
    pub(crate) async fn start_over(&mut self) -> Result<(), Stop> {
        sqlx::raw_sql(&format!("DROP SCHEMA {SCHEMA} CASCADE"))
            .execute(&mut self.db)
            .await?;
        Box::pin(self.create()).await
    }

    async fn create(&mut self) -> Result<(), Stop> {
        let mut tx = self.db.begin().await?;
        let comment: Option<(Option<String>,)> =
            sql::query_as("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1")
                .bind(SCHEMA)
                .fetch_optional(&mut *tx)
                .await?;
        let left_over = comment.is_some();
        match comment {
            None => {
                let create = format!("CREATE SCHEMA {SCHEMA}; COMMENT ON SCHEMA {SCHEMA} IS '{COMMENT}'");
                sqlx::raw_sql(&create).execute(&mut *tx).await?;
                tx.commit().await?;
            }
            Some((Some(comment),)) if comment == COMMENT => tx.rollback().await?,
            Some((Some(comment),)) if comment.starts_with(COMMENT_BEGINS) => {
                tx.rollback().await?;
                return self.start_over().await;
            }
            Some(_) => {
                let text = format!("the schema {SCHEMA} was not created by a rebuild; rename it");
                return Err(ProjectorError::Schema(text).into());
            }
        }
        match self.projection.migrate().await {
            Ok(done) => Ok(done?),
            // Another build of this version has left it. A new schema has the same fault, so only an old one is replaced.
            Err(ProjectorError::Schema(_)) if left_over => self.start_over().await,
            Err(error) => Err(error.into()),
        }
    }

    /// Collects statistics on the new tables before the first query.
    pub(crate) async fn analyze(&mut self) -> Result<(), Stop> {
        let mut tx = self.db.begin().await?;
        let tables = tables(&mut tx).await?;
        let names: Vec<_> = tables.iter().map(|table| format!("{SCHEMA}.{table}")).collect();
        sqlx::raw_sql(&format!("ANALYZE {}", names.join(", ")))
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Blocks writes to the current rows until [`Self::swap_in`] or [`Self::release`]. Reads continue. `None` when another
    /// lock prevents it.
    pub(crate) async fn block_projectors(&mut self) -> Result<Option<Mark>, Stop> {
        let locked = async {
            sqlx::raw_sql("BEGIN").execute(&mut self.db).await?;
            sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut self.db).await?;
            sqlx::raw_sql("LOCK TABLE checkpoint IN SHARE ROW EXCLUSIVE MODE")
                .execute(&mut self.db)
                .await?;
            Ok(Mark::read(&mut self.db).await?)
        };
        match locked.await {
            Ok(mark) => Ok(Some(mark)),
            Err(Stop::Barred(_)) => {
                self.release().await?;
                Ok(None)
            }
            Err(stop) => Err(stop),
        }
    }

    /// Unblocks the projectors, which continue with the current rows.
    pub(crate) async fn release(&mut self) -> Result<(), Stop> {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.db).await?;
        Ok(())
    }

    /// Replaces the current tables, whose checkpoint is blocked at `old`, with the new ones. `None` when another lock lasts
    /// longer than the switch may wait; then the projectors are released.
    pub(crate) async fn swap_in(&mut self, old: &Mark) -> Result<Option<Old>, Stop> {
        match self.replace(old).await {
            Ok(done) => {
                sqlx::raw_sql(&format!("DROP SCHEMA {SCHEMA} CASCADE; COMMIT"))
                    .execute(&mut self.db)
                    .await?;
                Ok(Some(done))
            }
            Err(Stop::Barred(_)) => {
                self.release().await?;
                Ok(None)
            }
            Err(stop) => Err(stop),
        }
    }

    async fn replace(&mut self, old: &Mark) -> Result<Old, Stop> {
        // The lock is gone if its connection is.
        sql::query("SELECT 1").execute(&mut self.lock).await?;
        self.check_migrations().await?;
        let tables = tables(&mut self.db).await?;
        let schema = identifier(&self.current);
        let current: Vec<_> = tables.iter().map(|table| format!("{schema}.{table}")).collect();
        let current = current.join(", ");
        let mut sql = vec![format!("LOCK TABLE {current} IN ACCESS EXCLUSIVE MODE")];
        // Heartbeats aren't in the journal.
        sql.push(format!(
            "UPDATE {SCHEMA}.llms SET last_heartbeat_ms = heard.at_ms FROM \
             (SELECT agent, max(last_heartbeat_ms) AS at_ms FROM {schema}.llms GROUP BY agent) AS heard \
             WHERE llms.agent = heard.agent"
        ));
        sql.extend(self.grants().await?);
        let done = if self.holds(old).await? {
            sql.push(format!("DROP TABLE {current}"));
            Old::Dropped
        } else {
            let name = "SELECT 'reveille_before_' || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD_HH24MISS')";
            let kept: String = sql::query_scalar(name).fetch_one(&mut self.db).await?;
            sql.push(format!("CREATE SCHEMA {kept}"));
            let moves = tables
                .iter()
                .map(|table| format!("ALTER TABLE {schema}.{table} SET SCHEMA {kept}"));
            sql.extend(moves);
            Old::KeptIn(kept)
        };
        let moves = tables
            .iter()
            .map(|table| format!("ALTER TABLE {SCHEMA}.{table} SET SCHEMA {schema}"));
        sql.extend(moves);
        for statement in sql {
            sqlx::raw_sql(&statement).execute(&mut self.db).await?;
        }
        Ok(done)
    }

    /// Refuses a schema that another version has migrated since the rebuild began.
    async fn check_migrations(&mut self) -> Result<(), Stop> {
        let schema = identifier(&self.current);
        let differences: i64 = sql::query_scalar(&format!(
            "SELECT count(*) FROM {SCHEMA}._sqlx_migrations AS new \
             FULL JOIN {schema}._sqlx_migrations AS old USING (version, checksum) \
             WHERE new.success IS DISTINCT FROM old.success"
        ))
        .fetch_one(&mut self.db)
        .await?;
        if differences == 0 {
            return Ok(());
        }
        let text =
            "another version has migrated it since this rebuild began; run the rebuild of that version";
        Err(ProjectorError::Schema(text.to_owned()).into())
    }

    /// Whether the new archive contains the last commit of the current rows.
    async fn holds(&mut self, old: &Mark) -> Result<bool, sqlx::Error> {
        if old.stream_seq == 0 {
            return Ok(true);
        }
        let sql = format!("SELECT 1 FROM {SCHEMA}.commits WHERE stream_seq = $1 AND hash = $2");
        let held = sql::query(&sql)
            .bind(big(old.stream_seq))
            .bind(&old.hash)
            .fetch_optional(&mut self.db);
        Ok(held.await?.is_some())
    }

    /// Statements that copy the owner and the grants of the current tables.
    async fn grants(&mut self) -> Result<Vec<String>, sqlx::Error> {
        let tables = "FROM pg_class AS old JOIN pg_class AS new USING (relname, relkind) \
             WHERE old.relnamespace = $1::regnamespace AND new.relnamespace = $2::regnamespace AND relkind = 'r'";
        let owners = format!(
            "SELECT format('ALTER TABLE %s OWNER TO %s', new.oid::regclass, old.relowner::regrole) {tables} \
             AND relname <> '_sqlx_migrations' AND old.relowner <> new.relowner"
        );
        let (from, filter) = tables.split_once(" WHERE ").unwrap_or((tables, "true"));
        let grants = format!(
            "SELECT format('GRANT %s ON %s TO %s', acl.privilege_type, new.oid::regclass, \
             CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END) \
             {from} CROSS JOIN LATERAL aclexplode(old.relacl) AS acl WHERE {filter} \
             AND relname <> '_sqlx_migrations' AND acl.grantee <> old.relowner"
        );
        let mut statements = vec![];
        for sql in [owners, grants] {
            let found: Vec<String> = sql::query_scalar(&sql)
                .bind(identifier(&self.current))
                .bind(SCHEMA)
                .fetch_all(&mut self.db)
                .await?;
            statements.extend(found);
        }
        Ok(statements)
    }
}

async fn connect(url: &str) -> Result<PgConnection, Stop> {
    let options = sql::options(url)?;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await;
    Ok(connected.map_err(|_| Stop::Again("the database doesn't answer".to_owned()))??)
}

/// The tables that the migrations created in the schema, but for those that aren't folded from the journal.
async fn tables(db: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sql::query_scalar(
        "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = $1 \
         AND tablename <> '_sqlx_migrations' AND tablename <> ALL($2) ORDER BY tablename",
    )
    .bind(SCHEMA)
    .bind(requests::TABLES)
    .fetch_all(db)
    .await
}

/// Takes the lock in a transaction, and waits for that of a connection that was just cut.
async fn take(db: &mut PgConnection) -> Result<(), Stop> {
    let until = Instant::now() + RIVAL_GONE_WITHIN;
    loop {
        let taken: bool = sql::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *db)
            .await?;
        if taken {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(ProjectorError::Rebuilding.into());
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
