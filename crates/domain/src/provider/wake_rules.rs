//! The rules of the single wake in flight: when one begins, who joins it, how it ends.

use super::{
    event::ProviderEvent,
    rejection::{Decision, Rejection},
    state::{Registered, Status},
};
use crate::{
    ids::{ReportId, WakeId},
    time::Timestamp,
    wake::{Failures, Stage, Wake, WakeCause, WakeFailure, WakeFailureKind, WakeOutcome},
};
use std::time::Duration;

/// How long a wake's deadline is after its budget: the agent's report needs time to arrive.
pub const DEADLINE_MARGIN: Duration = Duration::from_secs(5);

impl Registered {
    pub(super) fn request_wake(
        &self,
        wake_id: WakeId,
        cause: &WakeCause,
        overdue: Option<WakeId>,
        allowed_at: Option<Timestamp>,
        at: Timestamp,
    ) -> Decision {
        let (ended, failures) = match &self.status {
            Status::Active { .. } => return Ok(vec![]),
            Status::Inactive { reason, since_ms, .. } => {
                return Err(Rejection::Inactive {
                    reason: *reason,
                    since: *since_ms,
                });
            }
            // Joins the wake in flight.
            Status::Waking { wake } if overdue != Some(wake.id) => return Ok(vec![]),
            Status::Waking { wake } => (Some(self.timed_out(wake, at)), self.timed_out_failures(wake, at)),
            Status::Hibernating { .. } => (None, self.failures.clone()),
            Status::Down { .. } => return Err(Rejection::NoRecipe),
        };
        // A command repeated after its wake: an id names only one wake.
        let requested_before =
            self.status.wake().is_some_and(|wake| wake.id == wake_id) || self.ended_wake(wake_id).is_some();
        if requested_before {
            return Ok(ended.into_iter().collect());
        }
        let Some(recipe) = self.spec.wake() else {
            return Err(Rejection::NoRecipe);
        };
        // A wake that has succeeded since shows the same as the agent's word.
        let succeeded = self.wakes.last().filter(|last| last.failure.is_none());
        let allowed_at = allowed_at.max(succeeded.map(|last| last.ended_at_ms));
        let backoff = failures
            .backoff_at(at)
            .filter(|_| !failures.is_allowed_again(allowed_at));
        match (backoff, ended) {
            // Only the time-out, which brings the backoff; the next request is refused with it.
            (Some(_), Some(ended)) => Ok(vec![ended]),
            (Some(retry_after), None) => Err(Rejection::RecentlyFailed {
                retry_after,
                failures,
            }),
            (None, ended) => {
                let deadline_ms = at.plus(recipe.budget()).plus(DEADLINE_MARGIN);
                let wake = Wake {
                    id: wake_id,
                    cause: cause.bounded(),
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

    pub(super) fn report_wake(
        &self,
        wake_id: WakeId,
        report: ReportId,
        outcome: &WakeOutcome,
        at: Timestamp,
    ) -> Decision {
        let in_flight = |wake: &Wake| wake.id == wake_id;
        match (&self.status, outcome) {
            (Status::Waking { wake }, WakeOutcome::Succeeded { stages }) if in_flight(wake) => {
                self.report_awake(report, Some(Stage::bounded(stages)), at)
            }
            (Status::Waking { wake }, WakeOutcome::Failed { failure, stages }) if in_flight(wake) => {
                let failure = failure.bounded();
                Ok(vec![ProviderEvent::WakeFailed {
                    wake_id,
                    report: Some(report),
                    failures: self.failures.after(&failure, at),
                    failure,
                    stages: Stage::bounded(stages),
                    at_ms: at,
                }])
            }
            // Late, but the backend is up.
            (Status::Hibernating { .. } | Status::Down { .. }, WakeOutcome::Succeeded { .. }) => {
                self.report_awake(report, None, at)
            }
            (Status::Inactive { .. }, _) => Err(Rejection::ResumeFirst),
            (Status::Waking { .. } | Status::Active { .. }, _)
            | (Status::Hibernating { .. } | Status::Down { .. }, WakeOutcome::Failed { .. }) => Ok(vec![]),
        }
    }

    /// The backend is up. `stages` are those of the recipe that has brought it up, if one has.
    pub(super) fn report_awake(
        &self,
        report: ReportId,
        stages: Option<Vec<Stage>>,
        at: Timestamp,
    ) -> Decision {
        match &self.status {
            Status::Waking { wake } => Ok(vec![ProviderEvent::WakeSucceeded {
                wake_id: wake.id,
                report: Some(report),
                stages: stages.unwrap_or_else(|| wake.found_awake(at)),
                at_ms: at,
            }]),
            Status::Hibernating { .. } | Status::Down { .. } => {
                Ok(vec![ProviderEvent::BackendAwoke { report, at_ms: at }])
            }
            Status::Active { .. } => Ok(vec![]),
            Status::Inactive { .. } => Err(Rejection::ResumeFirst),
        }
    }

    /// Ends a wake in flight for a reason outside the backend, so that it doesn't count as its failure.
    pub(super) fn abandon_wake(
        &self,
        kind: WakeFailureKind,
        why: &str,
        at: Timestamp,
    ) -> Option<ProviderEvent> {
        self.status.wake().map(|wake| ProviderEvent::WakeFailed {
            wake_id: wake.id,
            report: None,
            failure: WakeFailure::new(kind, "agent", why),
            stages: vec![],
            failures: self.failures.clone(),
            at_ms: at,
        })
    }

    pub(super) fn timed_out(&self, wake: &Wake, at: Timestamp) -> ProviderEvent {
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
