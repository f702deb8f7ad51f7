//! A base URL that leads to the hub itself: how that is recognised, and that such a backend is never published or woken.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of owners use the rest")]
mod control;
#[path = "control/owned.rs"]
#[expect(dead_code, reason = "the tests of groups use the rest")]
mod owned;
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod whole_agent;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use backend::{Backend, client, eventually, provider};
use owned::{Owned, member};
use reveille_agent::{
    BackendClient, OwnHub,
    models::discover,
    probe::{Probe, Unavailable, Verdict},
    provider::Groups,
};
use reveille_bus::{HubId, orders, relay::FaultCode};
use reveille_domain::{
    Epoch, ModelName, WakeFailureKind,
    provider::StatusName::{Active, Down, Hibernating},
};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, time::timeout};
use whole_agent::{World, agent_name};

const OWN: &str = "00112233445566aa";
const OTHER: &str = "ffeeddccbbaa9988";
const LIST: &str = r#"{"object":"list","data":[{"id":"m"}]}"#;
const LOOP: &str =
    r#"{"error":{"message":"again","type":"server_error","param":null,"code":"loop_detected"}}"#;
const REMEDY: &str = "set base_url to the backend's own address";

fn own() -> HubId {
    OWN.parse().expect("an id")
}

/// What stands at the base URL: a backend, or a hub.
#[derive(Clone)]
struct Front {
    url: String,
    state: Arc<Mutex<Answers>>,
}

#[derive(Clone)]
struct Answers {
    hub: Option<&'static str>,
    status: u16,
    body: &'static str,
    /// The paths that this is about; others are those of a backend that is up.
    only: Option<&'static str>,
    /// Whether connections break.
    breaks: bool,
    /// The path of each request, and the hubs that it has passed.
    asked: Vec<(String, Option<String>)>,
}

impl Front {
    /// A backend that is up.
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let front = Self {
            url: format!("http://{}", listener.local_addr().expect("an address")),
            state: Arc::new(Mutex::new(Answers {
                hub: None,
                status: 200,
                body: LIST,
                only: None,
                breaks: false,
                asked: vec![],
            })),
        };
        let routes = Router::new().fallback(answer).with_state(front.clone());
        tokio::spawn(axum::serve(listener, routes).into_future());
        front
    }

    fn is(&self, hub: Option<&'static str>, status: u16, body: &'static str) {
        let mut state = self.state.lock().expect("not poisoned");
        (state.hub, state.status, state.body) = (hub, status, body);
    }

    /// Breaks connections instead of answering, or no longer does.
    fn break_off(&self, breaks: bool) {
        self.state.lock().expect("not poisoned").breaks = breaks;
    }

    fn only_at(&self, path: &'static str) {
        self.state.lock().expect("not poisoned").only = Some(path);
    }

    /// The hubs that each request for this path has passed.
    fn ways(&self, path: &str) -> Vec<Option<String>> {
        let asked = self.state.lock().expect("not poisoned").asked.clone();
        let of_path = asked.into_iter().filter(|(asked, _)| asked == path);
        of_path.map(|(_, way)| way).collect()
    }
}

async fn answer(State(front): State<Front>, uri: Uri, headers: HeaderMap) -> Response {
    let mut state = front.state.lock().expect("not poisoned");
    let way = headers.get("x-reveille-via");
    let way = way.map(|way| way.to_str().expect("text").to_owned());
    state.asked.push((uri.path().to_owned(), way));
    if state.breaks {
        drop(state);
        panic!("this connection is meant to break");
    }
    if state.only.is_some_and(|only| only != uri.path()) {
        return LIST.into_response();
    }
    let mut answer = (StatusCode::from_u16(state.status).expect("a status"), state.body).into_response();
    if let Some(hub) = state.hub {
        answer
            .headers_mut()
            .insert("x-reveille-hub", hub.parse().expect("a value"));
    }
    answer
}

fn at(hub: Option<&str>) -> BackendClient {
    BackendClient::new(client(), OwnHub::of(hub.map(|hub| hub.parse().expect("an id"))))
}

fn refused(verdict: &Verdict) -> bool {
    match verdict {
        Err(why) if why.is_hub_itself() => {
            assert!(why.reason.starts_with("this is the hub itself"), "{}", why.reason);
            assert!(why.reason.ends_with(REMEDY), "{}", why.reason);
            true
        }
        Ok(()) | Err(Unavailable { .. }) => false,
    }
}

#[tokio::test]
async fn a_probe_recognises_the_hub_by_its_id_or_by_its_own_request_that_came_back() {
    let front = Front::start().await;
    let config = provider(&format!("base_url = \"{}\"", front.url));
    for (known, hub, status, body, is_hub) in [
        (Some(OWN), Some(OWN), 200, LIST, true),
        // Such as one that needs a key, has no such path or doesn't know its name.
        (Some(OWN), Some(OWN), 401, "{}", true),
        (Some(OWN), Some(OWN), 404, "{}", true),
        (Some(OWN), Some(OWN), 421, "{}", true),
        (Some(OWN), Some(OWN), 508, LOOP, true),
        // Behind a proxy that drops headers of answers.
        (Some(OWN), None, 508, LOOP, true),
        (Some(OWN), None, 508, "loop", false),
        (Some(OWN), Some(OTHER), 200, LIST, false),
        (Some(OWN), Some("nonsense"), 200, LIST, false),
        (Some(OWN), None, 200, LIST, false),
        (None, Some(OWN), 200, LIST, false),
        (None, None, 508, LOOP, false),
    ] {
        front.is(hub, status, body);
        let verdict = Probe::new(at(known), &config).check().await;
        assert_eq!(
            refused(&verdict),
            is_hub,
            "{known:?} {hub:?} {status} {body}: {verdict:?}"
        );
        assert_eq!(verdict.is_ok(), !is_hub && status == 200);
        let way = front.ways("/v1/models").pop().expect("it was asked");
        assert_eq!(way.as_deref(), known, "each request says where it comes from");
    }
}

#[tokio::test]
async fn no_wake_waits_for_the_hub_to_become_a_backend() {
    let front = Front::start().await;
    front.is(Some(OWN), 503, "{}");
    let config = provider(&format!("base_url = \"{}\"", front.url));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
    let probe = Probe::new(at(Some(OWN)), &config);
    let verdict = timeout(Duration::from_secs(60), probe.await_available(deadline)).await;
    assert!(refused(&verdict.expect("it doesn't wait")));
}

#[tokio::test]
async fn a_completion_and_a_list_of_the_hub_itself_count_for_nothing() {
    let front = Front::start().await;
    front.is(Some(OWN), 200, r#"{"choices":[{"text":""}]}"#);
    front.only_at("/v1/chat/completions");
    let url = &front.url;
    let config = provider(&format!(
        "base_url = \"{url}\"\nmodels = [\"m\"]\n[provider.wake]\ntype = \"http\"\nurl = \"{url}/wake\"\nverify = {{}}\n"
    ));
    let probe = Probe::new(at(Some(OWN)), &config);
    assert_eq!(probe.check().await, Ok(()), "only completions go to the hub");
    for answer in [
        (Some(OWN), 200, r#"{"choices":[{"text":""}]}"#),
        (None, 508, LOOP),
    ] {
        front.is(answer.0, answer.1, answer.2);
        let why = probe.check_and_verify().await.expect_err("it is the hub");
        assert!(why.reason.ends_with(REMEDY), "{}", why.reason);
    }
    assert_eq!(front.ways("/v1/chat/completions")[0].as_deref(), Some(OWN));

    front.only_at("/v1/models");
    let discovers = provider(&format!("base_url = \"{url}\""));
    for (hub, listed) in [(OWN, false), (OTHER, true)] {
        front.is(Some(hub), 200, LIST);
        let found = discover(at(Some(OWN)), discovers.clone(), None).await;
        assert_eq!(found.is_some(), listed, "{hub}");
    }
    assert!(
        front
            .ways("/v1/models")
            .iter()
            .all(|way| way.as_deref() == Some(OWN))
    );
}

/// A provider that is probed often and could be woken.
fn wakeable(front: &Front, models: &str) -> String {
    format!(
        "base_url = \"{0}\"\n{models}probe = {{ path = \"/v1/models\", interval = \"20ms\" }}\n\
         [provider.wake]\ntype = \"http\"\nurl = \"{0}/wake\"\n",
        front.url
    )
}

/// The models that are published, and whether they can be woken.
fn published(owned: &Owned) -> (Vec<String>, bool) {
    let spec = owned.control.provider().spec;
    let models = spec.models().iter().map(ModelName::to_string).collect();
    (models, spec.wake().is_some())
}

#[tokio::test]
async fn the_hub_itself_is_published_without_models_or_a_recipe_whatever_the_config_says() {
    for models in ["models = [\"m\"]\n", ""] {
        let front = Front::start().await;
        front.is(Some(OWN), 200, LIST);
        let owned = Owned::at_hub(&wakeable(&front, models), own());
        owned.until(Down).await;
        assert_eq!(published(&owned), (vec![], false));
        assert_eq!(owned.control.registrations(), 1, "nor was it otherwise before");
        let why = owned.handle.gate.refusal().expect("a reason");
        assert!(why.ends_with(REMEDY), "{why}");
        assert!(owned.handle.gate.enter().is_none());

        // The proxy in between now leads to a backend.
        front.is(None, 200, LIST);
        owned.until(Active).await;
        eventually("its models were published", || {
            published(&owned) == (vec!["m".to_owned()], true)
        })
        .await;
        assert_eq!(owned.handle.gate.refusal(), None);
        drop(owned.handle.gate.enter().expect("it is open"));
    }
}

#[tokio::test]
async fn a_backend_that_is_found_to_be_the_hub_is_not_woken() {
    let front = Front::start().await;
    front.is(None, 200, r#"{"asleep":true}"#);
    let config = wakeable(&front, "models = [\"m\"]\n");
    let config = config.replace(
        "interval = \"20ms\"",
        "expect = { asleep = false }, interval = \"1h\"",
    );
    let owned = Owned::at_hub(&config, own());
    owned.until(Hibernating).await;
    assert_eq!(published(&owned), (vec!["m".to_owned()], true));
    front.is(Some(OWN), 200, LIST);
    owned.wake_for_request();
    owned.until(Down).await;
    assert_eq!(published(&owned), (vec![], false));
    let failure = owned
        .control
        .last_wake()
        .and_then(|wake| wake.failure)
        .expect("a failure");
    assert_eq!(failure.kind, WakeFailureKind::Unavailable);
    assert!(failure.reason.ends_with(REMEDY), "{}", failure.reason);
    assert_eq!(front.ways("/wake").len(), 0, "its recipe didn't run");
}

#[tokio::test]
async fn a_hub_that_is_just_being_restarted_stays_refused() {
    let front = Front::start().await;
    front.is(Some(OWN), 200, LIST);
    let owned = Owned::at_hub(&wakeable(&front, "models = [\"m\"]\n"), own());
    owned.until(Down).await;
    front.break_off(true);
    let probes = || front.ways("/v1/models").len();
    let before = probes();
    eventually("more probes", || probes() > before + 2).await;
    assert!(owned.handle.gate.refusal().is_some());
    assert_eq!(owned.control.registrations(), 1);
    front.break_off(false);
    front.is(None, 503, "{}");
    owned.until(Hibernating).await;
    assert_eq!(owned.handle.gate.refusal(), None, "what answers is no hub");
}

#[tokio::test]
async fn the_hub_itself_keeps_no_room_in_its_group() {
    let (front, backend, groups) = (Front::start().await, Backend::start().await, Groups::default());
    front.is(Some(OWN), 200, LIST);
    let config = wakeable(&front, "models = [\"h\"]\nexclusive = \"gpu0\"\n");
    let sleep = format!(
        "[provider.sleep]\ntype = \"http\"\nurl = \"{}/sleep\"\n",
        front.url
    );
    let config = format!("{config}{sleep}");
    let hub = Owned::member_at_hub(&groups, "h", &config, own());
    let other = member(&backend, "/sleep", "");
    let other = Owned::member_at_hub(&groups, "o", &other, own());
    hub.until(Down).await;
    other.until(Hibernating).await;
    other.wake_for_request();
    other.until(Active).await;
}

#[tokio::test]
async fn an_agent_learns_which_hub_it_belongs_to_whenever_it_connects() {
    let front = Front::start().await;
    front.is(Some(OWN), 200, LIST);
    // The replica that it connects to is too old to say it.
    let world = World::start(&format!(
        "base_url = \"{}\"\nmodels = [\"m\"]\nprobe = {{ path = \"/v1/models\", interval = \"1h\" }}",
        front.url
    ))
    .await;
    world.until(Active).await;
    let asked = |world: &World| world.control.provider().spec.models().len();
    assert_eq!(asked(&world), 1);
    world.send("/v1/chat/completions", "{}").await.expect("an answer");
    assert_eq!(front.ways("/v1/chat/completions"), [None]);

    world.control.belongs_to(OTHER.parse().expect("an id"));
    reconnect(&world).await;
    eventually("the hub is known", || {
        front
            .ways("/v1/models")
            .last()
            .is_some_and(|way| way.as_deref() == Some(OTHER))
    })
    .await;
    world.send("/v1/chat/completions", "{}").await.expect("an answer");
    assert_eq!(front.ways("/v1/chat/completions")[1].as_deref(), Some(OTHER));

    // The journal was replaced.
    world.control.belongs_to(own());
    reconnect(&world).await;
    world.until(Down).await;
    assert_eq!(asked(&world), 0);
    let began = Instant::now();
    let fault = world.fault("/v1/chat/completions").await;
    assert_eq!(fault.code, FaultCode::BackendUnavailable);
    assert!(fault.message.ends_with(REMEDY), "{}", fault.message);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(front.ways("/v1/chat/completions").len(), 2, "it wasn't sent");
}

/// Has the agent connect again, as after a restore of the journal.
async fn reconnect(world: &World) {
    let other = Epoch(control::EPOCH.0 + 1);
    orders::ask_to_reconnect(&world.client, &agent_name(), other)
        .await
        .expect("a connection");
}

#[tokio::test]
async fn an_answer_of_the_hub_has_the_backend_probed_at_once() {
    let front = Front::start().await;
    let config = format!(
        "base_url = \"{}\"\nmodels = [\"m\"]\nprobe = {{ path = \"/v1/models\", interval = \"1h\" }}",
        front.url
    );
    let world = World::start(&config).await;
    world.control.belongs_to(own());
    world.until(Active).await;
    reconnect(&world).await;
    eventually("the hub is known", || {
        front
            .ways("/v1/models")
            .last()
            .is_some_and(|way| way.as_deref() == Some(OWN))
    })
    .await;
    front.is(Some(OWN), 508, LOOP);
    let (head, answer) = world.send("/v1/chat/completions", "{}").await.expect("an answer");
    assert_eq!((head.status, &answer[..]), (508, LOOP.as_bytes()));
    world.until(Down).await;
}
