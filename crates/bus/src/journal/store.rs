//! The journal behind `cqrs_es`'s own trait.

use super::{CommitMeta, Journal, JournalContext, append::Appended};
use crate::{AggregateId, BusError, commit::Commit};
use cqrs_es::{Aggregate, AggregateError, EventEnvelope, EventStore};
use std::{collections::HashMap, marker::PhantomData};

impl Journal {
    /// The journal as a `cqrs_es` event store of one kind of aggregate.
    #[must_use]
    pub fn store<A: Aggregate>(&self) -> JournalStore<A> {
        JournalStore {
            journal: self.clone(),
            aggregate: PhantomData,
        }
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
