//! Probes, verifications and all steps but `command`, against real servers and sockets.

#[expect(dead_code, reason = "the tests of owners and sessions use the rest")]
mod backend;

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{any, get, post},
};
use backend::{Backend, Closed, outcome, provider, runner, wake};
use reveille_agent::{
    child::{ChildrenLock, Hint, Orphans},
    probe::{Probe, Verdict},
    recipe::{Ended, Outcome, Progress, Run, Runner},
};
use reveille_domain::{MODELS_STAGE, SleepReason, WakeFailure, WakeFailureKind};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    time::{Instant, timeout},
};

const SOON: Duration = Duration::from_secs(60);
const A_WHILE: Duration = Duration::from_millis(100);
/// A value that no reason may show.
const CANARY: &str = "canary-5ecr3t";

async fn run(config: &str) -> Outcome {
    let mut run = wake(config, runner());
    let outcome = outcome(&mut run).await;
    assert!(run.ended().await.is_none(), "http recipes leave nothing behind");
    outcome
}

fn stages(outcome: &Outcome) -> Vec<&str> {
    outcome.stages.iter().map(|stage| stage.name.as_str()).collect()
}

#[tokio::test]
async fn a_flat_recipe_posts_once_and_succeeds_when_the_probe_does() {
    let backend = Backend::start().await;
    let outcome = run(&format!(
        r#"
        base_url = "{0}"
        [provider.wake]
        type = "http"
        url = "{0}/wake?secret=1"
        headers = {{ x-wake = "yes" }}
        body = '{{"level":1}}'
        "#,
        backend.url
    ))
    .await;
    assert_eq!(outcome.failure, None);
    assert_eq!(stages(&outcome), ["step 1 http", "probe"]);
    assert_eq!(backend.wakes(), [r#"POST yes {"level":1}"#]);
}

#[tokio::test]
async fn steps_run_in_order_and_stop_at_the_first_that_fails() {
    let backend = Backend::start().await;
    let outcome = run(&format!(
        r#"
        base_url = "{0}"
        [[provider.wake.step]]
        type = "http"
        method = "put"
        url = "{0}/wake"
        [[provider.wake.step]]
        type = "http"
        url = "{0}/fail?key={CANARY}"
        [[provider.wake.step]]
        type = "http"
        url = "{0}/wake"
        "#,
        backend.url
    ))
    .await;
    assert_eq!(stages(&outcome), ["step 1 http", "step 2 http"]);
    let failure = outcome.failure.expect("a failure");
    assert_eq!(failure.kind, WakeFailureKind::Recipe);
    assert_eq!(
        (failure.stage.as_str(), failure.reason.as_str()),
        ("step 2 http", "HTTP status 500")
    );
    assert_eq!(backend.wakes(), ["PUT  "]);
}

#[tokio::test]
async fn failed_requests_have_short_reasons_without_urls() {
    let backend = Backend::start().await;
    let closed = Closed::claim();
    for (url, timeout, reason) in [
        (format!("{}/redirect", backend.url), "1m", "HTTP status 307"),
        (
            format!("{}/hang?key={CANARY}", backend.url),
            "200ms",
            "no answer within 200ms",
        ),
        (
            format!("{}/?key={CANARY}", closed.url),
            "1m",
            "connection refused",
        ),
        (
            format!("{}/drop?key={CANARY}", backend.url),
            "1m",
            "the connection broke",
        ),
    ] {
        let outcome = run(&format!(
            "base_url = \"{}\"\n[provider.wake]\ntype = \"http\"\ntimeout = \"{timeout}\"\nurl = \"{url}\"",
            backend.url
        ))
        .await;
        let failure = outcome.failure.expect("a failure");
        assert_eq!(failure.reason, reason, "{url}");
    }
    assert!(backend.wakes().is_empty(), "the redirect was followed");
}

/// How the wake fails whose one step posts `body` there, and what its owner gets to see of the answer.
async fn refused(config: &str, url: &str, body: &str) -> (WakeFailure, String) {
    let mut run = wake(
        &format!("{config}\n[provider.wake]\ntype = \"http\"\nurl = \"{url}\"\nbody = '{body}'"),
        runner(),
    );
    let failure = outcome(&mut run).await.failure.expect("a failure");
    let Progress::Ended(Ended {
        hint: Some(Hint::Answer { text, .. }),
        ..
    }) = run.next().await
    else {
        panic!("no answer is shown after {failure:?}");
    };
    (failure, text)
}

#[tokio::test]
async fn the_answer_to_a_step_that_fails_is_for_the_owner_alone() {
    let backend = Backend::start().await;
    let (config, url) = (
        format!("base_url = \"{}\"", backend.url),
        format!("{}/fail", backend.url),
    );
    let (failure, text) = refused(&config, &url, "{}").await;
    assert_eq!(failure.reason, "HTTP status 500");
    assert_eq!(text, CANARY);
}

#[tokio::test]
async fn an_ollama_without_the_model_of_a_step_is_told_with_the_command_that_pulls_it() {
    let missing = |model: &str| format!(r#"{{"error":"model '{model}' not found"}}"#);
    let answer = |status, text: String| any(async move || (status, text));
    let ollama = Router::new()
        .route("/api/generate", answer(StatusCode::NOT_FOUND, missing("m")))
        .route(
            "/api/chat",
            answer(StatusCode::NOT_FOUND, "404 page not found".into()),
        )
        .route("/api/embed", answer(StatusCode::BAD_REQUEST, missing("m")))
        .route("/wake", answer(StatusCode::NOT_FOUND, missing("m")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(axum::serve(listener, ollama).into_future());
    let plain = format!("base_url = \"{url}\"");
    let with_models = format!("{plain}\nmodels = [\"other\", \"m:latest\"]");
    let at = |path: &str| format!("{url}{path}");

    let (failure, text) = refused(&with_models, &at("/api/generate"), r#"{"model":"m"}"#).await;
    assert_eq!(
        (failure.kind, failure.stage.as_str()),
        (WakeFailureKind::Recipe, MODELS_STAGE)
    );
    assert_eq!(
        failure.reason,
        "HTTP status 404: the Ollama there doesn't have `m:latest`; `ollama pull m:latest` gets it"
    );
    assert_eq!(text, missing("m"));

    // A name that isn't published stays here.
    for config in [&plain, &with_models] {
        let (failure, _) = refused(config, &at("/api/generate"), r#"{"model":"secret"}"#).await;
        assert_eq!(failure.stage, "step 1 http");
        assert_eq!(
            failure.reason,
            "HTTP status 404: the Ollama there doesn't have the model that the request names; `ollama pull` gets it"
        );
    }
    for (path, body, reason) in [
        ("/api/chat", r#"{"model":"m"}"#, "HTTP status 404"),
        ("/api/embed", r#"{"model":"m"}"#, "HTTP status 400"),
        ("/wake", r#"{"model":"m"}"#, "HTTP status 404"),
        ("/api/generate", "{}", "HTTP status 404"),
        ("/api/generate", "no JSON", "HTTP status 404"),
    ] {
        let (failure, _) = refused(&with_models, &at(path), body).await;
        assert_eq!(failure.reason, reason, "{path} {body}");
    }
}

#[tokio::test]
async fn a_backend_that_never_comes_up_fails_at_max_wait_with_the_probes_reason() {
    let backend = Backend::start().await;
    let outcome = run(&format!(
        r#"
        base_url = "{0}"
        probe = {{ path = "/fail" }}
        [provider.wake]
        type = "http"
        url = "{0}/wake"
        max_wait = "300ms"
        "#,
        backend.url
    ))
    .await;
    let failure = outcome.failure.expect("a failure");
    assert_eq!(
        (failure.kind, failure.stage.as_str()),
        (WakeFailureKind::Unavailable, "probe")
    );
    assert_eq!(
        failure.reason,
        "not available within 300ms (`max_wait`): HTTP status 500"
    );
}

#[tokio::test]
async fn a_cancelled_run_has_no_outcome_and_ends() {
    let backend = Backend::start().await;
    let mut run = wake(
        &format!(
            "base_url = \"{0}\"\n[provider.wake]\ntype = \"http\"\nurl = \"{0}/hang\"",
            backend.url
        ),
        runner(),
    );
    backend.await_requests(1).await;
    assert!(
        futures::FutureExt::now_or_never(run.next()).is_none(),
        "it still runs"
    );
    run.stop().await;
}

#[tokio::test]
async fn a_run_begins_only_when_what_was_before_has_ended() {
    let backend = Backend::start().await;
    let config = provider(&format!(
        "base_url = \"{0}\"\n[provider.wake]\ntype = \"http\"\nurl = \"{0}/wake\"",
        backend.url
    ));
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let probe = Probe::new(backend::client(), &config);
    let before = Box::pin(async { ended.await.unwrap_or_default() });
    let mut run = Run::wake(runner(), config.wake.clone().expect("a recipe"), probe, before);
    tokio::task::yield_now().await;
    assert!(backend.wakes().is_empty());
    end.send(()).expect("the run waits");
    assert_eq!(outcome(&mut run).await.failure, None);
    assert_eq!(backend.wakes().len(), 1);
}

#[tokio::test]
async fn a_wake_waits_for_what_an_earlier_run_of_the_agent_has_left_and_can_be_cancelled_meanwhile() {
    let backend = Backend::start().await;
    let wakes = format!(
        "base_url = \"{0}\"\n[provider.wake]\ntype = \"http\"\nurl = \"{0}/wake\"",
        backend.url
    );
    let left = tempfile::NamedTempFile::new().expect("a file");
    left.as_file().lock_shared().expect("locked");
    let runner = Arc::new(Runner {
        orphans: Orphans::of(ChildrenLock::new(left.path().to_owned())),
        ..(*runner()).clone()
    });
    timeout(SOON, wake(&wakes, runner.clone()).stop())
        .await
        .expect("what is left doesn't hold its end up");
    let mut run = wake(&wakes, runner);
    timeout(A_WHILE, run.next()).await.expect_err("something is left");
    assert!(backend.wakes().is_empty());
    left.as_file().unlock().expect("unlocked");
    assert_eq!(outcome(&mut run).await.failure, None);
    assert_eq!(backend.wakes().len(), 1);
}

#[tokio::test]
async fn a_status_that_is_accepted_is_success() {
    let backend = Backend::start().await;
    let outcome = run(&format!(
        "base_url = \"{0}\"\n[provider.wake]\ntype = \"http\"\nurl = \"{0}/fail\"\naccept = [500]",
        backend.url
    ))
    .await;
    assert_eq!(outcome.failure, None);
}

#[tokio::test]
async fn a_magic_packet_is_sent_as_often_and_from_where_the_step_says() {
    let backend = Backend::start().await;
    let card = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let port = card.local_addr().expect("an address").port();
    let outcome = run(&format!(
        r#"
        base_url = "{}"
        [provider.wake]
        type = "wol"
        mac = "0A:1b:2c:3d:4e:5f"
        address = "127.0.0.1"
        port = {port}
        interface = "lo"
        source = "127.0.0.2"
        repeats = 3
        interval = "10ms"
        "#,
        backend.url
    ))
    .await;
    assert_eq!(outcome.failure, None);
    assert_eq!(stages(&outcome), ["step 1 wol", "probe"]);
    assert!(outcome.stages[0].took_ms >= 20, "{:?}", outcome.stages);
    let mac = [0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f];
    let expected = [&[0xff; 6][..], &mac.repeat(16)].concat();
    for _ in 0..3 {
        let mut packet = [0; 200];
        // All have been sent before the run ended.
        let (bytes, from) = card.try_recv_from(&mut packet).expect("a packet");
        assert_eq!(packet[..bytes], expected);
        assert_eq!(from.ip().to_string(), "127.0.0.2");
    }
    assert!(card.try_recv_from(&mut [0; 200]).is_err(), "three, and no more");
}

#[tokio::test]
async fn a_tcp_step_waits_until_somebody_listens() {
    let (backend, url) = (Backend::start().await, Backend::free_url().await);
    let address = url.trim_start_matches("http://").to_owned();
    let config = format!(
        "base_url = \"{}\"\n[provider.wake]\ntype = \"tcp\"\naddress = \"{address}\"",
        backend.url
    );
    let mut waiting = wake(&config, runner());
    assert!(
        futures::FutureExt::now_or_never(waiting.next()).is_none(),
        "nobody listens yet"
    );
    let _listener = TcpListener::bind(&address).await.expect("the port");
    let outcome = outcome(&mut waiting).await;
    assert_eq!(outcome.failure, None);
    assert_eq!(stages(&outcome), ["step 1 tcp", "probe"]);

    let closed = Closed::claim();
    let address = closed.url.trim_start_matches("http://");
    let outcome = run(&format!(
        "base_url = \"{}\"\n[provider.wake]\ntype = \"tcp\"\naddress = \"{address}\"\ntimeout = \"200ms\"",
        backend.url
    ))
    .await;
    let failure = outcome.failure.expect("a failure");
    assert_eq!(
        (failure.kind, failure.stage.as_str(), failure.reason.as_str()),
        (
            WakeFailureKind::Recipe,
            "step 1 tcp",
            "not reachable within 200ms (`timeout`): connection refused"
        )
    );
}

/// A backend that answers its probe, and completions one after the other with these; the last one again and again.
#[derive(Clone)]
struct Completes {
    answers: Arc<Mutex<VecDeque<(u16, &'static str)>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

const COMPLETION: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":""}}]}"#;

impl Completes {
    /// The answers, and where they are given.
    async fn with(answers: &[(u16, &'static str)]) -> (Self, String) {
        let this = Self {
            answers: Arc::new(Mutex::new(answers.iter().copied().collect())),
            asked: Arc::default(),
        };
        let router = Router::new()
            .route("/v1/models", get(|| async { r#"{"data":[{"id":"the/model"}]}"# }))
            .route("/v1/chat/completions", post(Self::answer))
            .with_state(this.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(axum::serve(listener, router).into_future());
        (this, url)
    }

    async fn answer(State(this): State<Self>, body: String) -> (StatusCode, &'static str) {
        this.asked.lock().expect("lock").push(body);
        let (status, body) = {
            let mut answers = this.answers.lock().expect("lock");
            let last = answers.len() == 1;
            if last {
                answers[0]
            } else {
                answers.pop_front().expect("an answer")
            }
        };
        if body == "hang" {
            std::future::pending::<()>().await;
        }
        (StatusCode::from_u16(status).expect("a status"), body)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("lock").clone()
    }
}

fn verified(url: &str, timeout: &str) -> String {
    format!(
        "base_url = \"{url}\"\nmodels = [{{ id = \"the/model\", as = \"m\" }}]\n[provider.wake]\ntype = \"tcp\"\n\
         address = \"{}\"\nverify = {{ timeout = \"{timeout}\" }}",
        url.trim_start_matches("http://")
    )
}

#[tokio::test]
async fn a_wake_succeeds_when_a_completion_does_and_waits_for_a_backend_that_is_not_ready() {
    let (backend, url) = Completes::with(&[(503, "loading"), (200, COMPLETION)]).await;
    let outcome = run(&verified(&url, "1m")).await;
    assert_eq!(outcome.failure, None);
    assert_eq!(stages(&outcome), ["step 1 tcp", "probe", "verify"]);
    let asked = backend.asked();
    assert_eq!(asked.len(), 2);
    let body: serde_json::Value = serde_json::from_str(&asked[0]).expect("JSON");
    assert_eq!(
        (&body["model"], &body["max_tokens"]),
        (&"the/model".into(), &1.into())
    );
}

#[tokio::test]
async fn a_completion_must_have_what_is_expected_of_it() {
    let expecting = |url: &str, content: &str| {
        let expect = format!("expect = {{ choices = [{{ message = {{ content = {content:?} }} }}] }}");
        verified(url, "1m").replace("verify = { ", &format!("verify = {{ {expect}, "))
    };
    let answer = r#"{"choices":[{"message":{"content":"4"}},{"message":{"content":"5"}}]}"#;
    let (_, url) = Completes::with(&[(200, answer)]).await;
    assert_eq!(run(&expecting(&url, "4")).await.failure, None);
    let failure = run(&expecting(&url, "!")).await.failure.expect("a failure");
    assert_eq!(failure.reason, "the answer is not what `expect` asks for");
}

#[tokio::test]
async fn a_wake_whose_completion_is_none_fails_and_the_backend_is_not_available() {
    for (answer, timeout, reason, asked) in [
        ((500, CANARY), "1m", "HTTP status 500", 1),
        ((404, CANARY), "1m", "HTTP status 404", 1),
        ((200, CANARY), "1m", "the answer is not JSON", 1),
        ((200, r#"{"choices":[]}"#), "1m", "the answer is no completion", 1),
        (
            (200, r#"{"error":"canary-5ecr3t"}"#),
            "1m",
            "the answer is no completion",
            1,
        ),
        (
            (200, "hang"),
            "200ms",
            "no completion within 200ms (`timeout`)",
            1,
        ),
    ] {
        let (backend, url) = Completes::with(&[answer]).await;
        let config = verified(&url, timeout);
        let failure = run(&config).await.failure.expect("a failure");
        assert_eq!(
            (failure.kind, failure.stage.as_str(), failure.reason.as_str()),
            (WakeFailureKind::Recipe, "verify", reason)
        );
        assert_eq!(backend.asked().len(), asked, "{answer:?}");
        // Its probe says yes all the same.
        let probe = Probe::new(backend::client(), &provider(&config));
        assert_eq!(probe.check().await, Ok(()));
        let Err(why) = probe.check_and_verify().await else {
            panic!("{answer:?} is called available")
        };
        assert_eq!(why.reason, format!("verify: {reason}"));
    }
    let (_, url) = Completes::with(&[(503, "")]).await;
    let failure = run(&verified(&url, "500ms")).await.failure.expect("a failure");
    assert_eq!(
        failure.reason,
        "no completion within 500ms (`timeout`): HTTP status 503"
    );
}

async fn verdict(rest: &str) -> Verdict {
    Probe::new(backend::client(), &provider(rest)).check().await
}

#[tokio::test]
async fn a_probe_tells_asleep_from_unreachable() {
    let (backend, closed) = (Backend::start().await, Closed::claim());
    let at = |path: &str, expect: &str| {
        let timeout = if matches!(path, "/hang" | "/trickle") {
            "200ms"
        } else {
            "1m"
        };
        let url = &backend.url;
        format!("base_url = \"{url}/v1/\"\nprobe = {{ path = \"{path}\", timeout = \"{timeout}\"{expect} }}")
    };
    let awake = ", expect = { is_sleeping = false }";
    for (config, reason, sleep) in [
        (
            at("/is_sleeping", awake),
            "not what `expect` asks for",
            SleepReason::FoundAsleep,
        ),
        (at("/html", awake), "not JSON", SleepReason::Unreachable),
        (
            at("/endless", awake),
            "larger than 1 MiB",
            SleepReason::Unreachable,
        ),
        (
            at("/hang", ""),
            "no answer within 200ms",
            SleepReason::Unreachable,
        ),
        (
            at("/trickle", awake),
            "no answer within 200ms",
            SleepReason::Unreachable,
        ),
        (at("/redirect", ""), "HTTP status 307", SleepReason::Unreachable),
        (at("/fail", ""), "HTTP status 500", SleepReason::Unreachable),
        (at("/drop", ""), "the connection broke", SleepReason::Unreachable),
        (
            format!("base_url = \"{}\"", closed.url),
            "connection refused",
            SleepReason::Unreachable,
        ),
    ] {
        let Err(why) = verdict(&config).await else {
            panic!("available: {config}")
        };
        assert!(why.reason.contains(reason), "{}: {config}", why.reason);
        assert_eq!(why.sleep_reason(), sleep, "{config}");
    }
    backend.wake_up();
    assert_eq!(verdict(&at("/is_sleeping", awake)).await, Ok(()));
    assert_eq!(verdict(&at("/html", "")).await, Ok(()));
}

#[tokio::test]
async fn the_default_probe_lists_the_models_with_the_backends_key() {
    let backend = Backend::start().await;
    let url = &backend.url;
    assert_eq!(
        verdict(&format!("base_url = \"{url}\"\napi_key = \"{}\"", backend::KEY)).await,
        Ok(())
    );
    let Err(why) = verdict(&format!("base_url = \"{url}\"\napi_key = \"{CANARY}\"")).await else {
        panic!("the key is not sent");
    };
    assert_eq!(why.reason, "HTTP status 401");
}

#[tokio::test]
async fn a_backend_that_comes_up_is_noticed_within_the_pause() {
    let backend = Backend::start().await;
    let config = format!(
        "base_url = \"{}\"\nprobe = {{ path = \"/is_sleeping\", expect = {{ is_sleeping = false }} }}",
        backend.url
    );
    let probe = Probe::new(backend::client(), &provider(&config));
    let deadline = Instant::now() + Duration::from_secs(30);
    let waiting = tokio::spawn(async move { probe.await_available(deadline).await });
    // Long enough for the pauses to have grown to their cap.
    backend.await_requests(8).await;
    let seen = backend.requests();
    backend.wake_up();
    assert_eq!(waiting.await.expect("no panic"), Ok(()));
    assert!(backend.requests() - seen <= 2, "noticed by the next probe");
}
