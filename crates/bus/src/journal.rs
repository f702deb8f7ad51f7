//! The journal as an event store. An append names the commit it stands on, so of two writers one wins; the loser
//! reads again and decides again. An append whose answer is lost is found by its command id, or tried again.

use crate::{
    AggregateId, BusError, CommandError,
    commit::{AnyCommit, Commit, CommitError, CommitHash, RECENT_COMMANDS},
    in_order::InOrder,
    streams::{self, JOURNAL_STREAM},
};
use async_nats::{
    HeaderMap,
    client::{Request, RequestError, RequestErrorKind},
    jetstream::{Context, consumer::DeliverPolicy, stream::LastRawMessageErrorKind},
};
use bytes::Bytes;
use cqrs_es::{
    Aggregate, AggregateContext, AggregateError, DomainEvent, EventEnvelope, EventStore,
    event_sink::EventSink,
};
use reveille_domain::{CommandId, Timestamp};
use serde::Deserialize;
use std::{
    collections::HashMap,
    marker::PhantomData,
    time::{Duration, Instant},
};
use tracing::{debug, warn};
use uuid::Uuid;

/// How long one append waits for its acknowledgement; then the subject is read again.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a read waits for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a command is decided anew after lost races.
const MAX_ATTEMPTS: u32 = 12;
/// For how long an append is tried whose outcome isn't known, or that the server can't take now.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A lost compare-and-set: the plain code, and the one that a clustered stream answers.
const CONFLICT_CODES: [u64; 2] = [10071, 10164];
/// The message is larger than the stream takes.
const TOO_LARGE_CODE: u64 = 10054;

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

/// How an append ended.
enum Appended {
    /// It is in the journal at this sequence, or the command was before.
    At(u64),
    /// Another commit came first.
    Conflict,
}

/// What the server says to a message.
enum Answer {
    Stored(u64),
    /// The expected commit isn't the last one. A copy of this message may be the reason.
    Conflict,
    /// A copy of this message came before.
    Duplicate,
    TooLarge,
    /// This copy isn't in the journal and never will be.
    Refused(String),
    /// None, or none that can be understood: it may be in the journal.
    None(String),
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl From<PubAck> for Answer {
    fn from(ack: PubAck) -> Self {
        match ack.error {
            Some(error) if CONFLICT_CODES.contains(&error.err_code) => Self::Conflict,
            Some(error) if error.err_code == TOO_LARGE_CODE => Self::TooLarge,
            Some(error) => Self::Refused(format!("{} (code {})", error.description, error.err_code)),
            None if ack.duplicate => Self::Duplicate,
            None if ack.seq == 0 => Self::None("the acknowledgement names no sequence".to_owned()),
            None => Self::Stored(ack.seq),
        }
    }
}

impl From<&RequestError> for Answer {
    fn from(error: &RequestError) -> Self {
        match error.kind() {
            RequestErrorKind::MaxPayloadExceeded => Self::TooLarge,
            RequestErrorKind::NoResponders => Self::Refused("nobody keeps the journal".to_owned()),
            RequestErrorKind::InvalidSubject => Self::Refused(error.to_string()),
            RequestErrorKind::TimedOut | RequestErrorKind::Other => Self::None(error.to_string()),
        }
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

    /// Loads an aggregate from the stream's leader: one read of its last commit.
    ///
    /// # Errors
    /// When NATS isn't available, or the commit can't be read.
    pub async fn load<A: Aggregate + Clone>(&self, id: &AggregateId) -> Result<JournalContext<A>, BusError> {
        let stream = self
            .js
            .get_stream_no_info(JOURNAL_STREAM)
            .await
            .map_err(BusError::unavailable)?;
        match stream.get_last_raw_message_by_subject(&id.subject()).await {
            Ok(message) => {
                let commit = Commit::<A>::decode(&message.payload).map_err(|e| unreadable(id, &e))?;
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
        for attempt in 0..MAX_ATTEMPTS {
            let mut context = self.load::<A>(id).await?;
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
            context
                .aggregate
                .handle(command.clone(), &(), &sink)
                .await
                .map_err(CommandError::Rejected)?;
            let events = sink.collect().await;
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
                Appended::Conflict => {
                    debug!(aggregate.id = %id, attempt, "lost a race for {id}, deciding again");
                    tokio::time::sleep(pause(attempt)).await;
                }
            }
        }
        Err(BusError::Busy(id.to_string()).into())
    }

    /// Appends the events that `context.aggregate()` has already applied.
    async fn append<A: Aggregate + Clone>(
        &self,
        context: &JournalContext<A>,
        events: Vec<A::Event>,
        meta: &CommitMeta,
    ) -> Result<Appended, BusError> {
        let commit = context.next(events, meta);
        let payload = commit.encode().map_err(|error| unreadable(&context.id, &error))?;
        let types = commit
            .events
            .iter()
            .map(DomainEvent::event_type)
            .collect::<Vec<_>>()
            .join(",");
        let mut headers = HeaderMap::new();
        headers.insert(
            "Nats-Expected-Last-Subject-Sequence",
            context.expected.sequence().to_string(),
        );
        // The sequence belongs to the id: a command decided anew after a conflict is another message.
        headers.insert(
            "Nats-Msg-Id",
            format!("{}-{}", meta.command_id, context.expected.sequence()),
        );
        headers.insert("Reveille-Event-Types", types);
        let give_up_at = Instant::now() + GIVE_UP_AFTER;
        let mut ambiguous = false;
        let mut attempt = 0;
        loop {
            let answer = self.publish(&context.id, payload.clone(), headers.clone()).await;
            let reason = match answer {
                Answer::Stored(sequence) => return Ok(Appended::At(sequence)),
                Answer::TooLarge => return Err(BusError::TooLarge { bytes: payload.len() }),
                Answer::Conflict => {
                    let found = self.resolve(context, meta).await?;
                    return Ok(found.unwrap_or(Appended::Conflict));
                }
                Answer::Duplicate => "a copy of it came before".to_owned(),
                Answer::Refused(reason) => reason,
                Answer::None(reason) => {
                    ambiguous = true;
                    reason
                }
            };
            // It may be in the journal, or still on its way there. Trying the same message again is safe, since at most
            // one of the copies stands on the expected commit.
            match self.resolve(context, meta).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) => {
                    warn!(aggregate.id = %context.id, %error, "can't tell yet whether an append took effect");
                }
            }
            if Instant::now() >= give_up_at {
                return Err(match ambiguous {
                    true => BusError::Unknown(reason),
                    false => BusError::Unavailable(reason),
                });
            }
            warn!(aggregate.id = %context.id, %reason, "an append did not succeed, trying again");
            tokio::time::sleep(pause(attempt)).await;
            attempt += 1;
        }
    }

    async fn publish(&self, id: &AggregateId, payload: Bytes, headers: HeaderMap) -> Answer {
        let request = Request::new()
            .payload(payload)
            .headers(headers)
            .timeout(Some(ACK_TIMEOUT));
        let answer = match self.js.client().send_request(id.subject(), request).await {
            Ok(answer) => answer,
            Err(error) => return Answer::from(&error),
        };
        match serde_json::from_slice::<PubAck>(&answer.payload) {
            Ok(ack) => {
                if let Some(error) = &ack.error {
                    debug!(aggregate.id = %id, nats.code = error.err_code, "an append was refused");
                }
                Answer::from(ack)
            }
            Err(error) => Answer::None(error.to_string()),
        }
    }

    /// What became of an append: its command id in the subject's last commit says that it took effect, another commit
    /// that it did not; `None` when nothing changed since the load.
    async fn resolve<A: Aggregate + Clone>(
        &self,
        context: &JournalContext<A>,
        meta: &CommitMeta,
    ) -> Result<Option<Appended>, BusError> {
        let now = self.load::<A>(&context.id).await?;
        let ours = now
            .last
            .as_ref()
            .is_some_and(|(last, _)| last.knows(meta.command_id));
        Ok(match (ours, now.expected == context.expected) {
            (true, _) => Some(Appended::At(now.expected.sequence())),
            (false, true) => None,
            (false, false) => Some(Appended::Conflict),
        })
    }

    /// The journal as a `cqrs_es` event store of one kind of aggregate.
    #[must_use]
    pub fn store<A: Aggregate>(&self) -> JournalStore<A> {
        JournalStore {
            journal: self.clone(),
            aggregate: PhantomData,
        }
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
        let stream = self
            .js
            .get_stream_no_info(JOURNAL_STREAM)
            .await
            .map_err(BusError::unavailable)?;
        let mut messages = InOrder::read(&stream, &id.subject(), DeliverPolicy::All).await?;
        let mut commits = vec![];
        loop {
            let message = messages.next().await?;
            let sequence = message.info().map_err(BusError::unavailable)?.stream_sequence;
            commits.push((
                sequence,
                Commit::decode(&message.payload).map_err(|e| unreadable(id, &e))?,
            ));
            if sequence >= last {
                return Ok(commits);
            }
        }
    }
}

/// The pause before a further attempt: doubling, half of it random, so that rivals part.
fn pause(attempt: u32) -> Duration {
    let pause = FIRST_PAUSE
        .saturating_mul(2u32.saturating_pow(attempt))
        .min(LONGEST_PAUSE);
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

pub(crate) fn unreadable(id: &AggregateId, error: &CommitError) -> BusError {
    BusError::Unreadable {
        aggregate: id.to_string(),
        reason: error.to_string(),
    }
}

/// [`EventStore`] on the journal. Ids are written `gpu-box` for agents and `gpu-box.vllm` for providers.
#[derive(Debug, Clone)]
pub struct JournalStore<A> {
    journal: Journal,
    aggregate: PhantomData<fn() -> A>,
}

impl<A: Aggregate + Clone> JournalStore<A> {
    fn id(aggregate_id: &str) -> Result<AggregateId, BusError> {
        AggregateId::parse(A::TYPE, aggregate_id).ok_or_else(|| BusError::Unreadable {
            aggregate: A::TYPE.to_owned(),
            reason: "the id isn't a legal one of this kind".to_owned(),
        })
    }

    async fn context(&self, aggregate_id: &str) -> Result<JournalContext<A>, BusError> {
        self.journal.load(&Self::id(aggregate_id)?).await
    }

    async fn envelopes(&self, aggregate_id: &str) -> Result<Vec<EventEnvelope<A>>, BusError> {
        let id = Self::id(aggregate_id)?;
        let commits = self.journal.history::<A>(&id).await?;
        Ok(commits
            .into_iter()
            .flat_map(|(_, commit)| envelopes(&id, commit))
            .collect())
    }
}

fn connection<E: std::error::Error>(error: BusError) -> AggregateError<E> {
    match error {
        BusError::Unreadable { .. } => AggregateError::DeserializationError(Box::new(error)),
        error => AggregateError::DatabaseConnectionError(Box::new(error)),
    }
}

fn envelopes<A: Aggregate>(id: &AggregateId, commit: Commit<A>) -> Vec<EventEnvelope<A>> {
    let first = commit.first_event_seq;
    let metadata = CommitMeta {
        command_id: commit.command_id,
        cause: commit.cause,
        at: commit.at,
    }
    .to_map();
    let envelope = |(index, payload)| EventEnvelope {
        aggregate_id: id.id(),
        sequence: usize::try_from(first).unwrap_or(usize::MAX).saturating_add(index),
        payload,
        metadata: metadata.clone(),
    };
    commit.events.into_iter().enumerate().map(envelope).collect()
}

impl<A: Aggregate + Clone> EventStore<A> for JournalStore<A> {
    type AC = JournalContext<A>;

    async fn load_events(
        &self,
        aggregate_id: &str,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        self.envelopes(aggregate_id).await.map_err(connection)
    }

    async fn load_aggregate(
        &self,
        aggregate_id: &str,
    ) -> Result<JournalContext<A>, AggregateError<A::Error>> {
        self.context(aggregate_id).await.map_err(connection)
    }

    /// Appends what `handle` wrote to its sink. The sink applied the events in place, so they aren't applied again.
    async fn commit(
        &self,
        events: Vec<A::Event>,
        context: JournalContext<A>,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        if events.is_empty() {
            return Ok(vec![]);
        }
        let meta = CommitMeta::from_map(&metadata).ok_or_else(|| {
            AggregateError::UnexpectedError("the metadata name no command_id, cause and at_ms".into())
        })?;
        match self
            .journal
            .append(&context, events.clone(), &meta)
            .await
            .map_err(connection)?
        {
            Appended::At(_) => Ok(envelopes(&context.id, context.next(events, &meta))),
            Appended::Conflict => Err(AggregateError::AggregateConflict),
        }
    }
}

/// Reads one journal message of any aggregate.
pub(crate) fn decode(subject: &str, payload: &[u8]) -> Result<(AggregateId, AnyCommit), CommitError> {
    let id = AggregateId::of_subject(subject).ok_or(CommitError::Subject)?;
    let commit = AnyCommit::decode(&id, payload)?;
    Ok((id, commit))
}
