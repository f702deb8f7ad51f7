//! The journal as an event store. An append names the commit it stands on, so of two writers one wins; the loser
//! reads again and decides again. An append whose answer is lost is found by its command id, or tried again.

mod append;
mod store;

pub use store::JournalStore;

use crate::{
    AggregateId, BusError, CommandError, JournalEntry,
    commit::{AnyCommit, Commit, CommitError, CommitHash, RECENT_COMMANDS},
    in_order::InOrder,
    refold::{self, Chain},
    streams::{self, JOURNAL_STREAM},
};
use append::{Appended, pause};
use async_nats::jetstream::{
    Context,
    consumer::DeliverPolicy,
    stream::{LastRawMessageErrorKind, Stream},
};
use cqrs_es::{Aggregate, AggregateContext, event_sink::EventSink};
use reveille_domain::{CommandId, Provider, Timestamp};
use std::{collections::HashMap, time::Duration};
use tracing::debug;
use uuid::Uuid;

/// How long a read waits for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a commit is read until it is known that the server is away.
const MAX_READS: u32 = 2;
/// How often a command is decided anew after lost races.
const MAX_ATTEMPTS: u32 = 12;

/// Which commit an append stands on. Always sent, "none" included: an unguarded first append could race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The subject has no commit yet.
    NoCommit,
    /// Its last commit has this stream sequence.
    After(u64),
}

impl Expected {
    const fn sequence(self) -> u64 {
        match self {
            Self::NoCommit => 0,
            Self::After(sequence) => sequence,
        }
    }
}

/// What is written beside the events of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitMeta {
    /// The command; the same when it is tried again.
    pub command_id: CommandId,
    /// What brought it: a control verb, a sweep, a request.
    pub cause: String,
    /// When it is decided, in NATS time.
    pub at: Timestamp,
}

impl CommitMeta {
    /// A new command, at `at`, brought by `cause`.
    #[must_use]
    pub fn new(cause: &str, at: Timestamp) -> Self {
        Self {
            command_id: CommandId(Uuid::now_v7()),
            cause: cause.to_owned(),
            at,
        }
    }

    fn to_map(&self) -> HashMap<String, String> {
        [
            ("command_id", self.command_id.to_string()),
            ("cause", self.cause.clone()),
            ("at_ms", self.at.as_millis().to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    fn from_map(map: &HashMap<String, String>) -> Option<Self> {
        Some(Self {
            command_id: CommandId(map.get("command_id")?.parse().ok()?),
            cause: map.get("cause")?.clone(),
            at: Timestamp::from_millis(map.get("at_ms")?.parse().ok()?),
        })
    }
}

/// A command that took effect, or found that everything was so already.
#[derive(Debug, Clone)]
pub struct Executed<A: Aggregate> {
    /// The state after it.
    pub state: A,
    /// What it changed; empty when it was already so.
    pub events: Vec<A::Event>,
    /// The stream sequence of the subject's last commit after it; 0 when there is none.
    pub sequence: u64,
}

/// The journal.
#[derive(Debug, Clone)]
pub struct Journal {
    js: Context,
}

/// Everything known of an aggregate when it was loaded: what an append stands on.
#[derive(Debug, Clone)]
pub struct JournalContext<A: Aggregate> {
    id: AggregateId,
    aggregate: A,
    expected: Expected,
    last: Option<(Commit<A>, CommitHash)>,
}

impl<A: Aggregate> AggregateContext<A> for JournalContext<A> {
    fn aggregate(&mut self) -> &mut A {
        &mut self.aggregate
    }
}

impl<A: Aggregate> JournalContext<A> {
    fn new(id: &AggregateId) -> Self {
        Self {
            id: id.clone(),
            aggregate: A::default(),
            expected: Expected::NoCommit,
            last: None,
        }
    }

    /// The commit that an append stands on.
    #[must_use]
    pub const fn expected(&self) -> Expected {
        self.expected
    }

    /// The aggregate's state.
    #[must_use]
    pub const fn state(&self) -> &A {
        &self.aggregate
    }

    fn next(&self, events: Vec<A::Event>, meta: &CommitMeta) -> Commit<A>
    where
        A: Clone,
    {
        let mut recent: Vec<CommandId> = vec![];
        if let Some((last, _)) = &self.last {
            recent.extend(&last.recent_command_ids);
            recent.push(last.command_id);
            recent.drain(..recent.len().saturating_sub(RECENT_COMMANDS));
        }
        let last = self.last.as_ref();
        Commit {
            aggregate_version: last.map_or(1, |(last, _)| last.aggregate_version + 1),
            first_event_seq: last.map_or(1, |(last, _)| last.last_event_seq() + 1),
            prev: last.map(|(_, hash)| *hash),
            command_id: meta.command_id,
            at: meta.at,
            cause: meta.cause.clone(),
            recent_command_ids: recent,
            events,
            state: self.aggregate.clone(),
        }
    }
}

impl JournalContext<Provider> {
    /// What is known of a provider after `entry`; `None` if that isn't a commit of one that can be read.
    #[must_use]
    pub fn after(entry: &JournalEntry) -> Option<Self> {
        let Ok((id, AnyCommit::Provider(commit))) = &entry.commit else {
            return None;
        };
        Some(Self {
            id: id.clone(),
            aggregate: commit.state.clone(),
            expected: Expected::After(entry.sequence),
            last: Some((commit.clone(), entry.hash)),
        })
    }
}

impl Journal {
    /// The journal behind `js`.
    #[must_use]
    pub fn new(mut js: Context) -> Self {
        js.set_timeout(ANSWER_TIMEOUT);
        Self { js }
    }

    /// The JetStream context.
    #[must_use]
    pub const fn jetstream(&self) -> &Context {
        &self.js
    }

    async fn stream(&self) -> Result<Stream<()>, BusError> {
        let stream = self.js.get_stream_no_info(JOURNAL_STREAM).await;
        stream.map_err(BusError::unavailable)
    }

    /// Loads an aggregate from the stream's leader: one read of its last commit. If that holds a state of an older
    /// format, all of its commits are read and folded.
    ///
    /// # Errors
    /// When NATS isn't available, or the commit can't be read.
    pub async fn load<A: Aggregate + Clone>(&self, id: &AggregateId) -> Result<JournalContext<A>, BusError> {
        let stream = self.stream().await?;
        let mut reads = 1;
        let read = loop {
            match stream.get_last_raw_message_by_subject(&id.subject()).await {
                // A server that was started again in between has lost the question.
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
                        refold::refold(&stream, id, message.sequence).await?
                    }
                    decoded => decoded,
                };
                let commit = commit.map_err(|e| unreadable(id, &e))?;
                Ok(JournalContext {
                    id: id.clone(),
                    aggregate: commit.state.clone(),
                    expected: Expected::After(message.sequence),
                    last: Some((commit, CommitHash::of(&message.payload))),
                })
            }
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(JournalContext::new(id)),
                LastRawMessageErrorKind::JetStream(api) if streams::is_not_found(&api) => {
                    streams::ensure_streams(&self.js).await?;
                    Ok(JournalContext::new(id))
                }
                _ => Err(BusError::unavailable(error)),
            },
        }
    }

    /// Runs one command: loads the aggregate, lets it decide, appends; again from the start after a lost race.
    ///
    /// # Errors
    /// When the domain refuses the command, or the bus breaks. After [`BusError::Unknown`] it may have taken effect.
    pub async fn execute<A>(
        &self,
        id: &AggregateId,
        command: A::Command,
        meta: &CommitMeta,
    ) -> Result<Executed<A>, CommandError<A::Error>>
    where
        A: Aggregate<Services = ()> + Clone,
        A::Command: Clone + Sync + Send,
        A::Error: Send,
    {
        self.execute_on(None, id, command, meta).await
    }

    /// The same, but lets the aggregate decide first on what is `known` of it, which spares a read when that is its last
    /// commit. Whether it is, the server says to the append; a decision that appends nothing is made again on what is
    /// loaded.
    ///
    /// # Errors
    /// As [`Journal::execute`].
    pub async fn execute_on<A>(
        &self,
        mut known: Option<JournalContext<A>>,
        id: &AggregateId,
        command: A::Command,
        meta: &CommitMeta,
    ) -> Result<Executed<A>, CommandError<A::Error>>
    where
        A: Aggregate<Services = ()> + Clone,
        A::Command: Clone + Sync + Send,
        A::Error: Send,
    {
        for attempt in 0..MAX_ATTEMPTS {
            let known = known.take();
            let may_be_old = known.is_some();
            let mut context = match known {
                Some(known) => known,
                None => self.load::<A>(id).await?,
            };
            if context
                .last
                .as_ref()
                .is_some_and(|(last, _)| last.knows(meta.command_id))
            {
                let (sequence, state) = (context.expected.sequence(), context.aggregate);
                return Ok(Executed {
                    state,
                    events: vec![],
                    sequence,
                });
            }
            let sink = EventSink::default();
            let handled = context.aggregate.handle(command.clone(), &(), &sink).await;
            let events = sink.collect().await;
            if may_be_old && (handled.is_err() || events.is_empty()) {
                continue;
            }
            handled.map_err(CommandError::Rejected)?;
            if events.is_empty() {
                let (sequence, state) = (context.expected.sequence(), context.aggregate);
                return Ok(Executed {
                    state,
                    events,
                    sequence,
                });
            }
            match self.append(&context, events.clone(), meta).await? {
                Appended::At(sequence) => {
                    return Ok(Executed {
                        state: context.aggregate,
                        events,
                        sequence,
                    });
                }
                // Nobody to give way to: what was known was old.
                Appended::Conflict if may_be_old => {}
                Appended::Conflict => {
                    debug!(aggregate.id = %id, attempt, "lost a race for {id}, deciding again");
                    tokio::time::sleep(pause(attempt)).await;
                }
            }
        }
        Err(BusError::Busy(id.to_string()).into())
    }

    /// All commits of one aggregate, first to last.
    ///
    /// # Errors
    /// When NATS isn't available, or a commit can't be read.
    pub async fn history<A: Aggregate + Clone>(
        &self,
        id: &AggregateId,
    ) -> Result<Vec<(u64, Commit<A>)>, BusError> {
        let Expected::After(last) = self.load::<A>(id).await?.expected else {
            return Ok(vec![]);
        };
        let stream = self.stream().await?;
        let mut messages = InOrder::read(&stream, &id.subject(), DeliverPolicy::All).await?;
        let (mut commits, mut chain) = (vec![], Chain::new());
        loop {
            let message = messages.next().await?;
            let sequence = message.info().map_err(BusError::unavailable)?.stream_sequence;
            commits.push((
                sequence,
                chain.next(&message.payload).map_err(|e| unreadable(id, &e))?,
            ));
            if sequence >= last {
                return Ok(commits);
            }
        }
    }
}

pub(crate) fn unreadable(id: &AggregateId, error: &CommitError) -> BusError {
    BusError::Unreadable {
        aggregate: id.to_string(),
        reason: error.to_string(),
    }
}

/// Reads one journal message of any aggregate.
pub(crate) fn decode(subject: &str, payload: &[u8]) -> Result<(AggregateId, AnyCommit), CommitError> {
    let id = AggregateId::of_subject(subject).ok_or(CommitError::Subject)?;
    let commit = AnyCommit::decode(&id, payload)?;
    Ok((id, commit))
}
