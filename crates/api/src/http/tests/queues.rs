//! Requests that wait for a slot at a provider.

use super::{
    Answer, Served, chat_body,
    fake_hub::{Reply, active, hibernating, id},
    keys::locked,
    limits,
};
use crate::http::HttpLimits;
use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use reveille_domain::{Balancing, rows::MemoryRows};
use serde_json::{Value, json};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// Shorter than the time after which a request looks for other members by itself.
const AT_ONCE: Duration = Duration::from_secs(4);

pub(super) fn hello() -> Reply {
    let body = br#"{"choices":[{"message":{"content":"ok"}}]}"#;
    Reply::Whole(200, "application/json", Bytes::from_static(body))
}

impl Served {
    /// Publishes a provider of `m` that works on one request at a time.
    pub(super) fn publish_narrow(&self, provider: &str) {
        self.hub.publish(provider, "m", active());
        self.hub.change(provider, |it| {
            let narrow = Balancing::new(1, 0, Some(1)).expect("legal");
            it.spec = it.spec.clone().with_balancing(narrow);
        });
    }

    /// A request that the provider works on until it is aborted.
    async fn busy(&self, provider: &str) -> JoinHandle<Answer> {
        let before = self.hub.open.load(Ordering::SeqCst);
        self.hub.replies([Reply::Hangs]);
        let busy = tokio::spawn(Answer::of(self.chat(&format!("{provider}/m"), false)));
        let works = |hub: &super::fake_hub::FakeHub| hub.open.load(Ordering::SeqCst) > before;
        self.hub.until("it works", works).await;
        busy
    }

    pub(super) fn queued(&self) -> usize {
        self.state.inference.queues.waiting()
    }

    pub(super) async fn until_queued(&self, count: usize) {
        self.hub.until("they wait", |_| self.queued() == count).await;
    }
}

async fn with_room_for(waiting: usize) -> Served {
    let limits = HttpLimits { waiting, ..limits() };
    Served::with(limits, Arc::new(MemoryRows::new())).await
}

#[tokio::test]
async fn a_request_beyond_max_concurrency_waits_its_turn_and_is_listed() {
    let served = Served::new().await;
    served.publish_narrow("a/p");
    let busy = served.busy("a/p").await;
    let next = tokio::spawn(Answer::of(served.chat("m", false)));
    let leaves = tokio::spawn(Answer::of(served.chat("m", false)));
    served.until_queued(2).await;
    let row = served.get("/reveille/v1/providers/a/p").await.json();
    assert_eq!(
        (&row["queued"], &row["handed_over"], served.hub.sent().len()),
        (&json!(2), &json!(1), 1)
    );
    let page = served.get("/metrics").await.text();
    assert!(page.contains("reveille_queue_waiting 2\n"), "{page}");
    leaves.abort();
    served.until_queued(1).await;
    served.hub.replies([hello()]);
    busy.abort();
    assert_eq!(next.await.expect("no panic").status, 200);
    let row = served.get("/reveille/v1/providers/a/p").await.json();
    assert_eq!((&row["queued"], &row["handed_over"]), (&json!(0), &json!(0)));
    let page = served.get("/metrics").await.text();
    let count = "reveille_queue_wait_seconds_count{priority=\"normal\"} 2\n";
    assert!(page.contains(count), "{page}");
    let head = &served.hub.sent()[1].head;
    assert!(
        head.turn_within_ms.is_some_and(|within| within > 1_000),
        "{head:?}"
    );
}

#[tokio::test]
async fn a_full_queue_refuses_with_a_time_by_how_long_slots_are_held() {
    let served = with_room_for(1).await;
    served.publish_narrow("a/p");
    let busy = served.busy("a/p").await;
    let waits = tokio::spawn(Answer::of(served.chat("m", false)));
    served.until_queued(1).await;
    let full = Answer::of(served.chat("m", false)).await;
    assert_eq!((full.status, full.error().as_str()), (429, "queue_full"));
    assert_eq!(full.header("x-reveille-provider"), Some("a/p"));
    assert_eq!(full.header("retry-after"), Some("2"), "nothing is known yet");
    for words in ["a/p has 1 request waiting", "--max-waiting"] {
        assert!(full.text().contains(words), "{}", full.text());
    }
    served.hub.replies([Reply::Hangs]);
    busy.abort();
    served
        .hub
        .until("the second works", |hub| hub.sent().len() == 2)
        .await;
    let third = tokio::spawn(Answer::of(served.chat("m", false)));
    served.until_queued(1).await;
    let full = Answer::of(served.chat("m", false)).await;
    assert_eq!(
        full.header("retry-after"),
        Some("1"),
        "the first held its slot for less than a second"
    );
    waits.abort();
    third.abort();
    served.until_queued(0).await;
}

#[tokio::test]
async fn a_provider_that_sleeps_has_the_same_queue() {
    let served = with_room_for(2).await;
    served.publish_narrow("a/p");
    served.hub.change("a/p", |it| it.status = hibernating());
    let ask = |name: &str| {
        let asked = served.chat("m", false).header("x-request-id", name.to_owned());
        tokio::spawn(Answer::of(asked))
    };
    let first = ask("first");
    served.until_queued(1).await;
    let second = ask("second");
    served.until_queued(2).await;
    let full = Answer::of(served.chat("m", false)).await;
    assert_eq!((full.status, full.error().as_str()), (429, "queue_full"));
    served.hub.replies([Reply::Hangs, hello()]);
    served.hub.change("a/p", |it| it.status = active());
    let works = |hub: &super::fake_hub::FakeHub| hub.open.load(Ordering::SeqCst) == 1;
    served.hub.until("the first works", works).await;
    assert!(served.hub.sent()[0].request_id().starts_with("first-"));
    served.until_queued(1).await;
    first.abort();
    let answer = second.await.expect("no panic");
    assert_eq!(answer.status, 200);
    assert!(
        answer.header("x-reveille-wake-id").is_some(),
        "it waited for the wake"
    );
}

#[tokio::test]
async fn each_wait_that_runs_out_is_named() {
    let served = Served::new().await;
    served.publish_narrow("a/p");
    let busy = served.busy("a/p").await;
    for header in ["x-reveille-queue-wait", "x-reveille-wait"] {
        let answer = Answer::of(served.chat("m", false).header(header, "0.1")).await;
        assert_eq!((answer.status, answer.error().as_str()), (504, "queue_timeout"));
        let said = format!("a/p had no free slot within 0.1 s, the longest this request may wait ({header})");
        assert!(answer.text().contains(&said), "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!((served.queued(), served.hub.sent().len()), (0, 1));
    busy.abort();
}

#[tokio::test]
async fn a_stream_that_waits_in_the_queue_says_at_which_place() {
    let served = Served::with_timings(|timings| timings.quiet = Duration::from_millis(30)).await;
    served.publish_narrow("a/p");
    let busy = served.busy("a/p").await;
    let first = tokio::spawn(Answer::of(served.chat("m", false)));
    served.until_queued(1).await;
    let stream = served.chat("m", true).send().await.expect("an answer");
    let mut pieces = stream.bytes_stream();
    let piece = pieces.next().await.expect("a comment").expect("a comment");
    let text = String::from_utf8_lossy(&piece);
    assert!(text.starts_with(": queued a/m place=2 elapsed="), "{text:?}");
    drop(pieces);
    served.until_queued(1).await;
    first.abort();
    busy.abort();
}

#[tokio::test]
async fn a_request_goes_to_the_first_member_of_its_pool_that_has_a_slot() {
    let served = Served::new().await;
    for provider in ["a/p", "b/p", "c/p"] {
        served.publish_narrow(provider);
    }
    let mut busy = vec![];
    for provider in ["a/p", "b/p", "c/p"] {
        busy.push(served.busy(provider).await);
    }
    let waiting: Vec<_> = (0..2)
        .map(|_| tokio::spawn(Answer::of(served.chat("m", false))))
        .collect();
    served.until_queued(2).await;
    served.hub.replies([hello(), hello()]);
    let begun = Instant::now();
    busy[1].abort();
    for answer in join_all(waiting).await {
        let answer = answer.expect("no panic");
        assert_eq!(
            (answer.status, answer.header("x-reveille-provider")),
            (200, Some("b/p"))
        );
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    busy.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn a_member_is_woken_for_requests_that_wait_and_whichever_has_a_slot_first_answers() {
    let served = Served::new().await;
    for provider in ["a/p", "b/p"] {
        served.publish_narrow(provider);
    }
    served.hub.change("b/p", |it| it.status = hibernating());
    let busy = served.busy("a/p").await;
    let waiting: Vec<_> = (0..2)
        .map(|_| tokio::spawn(Answer::of(served.chat("m", false))))
        .collect();
    served.hub.until("b wakes", |hub| hub.asked() >= 1).await;
    served.until_queued(2).await;
    assert!(served.hub.asked_of().iter().all(|asked| *asked == id("b/p")));
    served.hub.replies([hello(), hello()]);
    busy.abort();
    let answered_by = |answer: &Answer| answer.header("x-reveille-provider").map(str::to_owned);
    for answer in join_all(waiting).await {
        let answer = answer.expect("no panic");
        assert_eq!(answered_by(&answer).as_deref(), Some("a/p"), "{}", answer.text());
    }
    let busy = served.busy("a/p").await;
    let waits = tokio::spawn(Answer::of(served.chat("m", false)));
    served.until_queued(1).await;
    served.hub.replies([hello()]);
    served.hub.change("b/p", |it| it.status = active());
    let answer = waits.await.expect("no panic");
    assert_eq!(answered_by(&answer).as_deref(), Some("b/p"), "{}", answer.text());
    busy.abort();
}

#[tokio::test]
async fn members_that_sleep_are_woken_one_after_the_other_for_requests_that_find_no_slot() {
    let served = Served::new().await;
    let members = ["a/p", "b/p", "c/p"];
    for provider in members {
        served.publish_narrow(provider);
        served.hub.change(provider, |it| it.status = hibernating());
    }
    served.hub.replies([Reply::Hangs, Reply::Hangs, Reply::Hangs]);
    let waiting: Vec<_> = (0..3)
        .map(|_| tokio::spawn(Answer::of(served.chat("m", false))))
        .collect();
    served.until_queued(3).await;
    let begun = Instant::now();
    let mut asked = vec![];
    for count in 1..=3 {
        let last = || served.hub.asked_of().last().cloned().expect("a wake");
        served
            .hub
            .until("another one is woken", |hub| {
                hub.asked_of().iter().any(|asked_now| !asked.contains(asked_now))
            })
            .await;
        let woken = last();
        served.hub.change(&woken.to_string(), |it| it.status = active());
        asked.push(woken);
        served
            .hub
            .until("it works", |hub| hub.open.load(Ordering::SeqCst) == count)
            .await;
    }
    assert_eq!(served.queued(), 0);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    waiting.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn what_only_asks_about_a_backend_takes_no_slot() {
    let served = Served::new().await;
    served.publish_narrow("a/p");
    let busy = served.busy("a/p").await;
    served
        .hub
        .replies([Reply::Whole(200, "application/json", Bytes::from_static(b"{}"))]);
    assert_eq!(served.get("/props?model=m").await.status, 200);
    assert_eq!(served.hub.sent()[1].head.turn_within_ms, None);
    busy.abort();
}

#[tokio::test]
async fn a_keys_class_counts_and_a_header_only_lowers_it() {
    let (served, root) = locked().await;
    served.publish_narrow("a/p");
    let key = async |class: &str| {
        let key = json!({ "name": class, "scopes": ["infer:*"], "priority": class });
        served.make(&root, key).await.1
    };
    let [high, low] = [key("high").await, key("low").await];
    served.hub.replies([Reply::Hangs]);
    let ask = |key: &str, class: &str, name: &str| {
        let asked = served
            .post("/v1/chat/completions", &chat_body("m", false))
            .bearer_auth(key)
            .header("x-reveille-priority", class)
            .header("x-request-id", name.to_owned());
        tokio::spawn(Answer::of(asked))
    };
    let busy = ask(&high, "high", "first");
    served
        .hub
        .until("it works", |hub| hub.open.load(Ordering::SeqCst) == 1)
        .await;
    let mut waiting = vec![];
    for (key, class, name) in [
        (&low, "high", "low"),
        (&high, "low", "lowered"),
        (&high, "normal", "normal"),
        (&high, "high", "high"),
    ] {
        waiting.push(ask(key, class, name));
        served.until_queued(waiting.len()).await;
    }
    served.hub.replies((0..4).map(|_| hello()));
    busy.abort();
    for answer in join_all(waiting).await {
        assert_eq!(answer.expect("no panic").status, 200);
    }
    let order: Vec<Value> = served.hub.sent()[1..]
        .iter()
        .map(|sent| sent.request_id().split('-').next().into())
        .collect();
    assert_eq!(order, ["high", "normal", "low", "lowered"]);
}
