//! MarkInactive, AgentStopped and Expire.

use super::*;

#[test]
fn a_silent_agent_makes_its_provider_inactive() {
    active()
        .when(mark_inactive(1, 5, 40))
        .then([lost(1, StableStatus::Active, 5, 40)]);
    hibernating()
        .when(mark_inactive(1, 5, 40))
        .then([lost(1, StableStatus::Hibernating, 5, 40)]);
    down()
        .when(mark_inactive(1, 5, 40))
        .then([lost(1, StableStatus::Down, 5, 40)]);
}

#[test]
fn losing_the_agent_ends_its_wake_without_blame() {
    let lost_agent = abandoned(WakeFailureKind::AgentLost, "the agent went silent");
    waking().when(mark_inactive(1, 9, 40)).then([
        wake_abandoned(1, lost_agent, none(), 40),
        lost(1, StableStatus::Hibernating, 9, 40),
    ]);
}

#[test]
fn an_agent_that_was_heard_since_is_not_marked_inactive() {
    woken()
        .when(mark_inactive(1, 19, 60))
        .then_refused(&Rejection::HeardSince)
        .when(mark_inactive(1, 20, 60))
        .then([lost(1, StableStatus::Active, 20, 60)]);
}

#[test]
fn a_registration_is_a_sign_of_life_even_when_all_it_does_is_succeed_a_wake() {
    waking()
        .when(register(1, recipe(), UP, 30))
        .then([found_awake(1, None, 30)])
        .when(mark_inactive(1, 5, 40))
        .then_refused(&Rejection::HeardSince);
}

#[test]
fn only_the_current_epoch_is_marked_inactive() {
    given([registered(2, recipe(), RegisteredAs::Active, 0)])
        .when(mark_inactive(1, 5, 40))
        .then_refused(&Rejection::SessionSuperseded { current: Epoch(2) })
        .when(mark_inactive(3, 5, 40))
        .then_refused(&Rejection::RegisterFirst { current: Epoch(2) });
}

#[test]
fn an_inactive_provider_stays_inactive_since_then() {
    inactive().when(mark_inactive(1, 5, 70)).then_nothing();
    inactive().when(agent_stopped(1, 70)).then_nothing();
}

#[test]
fn a_clean_stop_makes_the_provider_inactive_and_ends_its_wake() {
    let stop = abandoned(WakeFailureKind::AgentStopped, "the agent stopped");
    active()
        .when(agent_stopped(1, 5))
        .then([stopped(1, StableStatus::Active, 5)]);
    waking().when(agent_stopped(1, 12)).then([
        wake_abandoned(1, stop, none(), 12),
        stopped(1, StableStatus::Hibernating, 12),
    ]);
}

#[test]
fn a_session_that_stops_before_it_registered_still_supersedes_the_earlier_one() {
    active()
        .when(agent_stopped(2, 5))
        .then([stopped(2, StableStatus::Active, 5)])
        .when(resume(report(1, 9), Availability::Available, 6))
        .then_refused(&Rejection::SessionSuperseded { current: Epoch(2) });
}

#[test]
fn a_lost_agent_can_come_back_and_be_lost_again() {
    inactive()
        .when(resume(report(1, 1), Availability::Available, 50))
        .then([resumed(report(1, 1), StableStatus::Active, 50)])
        .when(mark_inactive(1, 49, 90))
        .then_refused(&Rejection::HeardSince)
        .when(mark_inactive(1, 50, 90))
        .then([lost(1, StableStatus::Active, 50, 90)]);
}

#[test]
fn an_inactive_provider_expires_after_its_time_and_not_before() {
    let month = MONTH.as_secs();
    inactive()
        .when(expire(40 + month - 1))
        .then_refused(&Rejection::NotExpired)
        .when(expire(40 + month))
        .then([expired(40 + month)]);
}

#[test]
fn only_an_inactive_provider_expires() {
    for given in [active(), hibernating(), waking(), down()] {
        given
            .when(expire(MONTH.as_secs() * 2))
            .then_refused(&Rejection::NotExpired);
    }
}

#[test]
fn an_expired_provider_keeps_its_epoch() {
    let expired_at = 40 + MONTH.as_secs();
    let expired = given([
        registered(3, recipe(), RegisteredAs::Active, 0),
        lost(3, StableStatus::Active, 5, 40),
        expired(expired_at),
    ]);
    expired
        .when(register(2, recipe(), UP, expired_at + 1))
        .then_refused(&Rejection::SessionSuperseded { current: Epoch(3) });
}
