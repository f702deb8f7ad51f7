//! The projector's loop: read the checkpoint, follow the journal from there and write what comes. It starts again when
//! another projector moved the checkpoint or the database failed.

use crate::{
    Applied, Mark, Projection, ProjectionError, ProjectorError, backoff::Backoff, heartbeats, request_log,
};
use async_nats::jetstream;
use futures::FutureExt;
use reveille_bus::{
    Beginning, Checkpoint, Connection, Follow, Followed, Follower, Journal, NatsAccess, commit::CommitHash,
};
use reveille_domain::{
    counted,
    rows::{RowSource, SourceBody},
};
use std::{fmt, str::FromStr, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// The most commits of a transaction.
const MAX_BATCH_COMMITS: usize = 500;
/// A batch ends with the commit that exceeds this many bytes.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a batch may take before its connection is dropped.
pub(crate) const APPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a fenced projector pauses, so that the other one can proceed.
const FENCED_PAUSE: Duration = Duration::from_secs(1);
/// How often an idle projector looks whether its rows are still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long such a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the rows are compared with the journal's head.
const LAG_EVERY: Duration = Duration::from_secs(2);

/// The journal and the database of a projector.
#[derive(Clone)]
pub struct ProjectorConfig {
    /// The NATS server and the projector's credentials.
    pub nats: NatsAccess,
    /// `postgres://…`. It may contain a password, so it is never shown.
    pub database_url: String,
}

impl fmt::Debug for ProjectorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectorConfig").finish_non_exhaustive()
    }
}

/// The progress of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectorStatus {
    /// The last commit in the rows.
    pub applied: u64,
    /// The journal's last commit, as of a moment ago.
    pub last_seq: u64,
}

impl ProjectorStatus {
    /// How many commits the rows are behind.
    #[must_use]
    pub const fn lag(&self) -> u64 {
        self.last_seq.saturating_sub(self.applied)
    }
}

/// A projector; see [`Projector::run`].
#[derive(Debug)]
pub struct Projector {
    config: ProjectorConfig,
    status: watch::Sender<ProjectorStatus>,
}

/// Why the loop starts again.
enum Restart {
    /// Another projector moved the checkpoint.
    Fenced,
    /// The database failed.
    Database(ProjectionError),
}

impl Projector {
    /// A projector that is not running yet.
    #[must_use]
    pub fn new(config: ProjectorConfig) -> Self {
        Self {
            config,
            status: watch::Sender::default(),
        }
    }

    /// Its progress.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ProjectorStatus> {
        self.status.subscribe()
    }

    /// Runs until `shutdown`. It waits out outages of NATS and the database, and logs them.
    ///
    /// # Errors
    /// When it can't continue: see [`ProjectorError`].
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ProjectorError> {
        tokio::select! {
            // A transaction that is interrupted here is rolled back, or found at the next start.
            () = shutdown.cancelled() => Ok(()),
            done = self.work() => done,
        }
    }

    async fn work(&self) -> Result<(), ProjectorError> {
        let projection = Projection::new(&self.config.database_url)?;
        let mut backoff = Backoff::new();
        while let Err(error) = projection.migrate().await? {
            backoff.wait(&error).await;
        }
        let options = self.config.nats.named("reveille-projector");
        let connection = Connection::open(&options).await.map_err(ProjectorError::Bus)?;
        tokio::select! {
            done = self.fold(&projection, &connection) => done,
            () = heartbeats::record(&projection, &connection) => Ok(()),
            () = request_log::record(&projection, &connection) => Ok(()),
            () = self.watch_lag(&connection) => Ok(()),
        }
    }

    async fn fold(&self, projection: &Projection, connection: &Connection) -> Result<(), ProjectorError> {
        let mut backoff = Backoff::new();
        loop {
            let mark = match projection.mark().await {
                Ok(mark) => mark,
                Err(error) => {
                    backoff.wait(&error).await;
                    if error.is_about_missing_tables() {
                        self.create_again(projection).await?;
                    }
                    continue;
                }
            };
            info!(
                journal.sequence = mark.stream_seq,
                "projection resumes after commit {}", mark.stream_seq
            );
            self.applied(mark.stream_seq);
            let from = Follow::After(checkpoint(&mark)?);
            let mut follower = Follower::guarding(connection, from, Beginning::default());
            match self.follow(projection, &mut follower, mark, &mut backoff).await? {
                Restart::Fenced => {
                    info!("another projector moved the checkpoint: continuing from there");
                    tokio::time::sleep(FENCED_PAUSE).await;
                }
                Restart::Database(error) => backoff.wait(&error).await,
            }
        }
    }

    async fn follow(
        &self,
        projection: &Projection,
        follower: &mut Follower,
        mut mark: Mark,
        backoff: &mut Backoff,
    ) -> Result<Restart, ProjectorError> {
        loop {
            let batch = tokio::select! {
                batch = next_batch(follower) => batch?,
                why = lost(projection, &mark) => return Ok(why),
            };
            let applied = match tokio::time::timeout(APPLY_TIMEOUT, projection.apply(&mark, &batch)).await {
                Ok(applied) => applied,
                Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
            };
            match applied {
                Ok(Applied::To(next)) => mark = next,
                Ok(Applied::Fenced) => return Ok(Restart::Fenced),
                Err(error) => return Ok(Restart::Database(error)),
            }
            *backoff = Backoff::new();
            for commit in &batch {
                report_unreadable(commit);
            }
            debug!(
                journal.sequence = mark.stream_seq,
                commits = batch.len(),
                "wrote {}",
                counted(batch.len(), "commit")
            );
            self.applied(mark.stream_seq);
        }
    }

    /// Creates the tables in a database that was replaced by an empty one. They fill from the journal.
    async fn create_again(&self, projection: &Projection) -> Result<(), ProjectorError> {
        match projection.migrate().await? {
            Ok(()) => {
                warn!(
                    "the database had lost the rows: created the tables again, and they fill from the journal"
                );
            }
            Err(error) => debug!(%error, "the tables can't be created, trying again"),
        }
        Ok(())
    }

    fn applied(&self, seq: u64) {
        self.status.send_modify(|status| {
            status.applied = seq;
            status.last_seq = status.last_seq.max(seq);
        });
    }

    /// Compares the rows with the journal's head. Never ends.
    async fn watch_lag(&self, connection: &Connection) {
        let journal = Journal::new(jetstream::new(connection.client().clone()));
        let mut ticks = tokio::time::interval(LAG_EVERY);
        let mut was_behind = 0;
        loop {
            ticks.tick().await;
            let Ok(last_seq) = journal.last_sequence().await else {
                continue;
            };
            self.status
                .send_modify(|status| status.last_seq = last_seq.max(status.applied));
            let status = *self.status.borrow();
            // Behind twice in a row, so it isn't just a commit that arrives now.
            if status.lag() > 0 && was_behind > 0 {
                info!(
                    rows.lag = status.lag(),
                    rows.applied = status.applied,
                    "the rows are {} behind",
                    counted(status.lag(), "commit")
                );
            } else if status.lag() == 0 && was_behind > 0 {
                info!(
                    rows.applied = status.applied,
                    "the rows have caught up at commit {}", status.applied
                );
            }
            was_behind = status.lag();
        }
    }
}

/// Ends when the database no longer holds the rows up to `mark`: it was emptied, replaced or restored. An outage is noticed
/// by the next batch.
async fn lost(projection: &Projection, mark: &Mark) -> Restart {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match tokio::time::timeout(LOOK_TIMEOUT, projection.mark()).await {
            Ok(Ok(found)) if found.stream_seq < mark.stream_seq => return Restart::Fenced,
            Ok(Err(error)) if error.is_about_missing_tables() => return Restart::Database(error),
            Ok(Ok(_) | Err(_)) | Err(_) => {}
        }
    }
}

pub(crate) fn checkpoint(mark: &Mark) -> Result<Option<Checkpoint>, ProjectorError> {
    if mark.stream_seq == 0 {
        return Ok(None);
    }
    let hash = CommitHash::from_str(&mark.hash)
        .map_err(|why| ProjectorError::Schema(format!("its checkpoint is damaged: {why}")))?;
    Ok(Some(Checkpoint {
        sequence: mark.stream_seq,
        hash,
    }))
}

/// The next commit and those that have already arrived after it, up to the limits of a batch.
pub(crate) async fn next_batch(follower: &mut Follower) -> Result<Vec<RowSource>, ProjectorError> {
    let mut batch = vec![];
    let mut bytes = 0;
    while batch.len() < MAX_BATCH_COMMITS && bytes < MAX_BATCH_BYTES {
        let next = if batch.is_empty() {
            follower.next().await
        } else {
            match follower.next().now_or_never() {
                Some(next) => next,
                None => break,
            }
        };
        match next {
            Ok(Followed::Commit(entry)) => {
                bytes += entry.payload.len();
                batch.push(entry.archived());
            }
            Ok(Followed::CaughtUp { .. } | Followed::Interrupted | Followed::Reset) => {}
            // The batch keeps what was read before; the next read returns the error again.
            Err(_) if !batch.is_empty() => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(batch)
}

pub(crate) fn report_unreadable(commit: &RowSource) {
    if let SourceBody::Unreadable { reason } = &commit.body {
        error!(
            journal.sequence = commit.stream_seq, journal.subject = %commit.subject, %reason,
            "commit {} can't be read: archived it, and the rows of its aggregate stay as they were", commit.stream_seq,
        );
    }
}
