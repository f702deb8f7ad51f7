//! The fold: a provider's state after an event. It cannot fail and has no rules.

use super::{
    event::{ProviderEvent, RegisteredAs},
    state::{Gone, Provider, Registered, StableStatus, Status, WakeCounts},
};
use crate::{
    ids::{Epoch, ReportId, ReportSeq, WakeId},
    time::Timestamp,
    wake::{Stage, WakeFailure, WakeRecord},
};

/// How many ended wakes a provider remembers.
const REMEMBERED_WAKES: usize = 8;

impl Provider {
    /// The state after `event`.
    #[must_use]
    pub fn evolve(self, event: &ProviderEvent) -> Self {
        match (self, event) {
            (before, ProviderEvent::ProviderRegistered { .. }) => before.registered_by(event),
            (Self::Registered(registered), ProviderEvent::ProviderDeregistered { epoch, at_ms }) => {
                Self::Gone(registered.owned_by(*epoch).gone(*at_ms))
            }
            (Self::Registered(registered), ProviderEvent::ProviderExpired { at_ms }) => {
                Self::Gone(registered.gone(*at_ms))
            }
            (Self::Registered(registered), event) => Self::Registered(registered.evolve(event)),
            (before @ (Self::Unregistered | Self::Gone(_)), _) => before,
        }
    }

    fn registered_by(self, event: &ProviderEvent) -> Self {
        let ProviderEvent::ProviderRegistered {
            id,
            epoch,
            seq,
            spec,
            status,
            failures,
            at_ms,
        } = event
        else {
            return self;
        };
        let (last, was, wakes, counts) = match self {
            Self::Unregistered => (None, None, vec![], WakeCounts::default()),
            Self::Gone(gone) => (Some(gone.last_report()), None, gone.wakes, gone.counts),
            Self::Registered(was) => (Some(was.last_report()), Some(was.status), was.wakes, was.counts),
        };
        // The same session continues to count its reports.
        let last_seq = last
            .filter(|last| last.epoch == *epoch)
            .map_or(*seq, |last| last.seq.max(*seq));
        // An unchanged status keeps its data: its beginning, and the wake that a death soon after it counts against.
        let status = match (status, was) {
            (RegisteredAs::Waking, Some(waking @ Status::Waking { .. })) => waking,
            (RegisteredAs::Active, Some(active @ Status::Active { .. })) => active,
            (RegisteredAs::Hibernating, Some(hibernating @ Status::Hibernating { .. })) => hibernating,
            (RegisteredAs::Down, Some(down @ Status::Down { .. })) => down,
            (RegisteredAs::Active, _) => Status::Active {
                since_ms: *at_ms,
                woken_by: None,
            },
            (RegisteredAs::Hibernating | RegisteredAs::Waking, _) => Status::Hibernating { since_ms: *at_ms },
            (RegisteredAs::Down, _) => Status::Down { since_ms: *at_ms },
        };
        Self::Registered(Registered {
            id: id.clone(),
            spec: spec.clone(),
            epoch: *epoch,
            last_seq,
            heard_at_ms: *at_ms,
            status,
            failures: failures.clone(),
            wakes,
            counts,
        })
    }
}

impl Registered {
    /// A later session may stop or withdraw what it never registered, and the provider then belongs to that session.
    fn owned_by(mut self, epoch: Epoch) -> Self {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.last_seq = ReportSeq(0);
        }
        self
    }

    fn gone(self, since_ms: Timestamp) -> Gone {
        Gone {
            id: self.id,
            epoch: self.epoch,
            last_seq: self.last_seq,
            since_ms,
            wakes: self.wakes,
            counts: self.counts,
        }
    }

    fn evolve(mut self, event: &ProviderEvent) -> Self {
        match event {
            ProviderEvent::ProviderRegistered { .. }
            | ProviderEvent::ProviderDeregistered { .. }
            | ProviderEvent::ProviderExpired { .. } => {}
            ProviderEvent::WakeRequested { wake } => {
                self.counts.requested = self.counts.requested.saturating_add(1);
                self.status = Status::Waking { wake: wake.clone() };
            }
            ProviderEvent::WakeSucceeded {
                wake_id,
                report,
                stages,
                at_ms,
            } => {
                self.end_wake(*wake_id, *at_ms, stages, None);
                self.heard(*report, *at_ms);
                // Without a report it was a registration that showed it, so the agent was heard from.
                self.heard_at_ms = *at_ms;
                self.status = Status::Active {
                    since_ms: *at_ms,
                    woken_by: Some(*wake_id),
                };
            }
            ProviderEvent::WakeFailed {
                wake_id,
                report,
                failure,
                failures,
                stages,
                at_ms,
            } => {
                self.end_wake(*wake_id, *at_ms, stages, Some(failure.clone()));
                self.heard(*report, *at_ms);
                self.failures = failures.clone();
                self.status = Status::Hibernating { since_ms: *at_ms };
            }
            ProviderEvent::WakeTimedOut {
                wake_id,
                failure,
                failures,
                at_ms,
            } => {
                self.end_wake(*wake_id, *at_ms, &[], Some(failure.clone()));
                self.failures = failures.clone();
                self.status = Status::Hibernating { since_ms: *at_ms };
            }
            ProviderEvent::BackendSlept {
                report,
                failures,
                at_ms,
                ..
            } => {
                self.heard(Some(*report), *at_ms);
                self.failures = failures.clone();
                self.status = Status::Hibernating { since_ms: *at_ms };
            }
            ProviderEvent::BackendWentDown { report, at_ms, .. } => {
                self.heard(Some(*report), *at_ms);
                self.status = Status::Down { since_ms: *at_ms };
            }
            ProviderEvent::BackendAwoke { report, at_ms } => {
                self.heard(Some(*report), *at_ms);
                self.status = Status::Active {
                    since_ms: *at_ms,
                    woken_by: None,
                };
            }
            ProviderEvent::ProviderBecameInactive {
                epoch,
                reason,
                was,
                failures,
                at_ms,
                ..
            } => {
                self = self.owned_by(*epoch);
                self.failures = failures.clone();
                self.status = Status::Inactive {
                    since_ms: *at_ms,
                    reason: *reason,
                    was: *was,
                };
            }
            ProviderEvent::ProviderResumed {
                report,
                status,
                at_ms,
            } => {
                self.heard(Some(*report), *at_ms);
                self.status = match status {
                    StableStatus::Active => Status::Active {
                        since_ms: *at_ms,
                        woken_by: None,
                    },
                    StableStatus::Hibernating => Status::Hibernating { since_ms: *at_ms },
                    StableStatus::Down => Status::Down { since_ms: *at_ms },
                };
            }
        }
        self
    }

    fn heard(&mut self, report: Option<ReportId>, at: Timestamp) {
        if let Some(report) = report {
            self.last_seq = report.seq;
            self.heard_at_ms = at;
        }
    }

    fn end_wake(&mut self, id: WakeId, at: Timestamp, stages: &[Stage], failure: Option<WakeFailure>) {
        let ended = if failure.is_none() {
            &mut self.counts.succeeded
        } else {
            &mut self.counts.failed
        };
        *ended = ended.saturating_add(1);
        let requested_at_ms = self.status.wake().map_or(at, |wake| wake.requested_at_ms);
        self.wakes.push(WakeRecord {
            id,
            requested_at_ms,
            ended_at_ms: at,
            group_wait_ms: Stage::group_wait_ms(stages),
            failure,
        });
        let surplus = self.wakes.len().saturating_sub(REMEMBERED_WAKES);
        self.wakes.drain(..surplus);
    }
}
