//! The rebuild: it folds the whole journal into a separate schema, whose tables then replace the current ones. The projector
//! keeps running meanwhile; at the switch it finds the checkpoint moved and continues from the new one.

use crate::{
    Applied, Mark, Projection, ProjectorConfig, ProjectorError,
    backoff::Backoff,
    run::{APPLY_TIMEOUT, checkpoint, next_batch, report_unreadable},
    scratch::{Old, Scratch, Stop},
};
use reveille_bus::{Connection, Follow, Follower, Journal};
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How often the journal's head is checked while there is something to read.
const HEAD_EVERY: Duration = Duration::from_secs(1);
/// How long projectors are blocked while the last commits are written.
const HELD_OFF: Duration = Duration::from_secs(10);
/// The pause before the next attempt when the tables are in use.
const BARRED_PAUSE: Duration = Duration::from_secs(1);

/// The progress of a rebuild.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rebuilding {
    /// Where this run began: after the last commit of an interrupted one.
    pub began_after: u64,
    /// The last commit in the new rows.
    pub applied: u64,
    /// The journal's last commit, as of a moment ago.
    pub last_seq: u64,
}

/// A completed rebuild.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The last commit in the new rows at the switch.
    pub applied: u64,
    /// The schema that holds the old rows, if the journal no longer holds what they came from.
    pub old_kept_in: Option<String>,
}

/// Rebuilds the rows and reports its progress. It waits out outages of NATS and the database. `None` when `shutdown`
/// interrupted it; the next rebuild continues from there.
///
/// # Errors
/// When it can't continue: see [`ProjectorError`].
pub async fn rebuild(
    config: ProjectorConfig,
    progress: watch::Sender<Rebuilding>,
    shutdown: CancellationToken,
) -> Result<Option<Rebuilt>, ProjectorError> {
    let rebuild = Rebuild { config, progress };
    tokio::select! {
        () = shutdown.cancelled() => Ok(None),
        done = rebuild.work() => done.map(Some),
    }
}

struct Rebuild {
    config: ProjectorConfig,
    progress: watch::Sender<Rebuilding>,
}

impl Rebuild {
    async fn work(&self) -> Result<Rebuilt, ProjectorError> {
        let current = Projection::new(&self.config.database_url)?;
        let mut backoff = Backoff::new();
        // Even an empty database needs tables that can be replaced.
        while let Err(error) = current.migrate().await? {
            backoff.wait(&error).await;
        }
        let options = self.config.nats.named("reveille-rebuild");
        let connection = Connection::open(&options).await.map_err(ProjectorError::Bus)?;
        loop {
            let before = self.progress.borrow().applied;
            match self.attempt(&connection).await {
                Ok(done) => return Ok(done),
                Err(Stop::Never(error)) => return Err(error),
                Err(Stop::Again(reason) | Stop::Barred(reason)) => {
                    if self.progress.borrow().applied > before {
                        backoff = Backoff::new();
                    }
                    backoff.wait(&reason).await;
                }
            }
        }
    }

    /// Continues from what the schema holds, until the switch or an outage.
    async fn attempt(&self, connection: &Connection) -> Result<Rebuilt, Stop> {
        let mut scratch = Scratch::open(&self.config.database_url).await?;
        match self.fold(&mut scratch, connection).await {
            Err(Stop::Never(ProjectorError::Diverged { seq })) => {
                info!(
                    journal.sequence = seq,
                    "an earlier rebuild came from another journal: starting over"
                );
                scratch.start_over().await?;
                self.fold(&mut scratch, connection).await
            }
            done => done,
        }
    }

    async fn fold(&self, scratch: &mut Scratch, connection: &Connection) -> Result<Rebuilt, Stop> {
        let journal = Journal::new(connection.jetstream());
        let mark = scratch.projection.mark().await?;
        // Only a read shows whether the journal is still the same, and there may be nothing after its last commit.
        let mut probe = Follower::new(connection, Follow::After(checkpoint(&mark)?));
        probe.next().await.map_err(ProjectorError::from)?;
        let mut fold = Fold {
            projection: scratch.projection.clone(),
            follower: Follower::new(connection, Follow::After(checkpoint(&mark)?)),
            mark,
            progress: &self.progress,
        };
        self.progress.send_replace(Rebuilding {
            began_after: fold.mark.stream_seq,
            applied: fold.mark.stream_seq,
            last_seq: fold.mark.stream_seq,
        });
        let mut analyzed = false;
        loop {
            let head = head(&journal).await?;
            fold.saw(head);
            if fold.write_up_to(head, Instant::now() + HEAD_EVERY).await? {
                if !std::mem::replace(&mut analyzed, true) {
                    scratch.analyze().await?;
                    continue;
                }
                if let Some(done) = switch(scratch, &mut fold, &journal).await? {
                    return Ok(done);
                }
                info!("the tables are in use, for example by a dump: trying the switch again");
                tokio::time::sleep(BARRED_PAUSE).await;
            }
        }
    }
}

/// Blocks the projector, writes what remains, and swaps in the new tables. `None` when the tables are in use.
async fn switch(
    scratch: &mut Scratch,
    fold: &mut Fold<'_>,
    journal: &Journal,
) -> Result<Option<Rebuilt>, Stop> {
    let Some(old) = scratch.block_projectors().await? else {
        return Ok(None);
    };
    let rest = async {
        let head = head(journal).await?;
        fold.saw(head);
        while !fold.write_up_to(head, Instant::now() + HELD_OFF).await? {}
        Ok::<_, Stop>(())
    };
    // Dropping the connection here unblocks the projector.
    match timeout(HELD_OFF, rest).await {
        Ok(done) => done?,
        Err(_) => return Err(Stop::Again("the last commits took too long".to_owned())),
    }
    let done = scratch.swap_in(&old).await?;
    Ok(done.map(|old| Rebuilt {
        applied: fold.mark.stream_seq,
        old_kept_in: match old {
            Old::Dropped => None,
            Old::KeptIn(schema) => Some(schema),
        },
    }))
}

async fn head(journal: &Journal) -> Result<u64, Stop> {
    let head = journal.last_sequence().await;
    head.map_err(|error| Stop::Again(error.to_string()))
}

/// The fold into the schema.
struct Fold<'a> {
    projection: Projection,
    follower: Follower,
    mark: Mark,
    progress: &'a watch::Sender<Rebuilding>,
}

impl Fold<'_> {
    fn saw(&self, head: u64) {
        self.progress
            .send_modify(|progress| progress.last_seq = head.max(progress.applied));
    }

    /// Writes the journal up to `head`; false when the time ran out first.
    async fn write_up_to(&mut self, head: u64, until: Instant) -> Result<bool, Stop> {
        while self.mark.stream_seq < head {
            if Instant::now() >= until {
                return Ok(false);
            }
            let batch = next_batch(&mut self.follower).await?;
            let applied = timeout(APPLY_TIMEOUT, self.projection.apply(&self.mark, &batch)).await;
            let applied = applied.map_err(|_| Stop::Again("the database is too slow".to_owned()))??;
            let Applied::To(mark) = applied else {
                return Err(Stop::Again("another process moved its checkpoint".to_owned()));
            };
            batch.iter().for_each(report_unreadable);
            self.mark = mark;
            self.progress
                .send_modify(|progress| progress.applied = self.mark.stream_seq);
        }
        Ok(true)
    }
}
