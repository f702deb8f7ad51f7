//! What is known of an aggregate when a command is decided, and the commit that follows from it.

use crate::{
    commit::{AnyCommit, Commit, CommitError, CommitHash, RECENT_COMMANDS},
    entry::JournalEntry,
    error::BusError,
    subjects::AggregateId,
};
use cqrs_es::Aggregate;
use reveille_domain::{CommandId, Provider, Timestamp};
use uuid::Uuid;

/// Which commit an append builds on. It is always sent, "none" included: an unguarded first append could race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The subject has no commit yet.
    NoCommit,
    /// The subject's last commit has this stream sequence.
    After(u64),
}

impl Expected {
    pub(super) const fn sequence(self) -> u64 {
        match self {
            Self::NoCommit => 0,
            Self::After(sequence) => sequence,
        }
    }
}

/// What is written beside the events of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitMeta {
    /// Identifies the command; a retry keeps it.
    pub command_id: CommandId,
    /// What led to the command: a control verb, a sweep, a request.
    pub cause: String,
    /// When it is decided, in NATS time.
    pub at: Timestamp,
}

impl CommitMeta {
    /// Names a new command that is decided at `at` because of `cause`.
    #[must_use]
    pub fn new(cause: &str, at: Timestamp) -> Self {
        Self {
            command_id: CommandId(Uuid::now_v7()),
            cause: cause.to_owned(),
            at,
        }
    }
}

/// The outcome of a command that took effect, or that had nothing to change.
#[derive(Debug, Clone)]
pub struct Executed<A: Aggregate> {
    /// The state after the command.
    pub state: A,
    /// The events it led to; empty when nothing had to change.
    pub events: Vec<A::Event>,
    /// The stream sequence of the subject's last commit after it; 0 when there is none.
    pub sequence: u64,
}

/// Everything known of an aggregate when it was loaded: what its next commit builds on.
#[derive(Debug, Clone)]
pub struct JournalContext<A: Aggregate> {
    pub(super) id: AggregateId,
    pub(super) aggregate: A,
    pub(super) expected: Expected,
    pub(super) last: Option<(Commit<A>, CommitHash)>,
}

impl<A: Aggregate + Clone> JournalContext<A> {
    pub(super) fn new(id: &AggregateId) -> Self {
        Self {
            id: id.clone(),
            aggregate: A::default(),
            expected: Expected::NoCommit,
            last: None,
        }
    }

    pub(super) fn at(id: &AggregateId, sequence: u64, commit: Commit<A>, hash: CommitHash) -> Self {
        Self {
            id: id.clone(),
            aggregate: commit.state.clone(),
            expected: Expected::After(sequence),
            last: Some((commit, hash)),
        }
    }

    /// The commit that an append builds on.
    #[must_use]
    pub const fn expected(&self) -> Expected {
        self.expected
    }

    /// The aggregate's state.
    #[must_use]
    pub const fn state(&self) -> &A {
        &self.aggregate
    }

    /// Whether `command` has taken effect already, as far as the last commit remembers.
    pub(super) fn knows(&self, command: CommandId) -> bool {
        self.last.as_ref().is_some_and(|(last, _)| last.knows(command))
    }

    /// The commit of `events`, which the aggregate has already applied.
    pub(super) fn next(&self, events: Vec<A::Event>, meta: &CommitMeta) -> Commit<A> {
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

    /// The outcome of a command after which the subject's last commit is at `sequence`.
    pub(super) fn executed(self, events: Vec<A::Event>, sequence: u64) -> Executed<A> {
        Executed {
            state: self.aggregate,
            events,
            sequence,
        }
    }
}

impl JournalContext<Provider> {
    /// What is known of a provider after `entry`; `None` unless that is a readable commit of a provider.
    #[must_use]
    pub fn after(entry: &JournalEntry) -> Option<Self> {
        let Ok((id, AnyCommit::Provider(commit))) = &entry.commit else {
            return None;
        };
        Some(Self::at(id, entry.sequence, commit.clone(), entry.hash))
    }
}

pub(super) fn unreadable(id: &AggregateId, error: &CommitError) -> BusError {
    BusError::Unreadable {
        aggregate: id.to_string(),
        reason: error.to_string(),
    }
}
