//! The rules of a provider: epochs, reports, wakes, and which event may follow on which status.

use super::{findings::Findings, invariant::Invariant};
use crate::{
    ids::{Epoch, ReportId, WakeId},
    names::ProviderId,
    provider::{Provider, ProviderEvent, Registered, RegisteredAs, StatusName},
    wake::Wake,
};

pub(super) fn check(
    id: &ProviderId,
    before: &Provider,
    event: &ProviderEvent,
    issued: Epoch,
    found: &mut Findings,
) {
    let check = Check {
        kind: event.into(),
        before,
        registered: before.registered(),
    };
    check.status(event, found);
    match event {
        ProviderEvent::ProviderRegistered {
            id: named,
            epoch,
            seq,
            status,
            ..
        } => {
            found.apply(Invariant::Readable, named == id, || {
                format!("{} names the provider {named}", check.kind)
            });
            check.epoch(*epoch, issued, found);
            if *epoch == before.epoch() && !seq.is_zero() {
                check.number(
                    ReportId {
                        epoch: *epoch,
                        seq: *seq,
                    },
                    found,
                );
            }
            if *status != RegisteredAs::Waking {
                check.no_wake_is_left(found);
            }
        }
        ProviderEvent::WakeRequested { wake } => check.begins(wake, found),
        ProviderEvent::WakeSucceeded { wake_id, report, .. }
        | ProviderEvent::WakeFailed { wake_id, report, .. } => {
            check.ends(*wake_id, found);
            if let Some(report) = report {
                check.report(*report, found);
            }
        }
        ProviderEvent::WakeTimedOut { wake_id, .. } => check.ends(*wake_id, found),
        ProviderEvent::BackendSlept { report, .. }
        | ProviderEvent::BackendWentDown { report, .. }
        | ProviderEvent::BackendAwoke { report, .. }
        | ProviderEvent::ProviderResumed { report, .. } => {
            check.no_wake_is_left(found);
            check.report(*report, found);
        }
        ProviderEvent::ProviderBecameInactive { epoch, .. }
        | ProviderEvent::ProviderDeregistered { epoch, .. } => {
            check.no_wake_is_left(found);
            check.epoch(*epoch, issued, found);
        }
        ProviderEvent::ProviderExpired { .. } => check.no_wake_is_left(found),
    }
}

struct Check<'a> {
    kind: &'static str,
    before: &'a Provider,
    registered: Option<&'a Registered>,
}

impl Check<'_> {
    fn in_flight(&self) -> Option<&Wake> {
        self.registered.and_then(|provider| provider.status.wake())
    }

    /// A session takes the provider over, or speaks for the one that it has.
    fn epoch(&self, epoch: Epoch, issued: Epoch, found: &mut Findings) {
        let before = self.before.epoch();
        found.apply(Invariant::Epoch, epoch >= before, || {
            format!("{} has epoch {epoch} after epoch {before}", self.kind)
        });
        found.apply(Invariant::Issued, epoch <= issued, || {
            format!(
                "{} has epoch {epoch}, but its agent had no session after {issued}",
                self.kind
            )
        });
    }

    fn report(&self, report: ReportId, found: &mut Findings) {
        let (epoch, before) = (report.epoch, self.before.epoch());
        found.apply(Invariant::Epoch, epoch >= before, || {
            format!("{} has epoch {epoch} after epoch {before}", self.kind)
        });
        if epoch > before {
            found.apply(Invariant::Report, false, || {
                format!(
                    "{} is of epoch {epoch}, which had not registered the provider",
                    self.kind
                )
            });
        } else if epoch == before {
            self.number(report, found);
        }
    }

    fn number(&self, report: ReportId, found: &mut Findings) {
        let (seq, before) = (report.seq, self.before.last_seq());
        found.apply(Invariant::Report, seq > before, || {
            format!(
                "{} is report {seq} of epoch {}, after report {before}",
                self.kind, report.epoch
            )
        });
    }

    fn begins(&self, wake: &Wake, found: &mut Findings) {
        let id = wake.id;
        found.apply(Invariant::OneWake, self.in_flight().is_none(), || {
            let in_flight = self.in_flight().map(|wake| wake.id.to_string());
            format!(
                "{} begins wake {id} while wake {} is in flight",
                self.kind,
                in_flight.unwrap_or_default()
            )
        });
        found.apply(Invariant::OneWake, self.before.ended_wake(id).is_none(), || {
            format!("{} begins wake {id}, which had ended", self.kind)
        });
    }

    fn ends(&self, id: WakeId, found: &mut Findings) {
        let in_flight = self.in_flight().map(|wake| wake.id);
        found.apply(Invariant::WakeEnd, in_flight == Some(id), || {
            let but = match in_flight {
                _ if self.before.ended_wake(id).is_some() => "which had ended".to_owned(),
                Some(other) => format!("but wake {other} is in flight"),
                None => "but no wake is in flight".to_owned(),
            };
            format!("{} ends wake {id}, {but}", self.kind)
        });
    }

    /// Nothing but its end ends a wake.
    fn no_wake_is_left(&self, found: &mut Findings) {
        found.apply(Invariant::WakeEnd, self.in_flight().is_none(), || {
            let wake = self.in_flight().map(|wake| wake.id.to_string());
            format!(
                "{} leaves wake {} without an end",
                self.kind,
                wake.unwrap_or_default()
            )
        });
    }

    /// Which events may follow on which status. That a wake is in flight, or isn't, has rules of its own.
    fn status(&self, event: &ProviderEvent, found: &mut Findings) {
        let status = self.registered.map(|provider| provider.status.name());
        let recipe = self
            .registered
            .is_some_and(|provider| provider.spec.wake().is_some());
        let holds = match event {
            ProviderEvent::ProviderRegistered { status: after, .. } => {
                *after != RegisteredAs::Waking || status == Some(StatusName::Waking)
            }
            ProviderEvent::WakeRequested { .. } => {
                recipe && matches!(status, Some(StatusName::Hibernating | StatusName::Waking))
            }
            ProviderEvent::WakeSucceeded { .. }
            | ProviderEvent::WakeFailed { .. }
            | ProviderEvent::WakeTimedOut { .. } => status.is_some(),
            ProviderEvent::BackendSlept { .. } => {
                recipe && matches!(status, Some(StatusName::Active | StatusName::Waking))
            }
            ProviderEvent::BackendWentDown { .. } => {
                !recipe && matches!(status, Some(StatusName::Active | StatusName::Waking))
            }
            ProviderEvent::BackendAwoke { .. } => matches!(
                status,
                Some(StatusName::Hibernating | StatusName::Down | StatusName::Waking)
            ),
            ProviderEvent::ProviderBecameInactive { .. } => {
                status.is_some_and(|status| status != StatusName::Inactive)
            }
            ProviderEvent::ProviderResumed { .. } | ProviderEvent::ProviderExpired { .. } => {
                status == Some(StatusName::Inactive)
            }
            ProviderEvent::ProviderDeregistered { .. } => status.is_some(),
        };
        found.apply(Invariant::Status, holds, || {
            let before = match (self.before, status) {
                (_, Some(status)) => {
                    format!("{status}{}", if recipe { "" } else { " and has no wake recipe" })
                }
                (Provider::Gone(_), None) => "gone".to_owned(),
                (Provider::Unregistered | Provider::Registered(_), None) => "unknown".to_owned(),
            };
            format!("{} while the provider is {before}", self.kind)
        });
    }
}
