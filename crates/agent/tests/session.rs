//! A whole agent over a real NATS server: what reaches its backends, and how it ends.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of owners use the rest")]
mod control;
mod whole_agent;

use axum::{
    Router,
    http::{HeaderMap, Uri},
    routing::{get, post},
};
use backend::{Backend, Closed, KEY, eventually};
use bytes::Bytes;
use control::{Control, EPOCH};
use futures::StreamExt;
use jiff::Timestamp;
use reveille_agent::{
    AgentError,
    owner_policy::{Pause, PauseTaken},
    state_dir::StateDir,
};
use reveille_bus::{
    heartbeats::Heartbeat,
    orders::{self, AddressedOrder, Order, OrderAnswer},
    relay::{FaultCode, HOLD_LIMIT},
    wakes,
};
use reveille_domain::{
    Availability, Epoch, ProviderName,
    provider::StatusName::{Active, Down, Hibernating},
};
use std::time::{Duration, Instant};
use tokio::{
    net::{TcpListener, UnixListener},
    time::timeout,
};
use whole_agent::{World, agent_name};

/// Far longer than an answer takes that comes at once, and shorter than the first keep-alive.
const SOON: Duration = Duration::from_secs(3);

fn config(backend: &Backend) -> String {
    format!(
        r#"
        base_url = "{0}/v1"
        api_key = "{KEY}"
        models = [{{ id = "Org/Model", as = "m" }}]
        probe = {{ path = "/is_sleeping", expect = {{ is_sleeping = false }}, interval = "1h" }}
        [provider.wake]
        type = "http"
        url = "{0}/wake"
        "#,
        backend.url
    )
}

async fn awake() -> (Backend, World) {
    let backend = Backend::start().await;
    backend.wake_up();
    let world = World::start(&config(&backend)).await;
    world.until(Active).await;
    (backend, world)
}

#[tokio::test]
async fn a_request_reaches_the_backend_with_its_own_key_and_model_name() {
    let (_backend, world) = awake().await;
    for model in ["m", "box/m"] {
        let body = format!(r#"{{"messages":[], "model":"{model}","x":1.0}}"#);
        let (head, answer) = world
            .send("/v1/chat/completions?beta=1", &body)
            .await
            .expect("an answer");
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-type"), Some("text/plain; charset=utf-8"));
        let reached =
            format!(r#"Bearer {KEY}|application/json|{{"messages":[], "model":"Org/Model","x":1.0}}"#);
        assert_eq!(answer, reached);
    }
}

#[tokio::test]
async fn a_name_that_its_provider_does_not_publish_reaches_no_backend() {
    let (backend, world) = awake().await;
    let before = backend.requests();
    for model in ["unknown", "Org/Model", "other/m"] {
        let body = format!(r#"{{"messages":[],"model":"{model}"}}"#);
        let refused = world.send("/v1/chat/completions", &body).await;
        let error = refused.expect_err("nothing by this name");
        assert!(
            error.is_unknown_model() && error.never_handed_over(),
            "{model}: {error}"
        );
    }
    assert_eq!(backend.requests(), before);
}

#[tokio::test]
async fn until_control_has_accepted_it_a_request_for_the_session_before_hears_that_nobody_is_there() {
    let backend = Backend::start().await;
    backend.wake_up();
    let control = Control::new();
    control.hold();
    let world = World::under(control.clone(), &whole_agent::config(&config(&backend)), None).await;
    eventually("it asks", || control.is_asked()).await;
    let sent = timeout(SOON, world.send("/v1/chat/completions", "{}")).await;
    let error = sent.expect("it isn't swallowed").expect_err("nobody is there");
    assert!(error.never_handed_over(), "{error}");
    control.release();
    world.until(Active).await;
    let answered = world.send("/v1/chat/completions", "{}").await;
    assert_eq!(answered.expect("an answer").0.status, 200);
}

/// A backend that names the model as it was asked for it, in JSON and in a stream.
async fn echoes_the_model() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = |body: &[u8]| {
        let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        body["model"].clone()
    };
    let whole =
        move |body: Bytes| async move { format!("{{\"data\":[1.50],\"model\": {} }}\n", asked(&body[..])) };
    let events = move |body: Bytes| async move {
        let event = format!(
            ": x\n\ndata: {{\"model\":{},\"choices\":[]}}\n\n",
            asked(&body[..])
        );
        let head = [
            ("content-type", "text/event-stream"),
            ("openai-model", "backend's"),
        ];
        (head, format!("{event}{event}data: [DONE]\n\n"))
    };
    let routes = Router::new()
        .route(
            "/v1/models",
            get(async || r#"{"data":[{"id":"m"},{"id":"Org/Model"}]}"#),
        )
        .route("/v1/embeddings", post(whole))
        .route("/v1/completions", post(events));
    tokio::spawn(axum::serve(listener, routes).into_future());
    url
}

#[tokio::test]
async fn an_answer_names_the_model_as_the_config_says_and_is_else_as_the_backend_gave_it() {
    let url = echoes_the_model().await;
    let renamed = "{ id = \"Org/Model\", as = \"m\" }";
    for (models, answer_model, asked, named) in [
        (renamed, "", "m", "m"),
        (renamed, "", "box/m", "m"),
        (renamed, "answer_model = \"public\"", "m", "m"),
        (renamed, "answer_model = \"backend\"", "m", "Org/Model"),
        ("\"m\"", "answer_model = \"public\"", "m", "m"),
    ] {
        let world = World::start(&format!(
            "base_url = \"{url}\"\nmodels = [{models}]\n{answer_model}"
        ))
        .await;
        world.until(Active).await;
        let body = format!("{{\"model\":\"{asked}\"}}");
        let (head, answer) = world.send("/v1/embeddings", &body).await.expect("an answer");
        let whole = format!("{{\"data\":[1.50],\"model\": \"{named}\" }}\n");
        assert_eq!(answer, whole, "{models} {answer_model} {asked}");
        let length = head.header("content-length").map(str::to_owned);
        assert!(length.is_none_or(|length| length == whole.len().to_string()));
        let (_, answer) = world.send("/v1/completions", &body).await.expect("an answer");
        let event = format!(": x\n\ndata: {{\"model\":\"{named}\",\"choices\":[]}}\n\n");
        assert_eq!(answer, format!("{event}{event}data: [DONE]\n\n"));
    }
}

#[tokio::test]
async fn a_backend_and_the_server_of_a_step_may_be_at_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let config = format!(
        r#"
        base_url = "unix://{0}:/llm/v1"
        models = ["m"]
        probe = {{ interval = "1h" }}
        [provider.wake]
        type = "http"
        url = "unix://{1}:/start?now=1"
        "#,
        at("backend.sock"),
        at("controller.sock")
    );
    let world = World::start(&config).await;
    world.until(Hibernating).await;
    let backend = at("backend.sock");
    let start = move |uri: Uri| async move {
        assert_eq!(uri, "/start?now=1");
        let echo = async |headers: HeaderMap, body: String| {
            format!("{}|{body}", headers["host"].to_str().expect("text"))
        };
        let routes = Router::new()
            .route("/llm/v1/models", get(|| async { r#"{"data":[{"id":"m"}]}"# }))
            .route("/llm/v1/chat/completions", post(echo));
        let listener = UnixListener::bind(backend).expect("a socket");
        tokio::spawn(axum::serve(listener, routes).into_future());
    };
    let controller = UnixListener::bind(at("controller.sock")).expect("a socket");
    let routes = Router::new().route("/start", post(start));
    tokio::spawn(axum::serve(controller, routes).into_future());
    wakes::send(&world.client, &world.control.request_wake())
        .await
        .expect("acknowledged");
    world.until(Active).await;
    let (_, answer) = world.send("/v1/chat/completions", "{}").await.expect("an answer");
    assert_eq!(answer, "localhost|{}");
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let (_backend, world) = awake().await;
    let body = format!(r#"{{"model":"m","filler":"{}"}}"#, "x".repeat(1024 * 1024));
    let (_, answer) = world
        .send("/v1/chat/completions", &body)
        .await
        .expect("an answer");
    assert!(answer.ends_with(body.replace("\"m\"", "\"Org/Model\"").as_bytes()));
}

#[tokio::test]
async fn what_is_not_inference_is_refused() {
    let (backend, world) = awake().await;
    for path in [
        "/wake",
        "/v1/../wake",
        "/v1/chat/completions/../../../wake",
        "//v1/models",
        "/v1/load_lora_adapter",
    ] {
        assert_eq!(world.fault(path).await.code, FaultCode::BadFrame, "{path}");
    }
    assert!(backend.wakes().is_empty());
}

#[tokio::test]
async fn a_request_for_a_sleeping_backend_is_answered_with_the_report_and_passes_after_the_wake() {
    let backend = Backend::start().await;
    let world = World::start(&config(&backend)).await;
    world.until(Hibernating).await;
    let fault = world.fault("/v1/chat/completions").await;
    assert_eq!(fault.code, FaultCode::Asleep);
    assert_eq!(fault.report, Some(world.control.provider().last_report()));

    wakes::send(&world.client, &world.control.request_wake())
        .await
        .expect("acknowledged");
    world.until(Active).await;
    assert!(world.send("/v1/chat/completions", "{}").await.is_ok());
    assert_eq!(backend.wakes().len(), 1);
}

#[tokio::test]
async fn a_backend_that_refuses_the_connection_is_reported_asleep() {
    let (backend, world) = awake().await;
    backend.close().await;
    let fault = world.fault("/v1/chat/completions").await;
    assert_eq!(
        (fault.code, fault.message.as_str()),
        (
            FaultCode::Asleep,
            "the backend can't be reached: connection refused"
        )
    );
    let report = world.control.provider().last_report();
    assert_eq!(
        (fault.report, world.control.status()),
        (Some(report), Some(Hibernating))
    );
}

#[tokio::test]
async fn without_a_recipe_a_backend_that_is_down_is_unavailable() {
    let closed = Closed::claim();
    let world = World::start(&format!("base_url = \"{}\"\nmodels = [\"m\"]", closed.url)).await;
    world.until(Down).await;
    assert_eq!(
        world.fault("/v1/chat/completions").await.code,
        FaultCode::BackendUnavailable
    );
}

#[tokio::test]
async fn chunks_pass_as_they_come_and_a_client_that_leaves_closes_the_backends_connection() {
    let (backend, world) = awake().await;
    let (_, mut answer) = world.open("/v1/completions", "{}").await.expect("an answer");
    assert_eq!(answer.next().await.expect("a chunk").expect("the first"), "one");
    backend.release();
    assert_eq!(answer.next().await.expect("a chunk").expect("the second"), "two");
    assert!(answer.next().await.is_none());
    assert_eq!(backend.left(), 0);

    let (_, mut answer) = world.open("/v1/completions", "{}").await.expect("an answer");
    assert_eq!(answer.next().await.expect("a chunk").expect("the first"), "one");
    drop(answer);
    eventually("the end of the backend's connection", || backend.left() == 1).await;
}

#[tokio::test]
async fn heartbeats_tell_what_is_going_on() {
    let (_backend, world) = awake().await;
    let (_, _answer) = world.open("/v1/completions", "{}").await.expect("an answer");
    let mut heard = world
        .client
        .subscribe("reveille.heartbeats.box")
        .await
        .expect("a subscription");
    let message = heard.next().await.expect("a heartbeat");
    let heartbeat: Heartbeat = serde_json::from_slice(&message.payload).expect("a heartbeat");
    assert_eq!(
        (heartbeat.agent, heartbeat.epoch, heartbeat.silent_after_ms),
        (agent_name(), EPOCH, 600)
    );
    let [pulse] = &heartbeat.providers[..] else {
        panic!("one provider")
    };
    assert_eq!(
        (pulse.availability, pulse.in_flight),
        (Some(Availability::Available), 1)
    );
}

#[tokio::test]
async fn what_an_agent_makes_of_a_pause_says_whether_it_was_sent_to_the_hub() {
    let backend = Backend::start().await;
    backend.wake_up();
    let folder = tempfile::tempdir().expect("a folder");
    let state = StateDir::new(folder.path().to_owned());
    let world = World::with(&whole_agent::config(&config(&backend)), Some(folder.path())).await;
    world.until(Active).await;
    let is_sent = async |second| {
        let pause = Pause::begin(Timestamp::from_second(second).expect("a time"), None, false);
        pause.write(&state).expect("written");
        let taken = || PauseTaken::of(&state, Some(&pause)).expect("a folder").pop();
        eventually("what it makes of it", || taken().is_some()).await;
        taken().is_some_and(|taken| taken.hub_told)
    };
    assert!(is_sent(1).await);

    state.write("paused.json", b"?").expect("written");
    let heard = world.client.subscribe("reveille.heartbeats.box").await;
    // The pause is read more often than this.
    let heard = heard.expect("a subscription").take(5);
    heard.for_each(async |_| ()).await;
    let ended = PauseTaken::of(&state, None).expect("a folder");
    assert_eq!(ended, [], "nobody has ended it");

    world.control.restore();
    let order = AddressedOrder {
        epoch: Epoch(1),
        order: Order::Reconnect,
    };
    let client = world.client.clone();
    tokio::spawn(async move { orders::send(&client, &agent_name(), &order).await });
    eventually("its next session", || world.control.is_asked()).await;
    assert!(!is_sent(2).await, "it has no session yet");
}

#[tokio::test]
async fn an_agent_that_stops_finishes_its_requests_and_says_so() {
    let (backend, world) = awake().await;
    let (_, mut answer) = world.open("/v1/completions", "{}").await.expect("an answer");
    assert_eq!(answer.next().await.expect("a chunk").expect("the first"), "one");
    world.shutdown.cancel();
    eventually_refused(&world).await;
    assert!(!world.control.is_stopped(), "before its requests have finished");
    backend.release();
    assert_eq!(answer.next().await.expect("a chunk").expect("the second"), "two");
    assert!(answer.next().await.is_none());
    let control = world.control.clone();
    world.end().await.expect("a clean end");
    assert!(control.is_stopped());
}

/// Waits until the agent takes no new requests.
async fn eventually_refused(world: &World) {
    while world.send("/v1/chat/completions", "{}").await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        world.fault("/v1/chat/completions").await.code,
        FaultCode::ShuttingDown
    );
}

#[tokio::test]
async fn a_later_session_of_the_same_name_ends_this_one_with_an_error_of_its_own() {
    let (_backend, world) = awake().await;
    orders::announce_session(&world.client, &agent_name(), EPOCH)
        .await
        .expect("sent");
    let later = Epoch(EPOCH.0 + 1);
    assert!(
        world.send("/v1/chat/completions", "{}").await.is_ok(),
        "its own session is no other"
    );
    orders::announce_session(&world.client, &agent_name(), later)
        .await
        .expect("sent");
    match world.end().await {
        Err(AgentError::Superseded { current, .. }) => assert_eq!(current, later),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn orders_are_answered() {
    let (_backend, world) = awake().await;
    let provider = |name: &str| ProviderName::parse(name).expect("legal");
    let order = |epoch, name| AddressedOrder {
        epoch,
        order: Order::Sleep {
            provider: provider(name),
        },
    };
    for (order, why) in [
        (order(EPOCH, "p"), "it has no sleep recipe"),
        (order(EPOCH, "q"), "the agent has no such provider"),
        (order(Epoch(1), "p"), "the order is for another session"),
    ] {
        let answer = orders::send(&world.client, &agent_name(), &order)
            .await
            .expect("an answer");
        assert_eq!(
            answer,
            OrderAnswer::Refused {
                reason: why.to_owned()
            }
        );
    }
    let resume = AddressedOrder {
        epoch: EPOCH,
        order: Order::Resume {
            providers: vec![provider("p")],
        },
    };
    let answer = orders::send(&world.client, &agent_name(), &resume)
        .await
        .expect("an answer");
    assert_eq!(answer, OrderAnswer::Taken);
}

#[tokio::test]
async fn after_a_nats_restart_the_agent_is_published_again() {
    let (_backend, mut world) = awake().await;
    world.nats.kill9();
    // As if control had taken it for lost meanwhile.
    world
        .control
        .execute(&reveille_domain::ProviderCommand::AgentStopped {
            epoch: EPOCH,
            at: control::now(),
        });
    world.nats.restart().await;
    world.until(Active).await;
    while world.send("/v1/chat/completions", "{}").await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_request_is_held_as_long_as_it_may_be_while_its_backend_is_being_put_to_sleep() {
    let backend = Backend::start().await;
    backend.wake_up();
    let sleeps = format!(
        "{}[provider.sleep]\ntype = \"http\"\nurl = \"{}/sleep\"\n",
        config(&backend),
        backend.url
    );
    let world = World::start(&sleeps).await;
    world.until(Active).await;
    let (_, mut works) = world.open("/v1/completions", "{}").await.expect("a stream");
    works.next().await.expect("its first piece").expect("sound");
    let order = AddressedOrder {
        epoch: EPOCH,
        order: Order::Sleep {
            provider: ProviderName::parse("p").expect("legal"),
        },
    };
    let answer = orders::send(&world.client, &agent_name(), &order).await;
    assert_eq!(answer.expect("an answer"), OrderAnswer::Taken);
    let began = Instant::now();
    for hold_ms in [0, 100] {
        let refused = world.open_held("/v1/completions", "{}", Some(hold_ms)).await;
        let error = refused.map(drop).expect_err("nobody is let in");
        assert!(error.is_leaving(), "{error}");
    }
    assert!(began.elapsed() < HOLD_LIMIT, "held for as long as usual");
    backend.release();
    while works.next().await.is_some() {}
    world.until(Hibernating).await;
    world.shutdown.cancel();
    world.end().await.expect("a clean end");
}

#[tokio::test]
async fn an_agent_that_stops_gives_signs_of_life_until_its_requests_have_finished() {
    let backend = Backend::start().await;
    backend.wake_up();
    let world = World::start(&config(&backend)).await;
    world.until(Active).await;
    let (_, mut works) = world.open("/v1/completions", "{}").await.expect("a stream");
    works.next().await.expect("its first piece").expect("sound");
    world.shutdown.cancel();
    let mut signs = world
        .client
        .subscribe("reveille.heartbeats.box")
        .await
        .expect("subscribed");
    for _ in 0..3 {
        let sign = timeout(Duration::from_secs(60), signs.next()).await;
        sign.expect("it is still there").expect("a heartbeat");
    }
    assert!(!world.control.is_stopped());
    backend.release();
    while works.next().await.is_some() {}
    world.end().await.expect("a clean end");
}
