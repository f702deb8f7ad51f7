//! Whether a journal is intact: no commit is missing, changed or repeated, and every state follows from its events and the
//! state before.

use super::commit::ArchivedCommit;
use crate::{
    commit::{Commit, CommitError, CommitHash},
    subjects::AggregateId,
};
use bytes::Bytes;
use cqrs_es::Aggregate;
use reveille_domain::{Agent, AgentName, CommandId, Key, KeyId, Provider, ProviderId, audit::Invariant};
use std::{collections::HashMap, fmt, hash::Hash};
use thiserror::Error;

/// The first thing that is wrong with a journal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("commit {sequence} ({subject}): {fault}")]
pub struct Breach {
    /// The commit at which the fault shows.
    pub sequence: u64,
    /// That commit's subject.
    pub subject: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Commits before it are missing.
    Missing {
        /// The first missing commit.
        first: u64,
    },
    /// It is where another commit belongs.
    OutOfOrder {
        /// The sequence of the commit that belongs there.
        expected: u64,
    },
    /// Its bytes don't match the hash stored with them.
    Bytes,
    /// It can't be read as a commit.
    Unreadable(CommitError),
    /// Its `prev` isn't the hash of the subject's previous commit.
    Chain {
        /// The sequence of that previous commit; `None` when there is none.
        previous: Option<u64>,
    },
    /// Its `aggregate_version` isn't the next number.
    Version {
        /// The number in the commit.
        found: u64,
        /// The next number.
        expected: u64,
    },
    /// Its `first_event_seq` isn't the next number.
    EventSeq {
        /// The number in the commit.
        found: u64,
        /// The next number.
        expected: u64,
    },
    /// Its command led to an earlier commit of the aggregate.
    Command,
    /// It doesn't remember the command of the commit before it.
    ForgottenCommand,
    /// Its events don't lead to its state.
    State,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { first } => write!(f, "commit {first} is missing before it"),
            Self::OutOfOrder { expected } => write!(f, "it is where commit {expected} belongs"),
            Self::Bytes => f.write_str("its bytes don't match the hash stored with them"),
            Self::Unreadable(error) => error.fmt(f),
            Self::Chain { previous: None } => {
                f.write_str("it names a previous commit, but is the first of its subject")
            }
            Self::Chain {
                previous: Some(previous),
            } => write!(
                f,
                "prev is not the hash of commit {previous}: either commit was changed, or one between them is missing"
            ),
            Self::Version { found, expected } => {
                write!(f, "aggregate_version is {found}, should be {expected}")
            }
            Self::EventSeq { found, expected } => {
                write!(f, "first_event_seq is {found}, should be {expected}")
            }
            Self::Command => f.write_str("its command was committed before"),
            Self::ForgottenCommand => {
                f.write_str("the command of the commit before it is not among its recent_command_ids")
            }
            Self::State => f.write_str("its events don't lead from the state before it to its state"),
        }
    }
}

impl Fault {
    /// The rule that it breaks.
    #[must_use]
    pub const fn invariant(&self) -> Invariant {
        match self {
            Self::Missing { .. } | Self::OutOfOrder { .. } => Invariant::Sequence,
            Self::Bytes | Self::Chain { .. } => Invariant::Chain,
            Self::Unreadable(_) => Invariant::Readable,
            Self::Version { .. } | Self::EventSeq { .. } => Invariant::Numbers,
            Self::Command | Self::ForgottenCommand => Invariant::Command,
            Self::State => Invariant::Fold,
        }
    }
}

impl Breach {
    fn at(commit: &ArchivedCommit, fault: Fault) -> Self {
        Self {
            sequence: commit.sequence,
            subject: commit.subject.clone(),
            fault,
        }
    }

    pub(super) fn unless_next(next: u64, commit: &ArchivedCommit) -> Result<(), Self> {
        match commit.sequence.cmp(&next) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Self::at(commit, Fault::Missing { first: next })),
            std::cmp::Ordering::Less => Err(Self::at(commit, Fault::OutOfOrder { expected: next })),
        }
    }
}

/// A message with what can be told of it alone. To make one is the costly part of a check, and can be done on any thread.
#[derive(Debug)]
pub struct ParsedCommit {
    sequence: u64,
    pub(super) subject: String,
    payload: Bytes,
    hash: CommitHash,
    body: Body,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all commits are the largest, a provider's"
)]
enum Body {
    Agent(AgentName, Result<Commit<Agent>, CommitError>),
    Provider(ProviderId, Result<Commit<Provider>, CommitError>),
    Key(KeyId, Result<Commit<Key>, CommitError>),
    /// The subject names no aggregate.
    OfNone,
}

impl From<ArchivedCommit> for ParsedCommit {
    fn from(archived: ArchivedCommit) -> Self {
        let payload = archived.payload;
        let body = match AggregateId::of_subject(&archived.subject) {
            Some(AggregateId::Agent(id)) => Body::Agent(id, Commit::decode(&payload)),
            Some(AggregateId::Provider(id)) => Body::Provider(id, Commit::decode(&payload)),
            Some(AggregateId::Key(id)) => Body::Key(id, Commit::decode(&payload)),
            None => Body::OfNone,
        };
        Self {
            sequence: archived.sequence,
            subject: archived.subject,
            hash: CommitHash::of(&payload),
            payload,
            body,
        }
    }
}

impl ParsedCommit {
    /// Its sequence.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// Checks the commits of a journal in order.
#[derive(Debug, Default)]
pub struct Verifier {
    taken: u64,
    last: u64,
    agents: HashMap<AgentName, Last<Agent>>,
    providers: HashMap<ProviderId, Last<Provider>>,
    keys: HashMap<KeyId, Last<Key>>,
}

/// An aggregate's last commit: what its next one builds on.
#[derive(Debug)]
struct Last<A> {
    sequence: u64,
    hash: CommitHash,
    /// What was in it; `None` if it can't be read.
    body: Option<LastBody<A>>,
}

#[derive(Debug)]
struct LastBody<A> {
    numbers: Numbers,
    state: A,
}

#[derive(Debug, Clone, Copy)]
struct Numbers {
    version: u64,
    event_seq: u64,
    command: CommandId,
}

/// The events of a commit, and the state before them if that is known.
pub(super) struct Step<A: Aggregate> {
    pub(super) before: Option<A>,
    pub(super) events: Vec<A::Event>,
}

/// A readable commit of one of the aggregates.
pub(super) enum AnyStep {
    Agent(AgentName, Step<Agent>),
    Provider(ProviderId, Box<Step<Provider>>),
    Key(KeyId, Step<Key>),
}

impl Verifier {
    /// The number of commits checked.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// The sequence of the last one; 0 before the first.
    #[must_use]
    pub const fn last_sequence(&self) -> u64 {
        self.last
    }

    /// The number of aggregates they belong to.
    #[must_use]
    pub fn aggregates(&self) -> usize {
        self.agents.len() + self.providers.len() + self.keys.len()
    }

    /// The agents with their last readable states.
    pub fn agents(&self) -> impl Iterator<Item = (&AgentName, LastState<'_, Agent>)> {
        states(&self.agents)
    }

    /// The providers with their last readable states.
    pub fn providers(&self) -> impl Iterator<Item = (&ProviderId, LastState<'_, Provider>)> {
        states(&self.providers)
    }

    /// The keys with their last readable states.
    pub fn keys(&self) -> impl Iterator<Item = (&KeyId, LastState<'_, Key>)> {
        states(&self.keys)
    }

    /// Checks the next commit.
    ///
    /// # Errors
    /// The first fault in it.
    pub fn take(&mut self, commit: &ArchivedCommit) -> Result<(), Breach> {
        let parsed = ParsedCommit::from(commit.clone());
        let checked = self.check(parsed);
        match checked.misplaced.or(checked.fault) {
            Some(fault) => Err(Breach::at(commit, fault)),
            None => Ok(()),
        }
    }

    /// Checks the next commit, and goes on behind it whatever is wrong with it.
    pub(super) fn check(&mut self, parsed: ParsedCommit) -> Checked {
        let (expected, sequence) = (self.last.saturating_add(1), parsed.sequence());
        let misplaced = match sequence.cmp(&expected) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Fault::Missing { first: expected }),
            std::cmp::Ordering::Less => Some(Fault::OutOfOrder { expected }),
        };
        self.last = self.last.max(sequence);
        self.taken += 1;
        let (step, fault) = self.follows(parsed);
        Checked {
            misplaced,
            fault,
            step,
        }
    }

    fn follows(&mut self, parsed: ParsedCommit) -> (Option<AnyStep>, Option<Fault>) {
        let place = Place {
            sequence: parsed.sequence,
            hash: parsed.hash,
            payload: &parsed.payload,
        };
        match parsed.body {
            Body::Agent(id, commit) => {
                let (step, fault) = follows(&mut self.agents, &id, &place, commit);
                (step.map(|step| AnyStep::Agent(id, step)), fault)
            }
            Body::Provider(id, commit) => {
                let (step, fault) = follows(&mut self.providers, &id, &place, commit);
                (step.map(|step| AnyStep::Provider(id, Box::new(step))), fault)
            }
            Body::Key(id, commit) => {
                let (step, fault) = follows(&mut self.keys, &id, &place, commit);
                (step.map(|step| AnyStep::Key(id, step)), fault)
            }
            Body::OfNone => (None, Some(Fault::Unreadable(CommitError::Subject))),
        }
    }
}

/// What a check of one commit has found.
pub(super) struct Checked {
    /// That its sequence isn't the next one.
    pub(super) misplaced: Option<Fault>,
    /// The first other fault.
    pub(super) fault: Option<Fault>,
    /// What it contains, if it can be read.
    pub(super) step: Option<AnyStep>,
}

/// An aggregate after the last of its commits that could be read.
#[derive(Debug)]
pub struct LastState<'a, A> {
    /// The sequence of its last commit, readable or not.
    pub sequence: u64,
    /// The number of the last event; unknown if the last commit can't be read.
    pub event_seq: Option<u64>,
    /// The state; unknown if the last commit can't be read.
    pub state: Option<&'a A>,
}

fn states<I: Eq + Hash, A>(known: &HashMap<I, Last<A>>) -> impl Iterator<Item = (&I, LastState<'_, A>)> {
    known.iter().map(|(id, last)| {
        let body = last.body.as_ref();
        let state = LastState {
            sequence: last.sequence,
            event_seq: body.map(|body| body.numbers.event_seq),
            state: body.map(|body| &body.state),
        };
        (id, state)
    })
}

/// A message without what is in it.
struct Place<'a> {
    sequence: u64,
    hash: CommitHash,
    payload: &'a [u8],
}

/// Checks a commit against the aggregate's last one, and takes its place.
fn follows<I: Clone + Eq + Hash, A: Aggregate + Clone + PartialEq>(
    known: &mut HashMap<I, Last<A>>,
    id: &I,
    place: &Place<'_>,
    commit: Result<Commit<A>, CommitError>,
) -> (Option<Step<A>>, Option<Fault>) {
    let last = known.remove(id);
    let previous = last.as_ref().map(|last| (last.sequence, last.hash));
    // Nothing is known behind a commit that can't be read.
    let (numbers, before) = match last.map(|last| last.body) {
        None => (Some(None), Some(A::default())),
        Some(None) => (None, None),
        Some(Some(LastBody { numbers, state })) => (Some(Some(numbers)), Some(state)),
    };
    let commit = match (commit, &before) {
        // This version can't read the state, so there is nothing to compare the folded one with.
        (Err(CommitError::OlderState { .. }), Some(before)) => {
            Commit::decode_onto(place.payload, before.clone())
        }
        (commit, _) => commit,
    };
    let mut last = Last {
        sequence: place.sequence,
        hash: place.hash,
        body: None,
    };
    let (step, fault) = match commit {
        Err(error) => (None, Some(Fault::Unreadable(error))),
        Ok(commit) => {
            let fault = fault(&commit, previous, numbers, before.as_ref());
            let numbers = Numbers {
                version: commit.aggregate_version,
                event_seq: commit.last_event_seq(),
                command: commit.command_id,
            };
            let state = commit.state;
            last.body = Some(LastBody { numbers, state });
            let events = commit.events;
            (Some(Step { before, events }), fault)
        }
    };
    known.insert(id.clone(), last);
    (step, fault)
}

/// The first fault of a commit that can be read. `last` has the numbers of the commit before it: `Some(None)` if there is
/// none, and `None` if that can't be read.
fn fault<A: Aggregate + Clone + PartialEq>(
    commit: &Commit<A>,
    previous: Option<(u64, CommitHash)>,
    last: Option<Option<Numbers>>,
    before: Option<&A>,
) -> Option<Fault> {
    if commit.prev != previous.map(|(_, hash)| hash) {
        let previous = previous.map(|(sequence, _)| sequence);
        return Some(Fault::Chain { previous });
    }
    let last = last?;
    let expected = last.map_or(1, |last| last.version.saturating_add(1));
    if commit.aggregate_version != expected {
        let found = commit.aggregate_version;
        return Some(Fault::Version { found, expected });
    }
    let expected = last.map_or(1, |last| last.event_seq.saturating_add(1));
    if commit.first_event_seq != expected {
        let found = commit.first_event_seq;
        return Some(Fault::EventSeq { found, expected });
    }
    let was_before = |command| commit.recent_command_ids.contains(&command);
    if was_before(commit.command_id) || last.is_some_and(|last| last.command == commit.command_id) {
        return Some(Fault::Command);
    }
    if last.is_some_and(|last| !was_before(last.command)) {
        return Some(Fault::ForgottenCommand);
    }
    let mut state = before.cloned().unwrap_or_default();
    for event in &commit.events {
        state.apply(event.clone());
    }
    (state != commit.state).then_some(Fault::State)
}
