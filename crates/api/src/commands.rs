//! Commands to the aggregates, stamped with NATS time.

use crate::{metrics::Metrics, registry::Registry};
use async_trait::async_trait;
use reveille_bus::{
    AggregateId, BusError, CommandError, CommitMeta, Executed, Journal, JournalTrouble, NatsClock,
};
use reveille_domain::{
    Agent, AgentCommand, AgentName, AgentRejection, Epoch, Key, KeyCommand, KeyId, KeyRejection, Provider,
    ProviderCommand, ProviderId, Rejection, Timestamp,
};
use std::time::Duration;
use tracing::warn;

/// How long a command waits for NATS time to be known.
const CLOCK_WAIT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Commands {
    pub(crate) journal: Journal,
    pub(crate) clock: NatsClock,
    pub(crate) metrics: Metrics,
    /// The fold, which is nearly always up to date: commands are decided on it without reading the journal first.
    pub(crate) registry: Registry,
}

impl Commands {
    /// NATS time, for a command; fails while the journal is lost.
    pub(crate) async fn now(&self) -> Result<Timestamp, BusError> {
        if let Some(lost @ JournalTrouble::Lost(_)) = self.journal.health().trouble() {
            return Err(lost.into());
        }
        let unknown = |_| BusError::Unavailable("NATS time is not known yet".to_owned());
        tokio::time::timeout(CLOCK_WAIT, self.clock.now())
            .await
            .map_err(unknown)
    }

    /// Runs a provider's command; `cause` becomes part of the commit.
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
}

/// A key's command, once the time is known.
pub(crate) type KeyCommandAt = Box<dyn FnOnce(Timestamp) -> KeyCommand + Send>;

/// An agent's command, once the time is known.
pub(crate) type AgentCommandAt = Box<dyn FnOnce(Timestamp) -> AgentCommand + Send>;

/// What administrators change. A port, so that its handlers can be tested without NATS. `cause` becomes part of the commit.
#[async_trait]
pub(crate) trait Admin: Send + Sync {
    async fn key(
        &self,
        id: &KeyId,
        cause: &'static str,
        command: KeyCommandAt,
    ) -> Result<Executed<Key>, CommandError<KeyRejection>>;

    async fn agent(
        &self,
        agent: &AgentName,
        cause: &'static str,
        command: AgentCommandAt,
    ) -> Result<Executed<Agent>, CommandError<AgentRejection>>;

    /// Makes the providers of an agent inactive whose session is over. A provider for which this fails becomes inactive
    /// when its agent counts as lost.
    async fn stop_providers(&self, agent: &AgentName, cause: &'static str, epoch: Epoch);

    /// Removes the inactive providers of an agent, and returns how many. One that isn't inactive is refused.
    async fn forget_providers(
        &self,
        agent: &AgentName,
        cause: &'static str,
    ) -> Result<Forgotten, CommandError<Rejection>>;
}

/// The providers that were forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Forgotten {
    pub(crate) providers: usize,
    /// The journal sequence of the last commit about them; 0 without any.
    pub(crate) sequence: u64,
}

#[async_trait]
impl Admin for Commands {
    async fn key(
        &self,
        id: &KeyId,
        cause: &'static str,
        command: KeyCommandAt,
    ) -> Result<Executed<Key>, CommandError<KeyRejection>> {
        let at = self.now().await?;
        let aggregate = AggregateId::Key(id.clone());
        let meta = CommitMeta::new(cause, at);
        self.journal.execute(&aggregate, command(at), &meta).await
    }

    async fn agent(
        &self,
        agent: &AgentName,
        cause: &'static str,
        command: AgentCommandAt,
    ) -> Result<Executed<Agent>, CommandError<AgentRejection>> {
        let at = self.now().await?;
        let aggregate = AggregateId::Agent(agent.clone());
        let meta = CommitMeta::new(cause, at);
        self.journal.execute(&aggregate, command(at), &meta).await
    }

    async fn stop_providers(&self, agent: &AgentName, cause: &'static str, epoch: Epoch) {
        for snapshot in self.registry.of_agent(agent) {
            let id = &snapshot.provider.id;
            let stopped = |at| ProviderCommand::AgentStopped { epoch, at };
            if let Err(error) = self.provider(id, cause, stopped).await {
                warn!(provider.name = %id, %error, "{id} is not inactive yet");
            }
        }
    }

    async fn forget_providers(
        &self,
        agent: &AgentName,
        cause: &'static str,
    ) -> Result<Forgotten, CommandError<Rejection>> {
        let mut forgotten = Forgotten::default();
        for snapshot in self.registry.of_agent(agent) {
            let expire = |at| ProviderCommand::Expire {
                after: Duration::ZERO,
                at,
            };
            let done = self.provider(&snapshot.provider.id, cause, expire).await?;
            forgotten.providers += 1;
            forgotten.sequence = forgotten.sequence.max(done.sequence);
        }
        Ok(forgotten)
    }
}
