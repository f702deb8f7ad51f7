//! Register and Deregister.

use super::*;

#[test]
fn with_a_recipe_and_an_unavailable_backend_it_is_published_hibernating() {
    given([]).when(register(1, recipe(), DOWN, 0)).then([registered(
        1,
        recipe(),
        RegisteredAs::Hibernating,
        0,
    )]);
}

#[test]
fn with_a_recipe_and_an_available_backend_it_is_published_active() {
    given([])
        .when(register(1, recipe(), UP, 0))
        .then([registered(1, recipe(), RegisteredAs::Active, 0)]);
}

#[test]
fn when_availability_is_not_given_it_is_published_active() {
    given([])
        .when(register(1, recipe(), None, 0))
        .then([registered(1, recipe(), RegisteredAs::Active, 0)]);
}

#[test]
fn without_a_recipe_it_is_published_down_when_unavailable_and_active_otherwise() {
    for (found, status) in [
        (DOWN, RegisteredAs::Down),
        (UP, RegisteredAs::Active),
        (None, RegisteredAs::Active),
    ] {
        given([])
            .when(register(1, no_recipe(), found, 0))
            .then([registered(1, no_recipe(), status, 0)]);
    }
}

#[test]
fn the_same_registration_again_changes_nothing() {
    active().when(register(1, recipe(), UP, 1)).then_nothing();
    active().when(register(1, recipe(), DOWN, 1)).then_nothing();
    hibernating().when(register(1, recipe(), DOWN, 1)).then_nothing();
    hibernating().when(register(1, recipe(), UP, 1)).then_nothing();
    waking().when(register(1, recipe(), DOWN, 11)).then_nothing();
    waking().when(register(1, recipe(), None, 11)).then_nothing();
}

#[test]
fn a_later_session_takes_over_with_what_it_found() {
    active().when(register(2, recipe(), DOWN, 9)).then([registered(
        2,
        recipe(),
        RegisteredAs::Hibernating,
        9,
    )]);
    hibernating()
        .when(register(2, recipe(), UP, 9))
        .then([registered(2, recipe(), RegisteredAs::Active, 9)]);
}

#[test]
fn an_earlier_session_is_told_that_it_was_superseded() {
    let superseded = Rejection::SessionSuperseded { current: Epoch(2) };
    for second in [
        registered(2, recipe(), RegisteredAs::Active, 9),
        registered(2, recipe(), RegisteredAs::Hibernating, 9),
    ] {
        let taken_over = given([registered(1, recipe(), RegisteredAs::Active, 0), second]);
        let taken_over = taken_over
            .when(register(1, recipe(), UP, 10))
            .then_refused(&superseded);
        let gone = taken_over.when(deregister(2, 11)).then([deregistered(2, 11)]);
        gone.when(register(1, recipe(), UP, 12)).then_refused(&superseded);
    }
}

#[test]
fn a_status_that_a_registration_leaves_as_it_was_goes_on_since_then() {
    let given = woken().when(register(1, more_models(), UP, 22)).then([registered(
        1,
        more_models(),
        RegisteredAs::Active,
        22,
    )]);
    let (since_ms, woken_by) = (at(20), Some(wake_id(1)));
    assert_eq!(*given.status(), Status::Active { since_ms, woken_by });

    let given = hibernating()
        .when(register(2, recipe(), DOWN, 22))
        .then([registered(2, recipe(), RegisteredAs::Hibernating, 22)]);
    assert_eq!(*given.status(), Status::Hibernating { since_ms: at(0) });

    let given = down().when(register(2, no_recipe(), DOWN, 22)).then([registered(
        2,
        no_recipe(),
        RegisteredAs::Down,
        22,
    )]);
    assert_eq!(*given.status(), Status::Down { since_ms: at(0) });
}

#[test]
fn models_discovered_after_a_wake_do_not_hide_that_the_backend_died_of_it() {
    let died = WakeFailure::new(
        WakeFailureKind::Died,
        "active",
        "the backend died soon after it was woken",
    );
    woken()
        .when(register(1, more_models(), UP, 22))
        .then([registered(1, more_models(), RegisteredAs::Active, 22)])
        .when(report_asleep(report(1, 2), SleepReason::Exited, 25))
        .then([slept(
            report(1, 2),
            SleepReason::Exited,
            failures(1, None, died),
            25,
        )]);
}

#[test]
fn a_session_that_registers_again_goes_on_counting_its_reports() {
    let reported = active()
        .when(report_asleep(report(1, 7), SleepReason::Idle, 5))
        .then([slept(report(1, 7), SleepReason::Idle, none(), 5)])
        .when(register(1, more_models(), UP, 6))
        .then([registered(1, more_models(), RegisteredAs::Active, 6)]);
    let reported = reported
        .when(report_asleep(report(1, 7), SleepReason::Idle, 8))
        .then_nothing();
    // Also when it took the provider back in between.
    reported
        .when(deregister(1, 9))
        .then([deregistered(1, 9)])
        .when(register(1, recipe(), UP, 10))
        .then([registered(1, recipe(), RegisteredAs::Active, 10)])
        .when(report_asleep(report(1, 7), SleepReason::Idle, 11))
        .then_nothing();
}

#[test]
fn a_later_session_counts_its_reports_from_one() {
    active()
        .when(report_asleep(report(1, 7), SleepReason::Idle, 5))
        .then([slept(report(1, 7), SleepReason::Idle, none(), 5)])
        .when(register(2, recipe(), UP, 6))
        .then([registered(2, recipe(), RegisteredAs::Active, 6)])
        .when(report_asleep(report(2, 1), SleepReason::Idle, 7))
        .then([slept(report(2, 1), SleepReason::Idle, none(), 7)]);
}

#[test]
fn an_available_backend_at_registration_succeeds_the_wake_in_flight() {
    waking()
        .when(register(1, recipe(), UP, 12))
        .then([found_awake(1, None, 12)]);
    waking().when(register(2, recipe(), UP, 12)).then([
        registered(2, recipe(), RegisteredAs::Waking, 12),
        found_awake(1, None, 12),
    ]);
}

#[test]
fn an_unavailable_backend_at_registration_leaves_the_wake_in_flight() {
    for availability in [DOWN, None] {
        let given = waking()
            .when(register(2, recipe(), availability, 12))
            .then([registered(2, recipe(), RegisteredAs::Waking, 12)]);
        let wake = given.status().wake().expect("still in flight");
        assert_eq!((wake.id, wake.deadline_ms), (wake_id(1), at(75)));
        given
            .when(report_success(1, report(2, 1), 13))
            .then([succeeded(1, report(2, 1), 13)]);
    }
}

#[test]
fn a_recipe_that_is_removed_during_a_wake_ends_it_without_blame() {
    let removed = abandoned(WakeFailureKind::Withdrawn, "the wake recipe was removed");
    waking().when(register(2, no_recipe(), DOWN, 12)).then([
        wake_abandoned(1, removed, none(), 12),
        registered(2, no_recipe(), RegisteredAs::Down, 12),
    ]);
    waking().when(register(2, no_recipe(), UP, 12)).then([
        registered(2, no_recipe(), RegisteredAs::Waking, 12),
        found_awake(1, None, 12),
    ]);
}

#[test]
fn an_inactive_provider_is_published_again_even_by_the_same_session() {
    inactive().when(register(1, recipe(), DOWN, 50)).then([registered(
        1,
        recipe(),
        RegisteredAs::Hibernating,
        50,
    )]);
    inactive()
        .when(register(2, recipe(), UP, 50))
        .then([registered(2, recipe(), RegisteredAs::Active, 50)]);
}

#[test]
fn taking_a_provider_back_ends_its_wake_and_keeps_its_epoch_and_history() {
    let withdrawn = abandoned(WakeFailureKind::Withdrawn, "the provider was withdrawn");
    let given = waking()
        .when(deregister(1, 12))
        .then([wake_abandoned(1, withdrawn, none(), 12), deregistered(1, 12)]);
    let Provider::Gone(gone) = &given.provider else {
        panic!("gone")
    };
    assert_eq!(
        (gone.epoch, gone.wakes.len(), gone.counts.failed),
        (Epoch(1), 1, 1)
    );
    let again = given.when(register(1, recipe(), DOWN, 13)).then([registered(
        1,
        recipe(),
        RegisteredAs::Hibernating,
        13,
    )]);
    let provider = again.provider.registered().expect("registered");
    assert_eq!(
        (provider.wakes.len(), provider.counts.requested),
        (1, 1),
        "history stays"
    );
}

#[test]
fn a_provider_taken_back_twice_is_gone_once() {
    gone().when(deregister(1, 41)).then_nothing();
    gone().when(expire(41)).then_nothing();
}

#[test]
fn an_earlier_session_cannot_take_back_what_a_later_one_publishes() {
    given([registered(2, recipe(), RegisteredAs::Active, 0)])
        .when(deregister(1, 1))
        .then_refused(&Rejection::SessionSuperseded { current: Epoch(2) });
}

#[test]
fn what_a_later_session_took_back_never_returns_by_an_earlier_one() {
    active()
        .when(deregister(2, 5))
        .then([deregistered(2, 5)])
        .when(register(1, recipe(), UP, 6))
        .then_refused(&Rejection::SessionSuperseded { current: Epoch(2) });
}

/// A registration with a number among what the session says.
fn numbered(number: u64, mut command: ProviderCommand) -> ProviderCommand {
    if let ProviderCommand::Register { seq, .. } = &mut command {
        *seq = ReportSeq(number);
    }
    command
}

#[test]
fn a_duplicate_of_a_registration_that_comes_late_changes_nothing() {
    let mut first = registered(1, recipe(), RegisteredAs::Active, 0);
    if let ProviderEvent::ProviderRegistered { seq, .. } = &mut first {
        *seq = ReportSeq(1);
    }
    let asleep = given([])
        .when(numbered(1, register(1, recipe(), UP, 0)))
        .then([first])
        .when(report_asleep(report(1, 2), SleepReason::Idle, 60))
        .then([slept(report(1, 2), SleepReason::Idle, none(), 60)]);
    let late = || numbered(1, register(1, more_models(), UP, 71));
    asleep.clone().when(late()).then_nothing();
    let waking = asleep.when(request_wake(1, 70)).then([requested(1, 70)]);
    waking.when(late()).then_nothing();
}

#[test]
fn a_registration_that_ends_a_wake_is_numbered_like_a_report() {
    let waking = waking()
        .when(numbered(1, register(1, recipe(), UP, 15)))
        .then([found_awake(1, Some(report(1, 1)), 15)])
        .when(report_asleep(report(1, 2), SleepReason::Idle, 60))
        .then([slept(report(1, 2), SleepReason::Idle, none(), 60)])
        .when(request_wake(2, 70))
        .then([requested(2, 70)]);
    waking
        .when(numbered(1, register(1, recipe(), UP, 71)))
        .then_nothing();
}
