//! Postgres: whether it answers, has our tables, and is up to date with the journal.

use super::Findings;
use reveille_domain::rows::Rows;
use reveille_projector::PostgresRows;
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long the database may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// A running projector makes progress within this time.
const MOVES_WITHIN: Duration = Duration::from_secs(2);

/// Checks the database; `journal` is the journal's last commit, if known.
pub async fn look(url: &str, journal: Option<u64>, findings: &mut Findings) {
    let remedy = "start PostgreSQL, or correct --database-url; requests and wakes work without it, lists and \
     history don't";
    let rows = match PostgresRows::new(url) {
        Ok(rows) => rows,
        Err(error) => {
            findings.problem(
                "Postgres",
                error.to_string(),
                "use a URL such as postgres://user@host:5432/database",
            );
            return;
        }
    };
    let connected = timeout(ANSWERS_WITHIN, PgConnection::connect(url)).await;
    let mut connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            findings.problem("Postgres", format!("unreachable: {error}"), remedy);
            return;
        }
        Err(_) => {
            let found = format!("unreachable: no answer within {} s", ANSWERS_WITHIN.as_secs());
            findings.problem("Postgres", found, remedy);
            return;
        }
    };
    let asked = timeout(ANSWERS_WITHIN, ask(&mut connection)).await;
    let (version, schema) = match asked {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => {
            findings.problem("Postgres", format!("answers with an error: {error}"), remedy);
            return;
        }
        Err(_) => {
            findings.problem("Postgres", "accepts connections, but doesn't answer", remedy);
            return;
        }
    };
    findings.ok("Postgres", format!("PostgreSQL {version} answers"));
    if !schema {
        findings.warning(
            "schema",
            "the database has none of Reveille's tables yet",
            "start `reveille projector` or `reveille up` with this --database-url: it creates them",
        );
        return;
    }
    lag(&rows, journal, findings).await;
}

/// The server's version, and whether our tables are there.
async fn ask(connection: &mut PgConnection) -> sqlx::Result<(String, bool)> {
    let version: String = sqlx::query_scalar("SELECT current_setting('server_version')")
        .fetch_one(&mut *connection)
        .await?;
    let schema: bool = sqlx::query_scalar("SELECT to_regclass('checkpoint') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    Ok((version, schema))
}

async fn lag(rows: &PostgresRows, journal: Option<u64>, findings: &mut Findings) {
    let remedy = "check that `reveille projector` is running with this database, and its log";
    let applied = match rows.applied().await {
        Ok(applied) => applied,
        Err(error) => {
            findings.problem("rows", format!("can't be read: {error}"), remedy);
            return;
        }
    };
    let Some(journal) = journal else {
        findings.ok(
            "rows",
            format!("up to commit {applied}; the journal can't be compared"),
        );
        return;
    };
    if applied > journal {
        findings.problem(
            "rows",
            format!("up to commit {applied}, but the journal ends at {journal}: it was restored or replaced"),
            "run `reveille rows rebuild` to rebuild them from the current journal",
        );
        return;
    }
    if applied == journal {
        findings.ok(
            "rows",
            format!("up to date with the whole journal (commit {applied})"),
        );
        return;
    }
    sleep(MOVES_WITHIN).await;
    let later = rows.applied().await.unwrap_or(applied);
    if later > applied {
        findings.ok(
            "rows",
            format!(
                "the projector is catching up: {} commits behind",
                journal.saturating_sub(later)
            ),
        );
    } else {
        findings.warning(
            "rows",
            format!(
                "{} commits behind the journal, and not catching up",
                journal - later
            ),
            remedy,
        );
    }
}
