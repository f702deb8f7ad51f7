//! Probes and `http` recipes against a real server.

#[expect(dead_code, reason = "the tests of owners and sessions use the rest")]
mod backend;

use backend::{Backend, Closed, outcome, provider, runner, wake};
use reveille_agent::{
    probe::{Probe, Verdict},
    recipe::{Outcome, Run},
};
use reveille_domain::{SleepReason, WakeFailureKind};
use std::time::Duration;
use tokio::time::Instant;

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

#[tokio::test]
async fn a_backend_that_never_comes_up_fails_at_max_wait_with_the_probes_reason() {
    let backend = Backend::start().await;
    let began = Instant::now();
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
    assert!(began.elapsed() < Duration::from_secs(3));
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
        let Verdict::Unavailable(why) = verdict(&config).await else {
            panic!("available: {config}")
        };
        assert!(why.reason.contains(reason), "{}: {config}", why.reason);
        assert_eq!(why.sleep_reason(), sleep, "{config}");
    }
    backend.wake_up();
    assert_eq!(verdict(&at("/is_sleeping", awake)).await, Verdict::Available);
    assert_eq!(verdict(&at("/html", "")).await, Verdict::Available);
}

#[tokio::test]
async fn the_default_probe_lists_the_models_with_the_backends_key() {
    let backend = Backend::start().await;
    let url = &backend.url;
    assert_eq!(
        verdict(&format!("base_url = \"{url}\"\napi_key = \"{}\"", backend::KEY)).await,
        Verdict::Available
    );
    let Verdict::Unavailable(why) = verdict(&format!("base_url = \"{url}\"\napi_key = \"{CANARY}\"")).await
    else {
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
