//! One message of the journal as readers get it: its place, its bytes and the commit in it.

use crate::{
    commit::{AnyCommit, CommitError, CommitHash},
    error::BusError,
    subjects::AggregateId,
};
use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use reveille_domain::Timestamp;

/// The last commit that a reader has processed: where it resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The commit's stream sequence.
    pub sequence: u64,
    /// The hash of the commit's bytes, which shows whether the journal still holds the same commit there.
    pub hash: CommitHash,
}

/// A message of the journal.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// Its position in the stream.
    pub sequence: u64,
    /// The subject, which names the aggregate.
    pub subject: String,
    /// The headers as they were stored.
    pub headers: HeaderMap,
    /// The message's bytes.
    pub payload: Bytes,
    /// The hash of the payload.
    pub hash: CommitHash,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// The commit, or why it can't be read.
    pub commit: Result<(AggregateId, AnyCommit), CommitError>,
}

impl JournalEntry {
    /// Reads a message that a consumer of the journal has delivered.
    pub(crate) fn of_message(message: &jetstream::Message) -> Result<Self, BusError> {
        let info = message.info().map_err(BusError::unavailable)?;
        Ok(Self {
            sequence: info.stream_sequence,
            subject: message.subject.to_string(),
            headers: message.headers.clone().unwrap_or_default(),
            hash: CommitHash::of(&message.payload),
            stored_at: timestamp(info.published),
            commit: AnyCommit::of_message(&message.subject, &message.payload),
            payload: message.payload.clone(),
        })
    }

    /// The checkpoint of a reader that has processed this entry.
    #[must_use]
    pub const fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            sequence: self.sequence,
            hash: self.hash,
        }
    }
}

/// The server's time of a message in milliseconds.
pub(crate) fn timestamp(stored: async_nats::datetime::DateTime) -> Timestamp {
    let millis = stored.unix_timestamp_nanos() / 1_000_000;
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(0))
}
