//! Regular checks: wakes past their deadline end, wakes in flight are sent again, providers of silent agents become
//! inactive, and agents that are back resume theirs. A NATS error never causes any of this.

use super::{Control, Presence};
use crate::registry::ProviderSnapshot;
use futures::{StreamExt, stream};
use reveille_bus::{
    CommandError, Connection,
    orders::{self, AddressedOrder, Order},
    wakes,
};
use reveille_domain::{
    ProviderCommand, ProviderId, Rejection, Status, Timestamp, Wake, provider::InactiveReason,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

/// How often a replica sweeps, with jitter so that replicas don't sweep together.
const EVERY: Duration = Duration::from_secs(1);
/// A replica that misses its own canary for this long is deaf, and marks no provider inactive.
const DEAF_AFTER: Duration = Duration::from_secs(4);
/// How many timeouts a replica listens, after a start or a reconnect, before any agent counts as silent.
const GRACE_TIMEOUTS: u32 = 2;
/// An inactive provider is forgotten after this.
const EXPIRE_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How many providers are checked at once.
const CONCURRENCY: usize = 32;

pub(crate) struct Sweeper {
    control: Control,
    presence: Presence,
    generation: watch::Receiver<u64>,
    /// Since when this replica has missed no heartbeat.
    listening_since: Instant,
}

impl Sweeper {
    pub(crate) fn new(control: Control, presence: Presence, connection: &Connection) -> Self {
        Self {
            control,
            presence,
            generation: connection.generation(),
            listening_since: Instant::now(),
        }
    }

    /// Sweeps for as long as this is polled.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(EVERY.mul_f64(rand::random_range(0.75..1.25))).await;
            self.sweep().await;
        }
    }

    async fn sweep(&mut self) {
        let deaf = self
            .control
            .commands
            .clock
            .age()
            .is_none_or(|age| age > DEAF_AFTER);
        if deaf || self.generation.has_changed().unwrap_or(true) {
            self.generation.borrow_and_update();
            self.listening_since = Instant::now();
        }
        let Some(now) = self.control.commands.clock.try_now() else {
            return;
        };
        if !self.control.registry.is_ready() {
            return;
        }
        let this = &*self;
        stream::iter(this.control.registry.all())
            .for_each_concurrent(CONCURRENCY, |snapshot| async move {
                this.check(&snapshot, now).await;
            })
            .await;
        for (agent, epoch) in this
            .presence
            .superseded(|agent| this.control.registry.agent_epoch(agent))
        {
            let _ = orders::announce_session(&this.control.client, &agent, epoch).await;
        }
    }

    async fn check(&self, snapshot: &Arc<ProviderSnapshot>, now: Timestamp) {
        let id = &snapshot.provider.id;
        if snapshot.unreadable.is_some() {
            // A replica that can read its last commit takes care of it.
            return;
        }
        match &snapshot.provider.status {
            Status::Waking { wake } if now >= wake.deadline_ms => self.expire_wake(id, wake).await,
            Status::Waking { .. } if self.is_silent(snapshot) => self.mark_inactive(snapshot).await,
            Status::Waking { .. } => {
                if let Some(message) = self
                    .control
                    .wakes
                    .message(&snapshot.provider, snapshot.sequence, now)
                {
                    // If it is lost, the next sweep sends it again.
                    let _ = wakes::send_again(&self.control.client, &message).await;
                }
            }
            Status::Active { .. } | Status::Hibernating { .. } => {
                if self.is_silent(snapshot) {
                    self.mark_inactive(snapshot).await;
                }
            }
            Status::Inactive { since_ms, .. } if now.since(*since_ms) >= EXPIRE_AFTER => {
                self.execute(id, |at| ProviderCommand::Expire {
                    after: EXPIRE_AFTER,
                    at,
                })
                .await;
            }
            Status::Inactive {
                reason: InactiveReason::AgentLost,
                since_ms,
                ..
            } => {
                let heard = self.presence.heard(&id.agent, snapshot.provider.epoch);
                if heard.is_some_and(|heard| heard > *since_ms) {
                    self.order_resume(snapshot).await;
                }
            }
            Status::Inactive {
                reason: InactiveReason::AgentStopped,
                ..
            } => {}
        }
    }

    fn last_heard(&self, snapshot: &ProviderSnapshot) -> Timestamp {
        let provider = &snapshot.provider;
        let heard = self.presence.heard(&provider.id.agent, provider.epoch);
        heard.unwrap_or_default().max(provider.heard_at_ms)
    }

    /// Silence counts up to the last canary only: during an outage this replica is deaf, and the agents aren't silent.
    fn is_silent(&self, snapshot: &ProviderSnapshot) -> bool {
        let silent_after = self.presence.silent_after(&snapshot.provider.id.agent);
        let heard_until = self.control.commands.clock.heard_until().unwrap_or_default();
        self.listening_since.elapsed() >= silent_after * GRACE_TIMEOUTS
            && heard_until.since(self.last_heard(snapshot)) > silent_after
    }

    async fn mark_inactive(&self, snapshot: &ProviderSnapshot) {
        let (id, epoch, last_heartbeat) = (
            &snapshot.provider.id,
            snapshot.provider.epoch,
            self.last_heard(snapshot),
        );
        info!(provider.name = %id, agent.epoch = %epoch, "the agent of {id} went silent");
        self.execute(id, |at| ProviderCommand::MarkInactive {
            epoch,
            last_heartbeat,
            at,
        })
        .await;
    }

    async fn expire_wake(&self, id: &ProviderId, wake: &Wake) {
        warn!(provider.name = %id, wake.id = %wake.id, "the wake of {id} passed its deadline");
        self.execute(id, |at| ProviderCommand::ExpireWake { wake_id: wake.id, at })
            .await;
    }

    async fn order_resume(&self, snapshot: &ProviderSnapshot) {
        let id = &snapshot.provider.id;
        let order = AddressedOrder {
            epoch: snapshot.provider.epoch,
            order: Order::Resume {
                providers: vec![id.provider.clone()],
            },
        };
        if let Err(error) = orders::send(&self.control.client, &id.agent, &order).await {
            warn!(provider.name = %id, %error, "the agent of {id} is back but doesn't accept orders");
        }
    }

    async fn execute(&self, id: &ProviderId, command: impl FnOnce(Timestamp) -> ProviderCommand) {
        match self.control.commands.provider(id, "sweep", command).await {
            Ok(_) => {}
            // Another replica was faster, or the agent is back after all.
            Err(CommandError::Rejected(
                Rejection::HeardSince
                | Rejection::NotRegistered
                | Rejection::NotExpired
                | Rejection::SessionSuperseded { .. },
            )) => {}
            Err(error) => warn!(provider.name = %id, %error, "sweep failed for {id}"),
        }
    }
}
