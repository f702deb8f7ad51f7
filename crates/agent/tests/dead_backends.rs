//! How a whole agent notices that a backend is dead, whatever killed it, and what it makes of that.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of owners use the rest")]
mod control;
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod whole_agent;

use backend::{Backend, eventually};
use futures::{StreamExt, future::join_all};
use reveille_bus::{
    relay::{FaultCode, RelayError, RelayFault},
    wakes,
};
use reveille_domain::{
    SleepReason, WakeFailureKind,
    provider::StatusName::{Active, Down, Hibernating},
};
use socket2::{Domain, Socket, Type};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use whole_agent::World;

const EMBEDDINGS: &str = "/v1/embeddings";
const BODY: &str = r#"{"model":"m","input":"hello"}"#;

/// A backend that is woken and put to sleep by requests to itself.
fn config(backend: &Backend) -> String {
    format!(
        r#"
        base_url = "{0}"
        models = ["m"]
        probe = {{ path = "/is_sleeping", expect = {{ is_sleeping = false }}, interval = "1h" }}
        [provider.wake]
        type = "http"
        url = "{0}/wake"
        [provider.sleep]
        type = "http"
        url = "{0}/sleep"
        "#,
        backend.url
    )
}

async fn awake(config: impl Fn(&Backend) -> String) -> (Backend, World) {
    let backend = Backend::start().await;
    backend.wake_up();
    let world = World::start(&config(&backend)).await;
    world.until(Active).await;
    (backend, world)
}

impl World {
    /// The status of the backend's answer.
    async fn embed(&self) -> u16 {
        self.send(EMBEDDINGS, BODY).await.expect("an answer").0.status
    }

    async fn wake(&self) {
        let wake = self.control.request_wake();
        wakes::send(&self.client, &wake).await.expect("acknowledged");
    }
}

#[tokio::test]
async fn a_backend_whose_requests_fail_in_a_row_is_verified_put_to_sleep_and_woken_afresh() {
    let (backend, world) = awake(config).await;
    backend.set_engine(500);
    for _ in 0..3 {
        assert_eq!(world.embed().await, 500, "its own answer is passed on");
    }
    world.until(Hibernating).await;
    assert_eq!(world.control.sleeps(), [SleepReason::Failed]);
    assert_eq!(
        (backend.sleeps(), backend.embeddings()),
        (1, 4),
        "the last one verified it"
    );
    let failure = world.control.provider().failures.last.expect("it counts");
    assert_eq!(failure.kind, WakeFailureKind::Died);

    let fault = world.fault(EMBEDDINGS).await;
    assert_eq!(fault.code, FaultCode::Asleep, "the next request is held");
    world.wake().await;
    world.until(Active).await;
    assert_eq!((backend.wakes().len(), world.embed().await), (1, 200));
}

#[tokio::test]
async fn a_backend_that_answers_the_completion_of_the_agent_stays_active() {
    let (backend, world) = awake(config).await;
    for _ in 0..2 {
        backend.set_engine(500);
        assert_eq!((world.embed().await, world.embed().await), (500, 500));
        backend.set_engine(200);
        assert_eq!(
            world.embed().await,
            200,
            "one success, and the count begins again"
        );
    }
    assert_eq!(backend.embeddings(), 6, "nothing was verified");
    for status in [503, 429, 404, 400, 501] {
        backend.set_engine(status);
        for _ in 0..4 {
            assert_eq!(world.embed().await, status);
        }
    }
    assert_eq!(
        backend.embeddings(),
        26,
        "busy, loading and refused requests are no failures"
    );
    assert_eq!(world.control.status(), Some(Active));
    assert!(world.control.sleeps().is_empty());
}

#[tokio::test]
async fn a_stream_whose_caller_leaves_at_its_end_is_a_success() {
    let (backend, world) = awake(config).await;
    backend.set_engine(500);
    assert_eq!((world.embed().await, world.embed().await), (500, 500));
    let stream = r#"{"model":"m","stream":true}"#;
    let (_, mut answer) = world.open("/v1/completions", stream).await.expect("an answer");
    let events = answer.next().await.expect("a part").expect("unbroken");
    assert!(events.ends_with(b"[DONE]\n\n"));
    drop(answer);
    eventually("its end", || backend.left() == 1).await;
    assert_eq!((world.embed().await, world.embed().await), (500, 500));
    assert_eq!(backend.embeddings(), 4, "nothing was verified");
    assert_eq!(world.control.status(), Some(Active));
    assert_eq!(world.embed().await, 500);
    world.until(Hibernating).await;
}

#[tokio::test]
async fn a_model_that_is_broken_alone_takes_no_other_with_it() {
    let two = |backend: &Backend| config(backend).replace(r#"["m"]"#, r#"["m", "sound"]"#);
    let (backend, world) = awake(two).await;
    backend.set_engine(500);
    for _ in 0..3 {
        assert_eq!(world.embed().await, 500);
    }
    eventually("the completions of both models", || backend.embeddings() == 5).await;
    for _ in 0..4 {
        assert_eq!(world.embed().await, 500);
    }
    assert_eq!(backend.embeddings(), 9, "it was verified a moment ago");
    assert_eq!(world.control.status(), Some(Active));
}

/// The same, probed often, with a verification of its own and little patience.
fn impatient(backend: &Backend) -> String {
    let verify = r#"verify = { path = "/v1/embeddings", timeout = "300ms" }"#;
    let config = config(backend).replace("\"1h\"", "\"50ms\"");
    let config = config.replace("[provider.sleep]", &format!("{verify}\n[provider.sleep]"));
    config.replace("models =", "answer_timeout = \"600ms\"\nmodels =")
}

#[tokio::test]
async fn an_engine_that_hangs_behind_its_front_is_noticed_however_soon_its_callers_leave() {
    let (backend, world) = awake(impatient).await;
    backend.set_engine(0);
    let fault = world.send(EMBEDDINGS, BODY).await.expect_err("no answer");
    let RelayError::Fault(RelayFault { code, message, .. }) = fault else {
        panic!("{fault}")
    };
    assert_eq!(code, FaultCode::BackendTimeout);
    assert!(message.contains("was silent for 0.6"), "{message}");
    world.until(Hibernating).await;
    world.wake().await;
    world.until(Active).await;

    backend.set_engine(0);
    while world.control.status() == Some(Active) {
        let left = timeout(Duration::from_millis(200), world.send(EMBEDDINGS, BODY)).await;
        assert!(
            !matches!(left, Ok(Ok(_))),
            "nobody is answered, nor waits for as long as the backend may be silent"
        );
    }
    assert_eq!(world.control.sleeps(), [SleepReason::Failed; 2]);
    assert_eq!(backend.sleeps(), 2);
}

#[tokio::test]
async fn a_request_that_hangs_in_a_failed_backend_holds_up_nobody_for_long() {
    let (backend, world) = awake(config).await;
    let (_, mut hangs) = world.open("/v1/completions", "{}").await.expect("an answer");
    assert_eq!(hangs.next().await.expect("a part").expect("no error"), "one");
    backend.set_engine(500);
    for _ in 0..3 {
        assert_eq!(world.embed().await, 500);
    }
    world.until(Hibernating).await;
    assert_eq!(world.control.sleeps(), [SleepReason::Failed]);
    assert_eq!(backend.sleeps(), 1);
}

#[tokio::test]
async fn a_failed_backend_that_cannot_be_put_to_sleep_is_woken_afresh_all_the_same() {
    let broken_sleep = |backend: &Backend| config(backend).replace("/sleep\"", "/fail\"");
    let (backend, world) = awake(broken_sleep).await;
    backend.set_engine(502);
    for _ in 0..3 {
        assert_eq!(world.embed().await, 502);
    }
    world.until(Hibernating).await;
    assert_eq!(world.control.sleeps(), [SleepReason::Failed]);
    world.wake().await;
    world.until(Active).await;
    assert_eq!((backend.wakes().len(), world.embed().await), (1, 200));
}

#[tokio::test]
async fn a_wake_of_a_failed_backend_succeeds_only_with_a_completion() {
    let no_sleep = |backend: &Backend| {
        let config = config(backend);
        let end = config.find("[provider.sleep]").expect("it sleeps");
        config[..end].replace("/wake\"", "/ok\"\nmax_wait = \"1s\"")
    };
    let (backend, world) = awake(no_sleep).await;
    backend.set_engine(500);
    for _ in 0..3 {
        assert_eq!(world.embed().await, 500);
    }
    world.until(Hibernating).await;
    world.wake().await;
    eventually("the wake's end", || world.control.last_wake().is_some()).await;
    let failure = world.control.last_wake().and_then(|wake| wake.failure);
    let failure = failure.expect("the recipe repaired nothing");
    assert_eq!(
        (failure.stage.as_str(), failure.reason.as_str()),
        ("verify", "HTTP status 500")
    );
}

#[tokio::test]
async fn without_a_recipe_a_failed_backend_is_down_until_a_completion_succeeds() {
    let bare = |backend: &Backend| {
        let config = config(backend).replace("\"1h\"", "\"50ms\"");
        let end = config.find("[provider.wake]").expect("a recipe");
        config[..end].to_owned()
    };
    let (backend, world) = awake(bare).await;
    backend.set_engine(500);
    for _ in 0..3 {
        assert_eq!(world.embed().await, 500);
    }
    world.until(Down).await;
    assert_eq!(world.control.sleeps(), [SleepReason::Failed]);
    assert_eq!(world.embed().await, 500, "requests may try all the same");
    backend.set_engine(200);
    world.until(Active).await;
}

/// A machine that may vanish from the network: then nobody takes connections to it, nor refuses them.
struct Machine {
    url: String,
    address: SocketAddr,
    socket: std::net::TcpListener,
    server: JoinHandle<std::io::Result<()>>,
    waiting: Vec<TcpStream>,
}

impl Machine {
    fn start() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("legal");
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .expect("a port");
        socket.listen(1).expect("a listener");
        let socket = std::net::TcpListener::from(socket);
        let address = socket.local_addr().expect("an address");
        Self {
            url: format!("http://{address}"),
            address,
            server: Self::serve(&socket),
            socket,
            waiting: Vec::new(),
        }
    }

    fn serve(socket: &std::net::TcpListener) -> JoinHandle<std::io::Result<()>> {
        let socket = socket.try_clone().expect("another handle");
        let listener = TcpListener::from_std(socket).expect("a listener");
        let seen = std::sync::Arc::default();
        tokio::spawn(axum::serve(listener, backend::routes(seen)).into_future())
    }

    async fn vanish(&mut self) {
        self.server.abort();
        let soon = Duration::from_millis(200);
        while let Ok(connected) = timeout(soon, TcpStream::connect(self.address)).await {
            self.waiting.push(connected.expect("a place in the queue"));
        }
    }

    fn come_back(&mut self) {
        self.waiting.clear();
        self.server = Self::serve(&self.socket);
    }
}

/// An active provider whose machine has vanished since, and the controller that its wake recipe asks.
async fn vanished() -> (Backend, Machine, World) {
    vanished_probed("1h").await
}

async fn vanished_probed(interval: &str) -> (Backend, Machine, World) {
    let (controller, mut machine) = (Backend::start().await, Machine::start());
    let world = World::start(&format!(
        r#"
        base_url = "{}"
        models = ["m"]
        probe = {{ path = "/ok", interval = "{interval}", timeout = "300ms" }}
        [provider.wake]
        type = "http"
        url = "{}/wake"
        "#,
        machine.url, controller.url
    ))
    .await;
    world.until(Active).await;
    machine.vanish().await;
    (controller, machine, world)
}

#[tokio::test]
async fn requests_that_get_no_connection_are_held_and_the_machine_is_woken_however_they_overlap() {
    let (controller, mut machine, world) = vanished().await;
    let callers = [0, 1500, 3000].map(Duration::from_millis).map(async |after| {
        sleep(after).await;
        world.fault("/v1/chat/completions").await
    });
    let faults = join_all(callers).await;
    let report = Some(world.control.provider().last_report());
    for fault in faults {
        assert_eq!((fault.code, fault.report), (FaultCode::Asleep, report), "{fault}");
    }
    assert_eq!(world.control.sleeps(), [SleepReason::Unreachable]);

    world.wake().await;
    eventually("the recipe", || !controller.wakes().is_empty()).await;
    machine.come_back();
    world.until(Active).await;
    assert!(world.send("/v1/chat/completions", "{}").await.is_ok());
}

#[tokio::test]
async fn callers_that_give_up_before_their_connection_times_out_show_that_a_machine_has_vanished() {
    let (_controller, _machine, world) = vanished().await;
    let callers = [0, 500, 1000].map(Duration::from_millis).map(async |after| {
        sleep(after).await;
        let patience = Duration::from_millis(1500);
        while timeout(patience, world.fault("/v1/chat/completions"))
            .await
            .is_err()
        {
            assert!(world.control.sleeps().len() < 2);
        }
    });
    join_all(callers).await;
    assert_eq!(world.control.sleeps(), [SleepReason::Unreachable]);
}

#[tokio::test]
async fn callers_that_give_up_at_once_do_not_hide_that_a_machine_has_vanished() {
    let (_controller, _machine, world) = vanished_probed("50ms").await;
    let callers = [0, 200].map(Duration::from_millis).map(async |after| {
        sleep(after).await;
        while world.control.status() == Some(Active) {
            // They wait for a connection all the time.
            let left = timeout(Duration::from_millis(400), world.fault("/v1/chat/completions"));
            let _ = left.await;
        }
    });
    let noticed = timeout(Duration::from_secs(30), join_all(callers)).await;
    noticed.expect("its probes are believed");
    assert_eq!(world.control.sleeps(), [SleepReason::Unreachable]);
}

/// A backend that closes each request's connection after a pause: before its answer, or in the middle of it, which is a pause after
/// its second part.
async fn breaks_off_after(pause: Duration, has_begun: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let read = connection.read(&mut request).await.expect("a request");
                let is_probe = request[..read].starts_with(b"GET");
                let list = r#"{"object":"list","data":[{"id":"m"}]}"#;
                let length = list.len();
                let sent = match (is_probe, has_begun) {
                    (true, _) => list,
                    (false, true) => &list[..5],
                    (false, false) => return sleep(pause).await,
                };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{sent}");
                connection.write_all(answer.as_bytes()).await.expect("sent");
                if !is_probe {
                    sleep(pause).await;
                    connection.write_all(&list.as_bytes()[5..9]).await.expect("sent");
                    sleep(pause).await;
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn the_reason_of_a_request_that_broke_off_has_the_time_that_has_really_passed() {
    let pause = Duration::from_millis(400);
    for (has_begun, words) in [
        (false, "broke off before its answer, "),
        (true, "broke off in the middle of its answer, "),
    ] {
        let url = breaks_off_after(pause, has_begun).await;
        let world = World::start(&format!("base_url = \"{url}\"\nmodels = [\"m\"]")).await;
        world.until(Active).await;
        let began = Instant::now();
        let fault = world.fault("/v1/chat/completions").await;
        let waited = began.elapsed().as_secs_f64();
        assert_eq!(fault.code, FaultCode::BackendFailed, "{fault}");
        let told = fault
            .message
            .split_once(words)
            .and_then(|(_, rest)| rest.split_once(" s after "));
        let told: f64 = told.and_then(|(seconds, _)| seconds.parse().ok()).expect(words);
        // It is rounded, to tenths beyond a second.
        let heard = if has_begun { pause.as_secs_f64() } else { 0.0 };
        assert!(
            (0.39..=waited - heard + 0.05).contains(&told),
            "{fault} after {waited} s"
        );
    }
}

#[tokio::test]
async fn a_backend_that_breaks_off_a_request_and_refuses_the_next_connection_has_crashed() {
    crashes(false).await;
}

#[tokio::test]
async fn a_backend_that_takes_a_last_look_while_it_ends_has_crashed_too() {
    crashes(true).await;
}

/// A backend ends while it has a request. The first look after that may still get a connection, which is closed.
async fn crashes(takes_a_look: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let mut is_ending = false;
        loop {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let mut request = vec![0; 4096];
            let read = connection.read(&mut request).await.expect("a request");
            let is_look = request[..read].starts_with(b"GET");
            is_ending |= request[..read].starts_with(b"POST");
            if is_ending && (is_look || !takes_a_look) {
                // It takes nobody any more by the time at which the request breaks off.
                drop(listener);
                return;
            }
            if is_ending {
                continue;
            }
            let list = r#"{"object":"list","data":[{"id":"m"}]}"#;
            let length = list.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{list}");
            connection.write_all(answer.as_bytes()).await.expect("sent");
        }
    });
    let config = format!("base_url = \"{url}\"\nmodels = [\"m\"]\nprobe = {{ interval = \"1h\" }}");
    let world = World::start(&config).await;
    world.until(Active).await;
    let fault = world.fault("/v1/chat/completions").await;
    assert_eq!(fault.code, FaultCode::BackendFailed, "{fault}");
    world.until(Down).await;
    assert_eq!(world.control.sleeps(), [SleepReason::Crashed]);
}
