//! Postgres: whether it answers, has our tables, and has taken in the journal.

use super::Findings;
use reveille_domain::rows::Rows;
use reveille_projector::PostgresRows;
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long the database may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// A projector that runs takes in something within so long.
const MOVES_WITHIN: Duration = Duration::from_secs(2);

/// Looks at the database; `journal` is the journal's last commit, if it is known.
pub async fn look(url: &str, journal: Option<u64>, findings: &mut Findings) {
    let remedy = "start PostgreSQL, or correct --database-url; requests and wakes go on without it, only rows are missing";
    let rows = match PostgresRows::new(url) {
        Ok(rows) => rows,
        Err(error) => {
            findings.problem(
                "Postgres",
                error.to_string(),
                "write postgres://user@host:5432/database",
            );
            return;
        }
    };
    let connected = timeout(ANSWERS_WITHIN, PgConnection::connect(url)).await;
    let mut connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            findings.problem("Postgres", format!("it can't be reached: {error}"), remedy);
            return;
        }
        Err(_) => {
            let found = format!(
                "it can't be reached: no answer within {} s",
                ANSWERS_WITHIN.as_secs()
            );
            findings.problem("Postgres", found, remedy);
            return;
        }
    };
    let asked = timeout(ANSWERS_WITHIN, ask(&mut connection)).await;
    let (version, schema) = match asked {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => {
            findings.problem("Postgres", format!("it answers with an error: {error}"), remedy);
            return;
        }
        Err(_) => {
            findings.problem("Postgres", "it accepts connections but doesn't answer", remedy);
            return;
        }
    };
    findings.ok("Postgres", format!("PostgreSQL {version} answers"));
    if !schema {
        findings.warning(
            "schema",
            "the database has no tables of Reveille's yet",
            "start `reveille projector` (or `reveille up`) with this --database-url: it makes them",
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
    let remedy = "see that `reveille projector` runs with this database, and read its log";
    let applied = match rows.applied().await {
        Ok(applied) => applied,
        Err(error) => {
            findings.problem("rows", format!("they can't be read: {error}"), remedy);
            return;
        }
    };
    let Some(journal) = journal else {
        findings.ok(
            "rows",
            format!("they have taken in commit {applied}; the journal could not be seen"),
        );
        return;
    };
    if applied > journal {
        findings.problem(
            "rows",
            format!("they have taken in commit {applied}, but the journal ends with {journal}: it was restored or replaced"),
            "run `reveille rows rebuild`, which makes them anew from the journal that is there",
        );
        return;
    }
    if applied == journal {
        findings.ok(
            "rows",
            format!("they have taken in the whole journal (commit {applied})"),
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
                "they are {} commits behind the journal, and nothing moves them",
                journal - later
            ),
            remedy,
        );
    }
}
