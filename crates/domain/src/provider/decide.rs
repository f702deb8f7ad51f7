//! The rules: what a command changes, or why it is refused. A repeated command changes nothing.

use super::{
    command::ProviderCommand,
    event::{ProviderEvent, RegisteredAs},
    rejection::{Decision, Rejection},
    state::{InactiveReason, Provider, Registered, StableStatus, Status},
};
use crate::{
    ids::{Epoch, ReportId, WakeId},
    names::ProviderId,
    spec::{Availability, ProviderSpec},
    time::Timestamp,
    wake::{Failures, SleepReason, WakeFailure, WakeFailureKind},
};
use std::time::Duration;

/// How long a provider must be active until its failures in a row are forgotten.
pub const STABLE_AFTER: Duration = Duration::from_secs(30);

impl Provider {
    /// What `command` changes; nothing when that was already so.
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
            // A duplicate: what it says may have been corrected since.
            (_, ProviderCommand::Register { epoch, seq, .. })
                if *epoch == self.epoch() && !seq.is_zero() && *seq <= self.last_seq() =>
            {
                Ok(vec![])
            }
            (
                Self::Unregistered | Self::Gone(_),
                ProviderCommand::Register {
                    id,
                    epoch,
                    seq,
                    spec,
                    availability,
                    at,
                },
            ) => Ok(vec![registered(
                id,
                ReportId {
                    epoch: *epoch,
                    seq: *seq,
                },
                spec,
                initial_status(spec, *availability).into(),
                Failures::default(),
                *at,
            )]),
            (Self::Registered(provider), command) => provider.decide(command),
            // Withdrawn or expired already.
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

/// A backend that isn't known to be unavailable is active. One that is hibernates if it can be woken, and is down otherwise.
const fn initial_status(spec: &ProviderSpec, availability: Option<Availability>) -> StableStatus {
    match (spec.wake(), availability) {
        (_, Some(Availability::Available) | None) => StableStatus::Active,
        (Some(_), Some(Availability::Unavailable)) => StableStatus::Hibernating,
        (None, Some(Availability::Unavailable)) => StableStatus::Down,
    }
}

impl From<StableStatus> for RegisteredAs {
    fn from(status: StableStatus) -> Self {
        match status {
            StableStatus::Active => Self::Active,
            StableStatus::Hibernating => Self::Hibernating,
            StableStatus::Down => Self::Down,
        }
    }
}

fn registered(
    id: &ProviderId,
    said: ReportId,
    spec: &ProviderSpec,
    status: RegisteredAs,
    failures: Failures,
    at: Timestamp,
) -> ProviderEvent {
    ProviderEvent::ProviderRegistered {
        id: id.clone(),
        epoch: said.epoch,
        seq: said.seq,
        spec: spec.clone(),
        status,
        failures,
        at_ms: at,
    }
}

impl Registered {
    fn decide(&self, command: &ProviderCommand) -> Decision {
        match command {
            ProviderCommand::Register {
                id,
                epoch,
                seq,
                spec,
                availability,
                at,
            } => {
                let said = ReportId {
                    epoch: *epoch,
                    seq: *seq,
                };
                self.register_again(id, said, spec, *availability, *at)
            }
            ProviderCommand::RequestWake {
                wake_id,
                cause,
                overdue,
                allowed_at,
                at,
            } => self.request_wake(*wake_id, cause, *overdue, *allowed_at, *at),
            ProviderCommand::ReportWake {
                wake_id,
                report,
                outcome,
                at,
            } => self
                .fresh(*report)?
                .map_or(Ok(vec![]), |()| self.report_wake(*wake_id, *report, outcome, *at)),
            ProviderCommand::ReportAsleep {
                report,
                reason,
                for_wake,
                at,
            } => self.fresh(*report)?.map_or(Ok(vec![]), |()| {
                self.report_asleep(*report, *reason, *for_wake, *at)
            }),
            ProviderCommand::ReportAwake { report, at } => self
                .fresh(*report)?
                .map_or(Ok(vec![]), |()| self.report_awake(*report, None, *at)),
            ProviderCommand::Resume {
                report,
                availability,
                at,
            } => self
                .fresh(*report)?
                .map_or(Ok(vec![]), |()| self.resume(*report, *availability, *at)),
            ProviderCommand::ExpireWake { wake_id, at } => match &self.status {
                Status::Waking { wake } if wake.id == *wake_id => Ok(vec![self.timed_out(wake, *at)]),
                Status::Waking { .. }
                | Status::Active { .. }
                | Status::Hibernating { .. }
                | Status::Down { .. }
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
                Ok(self.become_inactive(*epoch, InactiveReason::AgentLost, Some(*last_heartbeat), *at))
            }
            ProviderCommand::AgentStopped { epoch, at } => {
                self.not_older(*epoch)?;
                Ok(self.become_inactive(*epoch, InactiveReason::AgentStopped, None, *at))
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
                | Status::Waking { .. }
                | Status::Down { .. } => Err(Rejection::NotExpired),
            },
        }
    }

    /// Refuses every session but the current one.
    fn current(&self, epoch: Epoch) -> Result<(), Rejection> {
        match epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Err(Rejection::SessionSuperseded { current: self.epoch }),
            std::cmp::Ordering::Greater => Err(Rejection::RegisterFirst { current: self.epoch }),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    /// Refuses earlier sessions. A later one may withdraw what it never registered.
    fn not_older(&self, epoch: Epoch) -> Result<(), Rejection> {
        self.current(epoch.min(self.epoch))
    }

    /// `None` for a repeated report, which changes nothing.
    fn fresh(&self, report: ReportId) -> Result<Option<()>, Rejection> {
        self.current(report.epoch)?;
        Ok((report.seq > self.last_seq).then_some(()))
    }

    fn register_again(
        &self,
        id: &ProviderId,
        said: ReportId,
        spec: &ProviderSpec,
        availability: Option<Availability>,
        at: Timestamp,
    ) -> Decision {
        let unchanged = said.epoch == self.epoch && *spec == self.spec;
        let register = |status| registered(id, said, spec, status, self.failures_at(at), at);
        let initial = initial_status(spec, availability).into();
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
                    events.push(register(initial));
                    return Ok(events);
                }
                if !unchanged {
                    events.push(register(RegisteredAs::Waking));
                }
                if up {
                    events.push(ProviderEvent::WakeSucceeded {
                        wake_id: wake.id,
                        report: Some(said).filter(|said| unchanged && !said.seq.is_zero()),
                        stages: wake.found_awake(at),
                        at_ms: at,
                    });
                }
                Ok(events)
            }
            Status::Active { .. } | Status::Hibernating { .. } | Status::Down { .. } if unchanged => {
                Ok(vec![])
            }
            Status::Active { .. }
            | Status::Hibernating { .. }
            | Status::Down { .. }
            | Status::Inactive { .. } => Ok(vec![register(initial)]),
        }
    }

    fn report_asleep(
        &self,
        report: ReportId,
        reason: SleepReason,
        for_wake: Option<WakeId>,
        at: Timestamp,
    ) -> Decision {
        match &self.status {
            Status::Active { since_ms, woken_by } if self.spec.wake().is_some() => {
                let stable = at.since(*since_ms) >= STABLE_AFTER;
                let died = match reason {
                    SleepReason::Crashed => Some("the backend ended while it worked on requests"),
                    SleepReason::Failed => Some("the backend answered its probe, but no completion"),
                    SleepReason::Exited | SleepReason::Unreachable if woken_by.is_some() && !stable => {
                        Some("the backend died soon after it was woken")
                    }
                    SleepReason::Exited
                    | SleepReason::Unreachable
                    | SleepReason::Idle
                    | SleepReason::Operator
                    | SleepReason::Group
                    | SleepReason::FoundAsleep => None,
                };
                let failures = match died {
                    Some(why) => {
                        let failure = WakeFailure::new(WakeFailureKind::Died, "active", why);
                        self.failures.and(failure, at)
                    }
                    None => self.failures_at(at),
                };
                Ok(vec![ProviderEvent::BackendSlept {
                    report,
                    reason,
                    for_wake,
                    failures,
                    at_ms: at,
                }])
            }
            // Without a recipe nothing could wake it again.
            Status::Active { .. } => Ok(vec![ProviderEvent::BackendWentDown {
                report,
                reason,
                at_ms: at,
            }]),
            // A wake in flight ends with its own outcome.
            Status::Waking { .. } | Status::Hibernating { .. } | Status::Down { .. } => Ok(vec![]),
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
            Status::Active { .. }
            | Status::Hibernating { .. }
            | Status::Waking { .. }
            | Status::Down { .. } => Ok(vec![]),
        }
    }

    /// The failed wakes in a row, which are forgotten after [`STABLE_AFTER`].
    fn failures_at(&self, at: Timestamp) -> Failures {
        match &self.status {
            Status::Active { since_ms, .. } if at.since(*since_ms) >= STABLE_AFTER => Failures::default(),
            Status::Active { .. }
            | Status::Hibernating { .. }
            | Status::Waking { .. }
            | Status::Down { .. }
            | Status::Inactive { .. } => self.failures.clone(),
        }
    }

    fn become_inactive(
        &self,
        epoch: Epoch,
        reason: InactiveReason,
        last_heartbeat_ms: Option<Timestamp>,
        at: Timestamp,
    ) -> Vec<ProviderEvent> {
        let was = match &self.status {
            Status::Inactive { .. } => return vec![],
            Status::Active { .. } => StableStatus::Active,
            Status::Hibernating { .. } | Status::Waking { .. } => StableStatus::Hibernating,
            Status::Down { .. } => StableStatus::Down,
        };
        let (kind, why) = match reason {
            InactiveReason::AgentLost => (WakeFailureKind::AgentLost, "the agent went silent"),
            InactiveReason::AgentStopped => (WakeFailureKind::AgentStopped, "the agent stopped"),
        };
        let inactive = ProviderEvent::ProviderBecameInactive {
            epoch,
            reason,
            was,
            failures: self.failures_at(at),
            last_heartbeat_ms,
            at_ms: at,
        };
        self.abandon_wake(kind, why, at)
            .into_iter()
            .chain([inactive])
            .collect()
    }
}
