//! Commands to the aggregates, stamped with NATS time. Only control and wakes issue any.

use crate::{metrics::Metrics, registry::Registry};
use reveille_bus::{AggregateId, BusError, CommandError, CommitMeta, Executed, Journal, NatsClock};
use reveille_domain::{
    Agent, AgentCommand, AgentName, AgentRejection, Key, KeyCommand, KeyId, KeyRejection, Provider,
    ProviderCommand, ProviderId, Rejection, Timestamp,
};
use std::time::Duration;

/// How long a command waits for NATS time to be known.
const CLOCK_WAIT: Duration = Duration::from_secs(10);

/// Appends to the journal.
#[derive(Clone)]
pub(crate) struct Commands {
    pub(crate) journal: Journal,
    pub(crate) clock: NatsClock,
    pub(crate) metrics: Metrics,
    /// The fold, which is nearly always up to date.
    pub(crate) registry: Registry,
}

impl Commands {
    pub(crate) async fn now(&self) -> Result<Timestamp, BusError> {
        let unknown = |_| BusError::Unavailable("NATS time is not known".to_owned());
        tokio::time::timeout(CLOCK_WAIT, self.clock.now())
            .await
            .map_err(unknown)
    }

    /// Runs a provider's command; `cause` stands in the commit.
    pub(crate) async fn provider(
        &self,
        id: &ProviderId,
        cause: &str,
        command: impl FnOnce(Timestamp) -> ProviderCommand,
    ) -> Result<Executed<Provider>, CommandError<Rejection>> {
        let at = self.now().await?;
        let aggregate = AggregateId::Provider(id.clone());
        let meta = CommitMeta::new(cause, at);
        let known = self.registry.last_commit(id);
        let done = self
            .journal
            .execute_on(known, &aggregate, command(at), &meta)
            .await?;
        self.metrics.committed(&done.state, &done.events);
        Ok(done)
    }

    /// Runs a key's command.
    pub(crate) async fn key(
        &self,
        id: &KeyId,
        cause: &str,
        command: impl FnOnce(Timestamp) -> KeyCommand,
    ) -> Result<Executed<Key>, CommandError<KeyRejection>> {
        let at = self.now().await?;
        let aggregate = AggregateId::Key(id.clone());
        self.journal
            .execute(&aggregate, command(at), &CommitMeta::new(cause, at))
            .await
    }

    /// Runs an agent's command.
    pub(crate) async fn agent(
        &self,
        name: &AgentName,
        cause: &str,
        command: impl FnOnce(Timestamp) -> AgentCommand,
    ) -> Result<Executed<Agent>, CommandError<AgentRejection>> {
        let at = self.now().await?;
        let aggregate = AggregateId::Agent(name.clone());
        self.journal
            .execute(&aggregate, command(at), &CommitMeta::new(cause, at))
            .await
    }
}
