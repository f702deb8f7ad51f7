//! What can be asked of a provider. Every command brings its time, in NATS time.

use crate::{
    ids::{Epoch, ReportId, WakeId},
    names::ProviderId,
    spec::{Availability, ProviderSpec},
    time::Timestamp,
    wake::{SleepReason, WakeCause, WakeOutcome},
};
use std::time::Duration;

/// A command to a provider; the rules are at [`crate::Provider::decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderCommand {
    /// The agent publishes the provider, at its start or after its config changed.
    Register {
        /// The provider.
        id: ProviderId,
        /// The agent's epoch.
        epoch: Epoch,
        /// What it publishes.
        spec: ProviderSpec,
        /// What the probe found, when it was asked.
        availability: Option<Availability>,
        /// Now.
        at: Timestamp,
    },
    /// Somebody needs the backend. Without an event the state tells why: active is already awake, waking is joined,
    /// hibernating is that this very wake has ended ([`crate::provider::Registered::ended_wake`]). An overdue wake
    /// may only be ended, when its failure brings a hold: then nothing is in flight afterwards.
    RequestWake {
        /// The id of the wake, should one begin.
        wake_id: WakeId,
        /// Who needs it.
        cause: WakeCause,
        /// Now.
        at: Timestamp,
    },
    /// The agent tells how a wake went.
    ReportWake {
        /// The wake.
        wake_id: WakeId,
        /// The report.
        report: ReportId,
        /// How it went.
        outcome: WakeOutcome,
        /// Now.
        at: Timestamp,
    },
    /// The agent tells that the backend sleeps.
    ReportAsleep {
        /// The report.
        report: ReportId,
        /// Why it sleeps.
        reason: SleepReason,
        /// The wake of another member of its group that it made room for.
        for_wake: Option<WakeId>,
        /// Now.
        at: Timestamp,
    },
    /// The agent tells that the backend came up by itself.
    ReportAwake {
        /// The report.
        report: ReportId,
        /// Now.
        at: Timestamp,
    },
    /// Time passed.
    ExpireWake {
        /// The wake that was seen past its deadline.
        wake_id: WakeId,
        /// Now.
        at: Timestamp,
    },
    /// The agent went silent.
    MarkInactive {
        /// The epoch that went silent.
        epoch: Epoch,
        /// When it was last heard.
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
    /// The agent, itself, tells that it is there after all.
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
    /// It has been inactive for long.
    Expire {
        /// For how long it must have been inactive.
        after: Duration,
        /// Now.
        at: Timestamp,
    },
}
