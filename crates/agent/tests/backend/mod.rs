//! A server that stands for a backend and its wake controller, and the set-up that recipes are run with.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header::AUTHORIZATION},
    response::{Html, IntoResponse, Redirect},
    routing::{any, get, post},
};
use reveille_agent::{
    child::{Orphans, Shims},
    config::{Config, ProviderConfig},
    fetch,
    probe::Probe,
    recipe::{Outcome, Progress, Run, Runner},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicIsize, AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Notify,
    task::JoinHandle,
};

/// A deadline that only guards against hanging.
const SOON: Duration = Duration::from_secs(60);
/// The key that `/v1/models` asks for.
pub const KEY: &str = "backend-key";

#[derive(Default)]
pub struct Seen {
    wakes: Mutex<Vec<String>>,
    requests: AtomicUsize,
    sleeps: AtomicUsize,
    left: AtomicIsize,
    release: Notify,
    awake: AtomicBool,
    /// How requests for embeddings end: a status, or 0 for not at all.
    engine: AtomicU16,
    embeddings: AtomicUsize,
}

/// A running server; it ends with the test's runtime.
pub struct Backend {
    pub url: String,
    seen: Arc<Seen>,
    server: JoinHandle<std::io::Result<()>>,
}

/// A URL where nobody listens, nor can begin to while this lives.
pub struct Closed {
    pub url: String,
    _socket: TcpSocket,
}

impl Closed {
    pub fn claim() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let url = format!("http://{}", socket.local_addr().expect("an address"));
        Self { url, _socket: socket }
    }
}

impl Backend {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Seen::default());
        seen.engine.store(200, Ordering::SeqCst);
        let server = tokio::spawn(axum::serve(listener, routes(seen.clone())).into_future());
        Self { url, seen, server }
    }

    /// A URL where somebody may begin to listen.
    pub async fn free_url() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        format!("http://{}", listener.local_addr().expect("an address"))
    }

    pub fn wake_up(&self) {
        self.seen.awake.store(true, Ordering::SeqCst);
    }

    pub fn fall_asleep(&self) {
        self.seen.awake.store(false, Ordering::SeqCst);
    }

    /// Lets one slow wake or sleep end.
    pub fn release(&self) {
        self.seen.release.notify_one();
    }

    /// Ends each request for embeddings with this status from now on, or never if it is 0, except those of the model `sound`.
    /// A wake repairs that.
    pub fn set_engine(&self, status: u16) {
        self.seen.engine.store(status, Ordering::SeqCst);
    }

    /// How many embeddings were asked for.
    pub fn embeddings(&self) -> usize {
        self.seen.embeddings.load(Ordering::SeqCst)
    }

    pub fn sleeps(&self) -> usize {
        self.seen.sleeps.load(Ordering::SeqCst)
    }

    /// How many clients have left before the end of their answer.
    pub fn left(&self) -> isize {
        self.seen.left.load(Ordering::SeqCst)
    }

    /// Lets nobody in any more.
    pub async fn close(&self) {
        self.server.abort();
        eventually("its socket is closed", || self.server.is_finished()).await;
    }

    pub fn wakes(&self) -> Vec<String> {
        self.seen.wakes.lock().expect("not poisoned").clone()
    }

    pub fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    pub async fn await_requests(&self, count: usize) {
        eventually("requests", || self.requests() >= count).await;
    }
}

pub fn routes(seen: Arc<Seen>) -> Router {
    let count = seen.clone();
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(complete))
        .route("/v1/embeddings", post(embed))
        .route("/wake", any(wake_route))
        .route("/slow-wake", any(slow_wake))
        .route("/sleep", any(sleep_route))
        .route("/slow-sleep", any(slow_sleep))
        .route("/ok", any(|| async {}))
        .route("/is_sleeping", get(is_sleeping))
        .route("/html", get(|| async { Html("<h1>Sign in</h1>") }))
        .route("/endless", get(|| async { vec![b' '; 2 * 1024 * 1024] }))
        .route("/redirect", any(|| async { Redirect::temporary("/wake") }))
        .route(
            "/fail",
            any(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "canary-5ecr3t") }),
        )
        .route("/hang", any(|| async { std::future::pending::<()>().await }))
        .route(
            "/trickle",
            get(|| async { Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()) }),
        )
        .route("/drop", any(drop_connection))
        .layer(axum::middleware::map_request(
            move |request: axum::extract::Request| {
                count.requests.fetch_add(1, Ordering::SeqCst);
                async { request }
            },
        ))
        .with_state(seen)
}

async fn models(headers: HeaderMap) -> impl IntoResponse {
    let key = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    match key {
        Some(value) if value != format!("Bearer {KEY}").as_bytes() => {
            StatusCode::UNAUTHORIZED.into_response()
        }
        _ => r#"{"object":"list","data":[{"id":"m"},{"id":"Org/Model"}]}"#.into_response(),
    }
}

/// Says what has reached it.
async fn chat(headers: HeaderMap, body: String) -> String {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("-")
            .to_owned()
    };
    format!("{}|{}|{body}", header("authorization"), header("content-type"))
}

/// Answers as the engine is.
async fn embed(State(seen): State<Arc<Seen>>, body: String) -> impl IntoResponse {
    seen.embeddings.fetch_add(1, Ordering::SeqCst);
    let is_sound = body.contains(r#""model":"sound""#);
    match seen.engine.load(Ordering::SeqCst) {
        _ if is_sound => r#"{"data":[{"embedding":[0.5]}]}"#.into_response(),
        0 => std::future::pending().await,
        200 => r#"{"data":[{"embedding":[0.5]}]}"#.into_response(),
        status => StatusCode::from_u16(status).expect("a status").into_response(),
    }
}

/// Answers with `one`, or a whole stream of events, and with `two` once it is released. Counts who leaves before that.
async fn complete(State(seen): State<Arc<Seen>>, body: String) -> Body {
    let is_stream = body.contains("stream");
    let one = if is_stream {
        "data: {\"choices\":[{\"text\":\"one\"}]}\n\ndata: [DONE]\n\n"
    } else {
        "one"
    };
    let leaves = Leaves(seen.clone());
    let rest = async move {
        seen.release.notified().await;
        leaves.0.left.fetch_sub(1, Ordering::SeqCst);
        drop(leaves);
        Ok::<_, std::io::Error>(Bytes::from_static(b"two"))
    };
    let first = futures::stream::iter([Ok(Bytes::from(one))]);
    Body::from_stream(futures::StreamExt::chain(first, futures::stream::once(rest)))
}

struct Leaves(Arc<Seen>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.left.fetch_add(1, Ordering::SeqCst);
    }
}

async fn wake_route(State(seen): State<Arc<Seen>>, method: Method, headers: HeaderMap, body: String) {
    let header = headers
        .get("x-wake")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    seen.wakes
        .lock()
        .expect("not poisoned")
        .push(format!("{method} {header} {body}"));
    seen.engine.store(200, Ordering::SeqCst);
    seen.awake.store(true, Ordering::SeqCst);
}

/// A wake that takes until it is released.
async fn slow_wake(state: State<Arc<Seen>>, method: Method) {
    state
        .wakes
        .lock()
        .expect("not poisoned")
        .push(format!("{method} slow"));
    state.release.notified().await;
    state.awake.store(true, Ordering::SeqCst);
}

async fn sleep_route(State(seen): State<Arc<Seen>>) {
    seen.awake.store(false, Ordering::SeqCst);
    seen.sleeps.fetch_add(1, Ordering::SeqCst);
}

/// A sleep that takes until it is released.
async fn slow_sleep(state: State<Arc<Seen>>) {
    state.sleeps.fetch_add(1, Ordering::SeqCst);
    state.release.notified().await;
    state.awake.store(false, Ordering::SeqCst);
}

async fn is_sleeping(State(seen): State<Arc<Seen>>) -> String {
    format!(
        r#"{{"is_sleeping":{},"level":1}}"#,
        !seen.awake.load(Ordering::SeqCst)
    )
}

/// Ends the connection without an answer.
async fn drop_connection() -> Body {
    panic!("this connection is meant to break")
}

/// The one provider of a config that has only it; `rest` is all but its name.
pub fn provider(rest: &str) -> ProviderConfig {
    named_provider("p", rest)
}

pub fn named_provider(name: &str, rest: &str) -> ProviderConfig {
    let text = format!("[[provider]]\nname = \"{name}\"\n{rest}");
    let mut config =
        Config::parse(&text, "test.toml", &|_| None).unwrap_or_else(|error| panic!("{error}\n{text}"));
    config.providers.remove(0)
}

pub fn client() -> fetch::Client {
    // Another test of this process may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    fetch::client().expect("a client")
}

pub fn runner() -> Arc<Runner> {
    Arc::new(Runner {
        client: client(),
        shims: Shims::of_this_program().expect("a program"),
        orphans: Orphans::none(),
    })
}

/// Begins the wake of the provider that `rest` describes.
pub fn wake(rest: &str, runner: Arc<Runner>) -> Run {
    let provider = provider(rest);
    let probe = Probe::new(runner.client.clone(), &provider);
    Run::wake(
        runner,
        provider.wake.expect("a wake recipe"),
        probe,
        Box::pin(async {}),
    )
}

/// The outcome of a run that isn't cancelled.
pub async fn outcome(run: &mut Run) -> Outcome {
    match run.next().await {
        Progress::Outcome(outcome) => outcome,
        Progress::Ended(_) => panic!("the run ended without an outcome"),
    }
}

/// Waits until `condition` holds. By the real clock, so that it also works while the runtime's is stopped.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < SOON, "never came: {what}");
        pause().await;
    }
}

async fn pause() {
    let pause = || std::thread::sleep(Duration::from_millis(10));
    tokio::task::spawn_blocking(pause).await.expect("a pause");
}

/// The runtime's clock, stopped until this is dropped: timers fire only when the test lets time pass, however busy the
/// machine is.
pub struct StoppedClock {
    _held: std::sync::mpsc::Sender<()>,
}

impl StoppedClock {
    pub fn stop() -> Self {
        tokio::time::pause();
        // A paused clock advances by itself when nothing else is to do, but not while a blocking task runs.
        let (held, released) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || released.recv());
        Self { _held: held }
    }

    /// Lets time pass, about twenty times as fast as it does, until `condition` holds.
    pub async fn pass_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let started = std::time::Instant::now();
        while !condition() {
            assert!(started.elapsed() < SOON, "never came: {what}");
            tokio::time::advance(Duration::from_millis(200)).await;
            pause().await;
        }
    }
}

impl StoppedClock {
    /// Lets that much time pass, in steps between which everything that is due gets done.
    pub async fn pass(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        self.pass_until("the end of it", || tokio::time::Instant::now() >= end)
            .await;
    }
}

impl Drop for StoppedClock {
    fn drop(&mut self) {
        tokio::time::resume();
    }
}
