//! Failed wakes delay the next one, longer each time, until the backend stays active.

use super::*;
use crate::{PAUSED_STAGE, QUIET_HOURS_STAGE, provider::rejection::Decision};

fn died() -> WakeFailure {
    WakeFailure::new(
        WakeFailureKind::Died,
        "active",
        "the backend died soon after it was woken",
    )
}

/// Hibernating after `count` failures, held until `held_until`.
fn after_failures(count: u32, held_until: Option<u64>) -> Given {
    given([
        registered(1, recipe(), RegisteredAs::Hibernating, 0),
        requested(1, 10),
        failed(1, report(1, 1), failures(count, held_until, failure()), 20),
    ])
}

/// Active since 30 by wake 2, after three failures.
fn woken_after_failures() -> Given {
    let mut given = after_failures(3, Some(22));
    given.happened([requested(2, 25), succeeded(2, report(1, 2), 30)]);
    given
}

#[test]
fn the_pause_is_none_after_the_first_failure_then_doubles_from_one_second_to_sixty() {
    let mut given = hibernating();
    let mut now = 100;
    for (failed_before, pause) in [0, 1, 2, 4, 8, 16, 32, 60, 60, 60].into_iter().enumerate() {
        let count = u32::try_from(failed_before).expect("few") + 1;
        let (wake, seq) = (u128::from(count), u64::from(count));
        let held_until = (pause > 0).then_some(now + pause);
        let failures = failures(count, held_until, failure());
        given = given
            .when(request_wake(wake, now))
            .then([requested(wake, now)])
            .when(report_failure(wake, report(1, seq), now))
            .then([failed(wake, report(1, seq), failures.clone(), now)]);
        if pause > 0 {
            given = given
                .when(request_wake(wake + 100, now))
                .then_refused(&Rejection::RecentlyFailed {
                    retry_after: Duration::from_secs(pause),
                    failures: failures.clone(),
                })
                .when(request_wake(wake + 100, now + pause - 1))
                .then_refused(&Rejection::RecentlyFailed {
                    retry_after: Duration::from_secs(1),
                    failures,
                });
        }
        now += pause;
    }
}

#[test]
fn a_pause_survives_any_number_of_failures() {
    let many = Failures {
        count: u32::MAX,
        ..none()
    };
    let more = many.and(failure(), at(0));
    assert_eq!((more.count, more.held_until_ms), (u32::MAX, Some(at(60))));
}

#[test]
fn a_pause_from_before_the_clock_was_set_back_is_over() {
    after_failures(3, Some(5000))
        .when(request_wake(2, 25))
        .then([requested(2, 25)]);
}

#[test]
fn a_time_out_counts_as_a_failure() {
    let mut given = after_failures(1, None);
    given.happened([requested(2, 30)]);
    given
        .when(expire_wake(2, 95))
        .then([timed_out(2, failures(2, Some(96), late()), 95)]);
}

#[test]
fn an_available_backend_ends_the_pause_but_not_the_count() {
    after_failures(3, Some(22))
        .when(report_awake(report(1, 2), 21))
        .then([awoke(report(1, 2), 21)])
        .when(request_wake(2, 21))
        .then_nothing();
}

#[test]
fn a_success_alone_does_not_reset_the_count() {
    let four = failures(4, Some(35), failure());
    woken_after_failures()
        .when(report_asleep(report(1, 3), SleepReason::Idle, 31))
        .then([slept(
            report(1, 3),
            SleepReason::Idle,
            failures(3, Some(22), failure()),
            31,
        )])
        .when(request_wake(3, 31))
        .then([requested(3, 31)])
        .when(report_failure(3, report(1, 4), 31))
        .then([failed(3, report(1, 4), four, 31)]);
}

#[test]
fn a_backend_that_dies_soon_after_a_wake_counts_as_a_failure() {
    for reason in [SleepReason::Exited, SleepReason::Unreachable] {
        let four = failures(4, Some(63), died());
        woken_after_failures()
            .when(report_asleep(report(1, 3), reason, 59))
            .then([slept(report(1, 3), reason, four.clone(), 59)])
            .when(request_wake(3, 60))
            .then_refused(&Rejection::RecentlyFailed {
                retry_after: Duration::from_secs(3),
                failures: four,
            });
    }
}

#[test]
fn a_backend_that_is_put_to_sleep_soon_after_a_wake_does_not_count_as_a_failure() {
    for reason in [
        SleepReason::Idle,
        SleepReason::Operator,
        SleepReason::Group,
        SleepReason::FoundAsleep,
    ] {
        woken_after_failures()
            .when(report_asleep(report(1, 3), reason, 31))
            .then([slept(report(1, 3), reason, failures(3, Some(22), failure()), 31)])
            .when(request_wake(3, 31))
            .then([requested(3, 31)]);
    }
}

#[test]
fn a_backend_that_came_up_by_itself_may_die_without_blame() {
    active()
        .when(report_asleep(report(1, 1), SleepReason::Exited, 1))
        .then([slept(report(1, 1), SleepReason::Exited, none(), 1)]);
}

#[test]
fn thirty_seconds_of_being_active_reset_the_count_even_when_it_then_dies() {
    for reason in [SleepReason::Idle, SleepReason::Exited] {
        woken_after_failures()
            .when(report_asleep(report(1, 3), reason, 60))
            .then([slept(report(1, 3), reason, none(), 60)]);
    }
}

#[test]
fn the_count_is_reset_however_the_active_time_ends() {
    woken_after_failures()
        .when(mark_inactive(1, 60, 60))
        .then([lost(1, StableStatus::Active, 60, 60)]);
    woken_after_failures()
        .when(register(2, recipe(), DOWN, 60))
        .then([registered(2, recipe(), RegisteredAs::Hibernating, 60)]);
}

#[test]
fn the_count_is_kept_when_the_active_time_was_too_short() {
    let three = || failures(3, Some(22), failure());
    woken_after_failures()
        .when(register(2, recipe(), DOWN, 59))
        .then([registered_after(
            2,
            recipe(),
            RegisteredAs::Hibernating,
            three(),
            59,
        )]);
    let lost = ProviderEvent::ProviderBecameInactive {
        epoch: Epoch(1),
        reason: super::super::InactiveReason::AgentLost,
        was: StableStatus::Active,
        failures: three(),
        last_heartbeat_ms: Some(at(59)),
        at_ms: at(59),
    };
    woken_after_failures().when(mark_inactive(1, 59, 59)).then([lost]);
}

#[test]
fn a_wake_that_ends_for_another_reason_than_the_backend_does_not_count() {
    let mut given = after_failures(1, None);
    given.happened([requested(2, 30)]);
    let given = given.when(deregister(1, 31));
    let events = given.decision.as_ref().expect("accepted");
    let ProviderEvent::WakeFailed { failures, .. } = &events[0] else {
        panic!("the wake ends first: {events:?}")
    };
    assert_eq!(failures.count, 1);
}

#[test]
fn a_backend_that_ends_under_its_requests_counts_as_a_failure_however_long_it_was_active() {
    let crashed = WakeFailure::new(
        WakeFailureKind::Died,
        "active",
        "the backend ended while it worked on requests",
    );
    for given in [active(), after_failures(0, None)] {
        let one = failures(1, None, crashed.clone());
        let mut given = given;
        given.happened([awoke(report(1, 2), 25)]);
        given
            .when(report_asleep(report(1, 3), SleepReason::Crashed, 1000))
            .then([slept(report(1, 3), SleepReason::Crashed, one, 1000)]);
    }
    let four = failures(4, Some(1004), crashed);
    woken_after_failures()
        .when(report_asleep(report(1, 3), SleepReason::Crashed, 1000))
        .then([slept(report(1, 3), SleepReason::Crashed, four.clone(), 1000)])
        .when(request_wake(3, 1001))
        .then_refused(&Rejection::RecentlyFailed {
            retry_after: Duration::from_secs(3),
            failures: four,
        });
}

/// The end of wake 2 as `failure`, which leaves `failures`.
fn failed_by(failure: &WakeFailure, failures: Failures) -> ProviderEvent {
    ProviderEvent::WakeFailed {
        wake_id: wake_id(2),
        report: Some(report(1, 2)),
        failure: failure.clone(),
        stages: vec![],
        failures,
        at_ms: at(40),
    }
}

/// The report that wake 2 failed so.
fn failed_as(kind: WakeFailureKind) -> (ProviderCommand, WakeFailure) {
    let failure = WakeFailure::new(kind, "stage", "a reason");
    let command = ProviderCommand::ReportWake {
        wake_id: wake_id(2),
        report: report(1, 2),
        outcome: WakeOutcome::Failed {
            failure: failure.clone(),
            stages: vec![],
        },
        at: at(40),
    };
    (command, failure)
}

#[test]
fn a_wake_that_the_owner_did_not_allow_is_remembered_for_a_moment_and_does_not_count() {
    let (not_allowed, failure) = failed_as(WakeFailureKind::NotAllowed);
    let mut given = after_failures(1, None);
    given.happened([requested(2, 30)]);
    let remembered = failures(1, Some(45), failure.clone());
    given
        .when(not_allowed)
        .then([failed_by(&failure, remembered.clone())])
        .when(request_wake(3, 41))
        .then_refused(&Rejection::RecentlyFailed {
            retry_after: Duration::from_secs(4),
            failures: remembered,
        })
        .when(request_wake(3, 45))
        .then([requested(3, 45)]);
}

/// A wake requested at second 41, after a refusal in this stage at 40, by a replica to which the agent said at `allowed_at` that its
/// owner lets it wake backends.
fn requested_after_a_refusal(stage: &str, allowed_at: Option<u64>) -> Decision {
    let mut given = after_failures(1, None);
    let failure = WakeFailure::new(WakeFailureKind::NotAllowed, stage, "a reason");
    let remembered = failures(1, Some(45), failure.clone());
    given.happened([requested(2, 30), failed_by(&failure, remembered)]);
    let request = ProviderCommand::RequestWake {
        wake_id: wake_id(3),
        cause: cause(),
        overdue: None,
        allowed_at: allowed_at.map(at),
        at: at(41),
    };
    given.provider.decide(&request)
}

#[test]
fn a_refusal_is_over_as_soon_as_the_agent_says_so() {
    for stage in [PAUSED_STAGE, QUIET_HOURS_STAGE] {
        for before in [None, Some(39), Some(40)] {
            let decided = requested_after_a_refusal(stage, before);
            assert!(
                matches!(decided, Err(Rejection::RecentlyFailed { .. })),
                "{stage}: {before:?}"
            );
        }
        assert_eq!(
            requested_after_a_refusal(stage, Some(41)),
            Ok(vec![requested(3, 41)]),
            "{stage}"
        );
    }
    let mut woken = after_failures(1, None);
    let (_, mut failure) = failed_as(WakeFailureKind::NotAllowed);
    failure.stage = PAUSED_STAGE.to_owned();
    let remembered = failures(1, Some(45), failure.clone());
    woken.happened([
        requested(2, 30),
        failed_by(&failure, remembered.clone()),
        requested(3, 41),
        succeeded(3, report(1, 3), 42),
        slept(report(1, 4), SleepReason::Operator, remembered, 43),
    ]);
    woken.when(request_wake(4, 44)).then([requested(4, 44)]);
    let limit = requested_after_a_refusal("max_per_day", Some(41));
    assert!(
        matches!(limit, Err(Rejection::RecentlyFailed { .. })),
        "it concerns one provider: {limit:?}"
    );
}

#[test]
fn a_group_that_made_no_room_and_callers_that_left_before_hold_nothing_back() {
    for kind in [WakeFailureKind::GroupBlocked, WakeFailureKind::NotNeeded] {
        let (ended, failure_of_the_wait) = failed_as(kind);
        let mut given = after_failures(1, None);
        given.happened([requested(2, 30)]);
        given
            .when(ended)
            .then([failed_by(&failure_of_the_wait, failures(1, None, failure()))])
            .when(request_wake(3, 41))
            .then([requested(3, 41)]);
    }
}
