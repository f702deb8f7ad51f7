//! The owner of a provider, against the domain's own rules and a real backend.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod control;
#[path = "control/owned.rs"]
#[expect(dead_code, reason = "the tests of groups use the rest")]
mod owned;

use backend::{Backend, Closed, StoppedClock, eventually, provider};
use control::{Control, EPOCH, now};
use owned::Owned;
use reveille_agent::{
    hub::Superseded,
    provider::{Asked, Input, SleepResult, Symptom},
};
use reveille_bus::wakes::WakeMessage;
use reveille_domain::{
    Availability::Available,
    Epoch, ModelName, ProviderCommand, ReportSeq, SleepReason, WakeFailureKind,
    provider::StatusName::{Active, Down, Hibernating, Inactive, Waking},
};
use std::time::Duration;

/// A provider that is probed often, and woken by a POST to `wake` at its backend.
fn woken_by(backend: &Backend, wake: &str) -> String {
    format!(
        r#"
        base_url = "{0}"
        models = ["m"]
        probe = {{ path = "/is_sleeping", expect = {{ is_sleeping = false }}, interval = "20ms" }}
        [provider.wake]
        type = "http"
        url = "{0}{wake}"
        "#,
        backend.url
    )
}

/// The same, probed only when there is a reason.
fn seldom_probed(backend: &Backend, wake: &str) -> String {
    woken_by(backend, wake).replace("20ms", "1h")
}

#[tokio::test]
async fn a_provider_is_registered_as_its_backend_is_found() {
    let backend = Backend::start().await;
    Owned::start(&woken_by(&backend, "/wake"))
        .until(Hibernating)
        .await;
    backend.wake_up();
    Owned::start(&woken_by(&backend, "/wake")).until(Active).await;
    let closed = Closed::claim();
    Owned::start(&format!("base_url = \"{}\"\nmodels = [\"m\"]", closed.url))
        .until(Down)
        .await;
}

#[tokio::test]
async fn a_wake_runs_the_recipe_once_however_often_it_is_sent() {
    let backend = Backend::start().await;
    let owned = Owned::start(&seldom_probed(&backend, "/slow-wake"));
    owned.until(Hibernating).await;
    let wake = owned.control.request_wake();
    for _ in 0..5 {
        owned.handle.send(Input::Wake(wake.clone()));
    }
    eventually("the recipe", || !backend.wakes().is_empty()).await;
    owned.handle.send(Input::Wake(wake.clone()));
    assert!(
        owned.handle.gate.enter().is_none(),
        "nobody gets in before it is awake"
    );
    backend.release();
    owned.until(Active).await;
    owned.handle.send(Input::Wake(wake.clone()));
    let ended = owned.control.last_wake().expect("a wake");
    assert_eq!((ended.id, ended.failure), (wake.wake_id, None));
    eventually("an open gate", || owned.handle.gate.enter().is_some()).await;
    assert_eq!(backend.wakes(), ["POST slow"]);
}

#[tokio::test]
async fn a_wake_that_nobody_wants_any_longer_goes_on_or_ends_with_its_backend_asleep_as_the_config_says() {
    for cancels in [false, true] {
        let backend = Backend::start().await;
        let cancel = if cancels {
            "\ncancel_wake = \"when_unwanted\""
        } else {
            ""
        };
        let config = seldom_probed(&backend, "/slow-wake")
            .replace("models = [\"m\"]", &format!("models = [\"m\"]{cancel}"))
            + &format!(
                "[provider.sleep]\ntype = \"http\"\nurl = \"{}/slow-sleep\"\n",
                backend.url
            );
        let owned = Owned::start(&config);
        owned.until(Hibernating).await;
        let clock = StoppedClock::stop();
        let wake = owned.wake_for_request();
        let says = |wanted| {
            let wake = wake.clone();
            owned.handle.send(Input::Wake(WakeMessage { wanted, ..wake }));
        };
        let runs = || !backend.wakes().is_empty();
        clock.pass_until("the recipe", runs).await;
        says(true);
        clock.pass(Duration::from_secs(5)).await;
        assert_eq!(owned.control.status(), Some(Waking));
        says(false);
        if !cancels {
            clock.pass(Duration::from_secs(15)).await;
            assert_eq!((owned.control.status(), backend.sleeps()), (Some(Waking), 0));
            backend.release();
            let is_active = || owned.control.status() == Some(Active);
            clock.pass_until("its end", is_active).await;
            continue;
        }
        clock
            .pass_until("the sleep recipe", || backend.sleeps() == 1)
            .await;
        assert_eq!(owned.control.status(), Some(Waking), "not before it sleeps");
        says(true);
        clock.pass(Duration::from_secs(2)).await;
        backend.release();
        let is_over = || owned.control.status() == Some(Hibernating);
        clock.pass_until("its end", is_over).await;
        let ended = owned.control.provider().wakes;
        let failures: Vec<_> = ended
            .iter()
            .filter_map(|wake| Some(wake.failure.as_ref()?.kind))
            .collect();
        assert_eq!(failures, [WakeFailureKind::NotNeeded], "one end");
        assert_eq!(owned.control.provider().failures.count, 0);
        clock.pass(Duration::from_secs(5)).await;
        assert_eq!((backend.wakes().len(), backend.sleeps()), (1, 1));

        // Whoever wants it then has a wake of their own.
        owned.wake_for_request();
        clock
            .pass_until("the next recipe", || backend.wakes().len() == 2)
            .await;
        backend.release();
        let is_active = || owned.control.status() == Some(Active);
        clock.pass_until("its end", is_active).await;
    }
}

#[tokio::test]
async fn no_more_wakes_run_in_a_day_than_the_config_allows() {
    let backend = Backend::start().await;
    let owned = Owned::start(&(seldom_probed(&backend, "/wake") + "max_per_day = 2\n"));
    owned.until(Hibernating).await;
    for _ in 0..2 {
        owned.handle.send(Input::Wake(owned.control.request_wake()));
        owned.until(Active).await;
        backend.fall_asleep();
        owned.handle.send(Input::Suspect(Symptom::BrokeOff));
        owned.until(Hibernating).await;
    }
    owned.handle.send(Input::Wake(owned.control.request_wake()));
    eventually("the refusal", || {
        owned
            .control
            .last_wake()
            .is_some_and(|wake| wake.failure.is_some())
    })
    .await;
    let failure = owned
        .control
        .last_wake()
        .and_then(|wake| wake.failure)
        .expect("a failure");
    assert_eq!(
        (failure.kind, failure.stage.as_str()),
        (WakeFailureKind::NotAllowed, "max_per_day")
    );
    assert!(
        failure.reason.contains("no more than 2 wakes in 24 hours"),
        "{}",
        failure.reason
    );
    assert_eq!(backend.wakes().len(), 2, "nothing was run for the third");

    // A backend that comes up by itself is let in all the same.
    backend.wake_up();
    owned.handle.send(Input::Suspect(Symptom::BrokeOff));
    owned.until(Active).await;
}

#[tokio::test]
async fn a_wake_that_came_before_the_agent_is_worked_on_when_it_registers() {
    let backend = Backend::start().await;
    let control = Control::new();
    Owned::with(control.clone(), &seldom_probed(&backend, "/wake"), None)
        .stop()
        .await;
    let first = Owned::with(control.clone(), &seldom_probed(&backend, "/wake"), None);
    first.until(Hibernating).await;
    first.stop().await;
    control.request_wake();
    Owned::with(control, &seldom_probed(&backend, "/wake"), None)
        .until(Active)
        .await;
    assert_eq!(backend.wakes().len(), 1);
}

#[tokio::test]
async fn a_backend_that_is_up_already_is_not_woken() {
    let backend = Backend::start().await;
    let owned = Owned::start(&seldom_probed(&backend, "/wake"));
    owned.until(Hibernating).await;
    backend.wake_up();
    owned.handle.send(Input::Wake(owned.control.request_wake()));
    owned.until(Active).await;
    assert!(backend.wakes().is_empty());
}

#[tokio::test]
async fn a_failed_wake_is_reported_with_its_reason_and_the_next_one_tries_again() {
    let backend = Backend::start().await;
    let owned = Owned::start(&seldom_probed(&backend, "/fail"));
    owned.until(Hibernating).await;
    for _ in 0..2 {
        let wake = owned.control.request_wake();
        assert_eq!(owned.control.status(), Some(Waking));
        owned.handle.send(Input::Wake(wake.clone()));
        owned.until(Hibernating).await;
        let ended = owned.control.last_wake().expect("a wake");
        let failure = ended.failure.expect("a failure");
        assert_eq!(ended.id, wake.wake_id);
        assert_eq!(
            (failure.kind, failure.stage.as_str()),
            (WakeFailureKind::Recipe, "step 1 http")
        );
        assert_eq!(failure.reason, "HTTP status 500");
    }
}

#[tokio::test]
async fn a_new_wake_adopts_the_recipe_that_still_runs() {
    let backend = Backend::start().await;
    let owned = Owned::start(&seldom_probed(&backend, "/slow-wake"));
    owned.until(Hibernating).await;
    let first = owned.control.request_wake();
    owned.handle.send(Input::Wake(first.clone()));
    eventually("the recipe", || !backend.wakes().is_empty()).await;
    owned.control.expire_wake(&first);
    let second = owned.control.request_wake();
    owned.handle.send(Input::Wake(second.clone()));
    owned.handle.send(Input::Wake(first));
    // Both have been taken when a later order has.
    assert_eq!(
        owned.handle.sleep().await,
        Err("it has no sleep recipe".to_owned())
    );
    backend.release();
    owned.until(Active).await;
    let ended = owned.control.last_wake().expect("a wake");
    assert_eq!((ended.id, ended.failure), (second.wake_id, None));
    assert_eq!(backend.wakes().len(), 1);
}

#[tokio::test]
async fn wakes_of_other_sessions_are_ignored() {
    let backend = Backend::start().await;
    let owned = Owned::start(&seldom_probed(&backend, "/wake"));
    owned.until(Hibernating).await;
    let mut wake = owned.control.request_wake();
    wake.epoch = Epoch(EPOCH.0 - 1);
    owned.handle.send(Input::Wake(wake));
    assert_eq!(owned.handle.sleep().await, Ok(()), "it sleeps");
    assert!(backend.wakes().is_empty());
    assert_eq!(owned.control.status(), Some(Waking));
}

#[tokio::test]
async fn what_happens_to_the_backend_by_itself_is_reported() {
    let backend = Backend::start().await;
    let owned = Owned::start(&woken_by(&backend, "/wake"));
    owned.until(Hibernating).await;
    backend.wake_up();
    owned.until(Active).await;
    backend.fall_asleep();
    owned.until(Hibernating).await;
    assert_eq!(owned.control.sleeps(), [SleepReason::FoundAsleep]);
    assert!(backend.wakes().is_empty());
}

#[tokio::test]
async fn what_happens_during_a_probe_is_looked_at_by_another_one() {
    let backend = Backend::start().await;
    // Each probe waits until it is released.
    let probe = "probe = { path = \"/slow-wake\", interval = \"1h\", timeout = \"1m\" }";
    let owned = Owned::start(&format!(
        "base_url = \"{}\"\nmodels = [\"m\"]\n{probe}\n",
        backend.url
    ));
    backend.release();
    owned.until(Active).await;
    owned.handle.send(Input::Suspect(Symptom::BrokeOff));
    eventually("a probe", || backend.wakes().len() == 2).await;
    owned.handle.send(Input::Suspect(Symptom::BrokeOff));
    // It has been taken when a later order has.
    assert_eq!(
        owned.handle.sleep().await,
        Err("it has no sleep recipe".to_owned())
    );
    backend.release();
    eventually("another probe", || backend.wakes().len() == 3).await;
}

#[tokio::test]
async fn an_agent_taken_for_lost_resumes() {
    let backend = Backend::start().await;
    backend.wake_up();
    let owned = Owned::start(&seldom_probed(&backend, "/wake"));
    owned.until(Active).await;
    let taken_for_lost = || {
        let at = now();
        owned.control.execute(&ProviderCommand::MarkInactive {
            epoch: EPOCH,
            last_heartbeat: at,
            at,
        });
        assert_eq!(owned.control.status(), Some(Inactive));
    };
    taken_for_lost();
    owned.handle.send(Input::Resume);
    owned.until(Active).await;
    taken_for_lost();
    owned.handle.send(Input::Reconnected);
    owned.until(Active).await;
}

#[tokio::test]
async fn a_request_that_found_nobody_is_told_the_report_that_says_so() {
    let backend = Backend::start().await;
    backend.wake_up();
    let owned = Owned::start(&seldom_probed(&backend, "/wake"));
    owned.until(Active).await;
    assert_eq!(owned.handle.refused().await, None, "it is up after all");
    backend.fall_asleep();
    let reports = futures::future::join_all((0..20).map(|_| owned.handle.refused())).await;
    let last = owned.control.provider().last_report();
    assert_eq!(
        (last.epoch, last.seq),
        (EPOCH, ReportSeq(2)),
        "its registration was the first"
    );
    assert!(reports.iter().all(|report| *report == Some(last)), "{reports:?}");
    assert_eq!(owned.control.status(), Some(Hibernating));
    assert!(owned.handle.gate.enter().is_none());
    assert_eq!(
        owned.handle.refused().await,
        Some(last),
        "once it is known, at once"
    );
}

#[tokio::test]
async fn an_idle_backend_is_put_to_sleep_but_not_under_a_request() {
    let backend = Backend::start().await;
    backend.wake_up();
    let sleep = format!(
        "[provider.sleep]\nidle_after = \"100ms\"\nmin_awake = \"1ms\"\ntype = \"http\"\nurl = \"{}/sleep\"",
        backend.url
    );
    let owned = Owned::start(&format!("{}{sleep}", woken_by(&backend, "/wake")));
    let request = owned.handle.gate.enter().expect("open");
    owned.until(Active).await;
    // Several times as long as it may be idle, in probes.
    backend.await_requests(backend.requests() + 20).await;
    assert_eq!(backend.sleeps(), 0);
    drop(request);
    owned.until(Hibernating).await;
    eventually("the sleep recipe", || backend.sleeps() == 1).await;
    assert_eq!(owned.control.sleeps(), [SleepReason::Idle]);
    assert!(owned.handle.gate.enter().is_none());
}

/// The same as [`seldom_probed`], put to sleep by a POST to `sleep`.
fn put_to_sleep_by(backend: &Backend, sleep: &str) -> String {
    format!(
        "{}[provider.sleep]\ntype = \"http\"\nurl = \"{}{sleep}\"",
        seldom_probed(backend, "/wake"),
        backend.url
    )
}

/// A backend that is put to sleep as soon as it is awake and nobody is there, unless somebody is expected.
fn hardly_awake(backend: &Backend) -> String {
    let often = put_to_sleep_by(backend, "/sleep").replace("\"1h\"", "\"20ms\"");
    often + "\nidle_after = \"1ms\"\nmin_awake = \"1ms\""
}

#[tokio::test]
async fn a_backend_that_a_request_has_woken_stays_awake_until_the_request_has_come() {
    let backend = Backend::start().await;
    let owned = Owned::start(&hardly_awake(&backend));
    owned.until(Hibernating).await;
    owned.handle.send(Input::Wake(owned.control.wake_for_request()));
    owned.until(Active).await;
    // The request is slow on its way: many times as long as the backend may be idle, in probes.
    backend.await_requests(backend.requests() + 20).await;
    assert_eq!((backend.sleeps(), owned.control.status()), (0, Some(Active)));
    drop(owned.handle.gate.enter().expect("open"));
    owned.until(Hibernating).await;
    assert_eq!(owned.control.sleeps(), [SleepReason::Idle]);

    owned.handle.send(Input::Wake(owned.control.wake_for_request()));
    owned.until(Active).await;
    assert_eq!(
        owned.handle.sleep().await,
        Ok(()),
        "unless somebody puts it to sleep"
    );
    owned.until(Hibernating).await;
    assert_eq!(owned.control.sleeps()[1..], [SleepReason::Operator]);
}

#[tokio::test]
async fn a_request_that_finds_it_asleep_again_waits_for_the_report_of_that_sleep() {
    let backend = Backend::start().await;
    let owned = Owned::start(&hardly_awake(&backend));
    owned.until(Hibernating).await;
    let wake = owned.control.request_wake();
    owned.control.hold();
    owned.handle.send(Input::Wake(wake));
    let is_up = || owned.handle.gate.availability() == Some(Available);
    eventually("the wake's end", is_up).await;
    owned.handle.sleep().await.expect("it can sleep");
    eventually("the next sleep", || backend.sleeps() == 1).await;
    let told = tokio::spawn({
        let handle = owned.handle.clone();
        async move { handle.refused().await }
    });
    // A few probes later it has been seen to.
    backend.await_requests(backend.requests() + 5).await;
    assert!(owned.control.is_asked() && !told.is_finished());
    owned.control.release();
    let told = told.await.expect("no panic");
    assert_eq!(told, Some(owned.control.provider().last_report()));
    assert_eq!(owned.control.sleeps(), [SleepReason::Operator]);
}

#[tokio::test]
async fn an_operators_wake_holds_nothing_unless_a_request_joins_it() {
    let backend = Backend::start().await;
    let owned = Owned::start(&hardly_awake(&backend).replace("/wake\"", "/slow-wake\""));
    owned.until(Hibernating).await;
    for joined in [false, true] {
        let mut wake = owned.control.request_wake();
        owned.handle.send(Input::Wake(wake.clone()));
        eventually("the recipe", || backend.wakes().len() == 1 + usize::from(joined)).await;
        wake.awaited = joined;
        owned.handle.send(Input::Wake(wake));
        backend.release();
        if joined {
            owned.until(Active).await;
            backend.await_requests(backend.requests() + 20).await;
            assert_eq!(owned.control.status(), Some(Active));
        } else {
            eventually("the sleep", || owned.control.sleeps() == [SleepReason::Idle]).await;
        }
    }
}

#[tokio::test]
async fn a_request_that_joins_a_wake_as_it_ends_is_waited_for_until_somebody_has_come() {
    let backend = Backend::start().await;
    let owned = Owned::start(&hardly_awake(&backend).replace("idle_after = \"1ms\"", "idle_after = \"1s\""));
    owned.until(Hibernating).await;
    let mut wake = owned.control.request_wake();
    owned.handle.send(Input::Wake(wake.clone()));
    owned.until(Active).await;
    wake.awaited = true;
    owned.handle.send(Input::Wake(wake.clone()));
    // Longer than it may be idle, in probes.
    backend.await_requests(backend.requests() + 75).await;
    assert_eq!(owned.control.status(), Some(Active));
    drop(owned.handle.gate.enter().expect("open"));
    // Sent again by a replica that is late, the wake holds nothing any more.
    owned.handle.send(Input::Wake(wake));
    owned.until(Hibernating).await;
}

#[tokio::test]
async fn a_backend_that_came_up_before_the_wake_message_waits_for_the_request_too() {
    let backend = Backend::start().await;
    let owned = Owned::start(&hardly_awake(&backend));
    owned.until(Hibernating).await;
    let late = owned.control.wake_for_request();
    backend.wake_up();
    owned.until(Active).await;
    owned.handle.send(Input::Wake(late));
    // Longer than it may be idle, in probes.
    backend.await_requests(backend.requests() + 20).await;
    assert_eq!(owned.control.status(), Some(Active));
    drop(owned.handle.gate.enter().expect("open"));
    owned.until(Hibernating).await;
    assert!(backend.wakes().is_empty());
}

#[tokio::test]
async fn a_backend_that_an_operator_has_woken_stays_for_its_least_time() {
    let backend = Backend::start().await;
    let sleep = put_to_sleep_by(&backend, "/sleep") + "\nidle_after = \"1ms\"\nmin_awake = \"1h\"";
    let owned = Owned::start(&sleep);
    owned.until(Hibernating).await;
    owned.handle.send(Input::Wake(owned.control.request_wake()));
    owned.until(Active).await;
    let asked = backend.requests();
    for _ in 0..20 {
        owned.handle.send(Input::Suspect(Symptom::BrokeOff));
    }
    backend.await_requests(asked + 1).await;
    assert_eq!(backend.sleeps(), 0);
    assert_eq!(
        owned.handle.sleep().await,
        Ok(()),
        "unless somebody puts it to sleep"
    );
    owned.until(Hibernating).await;
}

#[tokio::test]
async fn a_backend_that_is_kept_warm_is_put_to_sleep_by_somebody_and_not_for_being_idle() {
    let backend = Backend::start().await;
    backend.wake_up();
    let warm = |hours: &str| {
        let often = put_to_sleep_by(&backend, "/sleep").replace("\"1h\"", "\"20ms\"");
        format!("{often}\nidle_after = \"1ms\"\nmin_awake = \"1ms\"\nkeep_warm = [{hours}]")
    };
    let owned = Owned::start(&warm("\"00:00-12:00\", \"12:00-24:00\""));
    owned.until(Active).await;
    backend.await_requests(backend.requests() + 20).await;
    assert_eq!(backend.sleeps(), 0);
    assert_eq!(owned.handle.sleep().await, Ok(()));
    owned.until(Hibernating).await;
    owned.stop().await;

    backend.wake_up();
    let owned = Owned::start(&warm(""));
    eventually("an idle one's sleep", || {
        owned.control.sleeps() == [SleepReason::Idle]
    })
    .await;
}

#[tokio::test]
async fn when_its_machine_is_paused_a_backend_is_put_to_sleep_after_whatever_is_under_way() {
    let backend = Backend::start().await;
    let owned = Owned::start(&put_to_sleep_by(&backend, "/sleep").replace("/wake\"", "/slow-wake\""));
    owned.until(Hibernating).await;
    owned.handle.rest();
    assert_eq!(owned.handle.sleep().await, Ok(()), "it sleeps");
    assert_eq!(backend.sleeps(), 0, "and nothing is done to it");

    for wanted in [false, true] {
        let wakes = backend.wakes().len();
        owned.handle.send(Input::Wake(owned.control.request_wake()));
        eventually("the recipe", || backend.wakes().len() > wakes).await;
        owned.handle.rest();
        if !wanted {
            owned.handle.send(Input::Rest(None));
        }
        backend.release();
        if !wanted {
            owned.until(Active).await;
            // Once more round the loop, in which it could have been put to sleep.
            assert_eq!(owned.handle.refused().await, None, "the pause was over before");
            assert_eq!(backend.sleeps(), 0);
            assert_eq!(owned.handle.sleep().await, Ok(()));
        }
        eventually("the sleep", || {
            owned.control.sleeps().len() == 1 + usize::from(wanted)
        })
        .await;
    }
    let operator = SleepReason::Operator;
    assert_eq!(
        (backend.sleeps(), owned.control.sleeps()),
        (2, vec![operator, operator])
    );
}

#[tokio::test]
async fn a_backend_is_put_to_sleep_when_the_last_request_has_left_and_nobody_gets_in_meanwhile() {
    let backend = Backend::start().await;
    backend.wake_up();
    let owned = Owned::start(&put_to_sleep_by(&backend, "/sleep"));
    owned.until(Active).await;
    let request = owned.handle.gate.enter().expect("open");
    assert_eq!(owned.handle.sleep().await, Ok(()));
    assert_eq!(owned.handle.sleep().await, Ok(()), "it is being done");
    eventually("a closed gate", || owned.handle.gate.enter().is_none()).await;
    let late = tokio::spawn({
        let handle = owned.handle.clone();
        async move { handle.refused().await }
    });
    tokio::task::yield_now().await;
    assert_eq!((backend.sleeps(), owned.control.sleeps()), (0, vec![]));
    assert!(!late.is_finished());

    drop(request);
    owned.until(Hibernating).await;
    assert_eq!(
        (backend.sleeps(), owned.control.sleeps()),
        (1, vec![SleepReason::Operator])
    );
    let told = late.await.expect("no panic");
    assert_eq!(
        told,
        Some(owned.control.provider().last_report()),
        "it wakes the backend"
    );
    owned.handle.send(Input::Wake(owned.control.request_wake()));
    owned.until(Active).await;
    eventually("an open gate", || owned.handle.gate.enter().is_some()).await;
}

#[tokio::test]
async fn the_end_of_the_last_request_is_noticed_without_a_probe() {
    let backend = Backend::start().await;
    backend.wake_up();
    let idle = "\nidle_after = \"10ms\"\nmin_awake = \"1ms\"";
    let owned = Owned::start(&(put_to_sleep_by(&backend, "/sleep") + idle));
    let request = owned.handle.gate.enter().expect("open");
    owned.until(Active).await;
    drop(request);
    owned.until(Hibernating).await;
    assert_eq!(owned.control.sleeps(), [SleepReason::Idle]);
}

#[tokio::test]
async fn a_wake_waits_for_the_end_of_a_sleep() {
    let backend = Backend::start().await;
    backend.wake_up();
    let owned = Owned::start(&put_to_sleep_by(&backend, "/slow-sleep"));
    owned.until(Active).await;
    assert_eq!(owned.handle.sleep().await, Ok(()));
    eventually("the sleep recipe", || backend.sleeps() == 1).await;
    // Control may have lost the provider and think that it sleeps.
    let wake = owned.control.wake_asleep();
    owned.handle.send(Input::Wake(wake.clone()));
    let asked = backend.requests();
    owned.handle.send(Input::Suspect(Symptom::BrokeOff));
    tokio::task::yield_now().await;
    assert_eq!((backend.requests(), backend.wakes().len()), (asked, 0));
    backend.release();
    eventually("the wake", || !backend.wakes().is_empty()).await;
    owned.until(Active).await;
    assert_eq!(owned.control.last_wake().expect("a wake").failure, None);
}

#[tokio::test]
async fn a_sleep_after_which_the_backend_still_answers_is_none() {
    let backend = Backend::start().await;
    backend.wake_up();
    let owned = Owned::start(&put_to_sleep_by(&backend, "/ok"));
    owned.until(Active).await;
    let asked = backend.requests();
    assert_eq!(owned.handle.sleep().await, Ok(()));
    // The recipe, and a few probes.
    backend.await_requests(asked + 5).await;
    assert_eq!(
        (owned.control.sleeps(), owned.control.status()),
        (vec![], Some(Active))
    );
}

#[tokio::test]
async fn a_sleep_that_fails_leaves_the_backend_in_use() {
    let backend = Backend::start().await;
    backend.wake_up();
    let owned = Owned::start(&put_to_sleep_by(&backend, "/fail"));
    owned.until(Active).await;
    let asked = backend.requests();
    assert_eq!(owned.handle.sleep().await, Ok(()));
    eventually("a closed gate", || owned.handle.gate.enter().is_none()).await;
    let refused = tokio::spawn({
        let handle = owned.handle.clone();
        async move { handle.refused().await }
    });
    // The recipe, and the probe that finds it up.
    backend.await_requests(asked + 2).await;
    eventually("an open gate", || owned.handle.gate.enter().is_some()).await;
    assert_eq!(refused.await.expect("no panic"), None, "it may try again");
    assert_eq!(
        (owned.control.sleeps(), owned.control.status()),
        (vec![], Some(Active))
    );
}

#[tokio::test]
async fn a_superseded_session_is_told() {
    let backend = Backend::start().await;
    let control = Control::new();
    let spec = reveille_domain::ProviderSpec::new(vec![], None, false).expect("legal");
    control.execute(&ProviderCommand::Register {
        id: "box/p".parse().expect("an id"),
        epoch: Epoch(EPOCH.0 + 1),
        seq: ReportSeq(1),
        spec,
        availability: None,
        at: now(),
    });
    let mut owned = Owned::with(control, &seldom_probed(&backend, "/wake"), None);
    owned.superseded.changed().await.expect("told");
    let by = Superseded {
        current: Epoch(EPOCH.0 + 1),
        restored: false,
        revoked: false,
    };
    assert_eq!(*owned.superseded.borrow(), Some(by));
}

#[tokio::test]
async fn models_are_discovered_and_remembered_while_the_backend_sleeps() {
    let directory = tempfile::tempdir().expect("a directory");
    let backend = Backend::start().await;
    let config =
        |url: &str| format!("base_url = \"{url}\"\n[provider.wake]\ntype = \"http\"\nurl = \"{url}/wake\"");
    let published = |owned: &Owned| owned.control.provider().spec.models().to_vec();
    let expected = ["Org/Model", "m"].map(|name| ModelName::parse(name).expect("legal"));

    let owned = Owned::with(Control::new(), &config(&backend.url), Some(directory.path()));
    owned.until(Active).await;
    assert_eq!(published(&owned), expected);

    let closed = Closed::claim();
    let owned = Owned::with(Control::new(), &config(&closed.url), Some(directory.path()));
    owned.until(Hibernating).await;
    assert_eq!(published(&owned), expected);
}

#[tokio::test]
async fn a_stopped_owner_ends_its_recipe() {
    let backend = Backend::start().await;
    let owned = Owned::start(&seldom_probed(&backend, "/slow-wake"));
    owned.until(Hibernating).await;
    owned.handle.send(Input::Wake(owned.control.request_wake()));
    eventually("the recipe", || !backend.wakes().is_empty()).await;
    let (handle, control) = (owned.handle.clone(), owned.control.clone());
    tokio::time::timeout(Duration::from_secs(10), owned.stop())
        .await
        .expect("at once");
    assert_eq!(
        control.status(),
        Some(Waking),
        "nothing is said of it: control is told that the agent stops"
    );
    assert_eq!(
        handle.sleep().await,
        Err("its agent is stopping, or has reloaded its config".to_owned())
    );
}

#[tokio::test]
async fn a_wake_message_that_comes_late_changes_nothing() {
    let backend = Backend::start().await;
    let owned = Owned::start(&seldom_probed(&backend, "/wake"));
    owned.until(Hibernating).await;
    let wake = owned.control.request_wake();
    owned.handle.send(Input::Wake(wake.clone()));
    owned.until(Active).await;
    backend.fall_asleep();
    owned.handle.send(Input::Suspect(Symptom::BrokeOff));
    owned.until(Hibernating).await;
    owned.control.hold();
    owned.handle.send(Input::Wake(wake));
    // With what comes after it in the owner's mailbox it has been dealt with too.
    for _ in 0..3 {
        assert_eq!(owned.handle.sleep().await, Ok(()));
    }
    assert!(!owned.control.is_asked(), "there is nothing to tell");
    owned.control.release();
    owned.handle.send(Input::Wake(owned.control.request_wake()));
    owned.until(Active).await;
    assert_eq!(backend.wakes().len(), 2);
}

#[tokio::test]
async fn after_a_failed_sleep_nobody_is_let_in_before_it_is_known_how_the_backend_stands() {
    let backend = Backend::start().await;
    backend.wake_up();
    let owned = Owned::start(&format!(
        r#"
        {0}
        [provider.sleep]
        [[provider.sleep.step]]
        type = "http"
        url = "{1}/sleep"
        [[provider.sleep.step]]
        type = "http"
        url = "{1}/fail"
        "#,
        seldom_probed(&backend, "/wake"),
        backend.url
    ));
    owned.until(Active).await;
    assert_eq!(owned.handle.sleep().await, Ok(()));
    while owned.control.status() == Some(Active) {
        assert!(owned.handle.gate.enter().is_none(), "let in to what sleeps");
        tokio::task::yield_now().await;
    }
    assert_eq!(owned.control.sleeps(), [SleepReason::FoundAsleep]);
}

#[tokio::test]
async fn a_backend_that_cannot_be_put_to_sleep_is_not_tried_again_at_once() {
    let backend = Backend::start().await;
    backend.wake_up();
    let idle = "idle_after = \"1ms\"\nmin_awake = \"1ms\"";
    let owned = Owned::start(&format!(
        r#"
        {0}
        [provider.sleep]
        {idle}
        [[provider.sleep.step]]
        type = "http"
        url = "{1}/wake"
        [[provider.sleep.step]]
        type = "http"
        url = "{1}/fail"
        "#,
        woken_by(&backend, "/wake"),
        backend.url
    ));
    owned.until(Active).await;
    eventually("a try", || backend.wakes().len() == 1).await;
    // Many times as long as it may be idle, in probes.
    backend.await_requests(backend.requests() + 5).await;
    assert_eq!(backend.wakes().len(), 1);
    assert!(owned.handle.gate.enter().is_some(), "it goes on meanwhile");
    let last = &owned.handle.last_sleep;
    assert_eq!(last.result(), None, "nobody ordered it");
    assert_eq!(owned.handle.sleep().await, Ok(()));
    eventually("why it stays awake", || {
        last.stays_awake()
            .is_some_and(|stays| stays.reason.starts_with("its sleep recipe failed: "))
    })
    .await;
}

#[tokio::test]
async fn an_order_to_sleep_during_a_wake_is_refused_for_what_it_is() {
    let backend = Backend::start().await;
    let owned = Owned::start(&put_to_sleep_by(&backend, "/sleep").replace("/wake\"", "/slow-wake\""));
    owned.until(Hibernating).await;
    owned.handle.send(Input::Wake(owned.control.request_wake()));
    eventually("the recipe", || backend.wakes().len() == 1).await;
    assert_eq!(owned.handle.sleep().await, Err("it is being woken".to_owned()));
    backend.release();
    owned.until(Active).await;
}

#[tokio::test]
async fn an_order_to_sleep_while_an_unwanted_wake_ends_is_carried_out_even_if_the_backend_stays_up_then() {
    let backend = Backend::start().await;
    let cancels = "models = [\"m\"]\ncancel_wake = \"when_unwanted\"";
    let config = put_to_sleep_by(&backend, "/slow-sleep")
        .replace("/wake\"", "/slow-wake\"")
        .replace("models = [\"m\"]", cancels);
    let owned = Owned::start(&(config + "\ntimeout = \"5s\""));
    owned.until(Hibernating).await;
    let clock = StoppedClock::stop();
    let wake = owned.wake_for_request();
    let runs = || !backend.wakes().is_empty();
    clock.pass_until("the recipe", runs).await;
    let unwanted = WakeMessage {
        wanted: false,
        ..wake
    };
    owned.handle.send(Input::Wake(unwanted));
    let sleeps = |times| {
        let backend = &backend;
        move || backend.sleeps() == times
    };
    clock.pass_until("the sleep recipe", sleeps(1)).await;
    backend.wake_up();
    assert_eq!(owned.handle.sleep().await, Ok(()));
    clock.pass_until("the order's own", sleeps(2)).await;
    backend.release();
    let is_asleep = || owned.handle.last_sleep.result() == Some(SleepResult::Asleep);
    clock.pass_until("the sleep", is_asleep).await;
    assert_eq!(owned.control.sleeps(), [SleepReason::Operator]);
}

#[tokio::test]
async fn a_backend_that_has_failed_still_has_after_a_reload() {
    let backend = Backend::start().await;
    backend.wake_up();
    let config = woken_by(&backend, "/wake");
    let owned = Owned::start(&config);
    owned.until(Active).await;
    backend.set_engine(500);
    let model = Some("m".to_owned());
    let path = "/v1/embeddings";
    owned.handle.health.asked(Asked { path, model });
    for _ in 0..3 {
        owned.handle.health.failed("HTTP status 500".to_owned());
    }
    owned.handle.send(Input::Suspect(Symptom::Failing));
    owned.until(Hibernating).await;
    assert_eq!(owned.control.sleeps(), [SleepReason::Failed]);
    let adjusted = config.replace("models =", "answer_timeout = \"1m\"\nmodels =");
    owned.handle.configure(provider(&adjusted));
    let before = backend.embeddings();
    let status = || owned.control.status();
    let probed = || backend.embeddings() >= before + 3 || status() == Some(Active);
    eventually("probes with a completion", probed).await;
    assert_eq!(status(), Some(Hibernating));
    backend.set_engine(200);
    owned.until(Active).await;
}
