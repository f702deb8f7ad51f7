//! Names, times, commands and events for the examples, without what doesn't matter.

use super::super::InactiveReason;
use super::*;

// Times are seconds after an arbitrary beginning.

pub(super) const fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + secs * 1000)
}

/// The published budget of [`recipe`]; the deadline is [`DEADLINE_MARGIN`](super::super::DEADLINE_MARGIN) later.
pub(super) const BUDGET_SECS: u64 = 60;
/// How long after its request the deadline of a wake of [`recipe`] is.
pub(super) const DEADLINE_SECS: u64 = 65;

pub(super) fn id() -> ProviderId {
    "gpu-box/vllm".parse().expect("legal")
}

pub(super) fn spec(models: &[&str], wake: Option<WakeSpec>) -> ProviderSpec {
    let models = models.iter().map(|model| ModelName::parse(model).expect("legal"));
    ProviderSpec::new(models.collect(), wake, false).expect("legal")
}

/// A spec with a wake recipe.
pub(super) fn recipe() -> ProviderSpec {
    let wake = WakeSpec {
        kind: RecipeKind::Http,
        budget_ms: BUDGET_SECS * 1000,
    };
    spec(&["qwen3-8b"], Some(wake))
}

/// A spec without one.
pub(super) fn no_recipe() -> ProviderSpec {
    spec(&["qwen3-8b"], None)
}

/// [`recipe`] with another model.
pub(super) fn more_models() -> ProviderSpec {
    spec(&["qwen3-8b", "qwen3-32b"], recipe().wake().copied())
}

pub(super) const UP: Option<Availability> = Some(Availability::Available);
pub(super) const DOWN: Option<Availability> = Some(Availability::Unavailable);

pub(super) const fn wake_id(wake: u128) -> WakeId {
    WakeId(Uuid::from_u128(wake))
}

pub(super) fn cause() -> WakeCause {
    WakeCause::Request {
        request_id: "req-1".into(),
        model: ModelName::parse("qwen3-8b").expect("legal"),
        key: None,
    }
}

pub(super) const fn report(epoch: u64, seq: u64) -> ReportId {
    ReportId {
        epoch: Epoch(epoch),
        seq: ReportSeq(seq),
    }
}

pub(super) fn stages() -> Vec<Stage> {
    vec![Stage {
        name: "step 1 http".into(),
        started_after_ms: 1,
        took_ms: 20,
    }]
}

pub(super) fn failure() -> WakeFailure {
    WakeFailure::new(
        WakeFailureKind::Recipe,
        "step 1 http",
        "the controller answered 500",
    )
}

pub(super) fn abandoned(kind: WakeFailureKind, reason: &str) -> WakeFailure {
    WakeFailure::new(kind, "agent", reason)
}

pub(super) fn late() -> WakeFailure {
    WakeFailure::new(
        WakeFailureKind::TimedOut,
        "deadline",
        "no outcome was reported within 65000 ms",
    )
}

/// `count` failures in a row, the last as given.
pub(super) fn failures(count: u32, held_until: Option<u64>, last: WakeFailure) -> Failures {
    Failures {
        count,
        held_until_ms: held_until.map(at),
        last: Some(last),
    }
}

pub(super) fn none() -> Failures {
    Failures::default()
}

// Commands.

pub(super) fn register(
    epoch: u64,
    spec: ProviderSpec,
    availability: Option<Availability>,
    secs: u64,
) -> ProviderCommand {
    ProviderCommand::Register {
        id: id(),
        epoch: Epoch(epoch),
        seq: ReportSeq(0),
        spec,
        availability,
        at: at(secs),
    }
}

pub(super) fn request_wake(wake: u128, secs: u64) -> ProviderCommand {
    request_wake_after(None, wake, secs)
}

/// A request for a wake by a replica to which `overdue` has passed its deadline.
pub(super) fn request_wake_after(overdue: Option<u128>, wake: u128, secs: u64) -> ProviderCommand {
    ProviderCommand::RequestWake {
        wake_id: wake_id(wake),
        cause: cause(),
        overdue: overdue.map(wake_id),
        allowed_at: None,
        at: at(secs),
    }
}

pub(super) fn report_success(wake: u128, report: ReportId, secs: u64) -> ProviderCommand {
    ProviderCommand::ReportWake {
        wake_id: wake_id(wake),
        report,
        outcome: WakeOutcome::Succeeded { stages: stages() },
        at: at(secs),
    }
}

pub(super) fn report_failure(wake: u128, report: ReportId, secs: u64) -> ProviderCommand {
    let outcome = WakeOutcome::Failed {
        failure: failure(),
        stages: stages(),
    };
    ProviderCommand::ReportWake {
        wake_id: wake_id(wake),
        report,
        outcome,
        at: at(secs),
    }
}

pub(super) fn report_asleep(report: ReportId, reason: SleepReason, secs: u64) -> ProviderCommand {
    ProviderCommand::ReportAsleep {
        report,
        reason,
        for_wake: None,
        at: at(secs),
    }
}

pub(super) fn report_awake(report: ReportId, secs: u64) -> ProviderCommand {
    ProviderCommand::ReportAwake { report, at: at(secs) }
}

pub(super) fn expire_wake(wake: u128, secs: u64) -> ProviderCommand {
    ProviderCommand::ExpireWake {
        wake_id: wake_id(wake),
        at: at(secs),
    }
}

pub(super) fn mark_inactive(epoch: u64, last_heartbeat: u64, secs: u64) -> ProviderCommand {
    ProviderCommand::MarkInactive {
        epoch: Epoch(epoch),
        last_heartbeat: at(last_heartbeat),
        at: at(secs),
    }
}

pub(super) fn agent_stopped(epoch: u64, secs: u64) -> ProviderCommand {
    ProviderCommand::AgentStopped {
        epoch: Epoch(epoch),
        at: at(secs),
    }
}

pub(super) fn resume(report: ReportId, availability: Availability, secs: u64) -> ProviderCommand {
    ProviderCommand::Resume {
        report,
        availability,
        at: at(secs),
    }
}

pub(super) fn deregister(epoch: u64, secs: u64) -> ProviderCommand {
    ProviderCommand::Deregister {
        epoch: Epoch(epoch),
        at: at(secs),
    }
}

pub(super) const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) fn expire(secs: u64) -> ProviderCommand {
    ProviderCommand::Expire {
        after: MONTH,
        at: at(secs),
    }
}

// Events.

pub(super) fn registered(epoch: u64, spec: ProviderSpec, status: RegisteredAs, secs: u64) -> ProviderEvent {
    registered_after(epoch, spec, status, none(), secs)
}

pub(super) fn registered_after(
    epoch: u64,
    spec: ProviderSpec,
    status: RegisteredAs,
    failures: Failures,
    secs: u64,
) -> ProviderEvent {
    ProviderEvent::ProviderRegistered {
        id: id(),
        epoch: Epoch(epoch),
        seq: ReportSeq(0),
        spec,
        status,
        failures,
        at_ms: at(secs),
    }
}

pub(super) fn requested(wake: u128, secs: u64) -> ProviderEvent {
    let wake = Wake {
        id: wake_id(wake),
        cause: cause(),
        requested_at_ms: at(secs),
        deadline_ms: at(secs + DEADLINE_SECS),
    };
    ProviderEvent::WakeRequested { wake }
}

pub(super) fn succeeded(wake: u128, report: ReportId, secs: u64) -> ProviderEvent {
    ProviderEvent::WakeSucceeded {
        wake_id: wake_id(wake),
        report: Some(report),
        stages: stages(),
        at_ms: at(secs),
    }
}

/// A wake that was requested at 10 ends because its backend is found awake.
pub(super) fn found_awake(wake: u128, report: Option<ReportId>, secs: u64) -> ProviderEvent {
    let stage = Stage {
        name: "found awake".to_owned(),
        started_after_ms: 0,
        took_ms: (secs - 10) * 1000,
    };
    ProviderEvent::WakeSucceeded {
        wake_id: wake_id(wake),
        report,
        stages: vec![stage],
        at_ms: at(secs),
    }
}

pub(super) fn failed(wake: u128, report: ReportId, failures: Failures, secs: u64) -> ProviderEvent {
    ProviderEvent::WakeFailed {
        wake_id: wake_id(wake),
        report: Some(report),
        failure: failure(),
        stages: stages(),
        failures,
        at_ms: at(secs),
    }
}

pub(super) fn wake_abandoned(
    wake: u128,
    failure: WakeFailure,
    failures: Failures,
    secs: u64,
) -> ProviderEvent {
    ProviderEvent::WakeFailed {
        wake_id: wake_id(wake),
        report: None,
        failure,
        stages: vec![],
        failures,
        at_ms: at(secs),
    }
}

pub(super) fn timed_out(wake: u128, failures: Failures, secs: u64) -> ProviderEvent {
    ProviderEvent::WakeTimedOut {
        wake_id: wake_id(wake),
        failure: late(),
        failures,
        at_ms: at(secs),
    }
}

pub(super) fn slept(report: ReportId, reason: SleepReason, failures: Failures, secs: u64) -> ProviderEvent {
    ProviderEvent::BackendSlept {
        report,
        reason,
        for_wake: None,
        failures,
        at_ms: at(secs),
    }
}

pub(super) fn went_down(report: ReportId, reason: SleepReason, secs: u64) -> ProviderEvent {
    ProviderEvent::BackendWentDown {
        report,
        reason,
        at_ms: at(secs),
    }
}

pub(super) fn awoke(report: ReportId, secs: u64) -> ProviderEvent {
    ProviderEvent::BackendAwoke {
        report,
        at_ms: at(secs),
    }
}

pub(super) fn lost(epoch: u64, was: StableStatus, last_heartbeat: u64, secs: u64) -> ProviderEvent {
    ProviderEvent::ProviderBecameInactive {
        epoch: Epoch(epoch),
        reason: InactiveReason::AgentLost,
        was,
        failures: none(),
        last_heartbeat_ms: Some(at(last_heartbeat)),
        at_ms: at(secs),
    }
}

pub(super) fn stopped(epoch: u64, was: StableStatus, secs: u64) -> ProviderEvent {
    ProviderEvent::ProviderBecameInactive {
        epoch: Epoch(epoch),
        reason: InactiveReason::AgentStopped,
        was,
        failures: none(),
        last_heartbeat_ms: None,
        at_ms: at(secs),
    }
}

pub(super) fn resumed(report: ReportId, status: StableStatus, secs: u64) -> ProviderEvent {
    ProviderEvent::ProviderResumed {
        report,
        status,
        at_ms: at(secs),
    }
}

pub(super) fn deregistered(epoch: u64, secs: u64) -> ProviderEvent {
    ProviderEvent::ProviderDeregistered {
        epoch: Epoch(epoch),
        at_ms: at(secs),
    }
}

pub(super) fn expired(secs: u64) -> ProviderEvent {
    ProviderEvent::ProviderExpired { at_ms: at(secs) }
}
