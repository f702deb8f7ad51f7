//! How a request looks for a slot among the members of its pool, in time that passes by itself.

use super::{
    Served,
    fake_hub::{FakeHub, Reply, active, hibernating, id, inactive},
    queues::hello,
};
use crate::{
    inference::{
        BodyBudget, CurrentPhase, Endpoint, InferenceError, InferenceRequest, Options, RequestBody, Verb,
        WakeMode, flow, headers::PassedOn,
    },
    keys::Caller,
    wakes::WakeError,
};
use axum::http::HeaderMap;
use bytes::Bytes;
use reveille_bus::{
    Followed,
    relay::{FaultCode, RelayError, RelayFault},
};
use reveille_domain::{
    Balancing, ModelName, Priority, ProviderSpec, WakeFailure, WakeFailureKind, provider::Registered,
};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

const WAIT: Duration = Duration::from_secs(290);
/// Long enough for a request to look around several times.
const A_WHILE: Duration = Duration::from_secs(30);
/// What happens at once takes less.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Who answered.
type Answered = Result<String, InferenceError>;

impl Served {
    /// A request for a model, without HTTP: sockets know nothing of the time that passes here.
    fn asks(&self, model: &str, change: impl FnOnce(&mut Options)) -> JoinHandle<Answered> {
        let mut options = Options::read(&HeaderMap::new(), WAIT, None).expect("none");
        change(&mut options);
        let body = Bytes::from_static(br#"{"messages":[]}"#);
        let path = "/v1/chat/completions";
        let request = InferenceRequest {
            endpoint: Endpoint::find(Verb::Post, path).expect("a path"),
            path: path.to_owned(),
            model: ModelName::parse(model).expect("legal"),
            member: None,
            caller: Caller::operator(),
            request_id: "r".to_owned(),
            options,
            headers: PassedOn::of(&HeaderMap::new()),
            body: RequestBody::whole(body, BodyBudget::new(1024).hold()),
        };
        let state = self.state.clone();
        tokio::spawn(async move {
            let phase = CurrentPhase::default();
            let answer = state.inference.answer(&request, &phase).await;
            answer.map(|answer| answer.provider.to_string())
        })
    }

    /// A request that the provider works on until it is aborted.
    async fn works(&self, provider: &str) -> JoinHandle<Answered> {
        let before = self.hub.open.load(Ordering::SeqCst);
        self.hub.replies([Reply::Hangs]);
        let works = self.asks(&format!("{provider}/m"), |_| {});
        let has_begun = |hub: &FakeHub| hub.open.load(Ordering::SeqCst) > before;
        self.hub.until("it works", has_begun).await;
        works
    }

    /// Two members that work on one request each, as many as they may.
    async fn two_busy(&self) -> [JoinHandle<Answered>; 2] {
        self.publish_narrow("a/p");
        self.publish_narrow("b/p");
        [self.works("a/p").await, self.works("b/p").await]
    }
}

impl Served {
    /// A slot, as a request has it.
    fn takes(&self, provider: &str) -> impl Sized {
        let queues = &self.state.inference.queues;
        let mut takes = queues.come(queues.ticket(), flow(Priority::Normal, None));
        takes.join(&id(provider)).expect("room");
        takes.permit_now().expect("a slot")
    }
}

fn sleeps(provider: &mut Registered) {
    provider.status = hibernating();
}

fn blocked(provider: &str) -> WakeError {
    WakeError::Failed {
        provider: id(provider),
        wake_id: None,
        failure: Box::new(WakeFailure::new(
            WakeFailureKind::GroupBlocked,
            "group",
            "no room",
        )),
        retry_after: None,
        spent: Duration::ZERO,
    }
}

async fn at_once(asking: JoinHandle<Answered>) -> Answered {
    let begun = Instant::now();
    let answered = asking.await.expect("no panic");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    answered
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_wake_has_failed_for_a_request_is_not_woken_again_for_it_but_used_once_it_is_awake() {
    let served = Served::new().await;
    for provider in ["a/p", "b/p"] {
        served.publish_narrow(provider);
    }
    served.hub.change("b/p", sleeps);
    let _busy = served.works("a/p").await;
    let waits = served.asks("m", |_| {});
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    served.hub.change("b/p", sleeps);
    served.hub.fail_wakes_of("b/p", blocked("b/p"));
    sleep(A_WHILE).await;
    assert_eq!((served.hub.asked(), served.queued()), (1, 1));
    served.hub.replies([hello()]);
    served.hub.change("b/p", |it| it.status = active());
    let answered = waits.await.expect("no panic");
    assert_eq!(answered.expect("an answer"), "b/p", "somebody else has woken it");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_wake_fails_and_that_waits_nowhere_else_goes_to_the_next_member_or_gets_the_failure()
{
    let served = Served::new().await;
    for provider in ["a/p", "b/p"] {
        served.publish_narrow(provider);
        served.hub.change(provider, sleeps);
        served.hub.refuse_one(provider, blocked(provider));
    }
    let failed = at_once(served.asks("m", |_| {}))
        .await
        .expect_err("no wake succeeds");
    assert!(failed.to_string().starts_with("a/p did not wake"), "{failed}");
    let asked: Vec<_> = served.hub.asked_of().iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["a/p", "b/p"], "each once");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_withdrawn_ends_no_wait_at_another_one_and_the_last_one_does_at_once() {
    for (gone, stays) in [("a/p", 1), ("b/p", 0)] {
        let served = Served::new().await;
        let busy = served.two_busy().await;
        let waits = served.asks("m", |_| {});
        served.until_queued(1).await;
        served.hub.withdraw(gone);
        sleep(A_WHILE).await;
        assert_eq!(served.queued(), 1, "without {gone}");
        served.hub.replies([hello()]);
        busy[stays].abort();
        assert_eq!(at_once(waits).await.expect("an answer"), ["a/p", "b/p"][stays]);
    }
    let served = Served::new().await;
    let _busy = served.two_busy().await;
    let waits = served.asks("m", |_| {});
    served.until_queued(1).await;
    served.hub.withdraw("a/p");
    served.hub.withdraw("b/p");
    let none = at_once(waits).await.expect_err("nobody is left");
    assert!(none.to_string().ends_with("is not published"), "{none}");
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_agent_is_gone_ends_no_wait_at_another_one_and_the_last_one_does_at_once() {
    let served = Served::new().await;
    let _busy = served.two_busy().await;
    let waits = served.asks("m", |_| {});
    served.until_queued(1).await;
    served.hub.change("a/p", |it| it.status = inactive());
    sleep(A_WHILE).await;
    assert_eq!(served.queued(), 1);
    served.hub.change("b/p", |it| it.status = inactive());
    let none = at_once(waits).await.expect_err("nobody is left");
    assert!(none.to_string().ends_with("is inactive"), "{none}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_falls_asleep_while_requests_wait_for_it_is_woken_at_once() {
    let served = Served::new().await;
    served.publish_narrow("a/p");
    let busy = served.works("a/p").await;
    let waits = served.asks("m", |_| {});
    served.until_queued(1).await;
    served.hub.change("a/p", sleeps);
    let begun = Instant::now();
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    busy.abort();
    served.hub.replies([hello()]);
    served.hub.change("a/p", |it| it.status = active());
    assert_eq!(at_once(waits).await.expect("an answer"), "a/p");
}

/// The request breaks its first backend, so it goes to one other that is awake.
#[tokio::test(start_paused = true)]
async fn a_request_that_may_go_only_to_members_that_are_awake_wakes_none_while_it_waits() {
    for falls_asleep in [false, true] {
        let served = Served::new().await;
        served.hub.publish("a/p", "m", active());
        served.publish_narrow("b/p");
        served.hub.publish("c/p", "m", hibernating());
        let busy = served.works("b/p").await;
        let broke = RelayFault::new(FaultCode::BackendFailed, "it broke off");
        served
            .hub
            .replies([Reply::Fails(RelayError::from(broke)), hello()]);
        let asks = served.asks("m", |_| {});
        served.until_queued(1).await;
        sleep(A_WHILE).await;
        assert_eq!((served.hub.asked(), served.queued()), (0, 1));
        if falls_asleep {
            served.hub.change("b/p", sleeps);
            let failed = at_once(asks).await.expect_err("nobody is left");
            assert!(failed.to_string().contains("it broke off"), "{failed}");
            assert_eq!(served.hub.asked(), 0);
        } else {
            busy.abort();
            assert_eq!(at_once(asks).await.expect("an answer"), "b/p");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_no_wake_is_answered_at_once_beside_a_full_member_or_takes_a_free_slot() {
    let served = Served::new().await;
    for provider in ["a/p", "b/p"] {
        served.publish_narrow(provider);
    }
    served.hub.change("b/p", sleeps);
    let busy = served.works("a/p").await;
    let ask = |mode| served.asks("m", |options| options.wake = mode);
    let never = at_once(ask(WakeMode::Never)).await;
    assert!(matches!(never, Err(InferenceError::Asleep { .. })), "{never:?}");
    assert_eq!(served.hub.asked(), 0);
    let wakes = at_once(ask(WakeMode::Async)).await;
    assert!(matches!(wakes, Err(InferenceError::Waking { .. })), "{wakes:?}");
    assert_eq!(served.hub.asked(), 1);
    busy.abort();
    for mode in [WakeMode::Never, WakeMode::Async] {
        served.hub.replies([hello()]);
        assert_eq!(at_once(ask(mode)).await.expect("an answer"), "a/p");
    }
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_reaches_a_request_that_waits_at_once() {
    let served = Served::new().await;
    served.publish_narrow("a/p");
    let _busy = served.works("a/p").await;
    let waits = served.asks("m", |_| {});
    served.until_queued(1).await;
    served.hub.replies([hello()]);
    served.hub.change("a/p", |it| {
        let wider = Balancing::new(1, 0, Some(2)).expect("legal");
        it.spec = it.spec.clone().with_balancing(wider);
    });
    assert_eq!(at_once(waits).await.expect("an answer"), "a/p");
}

#[tokio::test(start_paused = true)]
async fn the_bound_for_slots_holds_for_the_waits_in_the_queue_and_at_the_agent_together() {
    let served = Served::new().await;
    served.publish_narrow("a/p");
    let busy = served.works("a/p").await;
    let second = Duration::from_secs(1);
    let waits = served.asks("m", |options| options.queue_wait = Some(second * 10));
    served.until_queued(1).await;
    sleep(second * 3).await;
    served.hub.replies([hello()]);
    busy.abort();
    at_once(waits).await.expect("an answer");
    let left = served.hub.sent()[1].head.turn_within_ms.expect("it takes a turn");
    assert!((6_900..=7_000).contains(&left), "{left}");

    let busy = served.works("a/p").await;
    served.hub.publish("b/p", "m", hibernating());
    let begun = Instant::now();
    let waits = served.asks("m", |options| options.queue_wait = Some(second * 10));
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    sleep(second * 20).await;
    assert_eq!(served.queued(), 1, "a wake isn't a wait for a slot");
    served.hub.fail_wakes_of("b/p", blocked("b/p"));
    let late = waits.await.expect("no panic").expect_err("no slot");
    assert!(late.to_string().contains("within 10.0 s"), "{late}");
    assert!(
        (30..32).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    busy.abort();
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_slot_comes_just_as_its_member_falls_asleep_waits_on() {
    for elsewhere in [false, true] {
        let served = Served::new().await;
        served.publish_narrow("a/p");
        served.publish_narrow("b/p");
        let slots = [served.takes("a/p"), served.takes("b/p")];
        if !elsewhere {
            served.hub.withdraw("b/p");
        }
        let waits = served.asks("m", |_| {});
        served.until_queued(1).await;
        let [of_a, of_b] = slots;
        // Before the request can look at its slot.
        drop(of_a);
        served.hub.change("a/p", sleeps);
        served.hub.until("a wake", |hub| hub.asked() == 1).await;
        assert_eq!(served.queued(), 1);
        served.hub.replies([hello()]);
        if elsewhere {
            drop(of_b);
        } else {
            served.hub.change("a/p", |it| it.status = active());
        }
        let answered = at_once(waits).await.expect("an answer");
        assert_eq!(answered, if elsewhere { "b/p" } else { "a/p" });
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_no_time_for_one_wake_begins_no_other_and_waits_for_a_slot() {
    let served = Served::new().await;
    served.publish_narrow("a/p");
    for asleep in ["b/p", "c/p"] {
        served.hub.publish(asleep, "m", hibernating());
    }
    served.hub.refuse(WakeError::CallerTimedOut {
        provider: id("b/p"),
        wake_id: None,
        spent: Duration::ZERO,
        left: None,
    });
    let slot = served.takes("a/p");
    let waits = served.asks("m", |_| {});
    served.until_queued(1).await;
    sleep(A_WHILE).await;
    assert_eq!((served.hub.asked(), served.queued()), (1, 1));
    served.hub.replies([hello()]);
    drop(slot);
    assert_eq!(at_once(waits).await.expect("an answer"), "a/p");
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_keep_waiting_while_the_journal_is_read_again() {
    let served = Served::new().await;
    served.publish_narrow("a/p");
    let slot = served.takes("a/p");
    let waiting = [(); 2].map(|()| served.asks("m", |_| {}));
    served.until_queued(2).await;
    served.hub.forget_everything();
    drop(slot);
    sleep(A_WHILE).await;
    assert!(waiting.iter().all(|waits| !waits.is_finished()));
    served.hub.replies([hello(), hello()]);
    served.publish_narrow("a/p");
    served.hub.registry.follow(&Followed::CaughtUp { sequence: 99 });
    for waits in waiting {
        assert_eq!(at_once(waits).await.expect("an answer"), "a/p");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_model_that_nobody_has_any_longer_hears_so() {
    let served = Served::new().await;
    served.publish_narrow("a/p");
    let _slot = served.takes("a/p");
    let waits = served.asks("m", |_| {});
    served.until_queued(1).await;
    served.hub.change("a/p", |it| {
        let other = vec![ModelName::parse("other").expect("legal")];
        let spec = ProviderSpec::new(other, None, true).expect("a spec");
        it.spec = spec.with_balancing(Balancing::new(1, 0, Some(1)).expect("legal"));
    });
    let unknown = waits.await.expect("no panic").expect_err("nobody has it");
    assert!(
        matches!(unknown, InferenceError::UnknownModel { .. }),
        "{unknown}"
    );
}
