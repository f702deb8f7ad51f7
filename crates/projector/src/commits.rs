//! Reads the archive in Postgres: to restore the journal from it, and to audit it.

use crate::{
    columns::{Columns, big},
    sql,
};
use reveille_bus::{
    archive::{ArchiveError, ArchivedCommit, Breach, Fault},
    commit::CommitHash,
};
use sqlx::{Connection, PgConnection, Row, postgres::PgRow};
use std::collections::VecDeque;

/// How many commits are read at once.
const PAGE_COMMITS: u64 = 500;

/// Reads the archived commits once, first to last, from a snapshot.
pub struct ArchivedCommits {
    db: PgConnection,
    page: VecDeque<ArchivedCommit>,
    /// The next page begins after this sequence.
    after: u64,
    last: u64,
}

impl ArchivedCommits {
    /// Begins to read the archive in the database at `url`.
    ///
    /// # Errors
    /// When the database is unavailable or has no archive. The text never contains the URL.
    pub async fn read(url: &str) -> Result<Self, ArchiveError> {
        let options = sql::options(url).map_err(postgres)?;
        let mut db = PgConnection::connect_with(&options).await.map_err(postgres)?;
        // One snapshot for all pages, so that a rebuild of the rows can't come between them.
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut db)
            .await
            .map_err(postgres)?;
        let last = sql::query("SELECT coalesce(max(stream_seq), 0) AS last FROM commits")
            .fetch_one(&mut db)
            .await
            .and_then(|row| row.number("last"))
            .map_err(postgres)?;
        Ok(Self {
            db,
            page: VecDeque::new(),
            after: 0,
            last,
        })
    }

    /// What begins a transaction in the same snapshot, which lasts as long as this reads.
    pub(crate) async fn snapshot(&mut self) -> Result<String, ArchiveError> {
        let id: String = sql::query_scalar("SELECT pg_export_snapshot()")
            .fetch_one(&mut self.db)
            .await
            .map_err(postgres)?;
        Ok(format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{id}'"
        ))
    }

    /// The sequence of the last commit; 0 when there is none.
    #[must_use]
    pub const fn last_sequence(&self) -> u64 {
        self.last
    }

    /// The next commit; `None` after the last one.
    ///
    /// # Errors
    /// When the database is unavailable, or a commit's bytes were changed.
    pub async fn next_commit(&mut self) -> Result<Option<ArchivedCommit>, ArchiveError> {
        if self.page.is_empty() && self.after < self.last {
            let rows = sql::query(
                "SELECT stream_seq, subject, headers, payload, hash FROM commits WHERE stream_seq > $1 \
                 ORDER BY stream_seq LIMIT $2",
            )
            .bind(big(self.after))
            .bind(big(PAGE_COMMITS))
            .fetch_all(&mut self.db)
            .await
            .map_err(postgres)?;
            for row in &rows {
                self.page.push_back(commit(row)?);
            }
            self.after = self.page.back().map_or(self.last, |commit| commit.sequence);
        }
        Ok(self.page.pop_front())
    }
}

pub(crate) fn commit(row: &PgRow) -> Result<ArchivedCommit, ArchiveError> {
    let (commit, hash) = columns(row).map_err(postgres)?;
    if CommitHash::of(&commit.payload).to_string() != hash {
        return Err(Breach {
            sequence: commit.sequence,
            subject: commit.subject,
            fault: Fault::Bytes,
        }
        .into());
    }
    Ok(commit)
}

fn columns(row: &PgRow) -> sqlx::Result<(ArchivedCommit, String)> {
    let commit = ArchivedCommit::new(
        row.number("stream_seq")?,
        row.text("subject")?,
        row.json("headers")?,
        row.try_get::<Vec<u8>, _>("payload")?.into(),
        None,
    );
    Ok((commit, row.text("hash")?))
}

pub(crate) fn postgres(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Postgres(error.to_string())
}
