use super::{
    Answer, Served,
    fake_hub::{FakeHub, Reply, active, hibernating, id, inactive},
};
use crate::wakes::WakeError;
use bytes::Bytes;
use reveille_bus::relay::{FaultCode, RelayError, RelayFault};
use reveille_domain::{Epoch, ReportId, ReportSeq, Timestamp, WakeFailure, WakeFailureKind};
use serde_json::json;
use std::{sync::atomic::Ordering, time::Duration};

const JSON: &str = "application/json";

fn whole(body: &'static str) -> Reply {
    Reply::Whole(200, JSON, Bytes::from_static(body.as_bytes()))
}

fn fault(code: FaultCode) -> Reply {
    Reply::Fails(RelayFault::new(code, "a sentence").into())
}

#[tokio::test]
async fn bytes_pass_unchanged_and_only_the_headers_that_may() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.replies([whole("  {\"x\" : 1}\n")]);
    let body = r#"{ "model":"m" , "messages":[{"role":"user"}], "unknown": 1e3 }"#;
    let request = served
        .client
        .post(format!("{}/v1/chat/completions", served.url))
        .header("content-type", "application/json")
        .header("authorization", "Bearer secret")
        .header("cookie", "secret")
        .header("x-forwarded-for", "10.0.0.1")
        .header("x-reveille-wake", "block")
        .header("x-request-id", "r-1")
        .header("user-agent", "test")
        .body(body);
    let answer = Answer::of(request).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "  {\"x\" : 1}\n"));
    assert_eq!(answer.header("x-reveille-provider"), Some("gpu-box/vllm"));
    assert_eq!(answer.header("x-reveille-wake-id"), None);
    let limits = answer.header("x-ratelimit-limit-requests");
    assert_eq!(
        limits, None,
        "what a backend allows its agent is not the caller's"
    );
    assert_eq!(answer.header("retry-after"), Some("60"));
    assert_eq!(
        (answer.header("set-cookie"), answer.header("server")),
        (None, None)
    );

    let sent = &served.hub.sent()[0];
    assert_eq!((sent.body.as_ref(), sent.epoch), (body.as_bytes(), Epoch(7)));
    assert_eq!(
        (sent.head.path.as_str(), sent.head.method.as_str()),
        ("/v1/chat/completions", "POST")
    );
    let mut names: Vec<_> = sent.head.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "content-type", "x-request-id"]);
}

#[tokio::test]
async fn each_path_reaches_the_same_path() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.replies([whole("1"), whole("2")]);
    for (path, field) in [("/v1/completions", "prompt"), ("/v1/embeddings", "input")] {
        let answer = Answer::of(served.post(path, &json!({ "model": "gpu-box/m", field: "x" }))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(served.hub.sent().last().expect("sent").head.path, path);
    }
}

#[tokio::test]
async fn a_backends_refusal_keeps_its_status_and_words() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.replies([
        Reply::Whole(422, JSON, Bytes::from_static(b"{\"detail\":1}")),
        whole("x"),
    ]);
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!((answer.status, answer.text().as_str()), (422, "{\"detail\":1}"));
    served.hub.replies([]);
    let redirect = Reply::Whole(302, JSON, Bytes::new());
    served.hub.replies([redirect]);
    assert_eq!(Answer::of(served.chat("m", false)).await.status, 200);
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!((answer.status, answer.error().as_str()), (502, "backend_failed"));
}

const LOADING: &str = r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;

fn refusal(words: &'static str) -> Reply {
    Reply::Whole(503, "application/json", Bytes::from_static(words.as_bytes()))
}

#[tokio::test]
async fn a_backend_that_is_loading_is_asked_again_for_as_long_as_the_request_waits() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.replies((0..4).map(|_| refusal(LOADING)));
    served.hub.replies([whole("{\"n\":1}")]);
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{\"n\":1}"));
    assert_eq!(served.hub.sent().len(), 5);

    served.hub.replies((0..50).map(|_| refusal(LOADING)));
    let answer = Answer::of(served.chat("m", false).header("x-reveille-wait", "0.3")).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (503, LOADING),
        "its own words"
    );
    assert!(answer.header("retry-after").is_some());
    assert!(served.hub.sent().len() > 6);
}

#[tokio::test]
async fn a_backend_that_is_busy_is_not_asked_again_nor_one_that_is_loading_for_whoever_does_not_wait() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let busy = r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#;
    for (mode, words) in [("block", busy), ("never", LOADING), ("async", LOADING)] {
        served.hub.replies([refusal(words)]);
        let answer = Answer::of(served.chat("m", false).header("x-reveille-wake", mode)).await;
        assert_eq!((answer.status, answer.text().as_str()), (503, words));
        assert!(answer.header("retry-after").is_some(), "{mode}");
    }
    assert_eq!(served.hub.sent().len(), 3);
}

#[tokio::test]
async fn a_backend_that_slept_under_the_request_is_woken_and_asked_once_more() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let report = ReportId {
        epoch: Epoch(7),
        seq: ReportSeq(5),
    };
    served.hub.replies([Reply::Asleep(report), whole("woken")]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    assert_eq!(served.hub.sent().len(), 1);
    served.hub.change("gpu-box/vllm", |provider| {
        provider.status = active();
        provider.epoch = Epoch(8);
    });
    let answer = asking.await.expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "woken"));
    assert!(answer.header("x-reveille-wake-id").is_some());
    assert_eq!(
        served.hub.sent()[1].epoch,
        Epoch(8),
        "the retry goes to the session that is current by then"
    );
}

#[tokio::test]
async fn a_backend_that_is_put_to_sleep_each_time_is_woken_for_as_long_as_the_request_waits() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let asleep = |seq| {
        Reply::Asleep(ReportId {
            epoch: Epoch(7),
            seq: ReportSeq(seq),
        })
    };
    served.hub.replies((5..25).map(asleep));
    served.hub.replies([whole("at last")]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    for wakes in 1..=20 {
        served.hub.until("a wake", |hub| hub.asked() == wakes).await;
        served
            .hub
            .change("gpu-box/vllm", |provider| provider.status = active());
    }
    let answer = asking.await.expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "at last"));
    assert_eq!(served.hub.sent().len(), 21);
}

#[tokio::test]
async fn a_request_that_is_told_of_an_earlier_sleep_waits_until_the_journal_has_this_one() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    // The fold has passed it already.
    let report = ReportId {
        epoch: Epoch(7),
        seq: ReportSeq(1),
    };
    let asleep = RelayFault::asleep("it sleeps", report).into();
    served.hub.replies([Reply::Fails(asleep), whole("woken")]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("a try", |hub| hub.sent().len() == 1).await;
    served.hub.change("gpu-box/vllm", |provider| {
        provider.status = hibernating();
    });
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.status = active());
    let answer = asking.await.expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "woken"));
    assert_eq!(served.hub.sent().len(), 2);
}

#[tokio::test]
async fn an_agent_that_says_asleep_of_what_the_journal_calls_awake_is_given_up() {
    let served = Served::with_timings(|timings| timings.report = Duration::from_millis(20)).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    // A report that the fold has passed long ago.
    let report = ReportId {
        epoch: Epoch(7),
        seq: ReportSeq(1),
    };
    let asleep = || Reply::Fails(RelayFault::asleep("it sleeps", report).into());
    served.hub.replies((0..6).map(|_| asleep()));
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!((answer.status, answer.error().as_str()), (503, "wake_failed"));
    assert_eq!(served.hub.sent().len(), 6);
}

#[tokio::test]
async fn a_request_waits_its_turn_at_an_agent_that_is_at_its_limit_and_no_longer_than_it_says() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let full = || fault(FaultCode::Overloaded);
    served.hub.replies([full(), full(), full(), whole("in turn")]);
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "in turn"));

    served.hub.replies((0..100).map(|_| full()));
    let request = served.chat("m", false).header("x-reveille-wait", "1");
    let answer = Answer::of(request).await;
    assert_eq!((answer.status, answer.error().as_str()), (429, "agent_full"));
    assert!(
        answer.text().contains("a sentence"),
        "what it waited for: {}",
        answer.text()
    );
    let tries = served.hub.sent().len();
    assert!((8..30).contains(&tries), "paced: {tries}");

    let request = served.chat("m", false).header("x-reveille-wake", "never");
    let answer = Answer::of(request).await;
    assert_eq!(
        (answer.status, served.hub.sent().len()),
        (429, tries + 1),
        "at once"
    );
}

#[tokio::test]
async fn a_request_that_waited_for_memory_goes_to_the_agents_current_session_or_to_nobody() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.replies([whole("in turn")]);
    let ask = || {
        served.hub.full.send_replace(true);
        tokio::spawn(Answer::of(served.chat("m", false)))
    };
    let waits = |hub: &FakeHub| hub.full.receiver_count() == 1;
    let asking = ask();
    served.hub.until("it waits", waits).await;
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.epoch = Epoch(8));
    served.hub.full.send_replace(false);
    assert_eq!(asking.await.expect("an answer").text(), "in turn");
    assert_eq!(served.hub.sent()[0].epoch, Epoch(8));

    let asking = ask();
    served.hub.until("it waits", waits).await;
    served.hub.withdraw("gpu-box/vllm");
    served.hub.full.send_replace(false);
    let answer = asking.await.expect("an answer");
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (404, "provider_not_found")
    );
    assert_eq!(served.hub.sent().len(), 1);
}

#[tokio::test]
async fn a_backend_that_is_being_put_to_sleep_is_waited_for_and_woken_then() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.replies([fault(FaultCode::Asleep), whole("woken")]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("a try", |hub| hub.sent().len() == 1).await;
    assert_eq!(served.hub.asked(), 0, "it isn't asleep yet");
    served.hub.change("gpu-box/vllm", |provider| {
        provider.status = hibernating();
    });
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.status = active());
    let answer = asking.await.expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "woken"));
    assert_eq!(served.hub.sent().len(), 2);
}

#[tokio::test]
async fn whoever_does_not_wait_is_told_at_once_that_the_backend_is_being_put_to_sleep() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for wake in ["never", "async"] {
        served.hub.replies([fault(FaultCode::Asleep)]);
        let request = served.chat("m", false).header("x-reveille-wake", wake);
        let answer = Answer::of(request).await;
        assert_eq!((answer.status, answer.error().as_str()), (503, "model_asleep"));
        assert!(
            answer.text().contains("is being put to sleep"),
            "{}",
            answer.text()
        );
        assert!(answer.header("retry-after").is_some());
    }
    let holds: Vec<_> = served.hub.sent().iter().map(|sent| sent.head.hold_ms).collect();
    assert_eq!(holds, [Some(0), Some(0)], "nor does the agent hold it");
}

#[tokio::test]
async fn a_request_waits_no_longer_than_it_says_for_a_backend_that_is_being_put_to_sleep() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served
        .hub
        .replies([fault(FaultCode::Asleep), fault(FaultCode::Asleep)]);
    let request = served.chat("m", false).header("x-reveille-wait", "1");
    let answer = Answer::of(request).await;
    assert_eq!((answer.status, answer.error().as_str()), (504, "wake_timeout"));
    assert!(
        answer.text().contains("the longest this request may wait"),
        "{}",
        answer.text()
    );
    let holds: Vec<_> = served.hub.sent().iter().map(|sent| sent.head.hold_ms).collect();
    assert!(
        matches!(holds[..], [Some(first)] | [Some(first), Some(0)] if first <= 1_000),
        "{holds:?}"
    );
}

#[tokio::test]
async fn whoever_waits_for_a_sleep_is_told_when_the_provider_is_withdrawn() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.replies([fault(FaultCode::Asleep)]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("a try", |hub| hub.sent().len() == 1).await;
    served.hub.withdraw("gpu-box/vllm");
    let answer = asking.await.expect("an answer");
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (404, "provider_not_found")
    );
}

#[tokio::test]
async fn a_request_is_sent_twice_at_most() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let none = || Reply::Fails(RelayError::NoResponders);
    served.hub.replies([none(), none(), whole("never")]);
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "agent_unreachable")
    );
    assert!(answer.header("retry-after").is_some());
    assert_eq!(served.hub.sent().len(), 2);
}

#[tokio::test]
async fn an_agent_that_comes_back_gets_the_held_request() {
    let served = Served::with_timings(|timings| timings.absence = super::LONG).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served
        .hub
        .replies([Reply::Fails(RelayError::NoResponders), whole("back")]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served
        .hub
        .until("the first attempt", |hub| hub.sent().len() == 1)
        .await;
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.epoch = Epoch(8));
    assert_eq!(asking.await.expect("an answer").text(), "back");
    assert_eq!(served.hub.sent()[1].epoch, Epoch(8));
}

#[tokio::test]
async fn what_a_backend_may_have_seen_is_never_sent_again() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.publish("other-box/vllm", "m", hibernating());
    let cases = [
        (fault(FaultCode::BackendFailed), 502, "backend_unavailable"),
        (fault(FaultCode::BackendTimeout), 504, "backend_timeout"),
        (fault(FaultCode::Lost), 502, "relay_failed"),
        (Reply::Fails(RelayError::Gap { expected: 3 }), 502, "relay_failed"),
        (Reply::Fails(RelayError::BodyBrokeOff), 400, "incomplete_body"),
        (
            Reply::Fails(RelayError::Silent { silent_ms: 15_000 }),
            502,
            "relay_failed",
        ),
    ];
    for (index, (reply, status, code)) in cases.into_iter().enumerate() {
        served.hub.replies([reply]);
        let answer = Answer::of(served.chat("m", false)).await;
        assert_eq!((answer.status, answer.error().as_str()), (status, code));
        assert_eq!(served.hub.sent().len(), index + 1);
    }
    assert_eq!(served.hub.asked(), 0);
}

#[tokio::test]
async fn each_clock_at_an_agent_has_an_error_of_its_own() {
    for (code, said) in [
        (FaultCode::BackendTimeout, "backend_timeout"),
        (FaultCode::FirstByteTimeout, "first_byte_timeout"),
        (FaultCode::Busy, "queue_timeout"),
    ] {
        let served = Served::new().await;
        served.hub.publish("gpu-box/vllm", "m", active());
        served.hub.replies([fault(code)]);
        let answer = Answer::of(served.chat("m", false)).await;
        assert_eq!((answer.status, answer.error().as_str()), (504, said));
        assert!(answer.text().contains("a sentence"), "{}", answer.text());
        assert_eq!(served.hub.sent().len(), 1);
    }
}

#[tokio::test]
async fn a_dead_backend_without_a_recipe_is_a_bad_gateway() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.replies([fault(FaultCode::BackendUnavailable)]);
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (502, "backend_unavailable")
    );
    assert_eq!(answer.header("x-reveille-provider"), Some("gpu-box/vllm"));
    assert_eq!(served.hub.sent().len(), 1);
}

#[tokio::test]
async fn another_member_of_a_pool_takes_what_the_first_could_not() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", active());
    served.hub.publish("b/vllm", "m", active());
    served.hub.publish("c/vllm", "m", hibernating());
    served
        .hub
        .replies([Reply::Fails(RelayError::NoResponders), whole("b")]);
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(answer.header("x-reveille-provider"), Some("b/vllm"));
    assert_eq!(served.hub.asked(), 0);
}

#[tokio::test]
async fn a_pool_prefers_members_that_are_awake_and_idle() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", inactive());
    served.hub.publish("b/vllm", "m", hibernating());
    served.hub.publish("c/vllm", "m", active());
    served.hub.publish("d/vllm", "m", active());
    served.hub.replies([Reply::Hangs, whole("d")]);
    let hanging = tokio::spawn(Answer::of(served.chat("m", false)));
    served
        .hub
        .until("the first request", |hub| hub.sent().len() == 1)
        .await;
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(answer.header("x-reveille-provider"), Some("d/vllm"));
    let agents: Vec<_> = served
        .hub
        .sent()
        .iter()
        .map(|sent| sent.agent.to_string())
        .collect();
    assert_eq!(agents, ["c", "d"]);
    hanging.abort();
    served
        .hub
        .until("the cancellation", |hub| hub.open.load(Ordering::SeqCst) == 0)
        .await;
    for expected in ["c/vllm", "d/vllm", "c/vllm"] {
        served.hub.replies([whole("any")]);
        let answer = Answer::of(served.chat("m", false)).await;
        let provider = answer.header("x-reveille-provider");
        assert_eq!(provider, Some(expected), "what has ended counts no more");
    }
}

/// The owner of the provider's machine said no.
pub(super) fn declined(provider: &str) -> WakeError {
    let why = format!("its owner has paused {provider}");
    WakeError::Failed {
        provider: id(provider),
        wake_id: None,
        failure: Box::new(WakeFailure::new(WakeFailureKind::NotAllowed, "paused", &why)),
        retry_after: None,
        spent: Duration::ZERO,
    }
}

#[tokio::test]
async fn a_pool_wakes_another_member_for_a_request_that_the_first_is_not_woken_for() {
    let served = Served::new().await;
    for provider in ["a/vllm", "b/vllm", "c/vllm"] {
        served.hub.publish(provider, "m", hibernating());
    }
    served.hub.refuse_one("a/vllm", declined("a/vllm"));
    served.hub.refuse_one("b/vllm", declined("b/vllm"));
    served.hub.replies([whole("c")]);
    let asking = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("a wake of each", |hub| hub.asked() == 3).await;
    served.hub.change("c/vllm", |provider| provider.status = active());
    let answer = asking.await.expect("an answer");
    assert_eq!(answer.header("x-reveille-provider"), Some("c/vllm"));

    // The last one's wake takes longer than the caller waits: in all, not for that one alone.
    served
        .hub
        .change("c/vllm", |provider| provider.status = hibernating());
    let answer = Answer::of(served.chat("m", false).header("x-reveille-wait", "0.2")).await;
    assert_eq!((answer.status, answer.error().as_str()), (504, "wake_timeout"));
    assert!(
        answer.text().contains("c/vllm is still waking after 0."),
        "{}",
        answer.text()
    );

    // When none can be woken, the caller is told of the first; of what concerns all of them, at once.
    served
        .hub
        .change("c/vllm", |provider| provider.status = hibernating());
    served.hub.refuse_one("c/vllm", declined("c/vllm"));
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "provider_declined")
    );
    assert!(answer.text().contains("has paused a/vllm"), "{}", answer.text());
    assert_eq!(served.hub.asked(), 9);
    served.hub.refuse(WakeError::Unavailable("down".to_owned()));
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(answer.error(), "journal_unavailable");
    assert_eq!(served.hub.asked(), 10);
}

#[tokio::test]
async fn a_pool_asks_last_whose_owner_has_said_no() {
    let served = Served::new().await;
    for provider in ["a/vllm", "b/vllm", "c/vllm"] {
        served.hub.publish(provider, "m", hibernating());
    }
    served.hub.change("a/vllm", |provider| {
        let no = WakeFailure::new(WakeFailureKind::NotAllowed, "paused", "its owner said no");
        provider.failures = provider.failures.after(&no, Timestamp::from_millis(1));
    });
    served
        .hub
        .change("b/vllm", |provider| provider.failures.count = 1);
    for provider in ["a/vllm", "b/vllm", "c/vllm"] {
        served.hub.refuse_one(provider, declined(provider));
    }
    let answer = Answer::of(served.chat("m", false)).await;
    assert!(answer.text().contains("has paused c/vllm"), "{}", answer.text());
    assert_eq!(served.hub.asked_of(), ["c/vllm", "b/vllm", "a/vllm"].map(id));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for (reply, stream) in [
        (Reply::Hangs, false),
        (Reply::Hangs, true),
        (Reply::Stalls(JSON, Bytes::from_static(b"{")), false),
        (
            Reply::Stalls("text/event-stream", Bytes::from_static(b"data: 1\n\n")),
            true,
        ),
    ] {
        served.hub.replies([reply]);
        let asking = tokio::spawn(Answer::of(served.chat("m", stream)));
        served
            .hub
            .until("the request", |hub| hub.open.load(Ordering::SeqCst) == 1)
            .await;
        asking.abort();
        served
            .hub
            .until("the cancellation", |hub| hub.open.load(Ordering::SeqCst) == 0)
            .await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_passed_off_as_whole() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let pieces = vec![
        Ok(Bytes::from_static(b"{\"a\":")),
        Err(RelayError::Gap { expected: 2 }),
    ];
    served.hub.replies([Reply::Pieces(200, JSON, pieces)]);
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.whole),
        (200, "{\"a\":", false)
    );
}

#[tokio::test]
async fn memory_for_bodies_is_given_back_once_the_backend_answers() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served
        .hub
        .replies([Reply::Hangs, Reply::Stalls(JSON, Bytes::from_static(b"{"))]);
    let held = || served.state.bodies.used();
    let hanging = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("the request", |hub| hub.sent().len() == 1).await;
    assert!(held() > 0);
    hanging.abort();
    served.hub.until("the cancellation", |_| held() == 0).await;
    let response = served.chat("m", false).send().await.expect("an answer");
    assert_eq!(held(), 0);
    drop(response);
}

#[tokio::test]
async fn a_request_is_not_sent_to_a_session_that_is_over() {
    let served = Served::with_timings(|timings| timings.absence = super::LONG).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.begin_session("gpu-box", Epoch(8));
    served.hub.replies([whole("hello")]);
    let asked = tokio::spawn(Answer::of(served.chat("m", false)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(served.hub.sent().is_empty(), "its agent would drop it");
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.epoch = Epoch(8));
    assert_eq!(asked.await.expect("an answer").status, 200);
    let sent = served.hub.sent();
    assert_eq!((sent.len(), sent[0].epoch), (1, Epoch(8)));
}

#[tokio::test]
async fn an_agent_that_does_not_publish_a_provider_again_is_unreachable_for_it() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.begin_session("gpu-box", Epoch(8));
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "agent_unreachable")
    );
    assert!(answer.text().contains("has restarted"), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    assert!(served.hub.sent().is_empty());
}
