//! What the events alone say, kept apart from the state so that one checks the other.

use super::steps::{Ask, Step, specs};
use proptest::sample::Index;
use reveille_domain::{
    Epoch, ModelName, Provider, ProviderCommand, ProviderEvent, ReportId, ReportSeq, Status, Timestamp,
    WakeCause, WakeId,
};
use std::{collections::HashSet, time::Duration};
use uuid::Uuid;

/// After how long an inactive provider expires here.
const EXPIRE_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How many ended wakes a state remembers.
const REMEMBERED_WAKES: usize = 8;

/// What a reader of the journal alone knows of a provider.
#[derive(Default)]
pub struct Journal {
    /// All of them.
    pub events: Vec<ProviderEvent>,
    /// The last report accepted of the latest session that was.
    pub heard: (u64, u64),
    in_flight: Option<WakeId>,
    requested: Vec<WakeId>,
    ended: HashSet<WakeId>,
}

impl Journal {
    /// Takes an event in, if it is legal after those before.
    pub fn append(&mut self, event: &ProviderEvent) {
        match event {
            ProviderEvent::WakeRequested { wake } => {
                assert_eq!(self.in_flight, None, "at most one wake in flight");
                assert!(!self.requested.contains(&wake.id), "an id names one wake");
                self.requested.push(wake.id);
                self.in_flight = Some(wake.id);
            }
            ProviderEvent::WakeSucceeded { wake_id, report, .. }
            | ProviderEvent::WakeFailed { wake_id, report, .. } => {
                self.end(*wake_id);
                report.iter().for_each(|report| self.hear(*report));
            }
            ProviderEvent::WakeTimedOut { wake_id, .. } => self.end(*wake_id),
            ProviderEvent::BackendSlept { report, .. }
            | ProviderEvent::BackendWentDown { report, .. }
            | ProviderEvent::BackendAwoke { report, .. }
            | ProviderEvent::ProviderResumed { report, .. } => self.hear(*report),
            ProviderEvent::ProviderRegistered { epoch, seq, .. } => {
                let (epoch, seq) = (*epoch, *seq);
                self.speaks(epoch);
                if !seq.is_zero() {
                    self.hear(ReportId { epoch, seq });
                }
            }
            ProviderEvent::ProviderBecameInactive { epoch, .. }
            | ProviderEvent::ProviderDeregistered { epoch, .. } => {
                self.speaks(*epoch);
            }
            ProviderEvent::ProviderExpired { .. } => {}
        }
        self.events.push(event.clone());
    }

    fn end(&mut self, wake: WakeId) {
        assert_eq!(self.in_flight.take(), Some(wake), "only the wake in flight ends");
        assert!(self.ended.insert(wake), "a wake ends once");
    }

    /// A session speaks for the provider from now on, if it didn't before.
    fn speaks(&mut self, epoch: Epoch) {
        assert!(epoch.0 >= self.heard.0, "epochs never restart");
        if epoch.0 > self.heard.0 {
            self.heard = (epoch.0, 0);
        }
    }

    fn hear(&mut self, report: ReportId) {
        let report = (report.epoch.0, report.seq.0);
        assert!(
            report > self.heard,
            "an older report was accepted: {report:?} after {:?}",
            self.heard
        );
        assert_eq!(report.0, self.heard.0, "a session registers before it reports");
        self.heard = report;
    }

    /// Whether this session, or this report, came before or was superseded.
    pub fn is_stale(&self, command: &ProviderCommand) -> bool {
        match command {
            ProviderCommand::Register { epoch, seq, .. } if !seq.is_zero() => (epoch.0, seq.0) <= self.heard,
            ProviderCommand::Register { epoch, .. }
            | ProviderCommand::MarkInactive { epoch, .. }
            | ProviderCommand::AgentStopped { epoch, .. }
            | ProviderCommand::Deregister { epoch, .. } => epoch.0 < self.heard.0,
            ProviderCommand::ReportWake { report, .. }
            | ProviderCommand::ReportAsleep { report, .. }
            | ProviderCommand::ReportAwake { report, .. }
            | ProviderCommand::Resume { report, .. } => (report.epoch.0, report.seq.0) <= self.heard,
            ProviderCommand::RequestWake { .. }
            | ProviderCommand::ExpireWake { .. }
            | ProviderCommand::Expire { .. } => false,
        }
    }

    /// One of the last few wakes, or one that never was.
    fn wake(&self, index: Index) -> WakeId {
        let recent = &self.requested[self.requested.len().saturating_sub(4)..];
        if recent.is_empty() {
            WakeId(Uuid::nil())
        } else {
            *index.get(recent)
        }
    }

    /// The command of `step`, with the epoch, number and wake that it means now.
    pub fn command(&self, step: &Step, at: Timestamp) -> ProviderCommand {
        let near = |value: u64, by: i64| value.saturating_add_signed(by);
        let epoch = Epoch(near(self.heard.0, step.epoch).max(1));
        let report = ReportId {
            epoch,
            seq: ReportSeq(near(self.heard.1, step.seq)),
        };
        match &step.ask {
            Ask::Register(spec, availability, numbered) => ProviderCommand::Register {
                id: "gpu-box/vllm".parse().expect("legal"),
                epoch,
                seq: if *numbered { report.seq } else { ReportSeq(0) },
                spec: specs()[*spec].clone(),
                availability: *availability,
                at,
            },
            Ask::RequestWake(old, request_id, overdue) => ProviderCommand::RequestWake {
                wake_id: old.map_or_else(
                    || WakeId(Uuid::from_u128(1 + self.requested.len() as u128)),
                    |old| self.wake(old),
                ),
                cause: WakeCause::Request {
                    request_id: request_id.clone(),
                    model: ModelName::parse("a").expect("legal"),
                    key: None,
                },
                overdue: self.in_flight.filter(|_| *overdue),
                allowed_at: None,
                at,
            },
            Ask::ReportWake(wake, outcome) => ProviderCommand::ReportWake {
                wake_id: self.wake(*wake),
                report,
                outcome: outcome.clone(),
                at,
            },
            Ask::ReportAsleep(reason) => ProviderCommand::ReportAsleep {
                report,
                reason: *reason,
                for_wake: None,
                at,
            },
            Ask::ReportAwake => ProviderCommand::ReportAwake { report, at },
            Ask::ExpireWake(wake) => ProviderCommand::ExpireWake {
                wake_id: self.wake(*wake),
                at,
            },
            Ask::MarkInactive(ago) => ProviderCommand::MarkInactive {
                epoch,
                last_heartbeat: Timestamp::from_millis(at.as_millis().saturating_sub(*ago)),
                at,
            },
            Ask::AgentStopped => ProviderCommand::AgentStopped { epoch, at },
            Ask::Resume(availability) => ProviderCommand::Resume {
                report,
                availability: *availability,
                at,
            },
            Ask::Deregister => ProviderCommand::Deregister { epoch, at },
            Ask::Expire => ProviderCommand::Expire {
                after: EXPIRE_AFTER,
                at,
            },
        }
    }

    /// The state agrees with the events.
    pub fn agrees_with(&self, provider: &Provider) {
        let (counts, remembered) = match provider {
            Provider::Unregistered => {
                assert_eq!(self.events, []);
                return;
            }
            Provider::Registered(provider) => (provider.counts, &provider.wakes),
            Provider::Gone(gone) => (gone.counts, &gone.wakes),
        };
        assert_eq!(
            remembered.len(),
            self.ended.len().min(REMEMBERED_WAKES),
            "the last few wakes are remembered"
        );
        assert!(
            remembered.iter().all(|wake| self.ended.contains(&wake.id)),
            "only what ended is remembered as ended"
        );
        let wake = provider.registered().and_then(|provider| provider.status.wake());
        assert_eq!(
            wake.map(|wake| wake.id),
            self.in_flight,
            "the state knows the wake in flight"
        );
        assert_eq!(counts.requested, self.requested.len() as u64);
        assert_eq!(
            counts.requested,
            counts.succeeded + counts.failed + u64::from(wake.is_some()),
            "every wake ends exactly once"
        );
        assert_eq!(provider.epoch().0, self.heard.0, "the epoch is kept");
        if let Some(wake) = wake {
            let expire = ProviderCommand::ExpireWake {
                wake_id: wake.id,
                at: wake.deadline_ms,
            };
            let ended = provider.decide(&expire).expect("never refused");
            assert_eq!(ended.len(), 1, "every wake ends at its deadline");
        }
        if let Some(provider) = provider.registered()
            && matches!(
                provider.status,
                Status::Hibernating { .. } | Status::Waking { .. }
            )
        {
            assert!(
                provider.spec.wake().is_some(),
                "what sleeps can be woken: {provider:#?}"
            );
        }
        if let Some(provider) = provider.registered()
            && matches!(provider.status, Status::Down { .. })
        {
            assert!(
                provider.spec.wake().is_none(),
                "what could be woken hibernates: {provider:#?}"
            );
        }
    }
}
