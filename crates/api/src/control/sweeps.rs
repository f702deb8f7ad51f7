//! Regular checks: wakes past their deadline end, wakes in flight are sent again, providers of silent agents become
//! inactive, and agents that are back resume theirs. A NATS error never causes any of this.

use super::{Control, Presence, observed::Observed, presence::OtherEpoch};
use crate::registry::ProviderSnapshot;
use futures::{StreamExt, stream};
use reveille_bus::{
    CommandError, Hearing,
    orders::{self, AddressedOrder, Order},
    wakes,
};
use reveille_domain::{
    ProviderCommand, ProviderId, Rejection, Status, Timestamp, Wake, provider::InactiveReason,
};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tracing::{info, warn};

/// How often a replica sweeps, with jitter so that replicas don't sweep together.
const EVERY: Duration = Duration::from_secs(1);
/// How many timeouts a replica listens without a break before any agent counts as silent: after a start, a reconnect, a
/// step of NATS's clock or the hub's sleep, agents have to come back first.
const GRACE_TIMEOUTS: u32 = 2;
/// An inactive provider is forgotten after this.
const EXPIRE_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How many providers are checked at once.
const CONCURRENCY: usize = 32;

pub(crate) struct Sweeper {
    control: Control,
    presence: Presence,
    observed: Observed,
    /// The agents that were ahead of the fold at the last sweep.
    ahead: HashSet<OtherEpoch>,
}

impl Sweeper {
    pub(crate) fn new(control: Control, presence: Presence) -> Self {
        Self {
            control,
            presence,
            observed: Observed::default(),
            ahead: HashSet::new(),
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
        let clock = &self.control.commands.clock;
        let Some(now) = clock.try_now() else {
            return;
        };
        if !self.control.registry.is_ready() || self.control.commands.journal.health().is_lost() {
            return;
        }
        let all = self.control.registry.all();
        self.observed.look(&all, clock.listened());
        self.control.wakes.forget_ended(&all);
        let this = &*self;
        stream::iter(all)
            .for_each_concurrent(CONCURRENCY, |snapshot| async move {
                this.check(&snapshot, now).await;
            })
            .await;
        self.correct_sessions().await;
    }

    /// Tells agents that are heard in an epoch which isn't theirs. One that is ahead of the journal, or that no later session
    /// has put behind it, is to connect again, which tells it more; any other is superseded. The fold may be late by a moment, so an agent is
    /// ahead only when it still is at the next sweep.
    async fn correct_sessions(&mut self) {
        let (registry, client) = (&self.control.registry, &self.control.client);
        let others = self.presence.of_other_epochs(|agent| registry.agent_epoch(agent));
        let mut ahead = HashSet::new();
        for other in others {
            let (agent, current) = (&other.agent, other.current);
            let known = registry.agents().get(agent);
            let alone = known.is_some_and(|known| known.ended_by.is_some());
            // If it is lost, the next sweep sends it again.
            let _ = if other.heard < current && !alone {
                orders::announce_session(client, agent, current).await
            } else if alone || self.ahead.contains(&other) {
                orders::ask_to_reconnect(client, agent, current).await
            } else {
                Ok(())
            };
            if other.heard > current {
                ahead.insert(other);
            }
        }
        self.ahead = ahead;
    }

    async fn check(&self, snapshot: &Arc<ProviderSnapshot>, now: Timestamp) {
        let id = &snapshot.provider.id;
        if snapshot.unreadable.is_some() {
            // A replica that can read its last commit takes care of it.
            return;
        }
        match &snapshot.provider.status {
            Status::Waking { wake } if self.control.wakes.is_overdue(wake) => {
                self.expire_wake(id, wake).await;
            }
            Status::Waking { .. } if self.is_silent(snapshot) => self.mark_inactive(snapshot).await,
            Status::Waking { .. } => {
                if let Some(message) = self.control.wakes.message(&snapshot.provider, snapshot.sequence) {
                    // If it is lost, the next sweep sends it again.
                    let _ = wakes::send_again(&self.control.client, &message).await;
                }
            }
            Status::Active { .. } | Status::Hibernating { .. } | Status::Down { .. } => {
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
                ..
            } => {
                let heard = self.presence.heard_at(&id.agent, snapshot.provider.epoch);
                if heard.is_some_and(|heard| heard > self.observed.status_since(id)) {
                    self.order_resume(snapshot).await;
                }
            }
            Status::Inactive {
                reason: InactiveReason::AgentStopped,
                ..
            } => {}
        }
    }

    /// The agent's last sign of life, in NATS time.
    fn last_heard(&self, snapshot: &ProviderSnapshot) -> Timestamp {
        let provider = &snapshot.provider;
        let stored = self.presence.stored_at(&provider.id.agent, provider.epoch);
        stored.unwrap_or_default().max(provider.heard_at_ms)
    }

    /// Silence is measured in listened time: while this replica hears nothing, the agents aren't silent.
    fn is_silent(&self, snapshot: &ProviderSnapshot) -> bool {
        let provider = &snapshot.provider;
        let Some(hearing) = self.control.commands.clock.hearing() else {
            return false;
        };
        let silent_after = self.presence.silent_after(&provider.id.agent);
        let signs = SignsOfLife {
            heartbeat: self.presence.heard_at(&provider.id.agent, provider.epoch),
            journal: self.observed.heard_at(&provider.id),
        };
        signs.are_missing(hearing, silent_after)
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

/// When an agent was last heard, in listened time.
struct SignsOfLife {
    /// Its last heartbeat; `None` if none has arrived since this replica listens.
    heartbeat: Option<Duration>,
    /// The journal's last event that came from it.
    journal: Duration,
}

impl SignsOfLife {
    fn are_missing(&self, hearing: Hearing, silent_after: Duration) -> bool {
        let last = self.heartbeat.unwrap_or_default().max(self.journal);
        hearing.unbroken >= silent_after * GRACE_TIMEOUTS && hearing.until.saturating_sub(last) > silent_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an agent counts as silent after 10 s, for a replica that has listened for 100 s.
    fn is_silent(heartbeat: Option<u64>, journal: u64, unbroken: u64) -> bool {
        let signs = SignsOfLife {
            heartbeat: heartbeat.map(Duration::from_secs),
            journal: Duration::from_secs(journal),
        };
        let hearing = Hearing {
            until: Duration::from_secs(100),
            unbroken: Duration::from_secs(unbroken),
        };
        signs.are_missing(hearing, Duration::from_secs(10))
    }

    #[test]
    fn an_agent_is_silent_without_a_heartbeat_and_without_an_event_for_its_whole_time() {
        for (heartbeat, journal, silent) in [
            (Some(89), 0, true),
            (Some(90), 0, false),
            (None, 89, true),
            (None, 90, false),
            (Some(50), 95, false),
        ] {
            assert_eq!(
                is_silent(heartbeat, journal, 100),
                silent,
                "{heartbeat:?} {journal}"
            );
        }
    }

    #[test]
    fn nobody_is_silent_until_two_timeouts_after_a_break() {
        for (unbroken, silent) in [(0, false), (19, false), (20, true)] {
            assert_eq!(is_silent(None, 0, unbroken), silent, "{unbroken}");
        }
    }
}
