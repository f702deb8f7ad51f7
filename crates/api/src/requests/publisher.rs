//! Tells the stream of requests what has ended here, and learns from it what ended elsewhere and before the start.

use super::Recorder;
use reveille_bus::requests::{RequestBatch, RequestFollower, RequestLog};
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often a batch is stored, if there is anything to be told.
const EVERY: Duration = Duration::from_secs(1);
/// The longest pause after failures: without permission, each attempt is a line in the server's log.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How far back the stream is read after a start, in batches.
const RECALLED_BATCHES: u64 = 20_000;

/// Stores what `recorder` has to tell, until `served` and then the rest.
pub(crate) async fn publish(recorder: Recorder, log: RequestLog, served: CancellationToken) {
    let mut publisher = Publisher {
        recorder,
        log,
        stored: 0,
        unstored: None,
        pause: EVERY,
    };
    loop {
        tokio::select! {
            () = sleep(publisher.pause) => {
                publisher.store().await;
            }
            () = served.cancelled() => return publisher.store_the_rest().await,
        }
    }
}

struct Publisher {
    recorder: Recorder,
    log: RequestLog,
    /// The number of the last batch that was stored.
    stored: u64,
    /// The next one, until it is known to be stored.
    unstored: Option<RequestBatch>,
    /// The pause before the next one: longer after each failure.
    pause: Duration,
}

impl Publisher {
    /// Stores the next batch, if there is anything in it. Whether that was done.
    async fn store(&mut self) -> bool {
        if self.unstored.is_none() {
            self.unstored = self.recorder.next_batch(self.stored + 1);
        }
        let Some(batch) = &self.unstored else {
            return false;
        };
        let storing = async {
            if self.pause > EVERY || self.stored == 0 {
                self.log.ensure().await?;
            }
            self.log.store(batch).await
        };
        match storing.await {
            Ok(()) => {
                self.stored = batch.number;
                self.unstored = None;
                if std::mem::replace(&mut self.pause, EVERY) > EVERY {
                    info!("the records of requests are stored again");
                }
                true
            }
            Err(error) => {
                let pause = (2 * self.pause).min(LONGEST_PAUSE);
                if std::mem::replace(&mut self.pause, pause) == EVERY {
                    warn!(%error, "the records of requests can't be stored: trying again, and keeping them in memory");
                }
                false
            }
        }
    }

    async fn store_the_rest(&mut self) {
        while self.store().await {}
        if self.stored > 0 && self.unstored.is_none() {
            let mut last = self.recorder.empty_batch(self.stored + 1);
            last.is_last = true;
            if let Err(error) = self.log.store(&last).await {
                warn!(%error, "the end of this run isn't among the records of requests");
            }
        }
    }
}

/// Takes in what the stream has of other runs. Never ends.
pub(crate) async fn follow(recorder: Recorder, log: RequestLog) {
    let mut follower = RequestFollower::from_last(&log, RECALLED_BATCHES);
    loop {
        if let Some(batch) = follower.next().await.batch {
            recorder.take_in(batch);
        }
    }
}
