//! The HTTP API over a real listener, with everything behind it scripted: no NATS, no backend.

mod agents;
mod arriving;
mod bad_input;
mod balancing;
mod fake_hub;
mod inference;
mod key_life;
mod keys;
mod late_answers;
mod listing;
mod loops;
mod meant;
mod metrics;
mod openapi;
mod origin;
mod other_apis;
mod paused;
mod pools;
mod presets;
mod queries;
mod queues;
mod requests;
mod slots;
mod startup;
mod streams;
mod surface;
mod waking;

use super::{AppServices, AppState, HttpLimits, Readiness, refusal, router};
use crate::{
    config::AgentHub,
    history::EventFeed,
    inference::Timings,
    keys::{AuthMode, Authenticator, SecretKey},
    origin::OriginPolicy,
    requests::Recorder,
    server::{ServerLimits, serve},
};
use axum::http::HeaderMap;
use bytes::Bytes;
use fake_hub::FakeHub;
use futures::{StreamExt, stream::BoxStream};
use reveille_domain::{
    AgentName, ModelName,
    rows::{EventRow, MemoryRows, Rows, RowsError},
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, Once},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The model of requests that name none.
const DEFAULT_MODEL: &str = "usual";
/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// Events that were given beforehand.
#[derive(Default)]
struct GivenFeed {
    events: Mutex<Vec<Result<EventRow, RowsError>>>,
    asked_after: Mutex<Option<u64>>,
}

impl EventFeed for GivenFeed {
    fn follow(&self, after_seq: Option<u64>) -> BoxStream<'static, Result<EventRow, RowsError>> {
        *self.asked_after.lock().expect("lock") = after_seq;
        let events = std::mem::take(&mut *self.events.lock().expect("lock"));
        futures::stream::iter(events).boxed()
    }
}

/// The API at work.
struct Served {
    hub: Arc<FakeHub>,
    feed: Arc<GivenFeed>,
    url: String,
    client: reqwest::Client,
    state: AppState,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Limits with which tests are quick; waits that a test doesn't want stay long.
fn limits() -> HttpLimits {
    HttpLimits {
        body_bytes: 64 * 1024,
        held_body_bytes: 1024 * 1024,
        waiting: 1_024,
        timings: Timings {
            quiet: LONG,
            keepalive: Duration::from_millis(20),
            wait: LONG,
            startup: Duration::from_millis(50),
            absence: Duration::from_millis(50),
            report: LONG,
            body_idle: LONG,
            fold: Duration::from_millis(50),
        },
    }
}

impl Served {
    async fn new() -> Self {
        Self::with(limits(), Arc::new(MemoryRows::new())).await
    }

    async fn with_timings(change: impl FnOnce(&mut Timings)) -> Self {
        let mut limits = limits();
        change(&mut limits.timings);
        Self::with(limits, Arc::new(MemoryRows::new())).await
    }

    async fn with(limits: HttpLimits, rows: Arc<dyn Rows>) -> Self {
        Self::guarded(limits, rows, AuthMode::Open, None).await
    }

    async fn guarded(
        limits: HttpLimits,
        rows: Arc<dyn Rows>,
        mode: AuthMode,
        root: Option<&SecretKey>,
    ) -> Self {
        let policy = |listener| OriginPolicy::new(listener, None, vec![], vec![]);
        Self::behind(limits, rows, mode, root, policy).await
    }

    async fn behind(
        limits: HttpLimits,
        rows: Arc<dyn Rows>,
        mode: AuthMode,
        root: Option<&SecretKey>,
        policy: impl FnOnce(SocketAddr) -> OriginPolicy,
    ) -> Self {
        Self::of(FakeHub::new(), limits, rows, mode, root, policy).await
    }

    /// Right after a start: the agent of the same process hasn't published anything, which is waited for so long.
    async fn starting(patience: Duration) -> Self {
        let (mut limits, hub) = (limits(), FakeHub::starting());
        limits.timings.startup = patience;
        let policy = |listener| OriginPolicy::new(listener, None, vec![], vec![]);
        let rows = Arc::new(MemoryRows::new());
        Self::of(hub, limits, rows, AuthMode::Open, None, policy).await
    }

    async fn of(
        hub: FakeHub,
        limits: HttpLimits,
        rows: Arc<dyn Rows>,
        mode: AuthMode,
        root: Option<&SecretKey>,
        policy: impl FnOnce(SocketAddr) -> OriginPolicy,
    ) -> Self {
        static CRYPTO: Once = Once::new();
        CRYPTO.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let (hub, feed) = (Arc::new(hub), Arc::new(GivenFeed::default()));
        let (ready, folded, clock, named) = (hub.clone(), hub.clone(), hub.clone(), hub.clone());
        let authenticator = Authenticator::new(
            mode,
            root,
            hub.registry.keys().clone(),
            move || folded.registry.is_ready(),
            move || Some(clock.now()),
        );
        let recorder = Recorder::new("test", || None);
        let services = AppServices {
            registry: hub.registry.clone(),
            waker: hub.clone(),
            relay: hub.clone(),
            admin: hub.clone(),
            metrics: hub.metrics.clone(),
            rows,
            feed: feed.clone(),
            past: hub.clone(),
            readiness: Box::new(move || Readiness {
                registry: ready.registry.is_ready(),
                nats: true,
                clock: true,
                agent_auth: true,
                agent: true,
                trouble: None,
            }),
            hub_id: Box::new(move || *named.id.lock()),
            authenticator,
            agent_hub: AgentHub {
                chosen_url: None,
                own_url: "tls://hub.example:4222".to_owned(),
                ca_pem: None,
                joins: None,
                own_agent: AgentName::parse("own-box").ok(),
            },
            default_model: Some(ModelName::parse(DEFAULT_MODEL).expect("legal")),
            own_agent: hub.own_agent.clone(),
            recorder: recorder.clone(),
            past_requests: Arc::new(recorder),
        };
        let state = AppState::new(services, limits);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let url = format!("http://{address}");
        let (app, refuse) = (router(state.clone(), policy(address)), refusal(state.clone()));
        let server = tokio::spawn(async move {
            let _ = serve(
                listener,
                None,
                app,
                refuse,
                ServerLimits::default(),
                CancellationToken::new(),
            )
            .await;
        });
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(LONG)
            .build()
            .expect("a client");
        Self {
            hub,
            feed,
            url,
            client,
            state,
            server,
        }
    }

    fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.url)).json(body)
    }

    fn chat(&self, model: &str, stream: bool) -> reqwest::RequestBuilder {
        self.post("/v1/chat/completions", &chat_body(model, stream))
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.client.get(format!("{}{path}", self.url))).await
    }

    fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }
}

/// It belongs to no conversation, so equals take turns.
fn chat_body(model: &str, stream: bool) -> Value {
    json!({ "model": model, "stream": stream, "messages": [] })
}

/// A response, read as far as it goes.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    /// Whether the body ended as HTTP wants it.
    whole: bool,
}

impl Answer {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let mut response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        let whole = loop {
            match response.chunk().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        Self {
            status,
            headers,
            body: body.into(),
            whole,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The code of an error, after checking that it is an error as all of them are.
    fn error(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{}",
            self.text()
        );
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()));
        let error = &self.json()["error"];
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty()),
            "{error}"
        );
        assert!(
            error["type"].is_string() && error.get("param").is_some(),
            "{error}"
        );
        error["code"].as_str().unwrap_or_default().to_owned()
    }
}
