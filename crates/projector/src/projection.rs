//! The projection: one transaction moves the checkpoint and writes everything that follows from a batch of commits.

use crate::{
    ProjectorError, archive,
    columns::{Columns, big, big_ms},
    llms, migrate, query, requests, sql, wakes,
};
use reveille_bus::requests::StoredBatch;
use reveille_domain::{
    AgentName, ProviderId, Timestamp,
    rows::{LlmRow, RowSource, SourceBody, event_rows, llm_rows, wake_changes},
};
use sqlx::{Executor, PgConnection, PgPool, Postgres, Transaction, postgres::PgDatabaseError};
use std::collections::{BTreeMap, HashMap};
use thiserror::Error;

/// One for the fold, one for heartbeats and a spare.
const MAX_CONNECTIONS: u32 = 3;

/// How far the rows are: the sequence and hash of a commit, or sequence 0 before the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// The sequence of the last commit in the rows.
    pub stream_seq: u64,
    /// Its hash.
    pub hash: String,
}

impl Mark {
    /// The mark of rows that end with `commit`.
    #[must_use]
    pub fn after(commit: &RowSource) -> Self {
        Self {
            stream_seq: commit.stream_seq,
            hash: commit.hash.clone(),
        }
    }

    pub(crate) async fn read(db: &mut PgConnection) -> sqlx::Result<Self> {
        let row = sql::query("SELECT stream_seq, hash FROM checkpoint").fetch_one(db);
        let row = row.await?;
        Ok(Self {
            stream_seq: row.number("stream_seq")?,
            hash: row.text("hash")?,
        })
    }
}

/// The outcome of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It was written, and this is the new checkpoint.
    To(Mark),
    /// Another projector had moved the checkpoint, so the batch changed nothing.
    Fenced,
}

/// Why a batch was not written.
#[derive(Debug, Error)]
pub enum ProjectionError {
    /// The database is unavailable. Whether the batch was written is unknown until the checkpoint is read again.
    #[error("the database is unavailable: {0}")]
    Unavailable(sqlx::Error),
    /// The database will never accept this data.
    #[error("the database refuses it: {0}")]
    Refused(sqlx::Error),
}

impl From<sqlx::Error> for ProjectionError {
    fn from(error: sqlx::Error) -> Self {
        // Classes of SQLSTATE: 21 cardinality, 22 data, 23 constraints, 54 limits.
        let data = |error: &PgDatabaseError| matches!(error.code().get(..2), Some("21" | "22" | "23" | "54"));
        let refused = match &error {
            sqlx::Error::Database(inner) => inner.try_downcast_ref::<PgDatabaseError>().is_some_and(data),
            sqlx::Error::Encode(_) => true,
            _ => false,
        };
        if refused {
            Self::Refused(error)
        } else {
            Self::Unavailable(error)
        }
    }
}

impl ProjectionError {
    /// Whether the tables aren't there, or not even their schema.
    pub(crate) fn is_about_missing_tables(&self) -> bool {
        // undefined_table, invalid_schema_name
        let is_missing = |code: &str| matches!(code, "42P01" | "3F000");
        match self {
            Self::Unavailable(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| is_missing(&code))
            }
            Self::Unavailable(_) | Self::Refused(_) => false,
        }
    }
}

/// Writes to the database. Several projectors may share one: the checkpoint decides between them.
#[derive(Debug, Clone)]
pub struct Projection {
    pool: PgPool,
    /// What each transaction begins with.
    settings: &'static str,
}

impl Projection {
    /// The projection in the database at `url`. It connects when it is used.
    ///
    /// # Errors
    /// When it isn't a database URL.
    pub fn new(url: &str) -> Result<Self, ProjectorError> {
        Ok(Self {
            pool: query::pool(sql::options(url)?, MAX_CONNECTIONS),
            settings: "",
        })
    }

    /// The projection whose transactions begin with `settings`.
    pub(crate) fn with_settings(url: &str, settings: &'static str) -> Result<Self, ProjectorError> {
        Ok(Self {
            settings,
            ..Self::new(url)?
        })
    }

    async fn begin(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        let mut tx = self.pool.begin().await?;
        if !self.settings.is_empty() {
            tx.execute(self.settings).await?;
        }
        Ok(tx)
    }

    /// Brings the schema up to date. `Ok(Err(_))` is an outage.
    ///
    /// # Errors
    /// When the schema belongs to another program or to a newer Reveille.
    pub async fn migrate(&self) -> Result<Result<(), sqlx::Error>, ProjectorError> {
        let migrated = async {
            let mut tx = self.begin().await?;
            migrate::up_to_date(&mut tx).await?;
            tx.commit().await?;
            Ok(())
        };
        match migrated.await {
            Ok(()) => Ok(Ok(())),
            Err(migrate::Failed::Schema(why)) => Err(ProjectorError::Schema(why)),
            Err(migrate::Failed::Database(error)) => match ProjectionError::from(error) {
                ProjectionError::Unavailable(sqlx::Error::Database(error))
                    if error.code().is_some_and(|code| code.starts_with("42")) =>
                {
                    Err(ProjectorError::Schema(error.to_string()))
                }
                ProjectionError::Unavailable(error) => Ok(Err(error)),
                ProjectionError::Refused(error) => Err(ProjectorError::Schema(error.to_string())),
            },
        }
    }

    /// The checkpoint.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn mark(&self) -> Result<Mark, ProjectionError> {
        Ok(Mark::read(&mut *self.begin().await?).await?)
    }

    /// Writes `batch`, which follows `from`. A commit that the database refuses is archived as unreadable, so that it
    /// doesn't block the others.
    ///
    /// # Errors
    /// When the database is unavailable, or refuses even that.
    pub async fn apply(&self, from: &Mark, batch: &[RowSource]) -> Result<Applied, ProjectionError> {
        match self.apply_at_once(from, batch).await {
            Err(ProjectionError::Refused(_)) if batch.len() > 1 => {}
            Err(ProjectionError::Refused(error)) => return self.apply_refused(from, batch, &error).await,
            done => return done,
        }
        let mut at = from.clone();
        for commit in batch {
            let one = std::slice::from_ref(commit);
            let applied = match self.apply_at_once(&at, one).await {
                Err(ProjectionError::Refused(error)) => self.apply_refused(&at, one, &error).await?,
                done => done?,
            };
            match applied {
                Applied::To(mark) => at = mark,
                Applied::Fenced => return Ok(Applied::Fenced),
            }
        }
        Ok(Applied::To(at))
    }

    async fn apply_refused(
        &self,
        from: &Mark,
        batch: &[RowSource],
        error: &sqlx::Error,
    ) -> Result<Applied, ProjectionError> {
        let reason = format!("the database refuses it: {error}");
        let unreadable = batch.iter().map(|commit| RowSource {
            subject: commit.subject.replace('\0', ""),
            events: vec![],
            body: SourceBody::Unreadable {
                reason: reason.replace('\0', ""),
            },
            ..commit.clone()
        });
        for commit in batch {
            tracing::error!(journal.sequence = commit.stream_seq, %error, "the database refuses commit {}: archived it as unreadable", commit.stream_seq);
        }
        self.apply_at_once(from, &unreadable.collect::<Vec<_>>()).await
    }

    async fn apply_at_once(&self, from: &Mark, batch: &[RowSource]) -> Result<Applied, ProjectionError> {
        let Some(last) = batch.last() else {
            return Ok(Applied::To(from.clone()));
        };
        let mut tx = self.begin().await?;
        // First, so that a second projector waits here and is then fenced.
        let moved = sql::query(
            "UPDATE checkpoint SET stream_seq = $1, hash = $2 WHERE stream_seq = $3 AND hash = $4",
        )
        .bind(big(last.stream_seq))
        .bind(&last.hash)
        .bind(big(from.stream_seq))
        .bind(&from.hash)
        .execute(&mut *tx)
        .await?;
        if moved.rows_affected() != 1 {
            tx.rollback().await?;
            return Ok(Applied::Fenced);
        }
        Changes::of(batch).write(&mut tx).await?;
        archive::insert_commits(&mut tx, batch).await?;
        tx.commit().await?;
        Ok(Applied::To(Mark::after(last)))
    }

    /// Records the last heartbeats of agents.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn heard(&self, agents: &HashMap<AgentName, Timestamp>) -> Result<(), ProjectionError> {
        let mut tx = self.begin().await?;
        let (names, at_ms): (Vec<&str>, Vec<i64>) = agents
            .iter()
            .map(|(agent, at)| (agent.as_str(), big_ms(*at)))
            .unzip();
        llms::heard(&mut tx, &names, &at_ms).await?;
        Ok(tx.commit().await?)
    }
}

/// Requests, which are not in the journal.
impl Projection {
    /// How far the stream of requests is taken in.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn request_mark(&self) -> Result<u64, ProjectionError> {
        Ok(requests::mark(&mut *self.begin().await?).await?)
    }

    /// Writes `batches`, which begin behind `from` in the stream of requests and end at `to`. Whether that was done: another
    /// projector may have moved the mark.
    ///
    /// # Errors
    /// When the database is unavailable, or refuses them.
    pub async fn take_requests(
        &self,
        from: u64,
        to: u64,
        batches: &[StoredBatch],
    ) -> Result<bool, ProjectionError> {
        let mut tx = self.begin().await?;
        if !requests::move_mark(&mut tx, from, to).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        requests::write(&mut tx, batches).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Deletes some of the requests that were received before this time; whether there may be more.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn forget_requests(&self, before: Timestamp) -> Result<bool, ProjectionError> {
        let mut tx = self.begin().await?;
        let more = requests::forget(&mut tx, before).await?;
        tx.commit().await?;
        Ok(more)
    }
}

/// How a batch changes the rows.
struct Changes {
    /// Each provider's last state in the batch, and the first unreadable commit after it.
    providers: BTreeMap<ProviderId, ProviderChange>,
    wakes: Vec<reveille_domain::rows::WakeChange>,
    events: Vec<reveille_domain::rows::EventRow>,
}

#[derive(Default)]
struct ProviderChange {
    rows: Option<Vec<LlmRow>>,
    unreadable_since_seq: Option<u64>,
}

impl Changes {
    fn of(batch: &[RowSource]) -> Self {
        let mut changes = Self {
            providers: BTreeMap::new(),
            wakes: vec![],
            events: batch.iter().flat_map(event_rows).collect(),
        };
        for commit in batch {
            match (&commit.body, commit.provider()) {
                (SourceBody::Provider { id, events, state }, _) => {
                    let change = ProviderChange {
                        rows: Some(llm_rows(state, commit.stream_seq)),
                        unreadable_since_seq: None,
                    };
                    changes.providers.insert(id.clone(), change);
                    changes.wakes.extend(wake_changes(id, events, commit.stream_seq));
                }
                (SourceBody::Unreadable { .. }, Some(id)) => {
                    let change = changes.providers.entry(id).or_default();
                    change.unreadable_since_seq.get_or_insert(commit.stream_seq);
                }
                (SourceBody::Unreadable { .. } | SourceBody::EventsOnly, _) => {}
            }
        }
        changes
    }

    async fn write(self, db: &mut PgConnection) -> Result<(), ProjectionError> {
        for (id, change) in &self.providers {
            let (agent, provider) = (id.agent.as_str(), id.provider.as_str());
            if let Some(rows) = &change.rows {
                llms::replace(db, agent, provider, rows).await?;
            }
            if let Some(seq) = change.unreadable_since_seq {
                llms::mark_unreadable(db, agent, provider, seq).await?;
            }
        }
        if !self.wakes.is_empty() {
            wakes::change(db, self.wakes).await?;
        }
        archive::insert_events(db, &self.events).await?;
        Ok(())
    }
}
