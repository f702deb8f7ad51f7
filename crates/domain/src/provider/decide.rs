//! The rules: what a command changes, or why it is refused. Pure; a repeated command changes nothing.

use super::{
    command::ProviderCommand,
    event::{ProviderEvent, RegisteredAs},
    state::{InactiveReason, Provider, Registered, Resting, Status},
};
use crate::{
    Availability, Epoch, Failures, ProviderId, ProviderSpec, ReportId, SleepReason, Timestamp, Wake,
    WakeCause, WakeFailure, WakeFailureKind, WakeId, WakeOutcome,
};
use std::time::Duration;
use thiserror::Error;

/// How long after its published budget a wake is still waited for: the agent's report needs time to arrive.
pub const DEADLINE_MARGIN: Duration = Duration::from_secs(5);
/// A provider active for this long has no failures in a row any more.
pub const SETTLED_AFTER: Duration = Duration::from_secs(30);

/// Why a provider's command is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// Never registered, or gone.
    #[error("no such provider is published")]
    NotRegistered,
    /// A later session of its agent speaks for it.
    #[error("this session was superseded: the provider's current epoch is {current}")]
    SessionSuperseded {
        /// The current epoch.
        current: Epoch,
    },
    /// The session has not registered the provider yet.
    #[error("this session has not registered the provider: its epoch there is {current}")]
    RegisterFirst {
        /// The epoch that is registered.
        current: Epoch,
    },
    /// It is inactive: its agent must resume it before it reports on it.
    #[error("the provider is inactive: resume it first")]
    ResumeFirst,
    /// Its agent is lost or stopped, so no wake is tried.
    #[error("the provider's agent is not there")]
    Inactive {
        /// Why.
        reason: InactiveReason,
        /// Since when.
        since: Timestamp,
    },
    /// It has no wake recipe.
    #[error("the provider has no wake recipe")]
    NoRecipe,
    /// Its last wakes failed, so the next one waits.
    #[error("the provider's last wakes failed")]
    RecentlyFailed {
        /// How long the next wake is held back.
        retry_after: Duration,
        /// The last failure.
        failures: Failures,
    },
    /// It isn't silent: something newer was heard of its agent.
    #[error("the agent was heard since")]
    HeardSince,
    /// It has not been inactive for long enough to expire.
    #[error("the provider is not inactive, or not for long enough")]
    NotExpired,
}

type Decision = Result<Vec<ProviderEvent>, Rejection>;

impl Provider {
    /// What `command` changes: no events when it was already so.
    ///
    /// # Errors
    /// When it is refused.
    pub fn decide(&self, command: &ProviderCommand) -> Decision {
        match (self, command) {
            (_, ProviderCommand::Register { epoch, .. }) if *epoch < self.epoch() => {
                Err(Rejection::SessionSuperseded {
                    current: self.epoch(),
                })
            }
            (
                Self::Unregistered | Self::Gone(_),
                ProviderCommand::Register {
                    id,
                    epoch,
                    spec,
                    availability,
                    at,
                },
            ) => Ok(vec![registered(
                id,
                *epoch,
                spec,
                initial_status(spec, *availability).into(),
                *at,
            )]),
            (Self::Registered(provider), command) => provider.decide(command),
            // Taken back or expired before: done.
            (Self::Gone(_), ProviderCommand::Deregister { .. } | ProviderCommand::Expire { .. }) => {
                Ok(vec![])
            }
            (
                Self::Unregistered | Self::Gone(_),
                ProviderCommand::RequestWake { .. }
                | ProviderCommand::ReportWake { .. }
                | ProviderCommand::ReportAsleep { .. }
                | ProviderCommand::ReportAwake { .. }
                | ProviderCommand::ExpireWake { .. }
                | ProviderCommand::MarkInactive { .. }
                | ProviderCommand::AgentStopped { .. }
                | ProviderCommand::Resume { .. }
                | ProviderCommand::Deregister { .. }
                | ProviderCommand::Expire { .. },
            ) => Err(Rejection::NotRegistered),
        }
    }
}

/// Hibernating when there is a wake recipe **and** the backend is unavailable; else active.
const fn initial_status(spec: &ProviderSpec, availability: Option<Availability>) -> Resting {
    match (spec.wake(), availability) {
        (Some(_), Some(Availability::Unavailable)) => Resting::Hibernating,
        (Some(_), Some(Availability::Available) | None) | (None, _) => Resting::Active,
    }
}

impl From<Resting> for RegisteredAs {
    fn from(status: Resting) -> Self {
        match status {
            Resting::Active => Self::Active,
            Resting::Hibernating => Self::Hibernating,
        }
    }
}

fn registered(
    id: &ProviderId,
    epoch: Epoch,
    spec: &ProviderSpec,
    status: RegisteredAs,
    at: Timestamp,
) -> ProviderEvent {
    ProviderEvent::ProviderRegistered {
        id: id.clone(),
        epoch,
        spec: spec.clone(),
        status,
        at_ms: at,
    }
}

impl Registered {
    fn decide(&self, command: &ProviderCommand) -> Decision {
        match command {
            ProviderCommand::Register {
                id,
                epoch,
                spec,
                availability,
                at,
            } => self.register_again(id, *epoch, spec, *availability, *at),
            ProviderCommand::RequestWake { wake_id, cause, at } => self.request_wake(*wake_id, cause, *at),
            ProviderCommand::ReportWake {
                wake_id,
                report,
                outcome,
                at,
            } => self
                .fresh(*report)?
                .map_or(Ok(vec![]), |()| self.report_wake(*wake_id, *report, outcome, *at)),
            ProviderCommand::ReportAsleep { report, reason, at } => self
                .fresh(*report)?
                .map_or(Ok(vec![]), |()| self.report_asleep(*report, *reason, *at)),
            ProviderCommand::ReportAwake { report, at } => self
                .fresh(*report)?
                .map_or(Ok(vec![]), |()| self.report_awake(*report, vec![], *at)),
            ProviderCommand::Resume {
                report,
                availability,
                at,
            } => self
                .fresh(*report)?
                .map_or(Ok(vec![]), |()| self.resume(*report, *availability, *at)),
            ProviderCommand::ExpireWake { wake_id, at } => match &self.status {
                Status::Waking { wake } if wake.id == *wake_id && *at >= wake.deadline_ms => {
                    Ok(vec![self.timed_out(wake, *at)])
                }
                Status::Waking { .. }
                | Status::Active { .. }
                | Status::Hibernating { .. }
                | Status::Inactive { .. } => Ok(vec![]),
            },
            ProviderCommand::MarkInactive {
                epoch,
                last_heartbeat,
                at,
            } => {
                self.current(*epoch)?;
                if self.heard_at_ms > *last_heartbeat {
                    return Err(Rejection::HeardSince);
                }
                Ok(self.become_inactive(InactiveReason::AgentLost, Some(*last_heartbeat), *at))
            }
            ProviderCommand::AgentStopped { epoch, at } => {
                self.not_older(*epoch)?;
                Ok(self.become_inactive(InactiveReason::AgentStopped, None, *at))
            }
            ProviderCommand::Deregister { epoch, at } => {
                self.not_older(*epoch)?;
                let ended = self.abandon_wake(WakeFailureKind::Withdrawn, "the provider was withdrawn", *at);
                let gone = ProviderEvent::ProviderDeregistered {
                    epoch: *epoch,
                    at_ms: *at,
                };
                Ok(ended.into_iter().chain([gone]).collect())
            }
            ProviderCommand::Expire { after, at } => match &self.status {
                Status::Inactive { since_ms, .. } if at.since(*since_ms) >= *after => {
                    Ok(vec![ProviderEvent::ProviderExpired { at_ms: *at }])
                }
                Status::Inactive { .. }
                | Status::Active { .. }
                | Status::Hibernating { .. }
                | Status::Waking { .. } => Err(Rejection::NotExpired),
            },
        }
    }

    /// Refuses what doesn't come from the current session.
    fn current(&self, epoch: Epoch) -> Result<(), Rejection> {
        match epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Err(Rejection::SessionSuperseded { current: self.epoch }),
            std::cmp::Ordering::Greater => Err(Rejection::RegisterFirst { current: self.epoch }),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    /// Refuses what comes from an earlier session. A later one may take back what it never registered.
    fn not_older(&self, epoch: Epoch) -> Result<(), Rejection> {
        self.current(epoch.min(self.epoch))
    }

    /// `None` for a report that was heard before: its repetition changes nothing.
    fn fresh(&self, report: ReportId) -> Result<Option<()>, Rejection> {
        self.current(report.epoch)?;
        Ok((report.seq > self.last_seq).then_some(()))
    }

    fn register_again(
        &self,
        id: &ProviderId,
        epoch: Epoch,
        spec: &ProviderSpec,
        availability: Option<Availability>,
        at: Timestamp,
    ) -> Decision {
        let unchanged = epoch == self.epoch && *spec == self.spec;
        let initial = initial_status(spec, availability);
        match &self.status {
            Status::Waking { wake } => {
                let up = availability == Some(Availability::Available);
                let mut events = vec![];
                if spec.wake().is_none() && !up {
                    events.extend(self.abandon_wake(
                        WakeFailureKind::Withdrawn,
                        "the wake recipe was removed",
                        at,
                    ));
                    events.push(registered(id, epoch, spec, initial.into(), at));
                    return Ok(events);
                }
                if !unchanged {
                    events.push(registered(id, epoch, spec, RegisteredAs::Waking, at));
                }
                if up {
                    let (wake_id, stages) = (wake.id, vec![]);
                    events.push(ProviderEvent::WakeSucceeded {
                        wake_id,
                        report: None,
                        stages,
                        at_ms: at,
                    });
                }
                Ok(events)
            }
            Status::Active { .. } | Status::Hibernating { .. } if unchanged => Ok(vec![]),
            Status::Active { .. } | Status::Hibernating { .. } | Status::Inactive { .. } => {
                Ok(vec![registered(id, epoch, spec, initial.into(), at)])
            }
        }
    }

    fn request_wake(&self, wake_id: WakeId, cause: &WakeCause, at: Timestamp) -> Decision {
        let (ended, failures) = match &self.status {
            Status::Active { .. } => return Ok(vec![]),
            Status::Inactive { reason, since_ms, .. } => {
                return Err(Rejection::Inactive {
                    reason: *reason,
                    since: *since_ms,
                });
            }
            // Joined: whoever asks shares the wake in flight.
            Status::Waking { wake } if at < wake.deadline_ms => return Ok(vec![]),
            Status::Waking { wake } => (Some(self.timed_out(wake, at)), self.timed_out_failures(wake, at)),
            Status::Hibernating { .. } => (None, self.failures.clone()),
        };
        let Some(recipe) = self.spec.wake() else {
            return Err(Rejection::NoRecipe);
        };
        match (failures.hold_at(at), ended) {
            // The hold that the time-out brings is told to whoever asks next.
            (Some(_), Some(ended)) => Ok(vec![ended]),
            (Some(retry_after), None) => Err(Rejection::RecentlyFailed {
                retry_after,
                failures,
            }),
            (None, ended) => {
                let deadline_ms = at.plus(recipe.budget()).plus(DEADLINE_MARGIN);
                let wake = Wake {
                    id: wake_id,
                    cause: cause.clone(),
                    requested_at_ms: at,
                    deadline_ms,
                };
                Ok(ended
                    .into_iter()
                    .chain([ProviderEvent::WakeRequested { wake }])
                    .collect())
            }
        }
    }

    fn report_wake(
        &self,
        wake_id: WakeId,
        report: ReportId,
        outcome: &WakeOutcome,
        at: Timestamp,
    ) -> Decision {
        let in_flight = |wake: &Wake| wake.id == wake_id;
        match (&self.status, outcome) {
            (Status::Waking { wake }, WakeOutcome::Succeeded { stages }) if in_flight(wake) => {
                self.report_awake(report, stages.clone(), at)
            }
            (Status::Waking { wake }, WakeOutcome::Failed { failure, stages }) if in_flight(wake) => {
                Ok(vec![ProviderEvent::WakeFailed {
                    wake_id,
                    report: Some(report),
                    failures: self.failures.and(failure.clone(), at),
                    failure: failure.clone(),
                    stages: stages.clone(),
                    at_ms: at,
                }])
            }
            // Late, but true: the backend is up.
            (Status::Hibernating { .. }, WakeOutcome::Succeeded { stages }) => {
                self.report_awake(report, stages.clone(), at)
            }
            (Status::Inactive { .. }, _) => Err(Rejection::ResumeFirst),
            (Status::Waking { .. } | Status::Active { .. }, _)
            | (Status::Hibernating { .. }, WakeOutcome::Failed { .. }) => Ok(vec![]),
        }
    }

    fn report_awake(&self, report: ReportId, stages: Vec<crate::Stage>, at: Timestamp) -> Decision {
        match &self.status {
            Status::Waking { wake } => Ok(vec![ProviderEvent::WakeSucceeded {
                wake_id: wake.id,
                report: Some(report),
                stages,
                at_ms: at,
            }]),
            Status::Hibernating { .. } => Ok(vec![ProviderEvent::BackendAwoke { report, at_ms: at }]),
            Status::Active { .. } => Ok(vec![]),
            Status::Inactive { .. } => Err(Rejection::ResumeFirst),
        }
    }

    fn report_asleep(&self, report: ReportId, reason: SleepReason, at: Timestamp) -> Decision {
        match &self.status {
            Status::Active { since_ms, woken_by } if self.spec.wake().is_some() => {
                let settled = at.since(*since_ms) >= SETTLED_AFTER;
                let failures = if settled {
                    Failures::default()
                } else if woken_by.is_some() && reason.is_death() {
                    let died = "the backend died soon after it was woken";
                    self.failures
                        .and(WakeFailure::new(WakeFailureKind::Died, "active", died), at)
                } else {
                    self.failures.clone()
                };
                Ok(vec![ProviderEvent::BackendSlept {
                    report,
                    reason,
                    failures,
                    at_ms: at,
                }])
            }
            // Without a recipe nothing could wake it again; a wake in flight ends by its own outcome.
            Status::Active { .. } | Status::Waking { .. } | Status::Hibernating { .. } => Ok(vec![]),
            Status::Inactive { .. } => Err(Rejection::ResumeFirst),
        }
    }

    fn resume(&self, report: ReportId, availability: Availability, at: Timestamp) -> Decision {
        match &self.status {
            Status::Inactive { .. } => {
                let status = initial_status(&self.spec, Some(availability));
                Ok(vec![ProviderEvent::ProviderResumed {
                    report,
                    status,
                    at_ms: at,
                }])
            }
            Status::Active { .. } | Status::Hibernating { .. } | Status::Waking { .. } => Ok(vec![]),
        }
    }

    fn become_inactive(
        &self,
        reason: InactiveReason,
        last_heartbeat_ms: Option<Timestamp>,
        at: Timestamp,
    ) -> Vec<ProviderEvent> {
        let was = match &self.status {
            Status::Inactive { .. } => return vec![],
            Status::Active { .. } => Resting::Active,
            Status::Hibernating { .. } | Status::Waking { .. } => Resting::Hibernating,
        };
        let (kind, why) = match reason {
            InactiveReason::AgentLost => (WakeFailureKind::AgentLost, "the agent went silent"),
            InactiveReason::AgentStopped => (WakeFailureKind::AgentStopped, "the agent stopped"),
        };
        let inactive = ProviderEvent::ProviderBecameInactive {
            epoch: self.epoch,
            reason,
            was,
            last_heartbeat_ms,
            at_ms: at,
        };
        self.abandon_wake(kind, why, at)
            .into_iter()
            .chain([inactive])
            .collect()
    }

    /// Ends a wake in flight for a reason that isn't the backend's, so that it doesn't count as its failure.
    fn abandon_wake(&self, kind: WakeFailureKind, why: &str, at: Timestamp) -> Option<ProviderEvent> {
        self.status.wake().map(|wake| ProviderEvent::WakeFailed {
            wake_id: wake.id,
            report: None,
            failure: WakeFailure::new(kind, "agent", why),
            stages: vec![],
            failures: self.failures.clone(),
            at_ms: at,
        })
    }

    fn timed_out(&self, wake: &Wake, at: Timestamp) -> ProviderEvent {
        let failures = self.timed_out_failures(wake, at);
        let failure = Self::timed_out_failure(wake);
        ProviderEvent::WakeTimedOut {
            wake_id: wake.id,
            failure,
            failures,
            at_ms: at,
        }
    }

    fn timed_out_failures(&self, wake: &Wake, at: Timestamp) -> Failures {
        self.failures.and(Self::timed_out_failure(wake), at)
    }

    fn timed_out_failure(wake: &Wake) -> WakeFailure {
        let allowed = wake.deadline_ms.since(wake.requested_at_ms).as_millis();
        let reason = format!("no outcome was reported within {allowed} ms");
        WakeFailure::new(WakeFailureKind::TimedOut, "deadline", &reason)
    }
}
