//! Takes the stream of requests into the database, apart from the fold of the journal, and deletes what is older than the stream's own.

use crate::{Projection, ProjectionError};
use futures::FutureExt;
use reveille_bus::{
    Connection,
    requests::{RequestFollower, RequestLog, StoredBatch},
};
use reveille_domain::{Timestamp, counted};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::{debug, error};

/// The most batches of a transaction.
const MAX_BATCHES: usize = 64;
/// How long a transaction may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests are kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often older ones are deleted.
const FORGOTTEN_EVERY: Duration = Duration::from_secs(60 * 60);
/// The pause after an outage of the database, or after another projector was faster.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes in what the stream has, and what comes. Never ends.
pub(crate) async fn record(projection: &Projection, connection: &Connection) {
    let log = RequestLog::of(connection);
    loop {
        if let Err(error) = follow(projection, &log).await {
            // The fold already logs that the database is unavailable.
            debug!(%error, "requests can't be written, trying again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until another projector has moved the mark.
async fn follow(projection: &Projection, log: &RequestLog) -> Result<(), ProjectionError> {
    let mut at = projection.request_mark().await?;
    let mut follower = RequestFollower::after(log, at);
    let mut forget_at = Instant::now();
    loop {
        let batches = next(&mut follower).await;
        let Some(last) = batches.last() else { continue };
        let (to, stored_at) = (last.sequence, last.stored_at);
        let written = match timeout(WRITE_TIMEOUT, projection.take_requests(at, to, &batches)).await {
            Ok(Err(ProjectionError::Refused(error))) => {
                error!(%error, "the database refuses {} of the stream of requests: left out", counted(batches.len(), "message"));
                projection.take_requests(at, to, &[]).await?
            }
            Ok(written) => written?,
            Err(_) => return Err(sqlx::Error::PoolTimedOut.into()),
        };
        if !written {
            return Ok(());
        }
        at = to;
        if forget_at <= Instant::now() {
            forget(projection, stored_at).await?;
            forget_at = Instant::now() + FORGOTTEN_EVERY;
        }
    }
}

/// Deletes what is too old by the server's time, in short transactions.
async fn forget(projection: &Projection, now: Timestamp) -> Result<(), ProjectionError> {
    while projection.forget_requests(now.minus(KEPT)).await? {}
    Ok(())
}

/// The next batch and those that have already arrived after it.
async fn next(follower: &mut RequestFollower) -> Vec<StoredBatch> {
    let mut batches = vec![follower.next().await];
    while batches.len() < MAX_BATCHES
        && let Some(next) = follower.next().now_or_never()
    {
        batches.push(next);
    }
    batches
}
