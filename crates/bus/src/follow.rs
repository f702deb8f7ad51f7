//! Following the journal: commits in order, each once, across reconnects. Notices when the journal isn't the one it
//! was: a stream's sequences alone don't tell, so the last commit seen is compared by its hash.

use crate::{
    commit::CommitHash,
    connection::Connection,
    entry::{Checkpoint, JournalEntry},
    error::BusError,
    ordered_reader::OrderedReader,
    streams::{self, JOURNAL_STREAM},
    subjects,
    upcast::Upcaster,
};
use async_nats::jetstream::{
    Context,
    consumer::DeliverPolicy,
    stream::{RawMessageErrorKind, Stream},
};
use std::time::Duration;
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

/// The pause before the consumer is made again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// The pause before a stream that somebody else makes is looked for again.
const MISSING_PAUSE: Duration = Duration::from_secs(1);
/// How often the stream's head is compared while nothing arrives: a consumer past the end stays silent.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// Where to begin, and what to do when the journal was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// The latest commit of each aggregate, then everything new; all over again when the journal was replaced.
    Latest,
    /// Everything after the checkpoint (everything at all without one); an error when the journal was replaced.
    After(Option<Checkpoint>),
}

/// What a follower tells.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "nearly all are commits")]
pub enum Followed {
    /// Forget everything: the journal was replaced and is read anew.
    Reset,
    /// A commit.
    Commit(JournalEntry),
    /// The connection or the reader was lost, so commits may be missing, and the journal may not be the one it was, until
    /// the next [`Followed::CaughtUp`].
    Interrupted,
    /// Everything that was in the journal at the start, or at the last reconnect, was told.
    CaughtUp {
        /// The sequence of the journal's last commit; 0 for an empty journal.
        sequence: u64,
    },
}

/// Follows the journal; see [`Follower::next`].
pub struct Follower {
    js: Context,
    generation: watch::Receiver<u64>,
    makes_streams: bool,
    /// Whether it was told that there is no journal yet.
    told_missing: bool,
    follow: Follow,
    seen: Option<Checkpoint>,
    reading: Option<Reading>,
    /// A commit that has arrived and isn't told yet.
    arrived: Option<JournalEntry>,
    upcaster: Upcaster,
    /// Whether the reader was lost and that isn't told yet.
    interrupted: bool,
    /// Whether nothing was told yet.
    fresh: bool,
    /// Whether [`Followed::CaughtUp`] was told: from then on every commit is, not the latest of each aggregate only.
    caught_up: bool,
}

struct Reading {
    stream: Stream,
    messages: OrderedReader,
    /// The sequence to announce as caught up, until it is.
    head: Option<u64>,
    /// When the stream's head is compared next. It stands here because a caller may drop `next` at any time.
    check_at: Instant,
    /// Where the reader stood at the last look, if the stream held more by then.
    behind_at: Option<u64>,
}

impl Follower {
    /// A follower over `connection`.
    #[must_use]
    pub fn new(connection: &Connection, follow: Follow) -> Self {
        let seen = match follow {
            Follow::Latest => None,
            Follow::After(checkpoint) => checkpoint,
        };
        Self {
            js: connection.jetstream(),
            generation: connection.generation(),
            makes_streams: connection.makes_streams(),
            told_missing: false,
            follow,
            seen,
            reading: None,
            arrived: None,
            upcaster: Upcaster::default(),
            interrupted: false,
            fresh: true,
            caught_up: false,
        }
    }

    /// The next thing to know. Waits out every outage. Cancel-safe: nothing is lost when it is dropped.
    ///
    /// # Errors
    /// [`BusError::Diverged`] when the journal was replaced under a follower from a checkpoint;
    /// [`BusError::StreamMismatch`] when it was made anew with other settings.
    pub async fn next(&mut self) -> Result<Followed, BusError> {
        loop {
            if std::mem::take(&mut self.interrupted) {
                return Ok(Followed::Interrupted);
            }
            let Some(reading) = &mut self.reading else {
                match self.start().await {
                    Ok(None) => {}
                    Ok(Some(reset)) => return Ok(reset),
                    Err(BusError::Unavailable(reason)) => {
                        warn!(%reason, "can't read the journal, trying again");
                        tokio::time::sleep(RESTART_PAUSE).await;
                    }
                    Err(error @ BusError::NoStream { .. }) => {
                        if !std::mem::replace(&mut self.told_missing, true) {
                            warn!("{error}; waiting for it");
                        }
                        tokio::time::sleep(MISSING_PAUSE).await;
                    }
                    Err(error) => return Err(error),
                }
                continue;
            };
            if let Some(entry) = &mut self.arrived {
                match self.upcaster.upcast(&reading.stream, entry).await {
                    Ok(()) => {
                        self.seen = Some(entry.checkpoint());
                        if let Some(entry) = self.arrived.take() {
                            return Ok(Followed::Commit(entry));
                        }
                    }
                    Err(error) => {
                        self.restart(&error.to_string());
                        tokio::time::sleep(RESTART_PAUSE).await;
                    }
                }
                continue;
            }
            let done = self.seen.map_or(0, |seen| seen.sequence);
            if reading.head.is_some_and(|head| head <= done) {
                reading.head = None;
                self.caught_up = true;
                return Ok(Followed::CaughtUp { sequence: done });
            }
            tokio::select! {
                message = reading.messages.next() => match message.and_then(|message| JournalEntry::of_message(&message)) {
                    Ok(entry) if entry.sequence <= done => {}
                    Ok(entry) => self.arrived = Some(entry),
                    Err(error) => self.restart(&error.to_string()),
                },
                changed = self.generation.changed() => match changed {
                    Ok(()) => self.restart("the connection was lost in between"),
                    Err(_) => return Err(BusError::Unavailable("the connection was closed".to_owned())),
                },
                () = tokio::time::sleep_until(reading.check_at) => {
                    if !reading.is_current(done).await {
                        self.restart("the stream was replaced, or its consumer fell silent");
                    }
                }
            }
        }
    }

    fn restart(&mut self, reason: &str) {
        info!(
            reason,
            journal.sequence = self.seen.map_or(0, |seen| seen.sequence),
            "reading the journal again"
        );
        self.reading = None;
        self.interrupted = true;
        // It was not told, so it is read again.
        self.arrived = None;
    }

    /// Makes a consumer behind what was seen, once the journal is known to still hold it.
    async fn start(&mut self) -> Result<Option<Followed>, BusError> {
        self.generation.borrow_and_update();
        streams::ready_streams(&self.js, self.makes_streams).await?;
        self.told_missing = false;
        let stream = self
            .js
            .get_stream(JOURNAL_STREAM)
            .await
            .map_err(BusError::unavailable)?;
        if let Some(seen) = self.seen
            && !holds(&stream, seen).await?
        {
            return match self.follow {
                Follow::After(_) => Err(BusError::Diverged { seq: seen.sequence }),
                Follow::Latest => {
                    warn!(
                        journal.sequence = seen.sequence,
                        "the journal was replaced: forgetting what was read"
                    );
                    self.seen = None;
                    self.caught_up = false;
                    Ok(Some(Followed::Reset))
                }
            };
        }
        let deliver_policy = match (self.seen, self.follow) {
            (Some(seen), _) => DeliverPolicy::ByStartSequence {
                start_sequence: seen.sequence + 1,
            },
            (None, Follow::Latest) if !self.caught_up => DeliverPolicy::LastPerSubject,
            (None, Follow::Latest | Follow::After(_)) => DeliverPolicy::All,
        };
        let messages = OrderedReader::new(&stream, subjects::EVENTS, deliver_policy).await?;
        let reset = std::mem::take(&mut self.fresh) && self.follow == Follow::Latest;
        self.reading = Some(Reading {
            head: Some(stream.cached_info().state.last_sequence),
            stream,
            messages,
            check_at: Instant::now() + CHECK_EVERY,
            behind_at: None,
        });
        Ok(reset.then_some(Followed::Reset))
    }
}

impl Reading {
    /// Whether the stream is the one that is read and holds nothing that should have arrived.
    async fn is_current(&mut self, done: u64) -> bool {
        let info = self.stream.get_info().await;
        self.check_at = Instant::now() + CHECK_EVERY;
        // An outage: the connection's or the reader's own signs tell when it is over.
        let Ok(info) = info else { return true };
        if info.created != self.stream.cached_info().created || info.state.last_sequence < done {
            return false;
        }
        // A commit may be on its way here; one that still is at the next look isn't.
        let behind_at = (info.state.last_sequence > done).then_some(done);
        let stuck = behind_at.is_some() && behind_at == self.behind_at;
        self.behind_at = behind_at;
        !stuck
    }
}

/// Whether the journal still holds the commit that was seen.
async fn holds(stream: &Stream, seen: Checkpoint) -> Result<bool, BusError> {
    match stream.get_raw_message(seen.sequence).await {
        Ok(message) => Ok(CommitHash::of(&message.payload) == seen.hash),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(false),
        Err(error) => Err(BusError::unavailable(error)),
    }
}
