//! Whether a journal is intact: no commit is missing or changed, and every state follows from its events and the state
//! before.

use super::commit::ArchivedCommit;
use crate::{
    commit::{Commit, CommitError, CommitHash},
    subjects::AggregateId,
};
use cqrs_es::Aggregate;
use reveille_domain::{Agent, Key, Provider};
use std::{collections::HashMap, fmt};
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
            Self::State => f.write_str("its events don't lead from the state before it to its state"),
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

/// Checks the commits of a journal in order and reports the first fault.
#[derive(Debug, Default)]
pub struct Verifier {
    taken: u64,
    agents: HashMap<String, Last<Agent>>,
    providers: HashMap<String, Last<Provider>>,
    keys: HashMap<String, Last<Key>>,
}

/// What an aggregate's next commit builds on.
#[derive(Debug)]
struct Last<A> {
    sequence: u64,
    hash: CommitHash,
    version: u64,
    event_seq: u64,
    state: A,
}

impl Verifier {
    /// The number of commits checked.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// The number of aggregates they belong to.
    #[must_use]
    pub fn aggregates(&self) -> usize {
        self.agents.len() + self.providers.len() + self.keys.len()
    }

    /// Checks the next commit.
    ///
    /// # Errors
    /// The first fault in it.
    pub fn take(&mut self, commit: &ArchivedCommit) -> Result<(), Breach> {
        Breach::unless_next(self.taken + 1, commit)?;
        match AggregateId::of_subject(&commit.subject) {
            Some(AggregateId::Agent(_)) => take(&mut self.agents, commit)?,
            Some(AggregateId::Provider(_)) => take(&mut self.providers, commit)?,
            Some(AggregateId::Key(_)) => take(&mut self.keys, commit)?,
            None => return Err(Breach::at(commit, Fault::Unreadable(CommitError::Subject))),
        }
        self.taken += 1;
        Ok(())
    }
}

fn take<A: Aggregate + Clone + PartialEq>(
    known: &mut HashMap<String, Last<A>>,
    archived: &ArchivedCommit,
) -> Result<(), Breach> {
    let last = known.remove(&archived.subject);
    let fault = |fault| Err(Breach::at(archived, fault));
    let before = last.as_ref().map(|last| last.state.clone()).unwrap_or_default();
    let commit = match Commit::<A>::decode(&archived.payload) {
        // This version can't read the state, so there is nothing to compare the folded one with.
        Err(CommitError::OlderState { .. }) => Commit::decode_onto(&archived.payload, before.clone()),
        decoded => decoded,
    };
    let commit = match commit {
        Ok(commit) => commit,
        Err(error) => return fault(Fault::Unreadable(error)),
    };
    if commit.prev != last.as_ref().map(|last| last.hash) {
        let previous = last.map(|last| last.sequence);
        return fault(Fault::Chain { previous });
    }
    let expected = last.as_ref().map_or(1, |last| last.version.saturating_add(1));
    if commit.aggregate_version != expected {
        let found = commit.aggregate_version;
        return fault(Fault::Version { found, expected });
    }
    let expected = last.as_ref().map_or(1, |last| last.event_seq.saturating_add(1));
    if commit.first_event_seq != expected {
        let found = commit.first_event_seq;
        return fault(Fault::EventSeq { found, expected });
    }
    let (event_seq, mut state) = (commit.last_event_seq(), before);
    for event in commit.events {
        state.apply(event);
    }
    if state != commit.state {
        return fault(Fault::State);
    }
    let last = Last {
        sequence: archived.sequence,
        hash: CommitHash::of(&archived.payload),
        version: commit.aggregate_version,
        event_seq,
        state,
    };
    known.insert(archived.subject.clone(), last);
    Ok(())
}
