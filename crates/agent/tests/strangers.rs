//! Servers that answer where a provider's backend should, but aren't it; and how one that takes its place is noticed.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod control;
#[path = "control/owned.rs"]
#[expect(dead_code, reason = "the tests of groups use the rest")]
mod owned;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use backend::{Backend, KEY, StoppedClock, client, eventually, provider};
use owned::Owned;
use reveille_agent::{
    fetch,
    probe::{Probe, Unavailable, Verdict},
};
use reveille_domain::{
    MODELS_STAGE, SleepReason, WakeFailureKind,
    provider::StatusName::{Active, Down, Hibernating, Waking},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener},
    time::Instant,
};

const HTML: (u16, &str) = (200, "<html>hi</html>");
/// What LM Studio answers to whatever it doesn't know.
const JSON_ERROR: (u16, &str) = (
    200,
    r#"{"error":"Unexpected endpoint or method. (GET /v1/models)"}"#,
);
const OTHER: (u16, &str) = (200, r#"{"object":"list","data":[{"id":"other"}]}"#);
const OURS: (u16, &str) = (200, r#"{"object":"list","data":[{"id":"other"},{"id":"m"}]}"#);
/// As an Ollama lists its models, which has its version elsewhere.
const OLLAMAS: (u16, &str) = (
    200,
    r#"{"object":"list","data":[{"id":"other","owned_by":"library"}]}"#,
);
const NONE: (u16, &str) = (200, r#"{"object":"list","data":[]}"#);
/// How the reason begins if what answers lists [`OTHER`].
const LISTS_OTHER: &str = "the server there lists `other`, not `m`";
const NO_LIST: &str = "another server listens there: its answer to /v1/models is no list of models";

/// A server that answers `/v1/models` as it was last told to, and everything else with 200.
#[derive(Clone)]
struct Somebody {
    url: String,
    says: Arc<Mutex<(u16, &'static str)>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Somebody {
    async fn who_says(answer: (u16, &'static str)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let somebody = Self::at(url, answer);
        tokio::spawn(axum::serve(listener, somebody.routes()).into_future());
        somebody
    }

    fn at(url: String, answer: (u16, &'static str)) -> Self {
        Self {
            url,
            says: Arc::new(Mutex::new(answer)),
            asked: Arc::default(),
        }
    }

    fn routes(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    fn says(&self, answer: (u16, &'static str)) {
        *self.says.lock().expect("not poisoned") = answer;
    }

    /// How often a path was asked for.
    fn asked(&self, path: &str) -> usize {
        let asked = self.asked.lock().expect("not poisoned");
        asked.iter().filter(|asked| *asked == path).count()
    }

    async fn asked_again(&self, path: &str) {
        let until = self.asked(path) + 3;
        eventually(path, || self.asked(path) >= until).await;
    }
}

async fn answer(State(somebody): State<Somebody>, uri: Uri) -> Response {
    somebody
        .asked
        .lock()
        .expect("not poisoned")
        .push(uri.path().to_owned());
    let (status, body) = *somebody.says.lock().expect("not poisoned");
    match uri.path() {
        "/v1/models" => {}
        "/api/version" if body == OLLAMAS.1 => return r#"{"version":"0.12.3"}"#.into_response(),
        _ => return "{}".into_response(),
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::LOCATION, "/ok".parse().expect("a path"));
    let status = StatusCode::from_u16(status).expect("a status");
    (status, headers, body).into_response()
}

/// A provider whose backend is asked for its models although nothing wakes it.
fn checked(rest: &str) -> String {
    if rest.contains("check_models") || rest.contains("[provider.wake]") {
        return rest.to_owned();
    }
    match rest.contains("probe = { ") {
        true => rest.replace("probe = { ", "probe = { check_models = true, "),
        false => format!("{rest}\nprobe = {{ check_models = true }}\n"),
    }
}

fn probe(rest: &str) -> Probe {
    Probe::new(client(), &provider(&checked(rest)))
}

fn refused(verdict: Verdict) -> Unavailable {
    verdict.expect_err("it isn't the backend")
}

#[tokio::test]
async fn a_server_is_the_backend_if_its_list_has_one_of_the_models_whatever_else_it_answers_to() {
    let somebody = Somebody::who_says(OURS).await;
    let url = &somebody.url;
    let m = format!("base_url = \"{url}\"\nmodels = [\"m\"]\n");
    let unnamed = format!("base_url = \"{url}\"\n");
    let unchecked = format!("{m}probe = {{ check_models = false }}\n");
    let latest = (200, r#"{"object":"list","data":[{"id":"m:latest"}]}"#);
    for (config, answer, wrong, stranger) in [
        (&m, HTML, Some(NO_LIST), true),
        (&m, JSON_ERROR, Some(NO_LIST), true),
        (&m, OTHER, Some(LISTS_OTHER), true),
        (
            &m,
            NONE,
            Some("the server there lists no models, but `models` has `m`"),
            false,
        ),
        (&m, (302, ""), Some("HTTP status 302"), false),
        (&m, OURS, None, false),
        (&m, latest, None, false),
        (&unnamed, HTML, Some(NO_LIST), true),
        (&unnamed, JSON_ERROR, Some(NO_LIST), true),
        (&unnamed, OTHER, None, false),
        (&unnamed, NONE, None, false),
        (&unchecked, OTHER, None, false),
        (&unchecked, HTML, None, false),
    ] {
        somebody.says(answer);
        let before = somebody.asked("/v1/models");
        let verdict = probe(config).check().await;
        let asked = somebody.asked("/v1/models") - before;
        assert_eq!(
            (verdict.is_ok(), asked),
            (wrong.is_none(), 1),
            "{config} {answer:?}"
        );
        if let Some(wrong) = wrong {
            let why = refused(verdict);
            assert!(why.reason.starts_with(wrong), "{answer:?}: {}", why.reason);
            assert_eq!(
                (why.stranger, why.sleep_reason()),
                (stranger, SleepReason::Unreachable)
            );
        }
    }
}

#[tokio::test]
async fn what_the_answer_must_contain_is_asked_of_a_list_too_and_one_without_it_is_asleep() {
    let somebody = Somebody::who_says(OTHER).await;
    let config = format!(
        "base_url = \"{}\"\nmodels = [\"m\"]\nprobe = {{ path = \"/v1/models?x\", expect = {{ data = [{{ id = \"m\" }}] }} }}",
        somebody.url
    );
    let probe = probe(&config);
    assert!(
        refused(probe.check().await).asleep,
        "its list is of the models in memory"
    );
    for no_list in [HTML, JSON_ERROR] {
        somebody.says(no_list);
        let why = refused(probe.check().await);
        assert_eq!((why.asleep, why.reason.as_str()), (false, NO_LIST));
    }
    somebody.says(OURS);
    assert_eq!(probe.check().await, Ok(()));
}

#[tokio::test]
async fn a_backend_that_is_probed_elsewhere_is_asked_for_its_list_when_it_comes_up() {
    let somebody = Somebody::who_says(OTHER).await;
    let url = &somebody.url;
    let health = format!(
        "base_url = \"{url}\"\nmodels = [\"m\"]\nprobe = {{ path = \"/health\", timeout = \"10s\" }}\n"
    );
    let probe = probe(&health);
    assert_eq!(probe.check().await, Ok(()));
    assert_eq!(somebody.asked("/v1/models"), 0);
    for verdict in [
        probe.check_and_identify().await,
        probe.check_and_verify().await,
        probe
            .await_available(Instant::now() + Duration::from_millis(200))
            .await,
    ] {
        let why = refused(verdict);
        assert!(
            why.stranger && why.reason.starts_with(LISTS_OTHER),
            "{}",
            why.reason
        );
    }
    somebody.says(NONE);
    assert!(probe.check_and_verify().await.is_err());
    // Where there is no list, there is nothing to say.
    for nothing in [
        HTML,
        JSON_ERROR,
        (302, ""),
        (401, OTHER.1),
        (403, ""),
        (404, OTHER.1),
        (405, ""),
        (501, ""),
        (503, OTHER.1),
        OURS,
    ] {
        somebody.says(nothing);
        assert_eq!(probe.check_and_verify().await, Ok(()), "{nothing:?}");
        let soon = Instant::now() + Duration::from_secs(10);
        assert_eq!(probe.await_available(soon).await, Ok(()), "{nothing:?}");
    }
    somebody.says(OTHER);
    let unchecked = health.replace("timeout", "check_models = false, timeout");
    assert_eq!(self::probe(&unchecked).check_and_verify().await, Ok(()));
    let unnamed = health.replace("models = [\"m\"]", "");
    assert_eq!(self::probe(&unnamed).check_and_verify().await, Ok(()));
}

#[tokio::test]
async fn the_list_is_asked_for_with_the_backends_key() {
    let backend = Backend::start().await;
    let with = |key: &str, model: &str| {
        let url = &backend.url;
        format!(
            "base_url = \"{url}\"\napi_key = \"{key}\"\nmodels = [\"{model}\"]\nprobe = {{ path = \"/ok\" }}"
        )
    };
    assert_eq!(probe(&with(KEY, "m")).check_and_identify().await, Ok(()));
    let why = refused(probe(&with(KEY, "x")).check_and_identify().await);
    assert!(
        why.reason.contains("lists `Org/Model`, `m`, not `x`"),
        "{}",
        why.reason
    );
    assert_eq!(
        probe(&with("another", "x")).check_and_identify().await,
        Ok(()),
        "it refuses that key"
    );
}

#[tokio::test]
async fn a_backend_at_a_unix_socket_is_asked_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("llm.sock");
    let somebody = Somebody::at(format!("unix://{}", socket.display()), OTHER);
    let listener = UnixListener::bind(&socket).expect("a socket");
    tokio::spawn(axum::serve(listener, somebody.routes()).into_future());
    for path in ["/v1/models", "/health"] {
        let config = format!(
            "base_url = \"{}\"\nmodels = [\"m\"]\nprobe = {{ path = \"{path}\" }}",
            somebody.url
        );
        let provider = provider(&checked(&config));
        let client = fetch::client_for(&provider.trust, provider.base_url.socket()).expect("a client");
        let probe = Probe::new(client, &provider);
        assert_eq!(probe.port(), None);
        somebody.says(OTHER);
        let why = refused(probe.check_and_identify().await);
        assert!(why.reason.starts_with(LISTS_OTHER), "{path}: {}", why.reason);
        somebody.says(OURS);
        assert_eq!(probe.check_and_identify().await, Ok(()), "{path}");
    }
}

#[tokio::test]
async fn a_server_that_takes_the_place_of_a_backend_is_noticed_by_the_next_probe() {
    for path in ["/v1/models", "/health"] {
        let somebody = Somebody::who_says(OURS).await;
        let owned = Owned::start(&checked(&format!(
            "base_url = \"{}\"\nmodels = [\"m\"]\nprobe = {{ path = \"{path}\", interval = \"20ms\" }}",
            somebody.url
        )));
        owned.until(Active).await;
        somebody.says(OTHER);
        owned.until(Down).await;
        assert_eq!(owned.control.sleeps(), [SleepReason::Unreachable], "{path}");
        somebody.asked_again("/v1/models").await;
        assert_eq!(owned.control.status(), Some(Down), "{path}");
        let gate = &owned.handle.gate;
        assert!(gate.enter().is_none(), "{path}");
        let why = gate.refusal().expect("requests are told why");
        assert!(why.starts_with(LISTS_OTHER), "{why}");
        somebody.says(OURS);
        owned.until(Active).await;
        assert!(gate.enter().is_some(), "{path}");
    }
}

#[tokio::test]
async fn a_backend_that_is_probed_elsewhere_and_stops_listing_anything_stays_up() {
    let somebody = Somebody::who_says(OURS).await;
    let owned = Owned::start(&checked(&format!(
        "base_url = \"{}\"\nmodels = [\"m\"]\nprobe = {{ path = \"/health\", interval = \"20ms\" }}",
        somebody.url
    )));
    owned.until(Active).await;
    for nothing in [JSON_ERROR, HTML, (404, ""), (401, "")] {
        somebody.says(nothing);
        somebody.asked_again("/health").await;
        somebody.asked_again("/v1/models").await;
    }
    assert_eq!(owned.control.status(), Some(Active));
    assert!(owned.control.sleeps().is_empty());
}

#[tokio::test]
async fn a_backend_that_was_started_by_hand_needs_no_wake_if_it_is_the_providers() {
    let (somebody, controller) = (Somebody::who_says(OTHER).await, Backend::start().await);
    let owned = Owned::start(&checked(&format!(
        "base_url = \"{}\"\nmodels = [\"m\"]\nprobe = {{ path = \"/health\", interval = \"1h\" }}\n\
         [provider.wake]\ntype = \"http\"\nurl = \"{}/wake\"\nmax_wait = \"300ms\"",
        somebody.url, controller.url
    )));
    owned.until(Hibernating).await;
    owned.wake();
    eventually("the recipe", || !controller.wakes().is_empty()).await;
    let failure = owned.failed().await;
    // More time wouldn't help.
    assert_eq!(
        (failure.kind, failure.stage.as_str()),
        (WakeFailureKind::Recipe, MODELS_STAGE)
    );
    assert!(failure.reason.starts_with(LISTS_OTHER), "{}", failure.reason);
    assert!(!failure.reason.contains("ollama"), "{}", failure.reason);
    somebody.says(OURS);
    owned.wake();
    owned.until(Active).await;
    assert_eq!(controller.wakes().len(), 1, "it was found awake");
}

/// A provider whose backend lists its models, and which is being woken by a POST that changes nothing there.
async fn woken_elsewhere(somebody: &Somebody, controller: &Backend) -> Owned {
    let owned = Owned::start(&checked(&format!(
        "base_url = \"{}\"\nmodels = [\"m\"]\nprobe = {{ interval = \"1h\" }}\n\
         [provider.wake]\ntype = \"http\"\nurl = \"{}/wake\"\nmax_wait = \"1h\"",
        somebody.url, controller.url
    )));
    owned.until(Hibernating).await;
    owned.wake();
    eventually("the recipe", || !controller.wakes().is_empty()).await;
    owned
}

#[tokio::test]
async fn a_backend_that_goes_on_listing_other_models_fails_its_wake_long_before_max_wait() {
    let (somebody, controller) = (Somebody::who_says(OTHER).await, Backend::start().await);
    let owned = woken_elsewhere(&somebody, &controller).await;
    let clock = StoppedClock::stop();
    let began = Instant::now();
    // The server before may still be ending.
    clock.pass(Duration::from_secs(50)).await;
    assert_eq!(owned.control.status(), Some(Waking));
    clock
        .pass_until("its end", || owned.control.status() == Some(Hibernating))
        .await;
    assert!(
        began.elapsed() < Duration::from_secs(120),
        "{:?}",
        began.elapsed()
    );
    let failure = owned.failed().await;
    assert_eq!(failure.stage, MODELS_STAGE);
    assert!(failure.reason.starts_with(LISTS_OTHER), "{}", failure.reason);
    assert!(!failure.reason.contains("max_wait"), "{}", failure.reason);
}

#[tokio::test]
async fn a_backend_that_comes_up_with_other_models_fails_its_wake_sooner() {
    let (somebody, controller) = (Somebody::who_says((503, "")).await, Backend::start().await);
    let owned = woken_elsewhere(&somebody, &controller).await;
    somebody.asked_again("/v1/models").await;
    somebody.says(OTHER);
    let clock = StoppedClock::stop();
    let began = Instant::now();
    clock
        .pass_until("its end", || owned.control.status() == Some(Hibernating))
        .await;
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    assert_eq!(owned.failed().await.stage, MODELS_STAGE);
}

#[tokio::test]
async fn a_server_that_ends_after_its_controller_has_answered_fails_no_wake() {
    let (somebody, controller) = (Somebody::who_says(OTHER).await, Backend::start().await);
    let owned = woken_elsewhere(&somebody, &controller).await;
    let clock = StoppedClock::stop();
    for says in [OTHER, (503, "")] {
        somebody.says(says);
        clock.pass(Duration::from_secs(30)).await;
        assert_eq!(owned.control.status(), Some(Waking), "{says:?}");
    }
    somebody.says(OURS);
    clock
        .pass_until("its wake", || owned.control.status() == Some(Active))
        .await;
}

#[tokio::test]
async fn a_backend_that_lists_its_model_late_is_waited_for() {
    let (somebody, controller) = (Somebody::who_says(NONE).await, Backend::start().await);
    let owned = woken_elsewhere(&somebody, &controller).await;
    let clock = StoppedClock::stop();
    for (says, seconds) in [(NONE, 60), (OTHER, 6), ((503, ""), 6), (OTHER, 6)] {
        somebody.says(says);
        clock.pass(Duration::from_secs(seconds)).await;
        assert_eq!(owned.control.status(), Some(Waking), "{says:?}");
    }
    somebody.says(OURS);
    clock
        .pass_until("its wake", || owned.control.status() == Some(Active))
        .await;
}

#[tokio::test]
async fn a_model_that_an_ollama_lacks_is_told_with_the_command_that_pulls_it() {
    let (somebody, controller) = (Somebody::who_says(OLLAMAS).await, Backend::start().await);
    let owned = Owned::start(&checked(&format!(
        "base_url = \"{}\"\nmodels = [\"m\"]\nprobe = {{ interval = \"1h\" }}\n\
         [provider.wake]\ntype = \"http\"\nurl = \"{}/wake\"\nmax_wait = \"300ms\"",
        somebody.url, controller.url
    )));
    owned.until(Hibernating).await;
    owned.wake();
    eventually("the recipe", || !controller.wakes().is_empty()).await;
    let failure = owned.failed().await;
    assert!(
        failure.reason.ends_with("; `ollama pull m` gets it"),
        "{}",
        failure.reason
    );
}
