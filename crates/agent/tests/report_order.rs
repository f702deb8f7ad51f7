//! What the members of a group report, and when: in the order in which it happened, and before anything is begun that
//! relies on it.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod control;
#[path = "control/owned.rs"]
#[expect(dead_code, reason = "the tests of owners use the rest")]
mod owned;

use backend::{Backend, eventually};
use owned::{Owned, member};
use reveille_agent::provider::{Groups, Input, Symptom};
use reveille_domain::provider::StatusName::{Active, Hibernating, Waking};
use std::time::Duration;
use tokio::time::timeout;

/// Longer than any wake here takes.
const SOON: Duration = Duration::from_secs(60);

/// Two members of one group, both asleep; what the second waits for is over soon.
async fn two_asleep(groups: &Groups, a: &Backend, b: &Backend) -> (Owned, Owned) {
    let first = Owned::member(groups, "a", &member(a, "/sleep", ""));
    let second = Owned::member(groups, "b", &member(b, "/sleep", "max_group_wait = \"200ms\""));
    first.until(Hibernating).await;
    second.until(Hibernating).await;
    (first, second)
}

impl Owned {
    /// Orders it to sleep as soon as its wake has ended; until then that is refused.
    async fn may_sleep(&self) {
        let ordered = async {
            while self.handle.sleep().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, ordered).await.expect("the end of its wake");
    }

    /// Returns after the owner has gone through its loop, and so asked what it had to ask.
    async fn went_on(&self) {
        for _ in 0..20 {
            assert!(self.handle.refused().await.is_none(), "its backend is up");
        }
    }
}

#[tokio::test]
async fn a_member_that_slept_before_its_wake_was_reported_has_the_room_until_both_are() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let groups = Groups::default();
    let (first, second) = two_asleep(&groups, &a, &b).await;
    let wake = first.control.request_wake();
    first.control.hold();
    first.handle.send(Input::Wake(wake.clone()));
    eventually("the outcome", || first.control.is_asked()).await;
    first.may_sleep().await;
    eventually("the sleep", || a.sleeps() == 1).await;

    second.wake();
    second.may_sleep().await;
    assert_eq!(
        (first.control.status(), b.wakes().len()),
        (Some(Waking), 0),
        "its recipe waits for the record"
    );
    assert_eq!(
        second.control.status(),
        Some(Waking),
        "its failure is reported after what happened before"
    );

    first.control.release();
    let failure = second.blocked().await;
    assert!(
        failure
            .reason
            .starts_with("a had not been recorded as asleep yet"),
        "{}",
        failure.reason
    );
    first.until(Hibernating).await;
    let ended = first.control.last_wake().expect("a wake");
    assert_eq!((ended.id, ended.failure), (wake.wake_id, None));
    assert_eq!(first.control.sleeps().len(), 1);
    second.wake();
    second.until(Active).await;
}

#[tokio::test]
async fn a_member_that_came_up_by_itself_is_reported_after_the_other_that_slept_before() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", ""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", ""));
    first.until(Active).await;
    second.until(Hibernating).await;

    first.control.hold();
    a.fall_asleep();
    first.handle.send(Input::Suspect(Symptom::BrokeOff));
    eventually("the report", || first.control.is_asked()).await;
    b.wake_up();
    second.handle.send(Input::Suspect(Symptom::BrokeOff));
    eventually("an open gate", || second.handle.gate.enter().is_some()).await;
    second.went_on().await;
    assert!(
        !second.control.is_asked(),
        "reported before what happened before it"
    );
    assert_eq!(
        (first.control.status(), second.control.status()),
        (Some(Active), Some(Hibernating))
    );
    first.control.release();
    second.until(Active).await;
    assert_eq!(first.control.status(), Some(Hibernating));
}

#[tokio::test]
async fn after_a_reconnect_the_members_register_in_the_order_in_which_they_turned() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let groups = Groups::default();
    let (first, second) = two_asleep(&groups, &a, &b).await;
    first.control.hold();
    first.handle.send(Input::Reconnected);
    second.handle.send(Input::Reconnected);
    eventually("the registration", || first.control.is_asked()).await;
    b.wake_up();
    second.handle.send(Input::Suspect(Symptom::BrokeOff));
    eventually("an open gate", || second.handle.gate.enter().is_some()).await;
    second.went_on().await;
    assert_eq!(second.control.status(), Some(Hibernating));
    assert!(!second.control.is_asked());
    first.control.release();
    second.until(Active).await;
}

#[tokio::test]
async fn a_member_that_nobody_can_read_keeps_no_other_from_reporting_but_has_the_room() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", ""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", "max_group_wait = \"200ms\""));
    first.until(Active).await;
    second.until(Hibernating).await;
    first.control.set_unreadable(true);
    a.fall_asleep();
    first.handle.send(Input::Suspect(Symptom::BrokeOff));
    second.wake();
    let failure = second.blocked().await;
    assert!(
        failure.reason.contains("a had not been recorded as asleep yet"),
        "{failure:?}"
    );
    b.wake_up();
    second.handle.send(Input::Suspect(Symptom::BrokeOff));
    second.until(Active).await;
    assert_eq!(first.control.status(), Some(Active), "nobody could take it");

    first.control.set_unreadable(false);
    first.until(Hibernating).await;
}

#[tokio::test]
async fn a_wake_that_ended_while_it_waited_for_room_leaves_the_queue() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", ""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", ""));
    first.until(Active).await;
    second.until(Hibernating).await;
    let request = first.handle.gate.enter().expect("open");
    let wake = second.wake();
    eventually("a closed gate", || first.handle.gate.enter().is_none()).await;

    second.control.expire_wake(&wake);
    second.handle.send(Input::Reconnected);
    eventually("an open gate", || first.handle.gate.enter().is_some()).await;
    // A message of it that was on its way all the time.
    second.handle.send(Input::Wake(wake));
    drop(request);
    assert_eq!(
        second.handle.sleep().await,
        Ok(()),
        "it sleeps, and nothing wakes it"
    );
    assert_eq!((a.sleeps(), b.wakes().len()), (0, 0));
    assert_eq!(first.control.status(), Some(Active));
}
