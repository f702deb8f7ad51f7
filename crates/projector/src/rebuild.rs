//! Rows from the start: the journal is folded anew into a schema of its own, which then takes the place of the current
//! rows. Meanwhile the projector goes on, and at the switch it finds its checkpoint moved and goes on from the new one.

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

/// How often the journal's head is looked at while there is something to read.
const HEAD_EVERY: Duration = Duration::from_secs(1);
/// How long projectors are held off while the last commits are taken in.
const HELD_OFF: Duration = Duration::from_secs(10);
/// The pause before the tables are asked for again that somebody else used.
const BARRED_PAUSE: Duration = Duration::from_secs(1);

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rebuilding {
    /// Where this run began: behind what an interrupted one had taken in.
    pub began_after: u64,
    /// The last commit taken in.
    pub applied: u64,
    /// The journal's last commit, as of a moment ago.
    pub last_seq: u64,
}

/// A rebuild that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The last commit that the new rows had taken in at the switch.
    pub applied: u64,
    /// The schema that holds the old rows, when the journal no longer held what they came from.
    pub old_kept_in: Option<String>,
}

/// Rebuilds the rows, and tells how far it is. Waits out outages of NATS and of the database; none when `shutdown` ended
/// it before it was done, and then the next one goes on from there.
///
/// # Errors
/// When it can't go on: see [`ProjectorError`].
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
        // An empty database has rows to replace, too.
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
                Err(Stop::Again(reason)) => {
                    if self.progress.borrow().applied > before {
                        backoff.reset();
                    }
                    backoff.wait(&reason).await;
                }
            }
        }
    }

    /// Goes on from what the schema holds, until the switch or an outage.
    async fn attempt(&self, connection: &Connection) -> Result<Rebuilt, Stop> {
        let mut scratch = Scratch::open(&self.config.database_url).await?;
        match self.fold(&mut scratch, connection).await {
            Err(Stop::Never(ProjectorError::Diverged { seq })) => {
                info!(
                    journal.sequence = seq,
                    "an earlier rebuild came from another journal: beginning anew"
                );
                scratch.begin_anew().await?;
                self.fold(&mut scratch, connection).await
            }
            done => done,
        }
    }

    async fn fold(&self, scratch: &mut Scratch, connection: &Connection) -> Result<Rebuilt, Stop> {
        let journal = Journal::new(connection.jetstream());
        let mark = scratch.projection.mark().await?;
        // Behind its last commit there may be nothing to read that would show whether the journal is still the same.
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
            if fold.take_in(head, Instant::now() + HEAD_EVERY).await? {
                if !std::mem::replace(&mut analyzed, true) {
                    scratch.analyze().await?;
                    continue;
                }
                if let Some(done) = switch(scratch, &mut fold, &journal).await? {
                    return Ok(done);
                }
                info!("the tables are in use, such as by a dump: trying the switch again");
                tokio::time::sleep(BARRED_PAUSE).await;
            }
        }
    }
}

/// Holds the projector off, takes in what is left, and puts the new tables in place. None when the tables are in use.
async fn switch(
    scratch: &mut Scratch,
    fold: &mut Fold<'_>,
    journal: &Journal,
) -> Result<Option<Rebuilt>, Stop> {
    let Some(old) = scratch.hold().await? else {
        return Ok(None);
    };
    let rest = async {
        let head = head(journal).await?;
        fold.saw(head);
        while !fold.take_in(head, Instant::now() + HELD_OFF).await? {}
        Ok::<_, Stop>(())
    };
    // A connection that is dropped here lets the projector go on.
    match timeout(HELD_OFF, rest).await {
        Ok(done) => done?,
        Err(_) => return Err(Stop::Again("the last commits took too long".to_owned())),
    }
    let done = scratch.put_in_place(&old).await?;
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

    /// Takes in the journal up to `head`, and tells whether it got there; else the time is over.
    async fn take_in(&mut self, head: u64, until: Instant) -> Result<bool, Stop> {
        while self.mark.stream_seq < head {
            if Instant::now() >= until {
                return Ok(false);
            }
            let batch = next_batch(&mut self.follower).await?;
            let applied = timeout(APPLY_TIMEOUT, self.projection.apply(&self.mark, &batch)).await;
            let applied = applied.map_err(|_| Stop::Again("the database is too slow".to_owned()))??;
            let Applied::To(mark) = applied else {
                return Err(Stop::Again(
                    "its checkpoint was moved by somebody else".to_owned(),
                ));
            };
            batch.iter().for_each(report_unreadable);
            self.mark = mark;
            self.progress
                .send_modify(|progress| progress.applied = self.mark.stream_seq);
        }
        Ok(true)
    }
}
