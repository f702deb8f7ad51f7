//! RequestWake, ReportWake and ExpireWake.

use super::*;
use crate::wake::{GROUP_STAGE, MAX_STAGES};

#[test]
fn a_hibernating_provider_is_woken_with_a_deadline_of_its_own_budget() {
    let given = hibernating().when(request_wake(1, 10)).then([requested(1, 10)]);
    let wake = given.status().wake().expect("in flight");
    assert_eq!(
        wake.deadline_ms,
        at(10 + BUDGET_SECS).plus(super::super::DEADLINE_MARGIN)
    );
}

#[test]
fn a_request_during_a_wake_joins_it_whatever_the_clock_says() {
    for secs in [0, 74, 75, 100_000] {
        waking().when(request_wake(2, secs)).then_nothing();
        // Another wake was overdue.
        waking().when(request_wake_after(Some(9), 2, secs)).then_nothing();
    }
}

#[test]
fn an_active_provider_is_already_awake() {
    active().when(request_wake(1, 1)).then_nothing();
    given([registered(1, no_recipe(), RegisteredAs::Active, 0)])
        .when(request_wake(1, 1))
        .then_nothing();
}

#[test]
fn a_request_that_finds_the_wake_overdue_ends_it_and_begins_another_in_one_commit() {
    waking()
        .when(request_wake_after(Some(1), 2, 75))
        .then([timed_out(1, failures(1, None, late()), 75), requested(2, 75)]);
}

#[test]
fn a_time_out_that_brings_a_hold_begins_no_other_wake() {
    let once = failures(1, None, failure());
    let twice = failures(2, Some(81), late());
    given([
        registered(1, recipe(), RegisteredAs::Hibernating, 0),
        requested(1, 5),
        failed(1, report(1, 1), once, 6),
        requested(2, 10),
    ])
    .when(request_wake_after(Some(2), 3, 80))
    .then([timed_out(2, twice.clone(), 80)])
    .when(request_wake(3, 80))
    .then_refused(&Rejection::RecentlyFailed {
        retry_after: Duration::from_secs(1),
        failures: twice,
    });
}

#[test]
fn a_provider_without_a_recipe_cannot_be_woken() {
    // No command leads here; a journal could.
    given([registered(1, no_recipe(), RegisteredAs::Hibernating, 0)])
        .when(request_wake(1, 1))
        .then_refused(&Rejection::NoRecipe);
}

#[test]
fn an_inactive_provider_is_never_woken() {
    inactive()
        .when(request_wake(1, 50))
        .then_refused(&Rejection::Inactive {
            reason: super::super::InactiveReason::AgentLost,
            since: at(40),
        });
}

#[test]
fn an_id_names_one_wake_only() {
    waking()
        .when(request_wake_after(Some(1), 1, 75))
        .then([timed_out(1, failures(1, None, late()), 75)])
        .when(request_wake(1, 76))
        .then_nothing()
        .when(request_wake(2, 76))
        .then([requested(2, 76)]);
}

#[test]
fn success_makes_the_provider_active() {
    let given = waking()
        .when(report_success(1, report(1, 1), 20))
        .then([succeeded(1, report(1, 1), 20)]);
    let (since_ms, woken_by) = (at(20), Some(wake_id(1)));
    assert_eq!(*given.status(), Status::Active { since_ms, woken_by });
    let provider = given.provider.registered().expect("registered");
    assert_eq!(
        provider.ended_wake(wake_id(1)).map(|wake| &wake.failure),
        Some(&None)
    );
}

#[test]
fn what_a_wake_waited_for_its_group_is_remembered_apart_from_what_it_took_itself() {
    let waited = Stage {
        name: GROUP_STAGE.to_owned(),
        started_after_ms: 0,
        took_ms: 4_000,
    };
    let mut reported = report_success(1, report(1, 1), 20);
    if let ProviderCommand::ReportWake {
        outcome: WakeOutcome::Succeeded { stages },
        ..
    } = &mut reported
    {
        stages.insert(0, waited);
    }
    let given = waking();
    let events = given.provider.decide(&reported).expect("legal");
    let provider = events.iter().fold(given.provider, Provider::evolve);
    let wake = &provider.registered().expect("registered").wakes[0];
    let all = wake.ended_at_ms.since(wake.requested_at_ms);
    assert_eq!(wake.group_wait_ms, 4_000);
    assert_eq!(all - wake.took_by_itself(), Duration::from_secs(4));
}

#[test]
fn failure_lets_the_next_request_try_again() {
    let once = failures(1, None, failure());
    let given = waking()
        .when(report_failure(1, report(1, 1), 20))
        .then([failed(1, report(1, 1), once, 20)]);
    assert_eq!(*given.status(), Status::Hibernating { since_ms: at(20) });
    let provider = given.provider.registered().expect("registered");
    let ended = provider.ended_wake(wake_id(1)).expect("remembered");
    assert_eq!(ended.failure, Some(failure()));
    given.when(request_wake(2, 20)).then([requested(2, 20)]);
}

#[test]
fn an_outcome_that_arrives_after_the_deadline_but_before_the_sweep_counts() {
    waking()
        .when(report_success(1, report(1, 1), 90))
        .then([succeeded(1, report(1, 1), 90)]);
}

#[test]
fn a_late_success_on_a_hibernating_provider_tells_that_the_backend_is_up() {
    waking()
        .when(expire_wake(1, 75))
        .then([timed_out(1, failures(1, None, late()), 75)])
        .when(report_success(1, report(1, 1), 80))
        .then([awoke(report(1, 1), 80)]);
}

#[test]
fn a_late_failure_changes_nothing() {
    waking()
        .when(expire_wake(1, 75))
        .then([timed_out(1, failures(1, None, late()), 75)])
        .when(report_failure(1, report(1, 1), 80))
        .then_nothing();
}

#[test]
fn the_outcome_of_an_earlier_wake_does_not_end_the_one_in_flight() {
    let second = waking()
        .when(request_wake_after(Some(1), 2, 75))
        .then([timed_out(1, failures(1, None, late()), 75), requested(2, 75)]);
    let second = second.when(report_success(1, report(1, 1), 76)).then_nothing();
    second.when(report_failure(1, report(1, 1), 76)).then_nothing();
}

#[test]
fn the_retry_of_a_lost_answer_changes_nothing() {
    woken().when(report_success(1, report(1, 1), 21)).then_nothing();
    let once = failures(1, None, failure());
    waking()
        .when(report_failure(1, report(1, 1), 20))
        .then([failed(1, report(1, 1), once, 20)])
        .when(report_failure(1, report(1, 1), 21))
        .then_nothing()
        // An older one, overtaken, doesn't wake it either.
        .when(report_success(1, report(1, 1), 21))
        .then_nothing();
}

#[test]
fn a_wake_is_expired_once() {
    waking()
        .when(expire_wake(1, 75))
        .then([timed_out(1, failures(1, None, late()), 75)])
        .when(expire_wake(1, 76))
        .then_nothing();
}

#[test]
fn expiring_an_earlier_wake_leaves_the_one_in_flight() {
    waking().when(expire_wake(2, 80)).then_nothing();
}

#[test]
fn the_last_eight_wakes_are_remembered_and_all_are_counted() {
    let mut given = hibernating();
    for wake in 1..=20_u32 {
        let (id, secs) = (u128::from(wake), u64::from(wake) * 100);
        given.happened([
            requested(id, secs),
            failed(
                id,
                report(1, u64::from(wake)),
                failures(wake, None, failure()),
                secs,
            ),
        ]);
    }
    let provider = given.provider.registered().expect("registered");
    let remembered: Vec<_> = provider.wakes.iter().map(|wake| wake.id).collect();
    assert_eq!(remembered, (13..=20).map(wake_id).collect::<Vec<_>>());
    assert_eq!((provider.counts.requested, provider.counts.failed), (20, 20));
}

#[test]
fn a_report_of_any_length_leaves_a_bounded_event_and_state() {
    let long = "x\n".repeat(1_000_000);
    let raw = WakeFailure {
        kind: WakeFailureKind::Recipe,
        stage: long.clone(),
        reason: long.clone(),
    };
    let stage = Stage {
        name: long,
        started_after_ms: 0,
        took_ms: 1,
    };
    let outcome = WakeOutcome::Failed {
        failure: raw,
        stages: vec![stage; 2 * MAX_STAGES],
    };
    let report = ProviderCommand::ReportWake {
        wake_id: wake_id(1),
        report: report(1, 1),
        outcome,
        at: at(20),
    };
    let events = waking().provider.decide(&report).expect("accepted");
    let [
        ProviderEvent::WakeFailed {
            failure,
            stages,
            failures,
            ..
        },
    ] = events.as_slice()
    else {
        panic!("one failure: {events:?}")
    };
    assert_eq!(failure.reason, "x".repeat(400), "cut, without control characters");
    assert_eq!(failures.last.as_ref(), Some(failure));
    assert_eq!((stages.len(), stages[0].name.len()), (MAX_STAGES, 400));
}

#[test]
fn a_request_id_of_any_length_leaves_a_bounded_event() {
    let cause = WakeCause::Request {
        request_id: "r".repeat(100_000),
        model: ModelName::parse("qwen3-8b").expect("legal"),
        key: None,
    };
    let request = ProviderCommand::RequestWake {
        wake_id: wake_id(1),
        cause,
        overdue: None,
        allowed_at: None,
        at: at(1),
    };
    let given = hibernating();
    let events = given.provider.decide(&request).expect("accepted");
    let json = serde_json::to_string(&events).expect("serializes");
    assert!(json.len() < 1000, "{json}");
}
