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
    let rows = match PostgresRows::new(url) {
        Ok(rows) => rows,
        Err(error) => {
            let remedy = "use a URL such as postgres://user@host:5432/database";
            return findings.problem("Postgres", error.to_string(), remedy);
        }
    };
    match ask(url).await {
        Err(found) => {
            let remedy = "start PostgreSQL, or correct --database-url; requests and wakes work without it, lists and \
                          history don't";
            findings.problem("Postgres", found, remedy);
        }
        Ok((version, schema)) => {
            findings.ok("Postgres", format!("PostgreSQL {version} answers"));
            if schema {
                return lag(&rows, journal, findings).await;
            }
            findings.warning(
                "schema",
                "the database has none of Reveille's tables yet",
                "start `reveille projector` or `reveille up` with this --database-url: it creates them",
            );
        }
    }
}

/// The server's version, and whether our tables are there; otherwise what is wrong.
async fn ask(url: &str) -> Result<(String, bool), String> {
    let connected = timeout(ANSWERS_WITHIN, PgConnection::connect(url)).await;
    let connected =
        connected.map_err(|_| format!("unreachable: no answer within {} s", ANSWERS_WITHIN.as_secs()))?;
    let mut connection = connected.map_err(|error| format!("unreachable: {error}"))?;
    let query = "SELECT current_setting('server_version'), to_regclass('checkpoint') IS NOT NULL";
    let answer = sqlx::query_as(query).fetch_one(&mut connection);
    let answer = timeout(ANSWERS_WITHIN, answer).await;
    let answer = answer.map_err(|_| "accepts connections, but doesn't answer")?;
    answer.map_err(|error| format!("answers with an error: {error}"))
}

async fn lag(rows: &PostgresRows, journal: Option<u64>, findings: &mut Findings) {
    let remedy = "check that `reveille projector` is running with this database, and its log";
    let applied = match rows.applied().await {
        Ok(applied) => applied,
        Err(error) => return findings.problem("rows", format!("can't be read: {error}"), remedy),
    };
    let Some(journal) = journal else {
        let found = format!("up to commit {applied}; the journal can't be compared");
        return findings.ok("rows", found);
    };
    if applied > journal {
        return findings.problem(
            "rows",
            format!("up to commit {applied}, but the journal ends at {journal}: it was restored or replaced"),
            "run `reveille rows rebuild` to rebuild them from the current journal",
        );
    }
    if applied == journal {
        let found = format!("up to date with the whole journal (commit {applied})");
        return findings.ok("rows", found);
    }
    sleep(MOVES_WITHIN).await;
    let later = rows.applied().await.unwrap_or(applied);
    let behind = journal.saturating_sub(later);
    if later > applied {
        findings.ok(
            "rows",
            format!("the projector is catching up: {behind} commits behind"),
        );
    } else {
        let found = format!("{behind} commits behind the journal, and not catching up");
        findings.warning("rows", found, remedy);
    }
}
