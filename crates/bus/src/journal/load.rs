//! The journal, and the aggregates as their last commits have them.

use super::context::{JournalContext, unreadable};
use crate::{
    commit::{Commit, CommitError, CommitHash},
    connection::Connection,
    error::BusError,
    health::JournalHealth,
    streams::{self, JOURNAL_STREAM},
    subjects::AggregateId,
    upcast,
};
use async_nats::jetstream::{
    Context,
    stream::{LastRawMessageErrorKind, Stream},
};
use cqrs_es::Aggregate;
use std::time::Duration;

/// How long JetStream may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a read is tried before NATS counts as unavailable.
const MAX_READS: u32 = 2;

/// Reads and writes the journal.
#[derive(Debug, Clone)]
pub struct Journal {
    pub(super) js: Context,
    pub(super) health: JournalHealth,
}

/// What a command gets without a journal: whether it is lost or wasn't begun yet, a follower finds out.
pub(super) const NO_JOURNAL: BusError = BusError::NoStream {
    stream: JOURNAL_STREAM,
};

impl Journal {
    /// The journal behind `js`.
    #[must_use]
    pub fn new(mut js: Context) -> Self {
        js.set_timeout(ANSWER_TIMEOUT);
        Self {
            js,
            health: JournalHealth::default(),
        }
    }

    /// The journal behind `connection`, which reports there whether commits are stored.
    #[must_use]
    pub fn of(connection: &Connection) -> Self {
        Self {
            health: connection.health().clone(),
            ..Self::new(connection.jetstream())
        }
    }

    /// What is wrong with the journal, as far as that was found out.
    #[must_use]
    pub const fn health(&self) -> &JournalHealth {
        &self.health
    }

    /// The JetStream context, which gives up on an answer after two seconds.
    #[must_use]
    pub const fn jetstream(&self) -> &Context {
        &self.js
    }

    pub(super) async fn stream(&self) -> Result<Stream<()>, BusError> {
        let stream = self.js.get_stream_no_info(JOURNAL_STREAM).await;
        stream.map_err(BusError::unavailable)
    }

    /// Loads an aggregate from the stream's leader: one read of its last commit. If that holds a state of an older
    /// format, the aggregate's events are folded instead.
    ///
    /// # Errors
    /// When NATS isn't available, or the commit can't be read.
    pub async fn load<A: Aggregate + Clone>(&self, id: &AggregateId) -> Result<JournalContext<A>, BusError> {
        let stream = self.stream().await?;
        let mut reads = 1;
        let read = loop {
            match stream.get_last_raw_message_by_subject(&id.subject()).await {
                // A server that restarted in between has lost the question.
                Err(error) if error.kind() == LastRawMessageErrorKind::Other && reads < MAX_READS => {
                    reads += 1;
                }
                read => break read,
            }
        };
        match read {
            Ok(message) => {
                let commit = match Commit::<A>::decode(&message.payload) {
                    Err(CommitError::OlderState { .. }) => {
                        upcast::commit_at(&stream, id, message.sequence).await?
                    }
                    decoded => decoded,
                };
                let commit = commit.map_err(|e| unreadable(id, &e))?;
                let hash = CommitHash::of(&message.payload);
                Ok(JournalContext::at(id, message.sequence, commit, hash))
            }
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(JournalContext::new(id)),
                LastRawMessageErrorKind::JetStream(api) if streams::is_not_found(&api) => Err(NO_JOURNAL),
                _ => Err(BusError::unavailable(error)),
            },
        }
    }
}
