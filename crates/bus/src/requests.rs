//! The stream of requests: what each replica says of those that have ended, once a second. It is no part of the journal, and nothing
//! is decided by it; a hub without it answers all the same. Its server drops what is older than 30 days, or beyond 1 GiB.
//!
//! A batch has the records of its requests, or of some of them where there are very many, and the exact sums of all. Batches of one
//! run of a replica are numbered, so that whoever adds them up counts each once.

use crate::{
    connection::Connection,
    entry,
    error::BusError,
    ordered_reader::OrderedReader,
    streams::{self, REQUESTS_STREAM},
    subjects,
};
use async_nats::{
    HeaderMap,
    datetime::DateTime,
    jetstream::{self, consumer::DeliverPolicy},
};
use reveille_domain::{
    Timestamp,
    requests::{RequestRecord, UsageRow},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};
use tracing::debug;
use uuid::Uuid;

/// The most records of a batch.
pub const MAX_BATCH_RECORDS: usize = 512;
/// A batch ends with the record that exceeds this many bytes: a message has room for twice as many.
pub const MAX_BATCH_BYTES: usize = 384 * 1024;
/// The format of batches. A reader skips those of a later one.
const FORMAT: u32 = 1;
/// How long a batch waits for its acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before the consumer is created again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// The header by which the server knows a batch that it has stored already.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// What one replica says of the requests that ended since its last batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestBatch {
    /// The format of the batch: 1, as [`RequestBatch::new`] sets it.
    pub format: u32,
    /// The replica's name.
    pub replica: String,
    /// The run of the replica.
    pub run: Uuid,
    /// The number of the batch in that run, from 1.
    pub number: u64,
    /// How many requests were in flight.
    pub open: u64,
    /// Whether the run ends with this batch. One that was killed has no such batch.
    #[serde(default)]
    pub is_last: bool,
    /// How many records were lost since the last batch, because NATS was away for long. They are in the sums.
    #[serde(default)]
    pub lost: u64,
    /// The records.
    pub records: Vec<Arc<RequestRecord>>,
    /// The sums of all requests that ended, whether or not they are among the records.
    pub usage: Vec<UsageRow>,
}

impl RequestBatch {
    /// An empty batch.
    #[must_use]
    pub const fn new(replica: String, run: Uuid, number: u64) -> Self {
        Self {
            format: FORMAT,
            replica,
            run,
            number,
            open: 0,
            is_last: false,
            lost: 0,
            records: vec![],
            usage: vec![],
        }
    }

    fn read(message: &jetstream::Message) -> Option<Self> {
        let batch: Self = serde_json::from_slice(&message.payload).ok()?;
        let is_from = subjects::requests(&batch.replica) == message.subject.as_str();
        (is_from && batch.format <= FORMAT).then_some(batch)
    }
}

/// A batch as the stream has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredBatch {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// The batch; `None` for a message that isn't one, or of a later version.
    pub batch: Option<RequestBatch>,
}

/// The stream of requests.
#[derive(Clone)]
pub struct RequestLog {
    connection: Connection,
}

impl RequestLog {
    /// The one that `connection` reaches.
    #[must_use]
    pub fn of(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
        }
    }

    /// Stores a batch. It may be stored again if the outcome is unknown: the server, or else each reader, knows its number.
    ///
    /// # Errors
    /// When the server hasn't acknowledged it.
    pub async fn store(&self, batch: &RequestBatch) -> Result<(), BusError> {
        let js = self.connection.jetstream();
        let payload = serde_json::to_vec(batch).map_err(BusError::unavailable)?;
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_ID, format!("{}.{}", batch.run, batch.number));
        let subject = subjects::requests(&batch.replica);
        let storing = async {
            let sent = js.publish_with_headers(subject, headers, payload.into()).await;
            sent.map_err(BusError::unavailable)?
                .await
                .map(drop)
                .map_err(BusError::unavailable)
        };
        let stored = timeout(ACK_TIMEOUT, storing).await;
        stored.map_err(|_| BusError::unavailable("NATS acknowledges no batch of requests"))?
    }

    /// Creates the stream if it is missing and this process may.
    ///
    /// # Errors
    /// When NATS isn't available, or has no room for the stream.
    pub async fn ensure(&self) -> Result<(), BusError> {
        if self.connection.makes_streams() {
            streams::ensure_requests(&self.connection.jetstream()).await?;
        }
        Ok(())
    }

    /// Searches the batches that were stored at `from` or later, and until `to`, for what `found` finds, for at most `within`.
    ///
    /// # Errors
    /// When NATS isn't available, or there is no stream.
    pub async fn search<T>(
        &self,
        from: Timestamp,
        to: Timestamp,
        within: Duration,
        mut found: impl FnMut(RequestBatch) -> Option<T>,
    ) -> Result<Option<T>, BusError> {
        let stream = streams::open(&self.connection.jetstream(), REQUESTS_STREAM).await?;
        let last = stream.cached_info().state.last_sequence;
        let start_time = DateTime::from_unix_timestamp_nanos(i128::from(from.as_millis()) * 1_000_000);
        let start_time = start_time.map_err(BusError::unavailable)?;
        let policy = DeliverPolicy::ByStartTime { start_time };
        let searching = async {
            let mut messages = OrderedReader::new(&stream, subjects::REQUESTS, policy).await?;
            loop {
                let stored = stored(&messages.next().await?)?;
                if let Some(found) = stored.batch.and_then(&mut found) {
                    return Ok(Some(found));
                }
                if stored.sequence >= last || stored.stored_at > to {
                    return Ok(None);
                }
            }
        };
        // Where nothing has been stored since, nothing comes.
        timeout(within, searching).await.unwrap_or(Ok(None))
    }
}

fn stored(message: &jetstream::Message) -> Result<StoredBatch, BusError> {
    let info = message.info().map_err(BusError::unavailable)?;
    Ok(StoredBatch {
        sequence: info.stream_sequence,
        stored_at: entry::timestamp(info.published),
        batch: RequestBatch::read(message),
    })
}

/// Follows the stream of requests.
pub struct RequestFollower {
    log: RequestLog,
    generation: watch::Receiver<u64>,
    /// The next sequence to be read; `None` for the last few.
    next: Option<u64>,
    most_back: u64,
    messages: Option<OrderedReader>,
}

impl RequestFollower {
    /// From the last `most` messages on.
    #[must_use]
    pub fn from_last(log: &RequestLog, most: u64) -> Self {
        Self::new(log, None, most)
    }

    /// From behind the message `after` on. If the stream has fewer, it is another one, and is read from its beginning.
    #[must_use]
    pub fn after(log: &RequestLog, after: u64) -> Self {
        Self::new(log, Some(after.saturating_add(1)), u64::MAX)
    }

    fn new(log: &RequestLog, next: Option<u64>, most_back: u64) -> Self {
        Self {
            generation: log.connection.generation(),
            log: log.clone(),
            next,
            most_back,
            messages: None,
        }
    }

    /// The next batch. Waits out every outage, and for a stream that isn't there. Cancel-safe.
    pub async fn next(&mut self) -> StoredBatch {
        loop {
            let Some(messages) = &mut self.messages else {
                if let Err(error) = self.start().await {
                    debug!(%error, "can't read the stream of requests, trying again");
                    tokio::time::sleep(RESTART_PAUSE).await;
                }
                continue;
            };
            let arrived = tokio::select! {
                arrived = messages.next() => arrived.and_then(|message| stored(&message)),
                _ = self.generation.changed() => {
                    self.messages = None;
                    continue;
                }
            };
            match arrived {
                Ok(stored) => {
                    self.next = Some(stored.sequence + 1);
                    return stored;
                }
                Err(error) => {
                    debug!(%error, "reading the stream of requests again");
                    self.messages = None;
                }
            }
        }
    }

    async fn start(&mut self) -> Result<(), BusError> {
        self.generation.borrow_and_update();
        let stream = streams::open(&self.log.connection.jetstream(), REQUESTS_STREAM).await?;
        let state = &stream.cached_info().state;
        let last_few = state
            .last_sequence
            .saturating_sub(self.most_back)
            .saturating_add(1);
        let start_sequence = match self.next {
            Some(next) if next <= state.last_sequence.saturating_add(1) => next,
            Some(_) | None => last_few.max(state.first_sequence),
        };
        let policy = DeliverPolicy::ByStartSequence {
            start_sequence: start_sequence.max(1),
        };
        self.messages = Some(OrderedReader::new(&stream, subjects::REQUESTS, policy).await?);
        Ok(())
    }
}
