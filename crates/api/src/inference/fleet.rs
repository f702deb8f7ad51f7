//! What the request path needs of the rest of the process, so that it can be tested without NATS.

use crate::{
    commands::Commands,
    identities::KnownAgent,
    metrics::Metrics,
    registry::{Known, Registry},
    wakes::{Begun, SleepError, WakeError, Wakes, Woken},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use reveille_bus::{
    CommandError, Executed,
    relay::{RelayClient, RelayError, RelayStats, RequestHead, ResponseHead},
};
use reveille_domain::{
    Agent, AgentCommand, AgentName, AgentRejection, Epoch, Key, KeyCommand, KeyId, KeyRejection,
    ProviderCommand, ProviderId, Timestamp, WakeCause,
};
use std::sync::Arc;
use tokio::{sync::watch, time::Instant};
use tracing::warn;

/// A response as it came over the relay.
pub(crate) struct Relayed {
    /// Status and headers.
    pub head: ResponseHead,
    /// The body.
    pub body: RelayedBody,
}

/// A response's body.
pub(crate) enum RelayedBody {
    /// All of it was there with the head.
    Whole(Bytes),
    /// It comes piece by piece; an error means that it broke off. Dropping it cancels the request.
    Pieces(BoxStream<'static, Result<Bytes, RelayError>>),
}

/// A key's command, once the time is known.
pub(crate) type KeyCommandAt = Box<dyn FnOnce(Timestamp) -> KeyCommand + Send>;

/// An agent's command, once the time is known.
pub(crate) type AgentCommandAt = Box<dyn FnOnce(Timestamp) -> AgentCommand + Send>;

/// The published providers, their wakes, and the way to their backends.
#[async_trait]
pub(crate) trait Fleet: Send + Sync {
    /// See [`Registry::is_ready`].
    fn is_ready(&self) -> bool;
    /// See [`Registry::pool`].
    fn pool(&self, model: &str) -> Vec<Arc<Known>>;
    /// See [`Registry::get`].
    fn get(&self, id: &ProviderId) -> Option<Arc<Known>>;
    /// See [`Registry::all`].
    fn all(&self) -> Vec<Arc<Known>>;
    /// See [`Registry::nearest`].
    fn nearest(&self, model: &str, allowed: &dyn Fn(&str) -> bool) -> Vec<String>;
    /// See [`Registry::watch`].
    fn watch(&self, id: &ProviderId) -> Option<watch::Receiver<Arc<Known>>>;
    /// See [`Registry::applied`].
    fn applied(&self) -> u64;
    /// See [`Registry::applied_to`].
    async fn applied_to(&self, sequence: u64, until: Instant) -> bool;
    /// See [`Wakes::ensure_awake`].
    async fn ensure_awake(
        &self,
        id: &ProviderId,
        cause: WakeCause,
        until: Instant,
    ) -> Result<Woken, WakeError>;
    /// See [`Wakes::begin`].
    async fn begin(&self, id: &ProviderId, cause: WakeCause) -> Result<Begun, WakeError>;
    /// See [`Wakes::sleep`].
    async fn sleep(&self, id: &ProviderId) -> Result<(), SleepError>;
    /// See [`Wakes::waiting`].
    fn waiting(&self, id: &ProviderId) -> usize;
    /// Runs a key's command; `cause` stands in the commit.
    async fn key(
        &self,
        id: &KeyId,
        cause: &'static str,
        command: KeyCommandAt,
    ) -> Result<Executed<Key>, CommandError<KeyRejection>>;
    /// See [`Identities::all`](crate::identities::Identities::all).
    fn agents(&self) -> Vec<(AgentName, Arc<KnownAgent>)>;
    /// Runs an agent's command; `cause` stands in the commit.
    async fn agent(
        &self,
        agent: &AgentName,
        cause: &'static str,
        command: AgentCommandAt,
    ) -> Result<Executed<Agent>, CommandError<AgentRejection>>;
    /// The agent's session is over: its providers are inactive. What isn't done at once is done when it counts as lost.
    async fn stop_providers(&self, agent: &AgentName, cause: &'static str, epoch: Epoch);
    /// See [`Registry::unreadable`].
    fn unreadable(&self) -> usize;
    /// See [`RelayClient::look`].
    fn relay_stats(&self) -> RelayStats;
    /// What is counted.
    fn metrics(&self) -> &Metrics;
    /// Sends a request, as soon as this replica has memory for its response and by `room_by`, and waits for the
    /// response's head. Dropping the future cancels the request.
    async fn relay(
        &self,
        agent: &AgentName,
        epoch: Epoch,
        head: RequestHead,
        body: Bytes,
        room_by: Instant,
    ) -> Result<Relayed, RelayError>;
}

/// The real ones.
pub(crate) struct Live {
    /// The fold of the journal.
    pub registry: Registry,
    /// Wakes.
    pub wakes: Wakes,
    /// The way into the journal.
    pub commands: Commands,
    /// The way to the agents.
    pub relay: RelayClient,
}

#[async_trait]
impl Fleet for Live {
    fn is_ready(&self) -> bool {
        self.registry.is_ready()
    }

    fn pool(&self, model: &str) -> Vec<Arc<Known>> {
        self.registry.pool(model)
    }

    fn get(&self, id: &ProviderId) -> Option<Arc<Known>> {
        self.registry.get(id)
    }

    fn all(&self) -> Vec<Arc<Known>> {
        self.registry.all()
    }

    fn nearest(&self, model: &str, allowed: &dyn Fn(&str) -> bool) -> Vec<String> {
        self.registry.nearest(model, allowed)
    }

    fn watch(&self, id: &ProviderId) -> Option<watch::Receiver<Arc<Known>>> {
        self.registry.watch(id)
    }

    fn applied(&self) -> u64 {
        self.registry.applied()
    }

    async fn applied_to(&self, sequence: u64, until: Instant) -> bool {
        self.registry.applied_to(sequence, until).await
    }

    async fn ensure_awake(
        &self,
        id: &ProviderId,
        cause: WakeCause,
        until: Instant,
    ) -> Result<Woken, WakeError> {
        self.wakes.ensure_awake(id, cause, until).await
    }

    async fn begin(&self, id: &ProviderId, cause: WakeCause) -> Result<Begun, WakeError> {
        self.wakes.begin(id, cause).await
    }

    async fn sleep(&self, id: &ProviderId) -> Result<(), SleepError> {
        self.wakes.sleep(id).await
    }

    fn waiting(&self, id: &ProviderId) -> usize {
        self.wakes.waiting(id)
    }

    async fn key(
        &self,
        id: &KeyId,
        cause: &'static str,
        command: KeyCommandAt,
    ) -> Result<Executed<Key>, CommandError<KeyRejection>> {
        self.commands.key(id, cause, command).await
    }

    fn agents(&self) -> Vec<(AgentName, Arc<KnownAgent>)> {
        self.registry.identities().all()
    }

    async fn agent(
        &self,
        agent: &AgentName,
        cause: &'static str,
        command: AgentCommandAt,
    ) -> Result<Executed<Agent>, CommandError<AgentRejection>> {
        self.commands.agent(agent, cause, command).await
    }

    async fn stop_providers(&self, agent: &AgentName, cause: &'static str, epoch: Epoch) {
        for known in self.registry.of_agent(agent) {
            let id = &known.provider.id;
            let stopped = |at| ProviderCommand::AgentStopped { epoch, at };
            if let Err(error) = self.commands.provider(id, cause, stopped).await {
                warn!(provider.name = %id, %error, "{id} is not inactive yet");
            }
        }
    }

    fn unreadable(&self) -> usize {
        self.registry.unreadable()
    }

    fn relay_stats(&self) -> RelayStats {
        self.relay.stats()
    }

    fn metrics(&self) -> &Metrics {
        &self.commands.metrics
    }

    async fn relay(
        &self,
        agent: &AgentName,
        epoch: Epoch,
        head: RequestHead,
        body: Bytes,
        room_by: Instant,
    ) -> Result<Relayed, RelayError> {
        let sent = self.relay.send(agent, epoch, head, body, room_by).await?;
        let (head, mut body) = sent.head().await?;
        let body = match body.whole() {
            Some(whole) => RelayedBody::Whole(whole),
            None => RelayedBody::Pieces(body.boxed()),
        };
        Ok(Relayed { head, body })
    }
}
