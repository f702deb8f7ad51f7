//! The commit format: one journal message holds the events of one command and the state after them.
//!
//! ```json
//! {"v":1,"aggregate_version":3,"first_event_seq":4,"prev":"<sha-256 of the subject's previous commit>",
//!  "command_id":"…","at_ms":1700000000000,"cause":"request","recent_command_ids":["…"],
//!  "events":[{"type":"WakeRequested","version":"1","data":{}}],"state_version":1,"state":{}}
//! ```
//!
//! The state is a snapshot, so a command loads one message, however long the history is.

use crate::subjects::AggregateId;
use bytes::Bytes;
use cqrs_es::{Aggregate, DomainEvent};
use reveille_domain::{Agent, CommandId, Key, Provider, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::fmt;
use thiserror::Error;

/// The commit format that is written, and the newest that is read.
pub const COMMIT_VERSION: u32 = 1;
/// The format of `state` that is written, and the only one that is read. A newer one is refused; for an older one the
/// events are folded instead.
pub const STATE_VERSION: u32 = 1;
/// How many earlier command ids a commit repeats, so that a retried command is recognised.
pub const RECENT_COMMANDS: usize = 16;

/// The SHA-256 of a commit's bytes. It chains the commits of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitHash(#[serde(with = "hex::serde")] [u8; 32]);

impl CommitHash {
    /// Hashes a commit's payload.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        Self(Sha256::digest(payload).into())
    }
}

impl fmt::Display for CommitHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::str::FromStr for CommitHash {
    type Err = hex::FromHexError;
    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(raw, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// Why this version can't read a journal message as a commit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommitError {
    /// A newer Reveille wrote it.
    #[error("it was written by a newer version ({field} {found}, this one reads up to {known})")]
    Newer {
        /// `v`, `state_version` or `event version`.
        field: &'static str,
        /// The version in the commit.
        found: u32,
        /// The newest version that is read.
        known: u32,
    },
    /// The state has an older format: [`Commit::decode_onto`] folds the events instead.
    #[error("its state has an older format (state_version {found}, this one reads {known})")]
    OlderState {
        /// The version in the commit.
        found: u32,
        /// The format that is read.
        known: u32,
    },
    /// The bytes are no commit.
    #[error("it is malformed: {0}")]
    Malformed(String),
    /// The message's subject names no aggregate.
    #[error("its subject names no aggregate")]
    Subject,
}

/// The events of one command on an aggregate, and its state after them.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit<A: Aggregate> {
    /// The number of this commit among the aggregate's commits, from 1.
    pub aggregate_version: u64,
    /// The number of its first event among the aggregate's events, from 1.
    pub first_event_seq: u64,
    /// The hash of the aggregate's previous commit.
    pub prev: Option<CommitHash>,
    /// The command that led to the events.
    pub command_id: CommandId,
    /// When it was decided, in NATS time.
    pub at: Timestamp,
    /// What led to the command: a control verb, a sweep, a request.
    pub cause: String,
    /// The ids of the last few commands before this one, latest last.
    pub recent_command_ids: Vec<CommandId>,
    /// What happened; never empty.
    pub events: Vec<A::Event>,
    /// The state after the events.
    pub state: A,
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    v: u32,
    aggregate_version: u64,
    first_event_seq: u64,
    #[serde(default)]
    prev: Option<CommitHash>,
    command_id: CommandId,
    at_ms: Timestamp,
    cause: String,
    #[serde(default)]
    recent_command_ids: Vec<CommandId>,
    #[serde(borrow)]
    events: Vec<WireEvent<'a>>,
    state_version: u32,
    #[serde(borrow)]
    state: std::borrow::Cow<'a, RawValue>,
}

#[derive(Serialize, Deserialize)]
struct WireEvent<'a> {
    r#type: String,
    version: String,
    #[serde(borrow)]
    data: std::borrow::Cow<'a, RawValue>,
}

/// The versions alone, which distinguish a newer commit from a malformed one.
#[derive(Deserialize)]
struct Versions {
    v: u32,
    state_version: u32,
}

/// How the domain's event enums are serialized.
#[derive(Serialize, Deserialize)]
struct Tagged {
    r#type: String,
    data: Box<RawValue>,
}

fn malformed(error: impl fmt::Display) -> CommitError {
    CommitError::Malformed(error.to_string())
}

fn up_to(field: &'static str, found: u32, known: u32) -> Result<(), CommitError> {
    match found {
        _ if found > known => Err(CommitError::Newer { field, found, known }),
        _ => Ok(()),
    }
}

impl<'a> Wire<'a> {
    fn read(payload: &'a [u8]) -> Result<Self, CommitError> {
        let wire: Result<Wire<'_>, _> = serde_json::from_slice(payload);
        // What a newer version wrote may have another form.
        let versions = match &wire {
            Ok(wire) => Versions {
                v: wire.v,
                state_version: wire.state_version,
            },
            Err(_) => serde_json::from_slice(payload).map_err(malformed)?,
        };
        if versions.v == 0 {
            return Err(malformed("v 0 never existed"));
        }
        up_to("v", versions.v, COMMIT_VERSION)?;
        up_to("state_version", versions.state_version, STATE_VERSION)?;
        wire.map_err(malformed)
    }
}

impl<A: Aggregate> Commit<A> {
    /// The number of its last event among the aggregate's events.
    #[must_use]
    pub const fn last_event_seq(&self) -> u64 {
        // A malformed message may claim any number.
        let further = (self.events.len() as u64).saturating_sub(1);
        self.first_event_seq.saturating_add(further)
    }

    /// Whether `command` led to this commit or to one of the last few before it.
    #[must_use]
    pub fn knows(&self, command: CommandId) -> bool {
        self.command_id == command || self.recent_command_ids.contains(&command)
    }

    /// Writes the message's bytes.
    ///
    /// # Errors
    /// When an event or the state can't be serialized.
    pub fn encode(&self) -> Result<Bytes, CommitError> {
        let mut events = Vec::with_capacity(self.events.len());
        for event in &self.events {
            let text = serde_json::to_string(event).map_err(malformed)?;
            let Tagged { r#type, data } = serde_json::from_str(&text).map_err(malformed)?;
            let data = std::borrow::Cow::Owned(data);
            events.push(WireEvent {
                r#type,
                version: event.event_version(),
                data,
            });
        }
        let state = serde_json::value::to_raw_value(&self.state).map_err(malformed)?;
        let wire = Wire {
            v: COMMIT_VERSION,
            aggregate_version: self.aggregate_version,
            first_event_seq: self.first_event_seq,
            prev: self.prev,
            command_id: self.command_id,
            at_ms: self.at,
            cause: self.cause.clone(),
            recent_command_ids: self.recent_command_ids.clone(),
            events,
            state_version: STATE_VERSION,
            state: std::borrow::Cow::Owned(state),
        };
        serde_json::to_vec(&wire).map(Bytes::from).map_err(malformed)
    }

    /// Reads a message's bytes.
    ///
    /// # Errors
    /// When they are no commit, a newer version wrote it, or its state has an older format.
    pub fn decode(payload: &[u8]) -> Result<Self, CommitError> {
        let wire = Wire::read(payload)?;
        if wire.state_version < STATE_VERSION {
            return Err(CommitError::OlderState {
                found: wire.state_version,
                known: STATE_VERSION,
            });
        }
        let state = serde_json::from_str(wire.state.get()).map_err(malformed)?;
        Self::of(wire, |_| state)
    }

    /// Reads a message's bytes without its state, which becomes `before` with the events applied.
    ///
    /// # Errors
    /// When they are no commit, or a newer version wrote it.
    pub fn decode_onto(payload: &[u8], mut before: A) -> Result<Self, CommitError> {
        Self::of(Wire::read(payload)?, |events: &[A::Event]| {
            for event in events {
                before.apply(event.clone());
            }
            before
        })
    }

    fn of(wire: Wire<'_>, state: impl FnOnce(&[A::Event]) -> A) -> Result<Self, CommitError> {
        let events: Vec<A::Event> = wire
            .events
            .into_iter()
            .map(decode_event::<A>)
            .collect::<Result<_, _>>()?;
        if events.is_empty() || wire.first_event_seq == 0 || wire.aggregate_version == 0 {
            return Err(malformed("no events, or numbers that don't begin at 1"));
        }
        Ok(Self {
            aggregate_version: wire.aggregate_version,
            first_event_seq: wire.first_event_seq,
            prev: wire.prev,
            command_id: wire.command_id,
            at: wire.at_ms,
            cause: wire.cause,
            recent_command_ids: wire.recent_command_ids,
            state: state(&events),
            events,
        })
    }
}

fn decode_event<A: Aggregate>(event: WireEvent<'_>) -> Result<A::Event, CommitError> {
    let number = |version: &str| version.parse::<u32>().map_err(malformed);
    let version = number(&event.version)?;
    let tagged = Tagged {
        r#type: event.r#type,
        data: event.data.into_owned(),
    };
    let text = serde_json::to_string(&tagged).map_err(malformed)?;
    let event: A::Event = serde_json::from_str(&text).map_err(malformed)?;
    if version == 0 {
        return Err(malformed("event version 0 never existed"));
    }
    // An event of a newer version may look like an older one and mean something else.
    up_to("event version", version, number(&event.event_version())?)?;
    Ok(event)
}

/// What is known of any commit, even one whose events or state come from a newer version.
pub(crate) struct Outline {
    pub(crate) first_event_seq: u64,
    pub(crate) command_id: CommandId,
    pub(crate) at: Timestamp,
    /// The type, version and data of each event.
    pub(crate) events: Vec<(String, String, serde_json::Value)>,
}

pub(crate) fn outline(payload: &[u8]) -> Option<Outline> {
    let wire: Wire<'_> = serde_json::from_slice(payload).ok()?;
    let event = |event: WireEvent<'_>| {
        Some((
            event.r#type,
            event.version,
            serde_json::from_str(event.data.get()).ok()?,
        ))
    };
    Some(Outline {
        first_event_seq: wire.first_event_seq,
        command_id: wire.command_id,
        at: wire.at_ms,
        events: wire.events.into_iter().map(event).collect::<Option<_>>()?,
    })
}

/// A commit of any kind of aggregate.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all commits are the largest, a provider's"
)]
pub enum AnyCommit {
    /// A commit of an agent.
    Agent(Commit<Agent>),
    /// A commit of a provider.
    Provider(Commit<Provider>),
    /// A commit of a key.
    Key(Commit<Key>),
}

impl AnyCommit {
    /// Reads a message of the journal.
    pub(crate) fn of_message(subject: &str, payload: &[u8]) -> Result<(AggregateId, Self), CommitError> {
        let id = AggregateId::of_subject(subject).ok_or(CommitError::Subject)?;
        let commit = Self::decode(&id, payload)?;
        Ok((id, commit))
    }

    /// Reads the commit of `aggregate`.
    ///
    /// # Errors
    /// When the bytes are no commit, or a newer version wrote it.
    pub fn decode(aggregate: &AggregateId, payload: &[u8]) -> Result<Self, CommitError> {
        match aggregate {
            AggregateId::Agent(_) => Commit::decode(payload).map(Self::Agent),
            AggregateId::Provider(_) => Commit::decode(payload).map(Self::Provider),
            AggregateId::Key(_) => Commit::decode(payload).map(Self::Key),
        }
    }

    /// Reads the commit of `aggregate` without its state, in whose place is what the events alone lead to.
    ///
    /// # Errors
    /// When the bytes are no commit, or a newer version wrote it.
    pub(crate) fn decode_events(aggregate: &AggregateId, payload: &[u8]) -> Result<Self, CommitError> {
        match aggregate {
            AggregateId::Agent(_) => Commit::decode_onto(payload, Agent::default()).map(Self::Agent),
            AggregateId::Provider(_) => Commit::decode_onto(payload, Provider::default()).map(Self::Provider),
            AggregateId::Key(_) => Commit::decode_onto(payload, Key::default()).map(Self::Key),
        }
    }

    /// Reads the commit that follows this one, without its state: see [`Commit::decode_onto`].
    ///
    /// # Errors
    /// When the bytes are no commit, or a newer version wrote it.
    pub(crate) fn decode_next(&self, payload: &[u8]) -> Result<Self, CommitError> {
        match self {
            Self::Agent(last) => Commit::decode_onto(payload, last.state.clone()).map(Self::Agent),
            Self::Provider(last) => Commit::decode_onto(payload, last.state.clone()).map(Self::Provider),
            Self::Key(last) => Commit::decode_onto(payload, last.state.clone()).map(Self::Key),
        }
    }

    pub(crate) const fn prev(&self) -> Option<CommitHash> {
        match self {
            Self::Agent(commit) => commit.prev,
            Self::Provider(commit) => commit.prev,
            Self::Key(commit) => commit.prev,
        }
    }
}
