//! Providers that share what only one of them can have, each with its owner, its control and a real backend.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod control;
#[path = "control/owned.rs"]
#[expect(dead_code, reason = "the tests of owners use the rest")]
mod owned;

use backend::{Backend, Closed, StoppedClock, eventually};
use owned::{Owned, member};
use reveille_agent::{
    owner_policy::Pause,
    provider::{Groups, Input, Leave, SleepResult, Symptom},
    state_dir::StateDir,
};
use reveille_bus::wakes::WakeMessage;
use reveille_domain::{
    SleepReason, WakeFailureKind,
    provider::StatusName::{Active, Hibernating, Waking},
};
use std::time::Duration;

#[tokio::test]
async fn the_awake_one_is_put_to_sleep_and_that_is_known_before_the_other_wakes() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/slow-sleep", ""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", ""));
    first.until(Active).await;
    second.until(Hibernating).await;

    let request = first.handle.gate.enter().expect("open");
    let wake = second.wake();
    eventually("a closed gate", || first.handle.gate.enter().is_none()).await;
    assert_eq!((a.sleeps(), b.wakes().len()), (0, 0), "a request is still there");
    drop(request);
    eventually("the sleep recipe", || a.sleeps() == 1).await;
    assert_eq!(b.wakes().len(), 0, "nothing is begun before it has ended");
    first.control.hold();
    a.release();
    eventually("the report", || first.control.is_asked()).await;
    assert_eq!(b.wakes().len(), 0, "nor before it is known");
    first.control.release();
    second.until(Active).await;

    assert_eq!(first.control.sleeps(), [SleepReason::Group]);
    assert_eq!(first.control.sleeps_for(), [wake.wake_id]);
    assert_eq!((first.control.status(), b.wakes().len()), (Some(Hibernating), 1));
    let stages = second.control.last_stages();
    let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["group", "step 1 http", "probe"]);
    assert!(stages[1].started_after_ms >= stages[0].took_ms, "{stages:?}");

    // And back again.
    first.wake();
    first.until(Active).await;
    assert_eq!((second.control.status(), b.sleeps()), (Some(Hibernating), 1));
}

#[tokio::test]
async fn one_that_a_request_has_woken_makes_room_only_after_the_request_has_come() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", ""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", ""));
    first.until(Hibernating).await;
    second.until(Hibernating).await;
    first.wake_for_request();
    first.until(Active).await;
    second.wake_for_request();
    second.until(Waking).await;
    // Asked for the room by then, and looked at several times.
    let asked = a.requests();
    for _ in 0..5 {
        assert_eq!(first.handle.refused().await, None);
    }
    assert!(a.requests() > asked);
    assert_eq!((a.sleeps(), b.wakes().len()), (0, 0));
    let request = first.handle.gate.enter().expect("open");
    eventually("a closed gate", || first.handle.gate.enter().is_none()).await;
    drop(request);
    second.until(Active).await;
    assert_eq!((a.sleeps(), b.wakes().len()), (1, 1));
}

#[tokio::test]
async fn a_pause_while_a_wake_waits_for_its_group_ends_it_before_its_recipe() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let folder = tempfile::tempdir().expect("a directory");
    let state = StateDir::new(folder.path().to_owned());
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", ""));
    let second = Owned::member_with(&groups, "b", &member(&b, "/sleep", ""), Some(folder.path()));
    first.until(Active).await;
    second.until(Hibernating).await;
    let request = first.handle.gate.enter().expect("open");
    second.wake();
    eventually("a closed gate", || first.handle.gate.enter().is_none()).await;
    let now = jiff::Timestamp::now();
    Pause::begin(now, None, false).write(&state).expect("written");
    drop(request);
    let failure = second.failed().await;
    assert_eq!(
        (failure.kind, failure.stage.as_str()),
        (WakeFailureKind::NotAllowed, "paused")
    );
    assert_eq!((a.sleeps(), b.wakes().len()), (1, 0));

    // It has left no trace in the group: either can wake.
    Pause::lift(&state, now).expect("removed");
    first.wake();
    first.until(Active).await;
}

#[tokio::test]
async fn a_wake_that_only_waits_for_its_group_ends_when_no_replica_wants_it_any_longer() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", ""));
    // One wake a day: none that was withdrawn counts.
    let once = member(&b, "/sleep", "").replace("[provider.wake]", "[provider.wake]\nmax_per_day = 1");
    let second = Owned::member(&groups, "b", &once);
    first.until(Active).await;
    second.until(Hibernating).await;
    let request = first.handle.gate.enter().expect("open");
    let clock = StoppedClock::stop();
    let gate_is_closed = || first.handle.gate.enter().is_none();
    let waits = || second.control.status() == Some(Waking);
    let wake = second.wake_for_request();
    let says = |replica: &str, wanted| {
        let replica = replica.to_owned();
        let wake = wake.clone();
        second.handle.send(Input::Wake(WakeMessage {
            wanted,
            replica,
            ..wake
        }));
    };
    clock.pass_until("a closed gate", gate_is_closed).await;
    // Two replicas want it; the first no longer does, and the second says nothing more, for a while.
    says("", false);
    says("api-1", true);
    says("api-2", true);
    says("api-1", false);
    clock.pass(Duration::from_secs(9)).await;
    assert!(waits() && gate_is_closed(), "api-2 may still have a waiter");
    says("api-2", true);
    clock.pass(Duration::from_secs(9)).await;
    assert!(waits() && gate_is_closed(), "it has said so again");
    says("api-2", false);
    clock.pass_until("its end", || !waits()).await;
    let failure = second.failed().await;
    assert_eq!(
        (failure.kind, failure.stage.as_str()),
        (WakeFailureKind::NotNeeded, "group")
    );
    clock.pass_until("an open gate", || !gate_is_closed()).await;
    assert_eq!(second.control.last_stages().len(), 1, "the wait");
    assert_eq!(second.control.provider().failures.count, 0);
    assert_eq!(
        (a.sleeps(), first.control.sleeps(), b.wakes().len()),
        (0, vec![], 0)
    );

    // A replica that has ended says nothing at all.
    second.wake_for_request();
    clock.pass_until("its end", || !waits()).await;
    assert_eq!(second.failed().await.kind, WakeFailureKind::NotNeeded);

    // The next that somebody wants finds the room.
    drop(request);
    second.wake();
    clock
        .pass_until("its wake", || second.control.status() == Some(Active))
        .await;
    assert_eq!((a.sleeps(), b.wakes().len()), (1, 1));
}

#[tokio::test]
async fn a_wake_that_waits_for_its_group_outlasts_an_outage_of_the_connection() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", ""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", "max_group_wait = \"1h\""));
    first.until(Active).await;
    second.until(Hibernating).await;
    let request = first.handle.gate.enter().expect("open");
    let clock = StoppedClock::stop();
    let wake = second.wake_for_request();
    let gate_is_closed = || first.handle.gate.enter().is_none();
    clock.pass_until("a closed gate", gate_is_closed).await;
    second.control.set_lost(true);
    clock.pass(Duration::from_secs(25)).await;
    assert_eq!(second.control.status(), Some(Waking));
    second.handle.send(Input::Reconnected);
    second.control.set_lost(false);
    clock.pass(Duration::from_secs(9)).await;
    second.handle.send(Input::Wake(wake));
    clock.pass(Duration::from_secs(9)).await;
    assert_eq!(second.control.status(), Some(Waking));
    drop(request);
    clock
        .pass_until("its wake", || second.control.status() == Some(Active))
        .await;
    assert_eq!((a.sleeps(), b.wakes().len()), (1, 1));
}

#[tokio::test]
async fn a_wake_whose_recipe_has_begun_goes_on_though_nobody_wants_it_any_longer() {
    let backend = Backend::start().await;
    let alone = member(&backend, "/sleep", "").replace("/wake\"", "/slow-wake\"");
    let owned = Owned::member(&Groups::default(), "a", &alone);
    owned.until(Hibernating).await;
    let wake = owned.wake_for_request();
    eventually("the recipe", || backend.wakes().len() == 1).await;
    let clock = StoppedClock::stop();
    owned.handle.send(Input::Wake(WakeMessage {
        wanted: false,
        ..wake
    }));
    clock.pass(Duration::from_secs(20)).await;
    assert_eq!(owned.control.status(), Some(Waking));
    backend.release();
    clock
        .pass_until("its wake", || owned.control.status() == Some(Active))
        .await;
}

#[tokio::test]
async fn one_whose_request_outlasts_the_wait_goes_on_and_the_wake_is_blocked() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", ""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", "max_group_wait = \"100ms\""));
    first.until(Active).await;
    second.until(Hibernating).await;
    let request = first.handle.gate.enter().expect("open");
    second.wake();
    second.until(Waking).await;
    let failure = second.blocked().await;
    assert!(failure.reason.starts_with("a "), "{}", failure.reason);
    assert_eq!(second.control.provider().failures.count, 0, "it isn't its fault");
    eventually("an open gate", || first.handle.gate.enter().is_some()).await;
    assert_eq!(
        (a.sleeps(), first.control.sleeps(), b.wakes().len()),
        (0, vec![], 0)
    );

    drop(request);
    second.wake();
    second.until(Active).await;
    assert_eq!(a.sleeps(), 1);
}

#[tokio::test]
async fn one_that_can_not_be_put_to_sleep_goes_on_and_the_wake_is_blocked() {
    for (sleep, why) in [
        (
            "/fail",
            "a could not be put to sleep: step 1 http: HTTP status 500",
        ),
        (
            "/ok",
            "a could not be put to sleep: probe: the probe still finds the backend available",
        ),
    ] {
        let (a, b) = (Backend::start().await, Backend::start().await);
        a.wake_up();
        let groups = Groups::default();
        let patient = member(&a, sleep, "").replace("\"1h\"", "\"1h\", timeout = \"10m\"");
        let first = Owned::member(&groups, "a", &patient);
        let second = Owned::member(&groups, "b", &member(&b, "/sleep", "max_group_wait = \"1h\""));
        first.until(Active).await;
        second.until(Hibernating).await;
        let clock = StoppedClock::stop();
        second.wake();
        second.until(Waking).await;
        let ended = || {
            // The caller still waits, and its replica repeats that.
            second.repeat_wake();
            second.control.status() != Some(Waking)
        };
        clock.pass_until("the end of the wake", ended).await;
        let failure = second.blocked().await;
        assert!(failure.reason.starts_with(why), "{}", failure.reason);
        eventually("an open gate", || first.handle.gate.enter().is_some()).await;
        assert_eq!((first.control.status(), b.wakes().len()), (Some(Active), 0));
    }
}

#[tokio::test]
async fn what_did_not_come_up_may_have_the_memory_all_the_same_and_is_stopped_first() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let groups = Groups::default();
    // Its wake starts something that doesn't become available.
    let silent = member(&a, "/sleep", "")
        .replace("/wake", "/ok")
        .replace("[provider.sleep]", "max_wait = \"20ms\"\n[provider.sleep]")
        .replace(
            "path = \"/is_sleeping\", expect = { is_sleeping = false }",
            "path = \"/hang\", timeout = \"20ms\"",
        );
    let first = Owned::member(&groups, "a", &silent);
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", ""));
    first.until(Hibernating).await;
    second.until(Hibernating).await;
    first.wake();
    eventually("the failure", || first.control.last_wake().is_some()).await;
    second.wake();
    second.until(Active).await;
    assert_eq!((a.sleeps(), b.wakes().len()), (1, 1));
}

#[tokio::test]
async fn a_backend_that_is_gone_keeps_nobody_waiting() {
    let b = Backend::start().await;
    let gone = Backend::start().await;
    gone.wake_up();
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&gone, "/sleep", ""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", ""));
    first.until(Active).await;
    second.until(Hibernating).await;
    let closed = Closed::claim();
    let never = member(&b, "/sleep", "").replace(&b.url, &closed.url);
    let third = Owned::member(&groups, "c", &never);
    third.until(Hibernating).await;
    gone.close().await;
    first.handle.send(Input::Suspect(Symptom::BrokeOff));
    first.until(Hibernating).await;
    second.wake();
    second.until(Active).await;
}

#[tokio::test]
async fn the_oldest_wake_is_first() {
    let backends = [
        Backend::start().await,
        Backend::start().await,
        Backend::start().await,
    ];
    let groups = Groups::default();
    let members: Vec<_> = ["a", "b", "c"]
        .iter()
        .zip(&backends)
        .map(|(name, backend)| Owned::member(&groups, name, &member(backend, "/sleep", "")))
        .collect();
    for member in &members {
        member.until(Hibernating).await;
    }
    members[0].wake();
    members[0].until(Active).await;
    let second = members[1].wake();
    members[1].until(Waking).await;
    eventually("its turn", || members[0].handle.gate.enter().is_none()).await;
    let third = members[2].wake();
    members[2].until(Active).await;
    let made_room_for = |index: usize| members[index].control.sleeps_for();
    assert_eq!(made_room_for(0), [second.wake_id]);
    assert_eq!(made_room_for(1), [third.wake_id]);
    let awake = |index: usize| members[index].control.status() == Some(Active);
    assert!(!awake(0) && !awake(1) && awake(2));
    assert!(backends.iter().all(|backend| backend.wakes().len() == 1));
}

#[tokio::test]
async fn a_member_that_can_not_be_published_blocks_its_group_at_once_and_for_that_reason() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", ""));
    first.control.refuse();
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", "max_group_wait = \"1h\""));
    second.until(Hibernating).await;
    second.wake();
    let failure = second.blocked().await;
    let why = "a can't be published, so it isn't recorded as asleep";
    assert!(failure.reason.starts_with(why), "{}", failure.reason);
    assert_eq!((a.sleeps(), b.wakes().len()), (0, 0));
}

#[tokio::test]
async fn a_persistent_member_is_waited_for() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", "persistent = true"));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", "max_group_wait = \"50ms\""));
    first.until(Active).await;
    second.until(Hibernating).await;
    second.wake();
    let failure = second.blocked().await;
    assert!(
        failure.reason.contains("not put to sleep for others"),
        "{}",
        failure.reason
    );
    assert_eq!(a.sleeps(), 0);
    assert_eq!(first.handle.sleep().await, Ok(()));
    first.until(Hibernating).await;
    second.wake();
    second.until(Active).await;
}

#[tokio::test]
async fn groups_that_have_nothing_in_common_do_not_wait_for_each_other() {
    let backends = [
        Backend::start().await,
        Backend::start().await,
        Backend::start().await,
    ];
    let groups = Groups::default();
    let of = |backend: &Backend, list: &str| member(backend, "/sleep", "").replace("\"gpu0\"", list);
    let one = Owned::member(&groups, "one", &of(&backends[0], "\"gpu0\""));
    let other = Owned::member(&groups, "other", &of(&backends[1], "\"gpu1\""));
    let both = Owned::member(&groups, "both", &of(&backends[2], "[\"gpu0\", \"gpu1\"]"));
    for member in [&one, &other, &both] {
        member.until(Hibernating).await;
    }
    one.wake();
    other.wake();
    one.until(Active).await;
    other.until(Active).await;
    both.wake();
    both.until(Active).await;
    assert_eq!(
        (one.control.status(), other.control.status()),
        (Some(Hibernating), Some(Hibernating))
    );
    one.wake();
    one.until(Active).await;
    assert_eq!(both.control.status(), Some(Hibernating));
}

#[tokio::test]
async fn a_persistent_member_that_is_found_awake_makes_no_room_for_who_asked_before() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let groups = Groups::default();
    // Its first probe takes as long as the test wants.
    let slow = member(&a, "/sleep", "persistent = true").replace(
        "path = \"/is_sleeping\", expect = { is_sleeping = false }",
        "path = \"/slow-wake\", timeout = \"10s\"",
    );
    let first = Owned::member(&groups, "a", &slow);
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", "max_group_wait = \"5s\""));
    second.until(Hibernating).await;
    second.wake();
    // The look before the wake; then it waits for its turn.
    b.await_requests(2).await;
    a.release();
    first.until(Active).await;
    let failure = second.blocked().await;
    assert!(
        failure.reason.contains("is not put to sleep for others"),
        "{failure:?}"
    );
    assert_eq!((a.sleeps(), first.control.status()), (0, Some(Active)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_wake_is_not_refused_with_the_one_that_has_waited_long_enough() {
    for _ in 0..8 {
        let backends = [
            Backend::start().await,
            Backend::start().await,
            Backend::start().await,
        ];
        backends[0].wake_up();
        let groups = Groups::default();
        let awake = Owned::member(&groups, "a", &member(&backends[0], "/sleep", ""));
        let impatient = member(&backends[1], "/sleep", "max_group_wait = \"50ms\"");
        let impatient = Owned::member(&groups, "b", &impatient);
        let next = Owned::member(&groups, "c", &member(&backends[2], "/sleep", ""));
        awake.until(Active).await;
        impatient.until(Hibernating).await;
        next.until(Hibernating).await;
        let request = awake.handle.gate.enter().expect("open");
        impatient.wake();
        next.wake();
        impatient.blocked().await;
        drop(request);
        next.until(Active).await;
    }
}

#[tokio::test]
async fn what_a_recipe_has_started_is_put_to_sleep_after_a_restart_though_nobody_listens_there_yet() {
    let (controller, b) = (Backend::start().await, Backend::start().await);
    let folder = tempfile::tempdir().expect("a directory");
    let state = Some(folder.path());
    // Something that loads for long before it listens, as what `systemctl start` has started.
    let loading = Closed::claim();
    let slow = member(&controller, "/sleep", "")
        .replace("/wake\"", "/ok\"")
        .replace(
            &format!("base_url = \"{}\"", controller.url),
            &format!("base_url = \"{}\"", loading.url),
        );
    let before = Owned::member_with(&Groups::default(), "a", &slow, state);
    before.until(Hibernating).await;
    before.wake();
    controller.await_requests(1).await;
    before.stop().await;

    for sleeps in [1, 1] {
        let groups = Groups::default();
        let first = Owned::member_with(&groups, "a", &slow, state);
        let second = Owned::member_with(&groups, "b", &member(&b, "/sleep", ""), state);
        first.until(Hibernating).await;
        second.until(Hibernating).await;
        second.wake();
        second.until(Active).await;
        assert_eq!(
            controller.sleeps(),
            sleeps,
            "once, and from then on it is known to sleep"
        );
        b.fall_asleep();
        first.stop().await;
        second.stop().await;
    }
}

#[tokio::test]
async fn an_order_to_sleep_outlasts_the_wish_of_its_group() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &member(&a, "/sleep", ""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", "max_group_wait = \"2s\""));
    first.until(Active).await;
    second.until(Hibernating).await;
    let request = first.handle.gate.enter().expect("open");
    second.wake();
    eventually("a closed gate", || first.handle.gate.enter().is_none()).await;
    assert_eq!(first.handle.sleep().await, Ok(()));
    second.blocked().await;
    drop(request);
    first.until(Hibernating).await;
    assert_eq!(first.control.sleeps(), [SleepReason::Operator]);
}

/// A member of `gpu0` whose backend it would serve, but somebody else has started one there.
fn served(backend: &Backend, probe: &str) -> String {
    format!(
        r#"
        base_url = "{}"
        models = ["m"]
        exclusive = "gpu0"
        probe = {{ {probe}, interval = "1h" }}
        [provider.wake]
        type = "command"
        command = "true"
        run = "serve"
        [provider.sleep]
        min_awake = "1ms"
        "#,
        backend.url
    )
}

#[tokio::test]
async fn a_backend_that_somebody_else_has_started_is_in_the_way_until_he_ends_it() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let groups = Groups::default();
    let first = Owned::member(&groups, "a", &served(&a, "path = \"/ok\""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", ""));
    first.until(Active).await;
    second.until(Hibernating).await;
    second.wake();
    let failure = second.blocked().await;
    assert!(failure.reason.contains("didn't start its backend"), "{failure:?}");
    a.close().await;
    let address = a.url.trim_start_matches("http://").to_owned();
    eventually("its end", || std::net::TcpStream::connect(&address).is_err()).await;
    // Nobody has looked since.
    second.wake();
    second.until(Active).await;
}

#[tokio::test]
async fn a_backend_that_somebody_else_has_started_stays_awake_and_says_whose_it_is_until_it_ends() {
    let backend = Backend::start().await;
    let owned = Owned::start(&served(&backend, "path = \"/ok\""));
    owned.until(Active).await;
    let last = &owned.handle.last_sleep;
    assert_eq!(last.result(), None);
    let why = owned.handle.sleep().await.expect_err("it isn't the agent's");
    for part in [
        "is taken by `",
        "this agent didn't start its backend",
        "end that program once",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert_eq!(last.result(), Some(SleepResult::Awake(why.clone())));
    assert_eq!(last.stays_awake().map(|stays| stays.reason), Some(why.clone()));

    // A pause that wants it asleep.
    owned.handle.rest();
    eventually("another attempt", || {
        last.result() == Some(SleepResult::Awake(why.clone()))
    })
    .await;
    assert_eq!(last.stays_awake().map(|stays| stays.attempt), Some(2));
    owned.handle.send(Input::Rest(None));
    eventually("the end of the pause", || last.result().is_none()).await;
    owned.handle.rest();
    backend.close().await;
    eventually("its end", || backend_is_gone(&backend)).await;
    owned.handle.send(Input::Suspect(Symptom::Unreachable));
    owned.until(Hibernating).await;
    eventually("its sleep", || last.result() == Some(SleepResult::Asleep)).await;
}

fn backend_is_gone(backend: &Backend) -> bool {
    std::net::TcpStream::connect(backend.url.trim_start_matches("http://")).is_err()
}

#[tokio::test]
async fn who_cannot_make_room_says_so_though_it_is_to_wake_itself() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let groups = Groups::default();
    let silent = served(&a, "path = \"/hang\", timeout = \"500ms\"");
    let first = Owned::member(&groups, "a", &silent);
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", "max_group_wait = \"15s\""));
    first.until(Hibernating).await;
    second.until(Hibernating).await;
    second.wake();
    // It has been asked for room, and looks how its backend stands.
    a.await_requests(2).await;
    first.wake();
    let failure = second.blocked().await;
    assert!(failure.reason.contains("didn't start its backend"), "{failure:?}");
}

#[tokio::test]
async fn a_member_that_leaves_keeps_its_room_until_its_backend_sleeps() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.wake_up();
    let groups = Groups::default();
    let patient = "max_group_wait = \"1h\"";
    let first = Owned::member(&groups, "a", &member(&a, "/fail", ""));
    let second = Owned::member(&groups, "b", &member(&b, "/sleep", patient));
    first.until(Active).await;
    second.until(Hibernating).await;
    let clock = StoppedClock::stop();
    let before = a.requests();
    first.handle.leave(Leave::Replaced);
    // Two attempts to put it to sleep, with a probe after each.
    let tried = || a.requests() >= before + 4 || first.has_left();
    clock.pass_until("the attempts", tried).await;
    assert!(!first.has_left(), "its backend is still awake");
    second.wake();
    clock.pass(Duration::from_secs(2)).await;
    assert_eq!((second.control.status(), b.wakes().len()), (Some(Waking), 0));
    a.fall_asleep();
    clock.pass_until("its end", || first.has_left()).await;
    assert_eq!(first.control.status(), Some(Hibernating));
    first.leaves().await;
    clock
        .pass_until("the other", || second.control.status() == Some(Active))
        .await;
}

#[tokio::test]
async fn a_member_that_leaves_sleeps_after_two_minutes_whoever_still_uses_it() {
    let backend = Backend::start().await;
    backend.wake_up();
    let owned = Owned::member(&Groups::default(), "a", &member(&backend, "/sleep", ""));
    owned.until(Active).await;
    let _request = owned.handle.gate.enter().expect("open");
    let clock = StoppedClock::stop();
    owned.handle.leave(Leave::Replaced);
    clock.pass(Duration::from_secs(110)).await;
    assert_eq!((backend.sleeps(), owned.has_left()), (0, false));
    clock.pass_until("its end", || owned.has_left()).await;
    assert_eq!((backend.sleeps(), owned.control.status()), (1, Some(Hibernating)));
}
