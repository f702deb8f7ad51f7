//! Postgres: whether it answers, has our tables, and is up to date with the journal.

use super::Findings;
use reveille_domain::{counted, rows::Rows};
use reveille_projector::{DatabaseHealth, PostgresRows, Tables, inspect_database};
use std::time::Duration;
use tokio::time::sleep;

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
    match inspect_database(url).await {
        Err(found) => {
            let remedy = "start PostgreSQL, or correct --database-url; requests and wakes work without it, lists and \
                          history don't";
            findings.problem("Postgres", found, remedy);
        }
        Ok(DatabaseHealth { version, tables }) => {
            findings.ok("Postgres", format!("PostgreSQL {version} answers"));
            match tables {
                Tables::Ours => lag(&rows, journal, findings).await,
                Tables::Missing => findings.warning(
                    "schema",
                    "the database has none of Reveille's tables, so lists and history can't be read",
                    "start `reveille projector` or `reveille up` with this --database-url: it creates them and fills them from \
                     the journal; if it runs, its log says what keeps it from that",
                ),
                Tables::Foreign(tables) => findings.problem(
                    "schema",
                    format!("another program has tables there: {tables}"),
                    "give Reveille a database or a schema of its own; it leaves those tables as they are",
                ),
            }
        }
    }
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
            format!(
                "the projector is catching up: {} behind",
                counted(behind, "commit")
            ),
        );
    } else {
        let found = format!(
            "{} behind the journal, and not catching up",
            counted(behind, "commit")
        );
        findings.warning("rows", found, remedy);
    }
}
