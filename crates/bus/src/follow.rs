//! Following the journal: commits in order, each once, across reconnects. A follower notices when the journal was
//! replaced: sequences alone don't show it, so the last commit seen is compared by its hash.

use crate::{
    commit::CommitHash,
    connection::Connection,
    entry::{Checkpoint, JournalEntry},
    error::{BusError, JETSTREAM_OFF},
    health::{JournalExtent, JournalHealth, JournalTrouble},
    hub_id::HubId,
    ordered_reader::OrderedReader,
    retry_log::RetryLog,
    search::{Beginning, Search},
    streams::{self, JOURNAL_STREAM},
    subjects,
    upcast::Upcaster,
};
use async_nats::jetstream::{
    consumer::DeliverPolicy,
    stream::{RawMessageErrorKind, Stream},
};
use std::time::Duration;
use tokio::{sync::watch, time::Instant};
use tracing::{error, info, warn};

/// The pause before the consumer is created again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// The pause before looking again for a journal that isn't there.
const MISSING_PAUSE: Duration = Duration::from_secs(1);
/// How often the stream's head is checked while nothing arrives: a consumer past the end stays silent.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// Where to begin, and what to do when the journal was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// The latest commit of each aggregate, then everything new. Starts over when the journal was replaced.
    Latest,
    /// Everything after the checkpoint, or everything without one. Fails when the journal was replaced.
    After(Option<Checkpoint>),
}

/// What a follower reports.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "nearly all are commits")]
pub enum Followed {
    /// The journal is read from the start: drop everything folded so far.
    Reset,
    /// The next commit.
    Commit(JournalEntry),
    /// The connection or the reader was lost. Until the next [`Followed::CaughtUp`], commits may be missing and the
    /// journal may have been replaced.
    Interrupted,
    /// Every commit that was in the journal at the start, or at the last reconnect, has been reported.
    CaughtUp {
        /// The sequence of the journal's last commit; 0 for an empty journal.
        sequence: u64,
    },
}

/// Follows the journal; see [`Follower::next`].
pub struct Follower {
    connection: Connection,
    generation: watch::Receiver<u64>,
    /// The generation of the last start.
    read_in: u64,
    /// Set for the one that decides for its process whether this is the journal.
    guard: Option<Beginning>,
    /// Whether the log says already that there is no journal.
    logged_missing: bool,
    failures: RetryLog,
    follow: Follow,
    seen: Option<Checkpoint>,
    reading: Option<Reading>,
    /// A commit that has arrived and isn't reported yet.
    arrived: Option<JournalEntry>,
    upcaster: Upcaster,
    /// Whether the reader was lost and that isn't reported yet.
    interrupted: bool,
    /// Whether nothing has been reported yet.
    fresh: bool,
    /// Whether [`Followed::CaughtUp`] was reported. From then on every commit is, not only each aggregate's latest.
    caught_up: bool,
}

struct Reading {
    stream: Stream,
    messages: OrderedReader,
    /// The sequence to announce as caught up, until it is.
    head: Option<u64>,
    /// When the stream's head is checked next. A field, because a caller may drop `next` at any time.
    check_at: Instant,
    /// How far the reader was at the last check, if the stream held more by then.
    behind_at: Option<u64>,
}

impl Follower {
    /// Follows the journal over `connection` on behalf of the whole process: it begins the journal if there never was one
    /// and the role may, and keeps the connection's [`JournalHealth`].
    #[must_use]
    pub fn guarding(connection: &Connection, follow: Follow, beginning: Beginning) -> Self {
        Self {
            guard: Some(beginning),
            ..Self::new(connection, follow)
        }
    }

    /// Follows the journal over `connection`.
    #[must_use]
    pub fn new(connection: &Connection, follow: Follow) -> Self {
        let seen = match follow {
            Follow::Latest => None,
            Follow::After(checkpoint) => checkpoint,
        };
        Self {
            connection: connection.clone(),
            generation: connection.generation(),
            read_in: 0,
            guard: None,
            logged_missing: false,
            failures: RetryLog::default(),
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

    /// The next report. Waits out every outage, and waits for a journal that is lost: one that is missing, empty, being
    /// restored or of other settings although there were commits. Cancel-safe: dropping it loses nothing.
    ///
    /// # Errors
    /// [`BusError::Diverged`] when another journal has taken the place of the one that a follower from a checkpoint has seen;
    /// [`BusError::StreamMismatch`] when the first one it finds has settings that Reveille can't work with.
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
                        self.note_unread(reason).await;
                        tokio::time::sleep(RESTART_PAUSE).await;
                    }
                    Err(error @ (BusError::NoStream { .. } | BusError::Journal(_))) => {
                        self.note_missing(&error);
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
                        if self.guard.is_some() {
                            self.connection.health().read();
                        }
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
                    let health = self.guard.is_some().then(|| self.connection.health());
                    if !reading.is_current(done, health).await {
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
        // It wasn't reported, so it is read again.
        self.arrived = None;
    }

    /// Creates a consumer behind the last commit seen, after checking that the journal still holds it.
    async fn start(&mut self) -> Result<Option<Followed>, BusError> {
        self.note_reconnect();
        let js = self.connection.jetstream();
        let search = Search {
            guard: self.guard.as_mut(),
            makes_streams: self.connection.makes_streams(),
            seen: self.seen.map(|seen| seen.sequence),
            is_awaited: self.logged_missing,
        };
        search.journal(&js).await?;
        let stream = streams::open(&js, JOURNAL_STREAM).await?;
        if let Some(seen) = self.seen
            && !holds(&stream, seen).await?
        {
            return match self.follow {
                Follow::After(_) => Err(BusError::Diverged { seq: seen.sequence }),
                Follow::Latest => {
                    error!(
                        journal.sequence = seen.sequence,
                        "the journal was replaced: it no longer holds commit {} as it was read. Reading the one that is \
                         there from its start",
                        seen.sequence
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
        self.logged_missing = false;
        if let Some(health) = self.health() {
            health.found(HubId::of_journal(stream.cached_info()));
        }
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

impl Follower {
    /// Since the last connection the server may have been restarted, so that it stores commits again.
    fn note_reconnect(&mut self) {
        let generation = *self.generation.borrow_and_update();
        if std::mem::replace(&mut self.read_in, generation) != generation
            && let Some(health) = self.health()
        {
            health.stored(Ok(()));
        }
    }

    fn health(&self) -> Option<&JournalHealth> {
        self.guard.is_some().then(|| self.connection.health())
    }

    async fn note_unread(&mut self, reason: String) {
        let reason = match self.connection.lacks_jetstream().await {
            true => JETSTREAM_OFF.to_owned(),
            false => reason,
        };
        if let Some(health) = self.health() {
            health.unread(&reason);
        }
        if self.failures.is_due(&reason) {
            warn!(%reason, "can't read the journal, trying again");
        }
    }

    fn note_missing(&mut self, error: &BusError) {
        let logged = std::mem::replace(&mut self.logged_missing, true);
        match (self.health(), error) {
            (Some(health), BusError::Journal(JournalTrouble::Lost(why))) => health.lost(why),
            _ if !logged => info!("{error}; waiting for it"),
            _ => {}
        }
    }
}

impl Reading {
    /// Whether the stream is still the same and everything in it has arrived.
    async fn is_current(&mut self, done: u64, health: Option<&JournalHealth>) -> bool {
        let info = self.stream.get_info().await;
        self.check_at = Instant::now() + CHECK_EVERY;
        // During an outage, the connection or the reader notices its end.
        let Ok(info) = info else { return true };
        let replaced = info.created != self.stream.cached_info().created;
        if replaced || info.state.last_sequence < done || !streams::is_journal(&info.config) {
            return false;
        }
        if let Some(health) = health {
            health.seen(JournalExtent::of(&info));
        }
        // A commit may be on its way; if it still is at the next check, the reader is stuck.
        let behind_at = (info.state.last_sequence > done).then_some(done);
        let stuck = behind_at.is_some() && behind_at == self.behind_at;
        self.behind_at = behind_at;
        !stuck
    }
}

/// Whether the journal still holds the last commit seen.
async fn holds(stream: &Stream, seen: Checkpoint) -> Result<bool, BusError> {
    match stream.get_raw_message(seen.sequence).await {
        Ok(message) => Ok(CommitHash::of(&message.payload) == seen.hash),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(false),
        Err(error) => Err(BusError::unavailable(error)),
    }
}
