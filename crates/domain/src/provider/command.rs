//! The commands of a provider. Each brings its time, in NATS time.

use crate::{
    ids::{Epoch, ReportId, ReportSeq, WakeId},
    names::ProviderId,
    spec::{Availability, ProviderSpec},
    time::Timestamp,
    wake::{SleepReason, WakeCause, WakeOutcome},
};
use std::time::Duration;

/// A command to a provider. [`Provider::decide`](crate::Provider::decide) has the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderCommand {
    /// The agent publishes the provider, when it starts or when its config has changed.
    Register {
        /// The provider.
        id: ProviderId,
        /// The agent's epoch.
        epoch: Epoch,
        /// The number of what the session says, as a report has one; 0 when it isn't numbered.
        seq: ReportSeq,
        /// What it publishes.
        spec: ProviderSpec,
        /// What the probe found, if it ran.
        availability: Option<Availability>,
        /// Now.
        at: Timestamp,
    },
    /// Wake the backend. When there is no event, the state tells why: an active backend is awake already, a waking one is
    /// joined, and a hibernating one means that this very wake has ended
    /// ([`Registered::ended_wake`](crate::provider::Registered::ended_wake)). An overdue wake is ended first; if its
    /// failure brings a backoff, no new wake begins.
    RequestWake {
        /// The id of the wake that may begin.
        wake_id: WakeId,
        /// What causes it.
        cause: WakeCause,
        /// The wake in flight, if its deadline has passed. That isn't decided by `at`, since NATS's clock may have been set.
        overdue: Option<WakeId>,
        /// When the agent last said that its owner lets it wake backends: what the owner refused before then delays nothing.
        allowed_at: Option<Timestamp>,
        /// Now.
        at: Timestamp,
    },
    /// The agent reports how a wake ended.
    ReportWake {
        /// The wake.
        wake_id: WakeId,
        /// The report.
        report: ReportId,
        /// How it ended.
        outcome: WakeOutcome,
        /// Now.
        at: Timestamp,
    },
    /// The agent reports that the backend is asleep or, without a wake recipe, unavailable.
    ReportAsleep {
        /// The report.
        report: ReportId,
        /// Why it is asleep.
        reason: SleepReason,
        /// The wake of another member of its group that it made room for.
        for_wake: Option<WakeId>,
        /// Now.
        at: Timestamp,
    },
    /// The agent reports that the backend came up by itself.
    ReportAwake {
        /// The report.
        report: ReportId,
        /// Now.
        at: Timestamp,
    },
    /// A wake's deadline has passed, as control measured it.
    ExpireWake {
        /// The wake.
        wake_id: WakeId,
        /// Now.
        at: Timestamp,
    },
    /// The agent went silent.
    MarkInactive {
        /// The epoch that went silent.
        epoch: Epoch,
        /// Its last heartbeat.
        last_heartbeat: Timestamp,
        /// Now.
        at: Timestamp,
    },
    /// The agent stops cleanly.
    AgentStopped {
        /// Its epoch.
        epoch: Epoch,
        /// Now.
        at: Timestamp,
    },
    /// The agent reports that it is still there.
    Resume {
        /// The report.
        report: ReportId,
        /// What the probe found.
        availability: Availability,
        /// Now.
        at: Timestamp,
    },
    /// The agent no longer publishes the provider.
    Deregister {
        /// Its epoch.
        epoch: Epoch,
        /// Now.
        at: Timestamp,
    },
    /// Remove a provider that has been inactive for long.
    Expire {
        /// How long it must have been inactive.
        after: Duration,
        /// Now.
        at: Timestamp,
    },
}
