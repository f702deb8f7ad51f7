//! Reading the journal from a sequence to its current end: for queries that go further back than a fold.

use super::load::Journal;
use crate::{
    commit::CommitHash,
    entry::{Checkpoint, JournalEntry},
    error::BusError,
    ordered_reader::OrderedReader,
    streams::{self, JOURNAL_STREAM},
    subjects::{self, AggregateId},
};
use async_nats::jetstream::{
    consumer::DeliverPolicy,
    stream::{LastRawMessageErrorKind, RawMessageErrorKind},
};
use futures::{Stream, StreamExt, stream};
use reveille_domain::Timestamp;

impl Journal {
    /// The commits after `after_seq`, of one aggregate or of all, up to the journal's current end. If NATS is lost on the
    /// way, the last item is an error.
    ///
    /// # Errors
    /// When NATS isn't available.
    pub async fn read(
        &self,
        after_seq: u64,
        aggregate: Option<&AggregateId>,
    ) -> Result<impl Stream<Item = Result<JournalEntry, BusError>> + Send + use<>, BusError> {
        let stream = streams::open(&self.js, JOURNAL_STREAM).await?;
        let head = match aggregate {
            None => stream.cached_info().state.last_sequence,
            Some(id) => self.last_of(id).await?,
        };
        if head <= after_seq {
            return Ok(stream::empty().left_stream());
        }
        let subjects = aggregate.map_or_else(|| subjects::EVENTS.to_owned(), AggregateId::subject);
        let from = DeliverPolicy::ByStartSequence {
            start_sequence: after_seq + 1,
        };
        let entries = up_to(head, OrderedReader::new(&stream, &subjects, from).await?);
        Ok(entries.right_stream())
    }

    /// The commits that were stored at `since` or later, up to the journal's current end. If NATS is lost on the way, the
    /// last item is an error.
    ///
    /// # Errors
    /// When NATS isn't available.
    pub async fn read_since(
        &self,
        since: Timestamp,
    ) -> Result<impl Stream<Item = Result<JournalEntry, BusError>> + Send + use<>, BusError> {
        let stream = streams::open(&self.js, JOURNAL_STREAM).await?;
        let state = &stream.cached_info().state;
        let nanos = i128::from(since.as_millis()) * 1_000_000;
        // A consumer that starts behind the end would wait for the next commit.
        if state.last_sequence == 0 || state.last_timestamp.unix_timestamp_nanos() < nanos {
            return Ok(stream::empty().left_stream());
        }
        let start_time = async_nats::datetime::from_nanos(nanos).map_err(BusError::unavailable)?;
        let from = DeliverPolicy::ByStartTime { start_time };
        let messages = OrderedReader::new(&stream, subjects::EVENTS, from).await?;
        Ok(up_to(state.last_sequence, messages).right_stream())
    }

    /// The commit at `sequence`, as a follower's starting point; `None` when the journal has none there.
    ///
    /// # Errors
    /// When NATS isn't available.
    pub async fn checkpoint(&self, sequence: u64) -> Result<Option<Checkpoint>, BusError> {
        match self.stream().await?.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(Checkpoint {
                sequence,
                hash: CommitHash::of(&message.payload),
            })),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(BusError::unavailable(error)),
        }
    }

    /// The sequence of the journal's last commit; 0 for an empty journal.
    ///
    /// # Errors
    /// When NATS isn't available.
    pub async fn last_sequence(&self) -> Result<u64, BusError> {
        Ok(streams::open(&self.js, JOURNAL_STREAM)
            .await?
            .cached_info()
            .state
            .last_sequence)
    }

    async fn last_of(&self, id: &AggregateId) -> Result<u64, BusError> {
        let stream = self.stream().await?;
        match stream.get_last_raw_message_by_subject(&id.subject()).await {
            Ok(message) => Ok(message.sequence),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
            Err(error) => Err(BusError::unavailable(error)),
        }
    }
}

/// The entries up to the sequence `head`. The stream ends there; its consumer would wait for more.
fn up_to(head: u64, messages: OrderedReader) -> impl Stream<Item = Result<JournalEntry, BusError>> + Send {
    let entries = stream::unfold(Some(messages), move |messages| async move {
        let mut messages = messages?;
        let message = messages.next().await;
        let entry = message.and_then(|message| JournalEntry::of_message(&message));
        let ended = entry.as_ref().map_or(true, |entry| entry.sequence >= head);
        Some((entry, (!ended).then_some(messages)))
    });
    Box::pin(entries)
}
