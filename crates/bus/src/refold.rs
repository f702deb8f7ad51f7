//! States of an older format. A commit's state is only a snapshot: where this version no longer reads the snapshot, the
//! aggregate's events are folded again. The next commit of that aggregate carries the state as it is written today.

use crate::{
    AggregateId, BusError, JournalEntry,
    commit::{AnyCommit, Commit, CommitError, CommitHash},
    in_order::InOrder,
};
use async_nats::jetstream::{consumer::DeliverPolicy, stream::Stream};
use cqrs_es::Aggregate;
use reveille_domain::{Agent, Key, Provider};
use std::collections::HashMap;
use tracing::info;

/// The commits of one aggregate, from its first one on, each with its state: as the journal has it, or folded anew.
pub(crate) struct Chain<A> {
    /// The state after the last commit; `None` behind one that can't be read, until one whose state can.
    state: Option<A>,
}

impl<A: Aggregate + Clone> Chain<A> {
    /// Before the first commit.
    pub(crate) fn new() -> Self {
        Self {
            state: Some(A::default()),
        }
    }

    /// The next commit.
    pub(crate) fn next(&mut self, payload: &[u8]) -> Result<Commit<A>, CommitError> {
        let before = self.state.take();
        let commit = match (Commit::decode(payload), before) {
            (Err(CommitError::OlderState { .. }), Some(before)) => Commit::decode_onto(payload, before)?,
            (decoded, _) => decoded?,
        };
        self.state = Some(commit.state.clone());
        Ok(commit)
    }
}

/// The commit `sequence` of an aggregate with its state folded from the events up to there.
pub(crate) async fn refold<A: Aggregate + Clone, I: Send + Sync>(
    stream: &Stream<I>,
    id: &AggregateId,
    sequence: u64,
) -> Result<Result<Commit<A>, CommitError>, BusError> {
    let mut messages = InOrder::read(stream, &id.subject(), DeliverPolicy::All).await?;
    let mut chain = Chain::new();
    loop {
        let message = messages.next().await?;
        let commit = chain.next(&message.payload);
        if message.info().map_err(BusError::unavailable)?.stream_sequence < sequence {
            continue;
        }
        if let Ok(commit) = &commit {
            let commits = commit.aggregate_version;
            info!(aggregate.id = %id, commits, "the state of {id} has an older format: folded its {commits} commits again");
        }
        return Ok(commit);
    }
}

/// Gives the commits of a follower the states that this version reads.
#[derive(Default)]
pub(crate) struct Refold {
    /// The last commit, and its hash, of each aggregate whose last state has an older format.
    last: HashMap<String, (CommitHash, AnyCommit)>,
}

impl Refold {
    /// Puts the right state into `entry` if what it holds has an older format. Cancel-safe: it changes all or nothing.
    pub(crate) async fn mend(&mut self, stream: &Stream, entry: &mut JournalEntry) -> Result<(), BusError> {
        let (Err(CommitError::OlderState { .. }), Some(id)) =
            (&entry.commit, AggregateId::of_subject(&entry.subject))
        else {
            self.last.remove(&entry.subject);
            return Ok(());
        };
        let commit = match (self.next_of(entry), &id) {
            (Some(commit), _) => Ok(commit),
            (None, AggregateId::Agent(_)) => {
                let commit = refold::<Agent, _>(stream, &id, entry.sequence).await?;
                commit.map(AnyCommit::Agent)
            }
            (None, AggregateId::Provider(_)) => {
                let commit = refold::<Provider, _>(stream, &id, entry.sequence).await?;
                commit.map(AnyCommit::Provider)
            }
            (None, AggregateId::Key(_)) => {
                let commit = refold::<Key, _>(stream, &id, entry.sequence).await?;
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

    /// The commit folded onto the one before it, if that one was the last to be folded.
    fn next_of(&self, entry: &JournalEntry) -> Option<AnyCommit> {
        let (hash, last) = self.last.get(&entry.subject)?;
        let next = last.decode_next(&entry.payload).ok()?;
        (next.prev() == Some(*hash)).then_some(next)
    }
}
