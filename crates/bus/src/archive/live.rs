//! The commits of a running journal, from the first to the one that is last when reading starts.

use super::{commit::ArchivedCommit, error::ArchiveError};
use crate::{
    entry::JournalEntry,
    journal::Journal,
    ordered_reader::OrderedReader,
    streams::{self, JOURNAL_STREAM},
    subjects,
};
use async_nats::jetstream::consumer::DeliverPolicy;

/// Reads a journal once, from start to end.
pub struct LiveCommits {
    messages: Option<OrderedReader>,
    last: u64,
}

impl LiveCommits {
    /// Starts reading.
    ///
    /// # Errors
    /// When there is no journal, or NATS isn't available.
    pub async fn read(journal: &Journal) -> Result<Self, ArchiveError> {
        let stream = streams::find(journal.jetstream(), JOURNAL_STREAM).await?;
        let stream = stream.ok_or(ArchiveError::NoJournal)?;
        let last = stream.cached_info().state.last_sequence;
        let messages = match last {
            0 => None,
            _ => Some(OrderedReader::new(&stream, subjects::EVENTS, DeliverPolicy::All).await?),
        };
        Ok(Self { messages, last })
    }

    /// The sequence of the last commit to read; 0 when there is none.
    #[must_use]
    pub const fn last_sequence(&self) -> u64 {
        self.last
    }

    /// The next commit; `None` after the last one.
    ///
    /// # Errors
    /// When NATS isn't available.
    pub async fn next_commit(&mut self) -> Result<Option<ArchivedCommit>, ArchiveError> {
        let Some(messages) = &mut self.messages else {
            return Ok(None);
        };
        let entry = JournalEntry::of_message(&messages.next().await?)?;
        if entry.sequence >= self.last {
            self.messages = None;
        }
        Ok(Some((&entry).into()))
    }
}

impl From<&JournalEntry> for ArchivedCommit {
    fn from(entry: &JournalEntry) -> Self {
        Self::new(
            entry.sequence,
            entry.subject.clone(),
            entry.headers_by_name(),
            entry.payload.clone(),
            Some(entry.stored_at),
        )
    }
}
