//! States of an older format. A commit's state is only a snapshot: where this version no longer reads it, the
//! aggregate's events are folded instead. The aggregate's next commit carries the state in the current format.

use crate::{
    commit::{AnyCommit, Commit, CommitError, CommitHash},
    entry::JournalEntry,
    error::BusError,
    ordered_reader::OrderedReader,
    subjects::AggregateId,
};
use async_nats::jetstream::{consumer::DeliverPolicy, stream::Stream};
use cqrs_es::Aggregate;
use reveille_domain::{Agent, Key, Provider, counted};
use std::collections::HashMap;
use tracing::info;

/// The commit at `sequence` of an aggregate, its state folded from the events up to there.
pub(crate) async fn commit_at<A: Aggregate + Clone, I: Send + Sync>(
    stream: &Stream<I>,
    id: &AggregateId,
    sequence: u64,
) -> Result<Result<Commit<A>, CommitError>, BusError> {
    let mut messages = OrderedReader::new(stream, &id.subject(), DeliverPolicy::All).await?;
    // Unknown behind a commit that can't be read, until one whose state can.
    let mut state = Some(A::default());
    loop {
        let message = messages.next().await?;
        let commit = match (Commit::decode(&message.payload), state.take()) {
            (Err(CommitError::OlderState { .. }), Some(before)) => {
                Commit::decode_onto(&message.payload, before)
            }
            (decoded, _) => decoded,
        };
        if message.info().map_err(BusError::unavailable)?.stream_sequence < sequence {
            state = commit.ok().map(|commit| commit.state);
            continue;
        }
        if let Ok(commit) = &commit {
            let commits = commit.aggregate_version;
            info!(aggregate.id = %id, commits, "the state of {id} has an older format: folded {} again", counted(commits, "commit"));
        }
        return Ok(commit);
    }
}

/// Gives a follower's entries the states that this version reads.
#[derive(Default)]
pub(crate) struct Upcaster {
    /// The last commit, and its hash, of each aggregate whose last state has an older format.
    last: HashMap<String, (CommitHash, AnyCommit)>,
}

impl Upcaster {
    /// Replaces the state in `entry` if it has an older format. Cancel-safe: it changes all or nothing.
    pub(crate) async fn upcast(&mut self, stream: &Stream, entry: &mut JournalEntry) -> Result<(), BusError> {
        let (Err(CommitError::OlderState { .. }), Some(id)) =
            (&entry.commit, AggregateId::of_subject(&entry.subject))
        else {
            self.last.remove(&entry.subject);
            return Ok(());
        };
        let commit = match (self.next_of(entry), &id) {
            (Some(commit), _) => Ok(commit),
            (None, AggregateId::Agent(_)) => {
                let commit = commit_at::<Agent, _>(stream, &id, entry.sequence).await?;
                commit.map(AnyCommit::Agent)
            }
            (None, AggregateId::Provider(_)) => {
                let commit = commit_at::<Provider, _>(stream, &id, entry.sequence).await?;
                commit.map(AnyCommit::Provider)
            }
            (None, AggregateId::Key(_)) => {
                let commit = commit_at::<Key, _>(stream, &id, entry.sequence).await?;
                commit.map(AnyCommit::Key)
            }
        };
        match &commit {
            Ok(commit) => {
                let last = (entry.hash, commit.clone());
                self.last.insert(entry.subject.clone(), last);
            }
            Err(_) => {
                self.last.remove(&entry.subject);
            }
        }
        entry.commit = commit.map(|commit| (id, commit));
        Ok(())
    }

    /// The commit folded onto the one before it, if that was folded last.
    fn next_of(&self, entry: &JournalEntry) -> Option<AnyCommit> {
        let (hash, last) = self.last.get(&entry.subject)?;
        let next = last.decode_next(&entry.payload).ok()?;
        (next.prev() == Some(*hash)).then_some(next)
    }
}
