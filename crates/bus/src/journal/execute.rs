//! Running a command until it has taken effect, whatever the races.

use super::{
    append::{Appended, backoff},
    context::{CommitMeta, Executed, JournalContext},
    load::Journal,
};
use crate::{
    error::{BusError, CommandError},
    subjects::AggregateId,
};
use backon::BackoffBuilder;
use cqrs_es::{Aggregate, event_sink::EventSink};
use tracing::debug;

/// How often a command is decided before it gives up as busy.
const MAX_ATTEMPTS: usize = 12;

impl Journal {
    /// Runs one command: loads the aggregate, lets it decide, appends; starts over after a lost race.
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

    /// Does the same, but lets the aggregate decide on its `known` state first, which saves a read when that is current.
    /// The append finds out: one that lost the race, and a decision that appends nothing, are repeated on a fresh read.
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
        let mut pauses = backoff().build();
        for attempt in 0..MAX_ATTEMPTS {
            let known = known.take();
            let may_be_old = known.is_some();
            let mut context = match known {
                Some(known) => known,
                None => self.load::<A>(id).await?,
            };
            if context.knows(meta.command_id) {
                let sequence = context.expected.sequence();
                return Ok(context.executed(vec![], sequence));
            }
            let sink = EventSink::default();
            let handled = context.aggregate.handle(command.clone(), &(), &sink).await;
            let events = sink.collect().await;
            if may_be_old && (handled.is_err() || events.is_empty()) {
                continue;
            }
            handled.map_err(CommandError::Rejected)?;
            if events.is_empty() {
                let sequence = context.expected.sequence();
                return Ok(context.executed(events, sequence));
            }
            match self.append(&context, events.clone(), meta).await? {
                Appended::At(sequence) => return Ok(context.executed(events, sequence)),
                // The known state was old: there is no rival to give way to.
                Appended::Conflict if may_be_old => {}
                Appended::Conflict => {
                    debug!(aggregate.id = %id, attempt, "lost a race for {id}, deciding again");
                    tokio::time::sleep(pauses.next().unwrap_or_default()).await;
                }
            }
        }
        Err(BusError::Busy(id.to_string()).into())
    }
}
