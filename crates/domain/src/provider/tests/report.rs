//! ReportAsleep, ReportAwake and Resume, and the numbers that order reports.

use super::*;

#[test]
fn a_backend_that_sleeps_makes_the_provider_hibernating_whatever_the_reason() {
    for reason in [
        SleepReason::Idle,
        SleepReason::Operator,
        SleepReason::Group,
        SleepReason::FoundAsleep,
        SleepReason::Exited,
        SleepReason::Unreachable,
    ] {
        let given = active()
            .when(report_asleep(report(1, 1), reason, 60))
            .then([slept(report(1, 1), reason, none(), 60)]);
        assert_eq!(*given.status(), Status::Hibernating { since_ms: at(60) });
    }
}

#[test]
fn a_provider_without_a_recipe_is_down_until_its_backend_is_back() {
    for reason in [
        SleepReason::FoundAsleep,
        SleepReason::Unreachable,
        SleepReason::Crashed,
    ] {
        let given = given([registered(1, no_recipe(), RegisteredAs::Active, 0)])
            .when(report_asleep(report(1, 1), reason, 60))
            .then([went_down(report(1, 1), reason, 60)]);
        assert_eq!(*given.status(), Status::Down { since_ms: at(60) });
        let given = given
            .when(report_awake(report(1, 2), 70))
            .then([awoke(report(1, 2), 70)]);
        let (since_ms, woken_by) = (at(70), None);
        assert_eq!(*given.status(), Status::Active { since_ms, woken_by });
    }
}

#[test]
fn what_is_down_is_never_woken() {
    down()
        .when(request_wake(1, 10))
        .then_refused(&Rejection::NoRecipe);
}

#[test]
fn asleep_never_ends_a_wake_in_flight() {
    waking()
        .when(report_asleep(report(1, 1), SleepReason::FoundAsleep, 11))
        .then_nothing();
}

#[test]
fn a_backend_that_came_up_by_itself_makes_the_provider_active() {
    let given = hibernating()
        .when(report_awake(report(1, 1), 5))
        .then([awoke(report(1, 1), 5)]);
    let (since_ms, woken_by) = (at(5), None);
    assert_eq!(*given.status(), Status::Active { since_ms, woken_by });
}

#[test]
fn a_backend_that_came_up_by_itself_resolves_the_wake_in_flight() {
    waking()
        .when(report_awake(report(1, 1), 15))
        .then([found_awake(1, Some(report(1, 1)), 15)]);
}

#[test]
fn a_report_of_what_is_so_already_changes_nothing() {
    active().when(report_awake(report(1, 1), 5)).then_nothing();
    hibernating()
        .when(report_asleep(report(1, 1), SleepReason::Idle, 5))
        .then_nothing();
}

#[test]
fn on_an_inactive_provider_the_answer_is_resume_first() {
    for command in [
        report_success(1, report(1, 1), 50),
        report_failure(1, report(1, 1), 50),
        report_asleep(report(1, 1), SleepReason::Idle, 50),
        report_awake(report(1, 1), 50),
    ] {
        inactive().when(command).then_refused(&Rejection::ResumeFirst);
    }
}

#[test]
fn the_agent_itself_resumes_with_what_its_probe_finds() {
    inactive()
        .when(resume(report(1, 1), Availability::Available, 50))
        .then([resumed(report(1, 1), StableStatus::Active, 50)]);
    inactive()
        .when(resume(report(1, 1), Availability::Unavailable, 50))
        .then([resumed(report(1, 1), StableStatus::Hibernating, 50)]);
    given([
        registered(1, no_recipe(), RegisteredAs::Active, 0),
        lost(1, StableStatus::Active, 5, 40),
    ])
    .when(resume(report(1, 1), Availability::Unavailable, 50))
    .then([resumed(report(1, 1), StableStatus::Down, 50)]);
}

#[test]
fn resuming_what_is_not_inactive_changes_nothing() {
    for given in [active(), hibernating(), waking(), down()] {
        given
            .when(resume(report(1, 1), Availability::Available, 11))
            .then_nothing();
    }
}

#[test]
fn a_report_older_than_the_last_one_changes_nothing() {
    let slept_twice = active()
        .when(report_asleep(report(1, 5), SleepReason::Idle, 1))
        .then([slept(report(1, 5), SleepReason::Idle, none(), 1)])
        .when(report_awake(report(1, 6), 2))
        .then([awoke(report(1, 6), 2)]);
    for seq in 0..=6 {
        slept_twice
            .clone()
            .when(report_asleep(report(1, seq), SleepReason::Idle, 3))
            .then_nothing();
    }
    slept_twice
        .when(report_asleep(report(1, 7), SleepReason::Idle, 3))
        .then([slept(report(1, 7), SleepReason::Idle, none(), 3)]);
}

/// Everything that session `epoch` can say, with a number that was never heard.
fn whatever_a_session_says(epoch: u64) -> [ProviderCommand; 8] {
    [
        report_success(1, report(epoch, 99), 50),
        report_failure(1, report(epoch, 99), 50),
        report_asleep(report(epoch, 99), SleepReason::Idle, 50),
        report_awake(report(epoch, 99), 50),
        resume(report(epoch, 99), Availability::Available, 50),
        mark_inactive(epoch, 45, 50),
        agent_stopped(epoch, 50),
        deregister(epoch, 50),
    ]
}

fn second_session() -> [Given; 4] {
    let registered_as = |status| given([registered(2, recipe(), status, 0)]);
    [
        registered_as(RegisteredAs::Active),
        registered_as(RegisteredAs::Hibernating),
        registered_as(RegisteredAs::Hibernating)
            .when(request_wake(1, 10))
            .then([requested(1, 10)]),
        registered_as(RegisteredAs::Active)
            .when(agent_stopped(2, 10))
            .then([stopped(2, StableStatus::Active, 10)]),
    ]
}

#[test]
fn nothing_that_an_earlier_session_says_is_accepted() {
    for given in second_session() {
        for command in whatever_a_session_says(1) {
            given
                .clone()
                .when(command)
                .then_refused(&Rejection::SessionSuperseded { current: Epoch(2) });
        }
    }
}

#[test]
fn a_later_session_registers_before_it_reports() {
    for given in second_session() {
        for command in whatever_a_session_says(3).into_iter().take(6) {
            given
                .clone()
                .when(command)
                .then_refused(&Rejection::RegisterFirst { current: Epoch(2) });
        }
    }
}
