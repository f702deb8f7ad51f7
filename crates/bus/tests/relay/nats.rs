//! A nats-server of the test's own, and both ends of a relay on it.

use bytes::Bytes;
use futures::{Stream, stream};
use reveille_bus::relay::{
    CurrentEpoch, Exchange, Incoming, RelayClient, RelayError, RelayFault, RelayLimits, RelayServer,
    RelayServerHandle, RequestHead, ResponseHead,
};
use reveille_domain::{AgentName, Epoch, ProviderName};
use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

pub const EPOCH: Epoch = Epoch(7);

/// A nats-server process that ends with the test.
pub struct Nats {
    child: Child,
    pub url: String,
    config: Option<PathBuf>,
}

fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("REVEILLE_NATS_SERVER") {
        return path.into();
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats/bin");
    std::env::split_paths(&on_path)
        .chain([project])
        .map(|folder| folder.join("nats-server"))
        .find(|path| path.is_file())
        .expect("nats-server on PATH, under .tools/, or named by REVEILLE_NATS_SERVER")
}

impl Nats {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts a server with lines of configuration.
    pub async fn start_with(config: &str) -> Self {
        loop {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let mut command = Command::new(program());
            command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
            let file = (!config.is_empty()).then(|| {
                let file =
                    std::env::temp_dir().join(format!("reveille-relay-{}-{port}.conf", std::process::id()));
                std::fs::write(&file, config).unwrap();
                file
            });
            if let Some(file) = &file {
                command.arg("-c").arg(file);
            }
            let child = command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut nats = Self {
                child,
                url: format!("127.0.0.1:{port}"),
                config: file,
            };
            // Another test may have taken the port in between: then the server has ended.
            while nats.child.try_wait().unwrap().is_none() {
                if async_nats::connect(&nats.url).await.is_ok() {
                    return nats;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    pub async fn connect(&self) -> async_nats::Client {
        async_nats::connect(&self.url).await.unwrap()
    }

    pub async fn api(&self, limits: RelayLimits) -> RelayClient {
        RelayClient::start(self.connect().await, "r1", limits)
            .await
            .unwrap()
    }

    pub async fn agent(&self, limits: RelayLimits) -> RelayServer {
        let epoch = CurrentEpoch::default();
        epoch.set(Some(EPOCH));
        RelayServer::start(self.connect().await, agent_name(), epoch, limits)
            .await
            .unwrap()
    }

    /// An agent that answers each request with `answer`, each in a task of its own.
    pub async fn serve<F, A>(&self, limits: RelayLimits, answer: F) -> RelayServerHandle
    where
        F: Fn(Incoming) -> A + Send + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let mut server = self.agent(limits).await;
        let handle = server.handle();
        tokio::spawn(async move {
            while let Some(incoming) = server.next().await {
                tokio::spawn(answer(incoming));
            }
        });
        handle
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(config) = &self.config {
            let _ = std::fs::remove_file(config);
        }
    }
}

pub fn agent_name() -> AgentName {
    AgentName::parse("gpu-box").unwrap()
}

pub fn request() -> RequestHead {
    RequestHead {
        provider: ProviderName::parse("vllm").unwrap(),
        method: "POST".into(),
        path: "/v1/chat/completions".into(),
        headers: vec![("content-type".into(), "application/json".into())],
        traceparent: None,
        hold_ms: None,
        turn_within_ms: None,
        model: None,
        preset: None,
        body_bytes: 0,
    }
}

pub fn ok() -> ResponseHead {
    ResponseHead {
        status: 200,
        headers: vec![("content-type".into(), "application/json".into())],
    }
}

/// Sends a request to the agent if there is memory for its response.
pub async fn send(api: &RelayClient, head: RequestHead, body: Bytes) -> Result<Exchange, RelayError> {
    let reserved = api.reserve(Instant::now()).await?;
    reserved.send(&agent_name(), EPOCH, head, body).await
}

/// A body whose chunks are all ready.
pub fn body<const N: usize>(chunks: [&'static str; N]) -> impl Stream<Item = Result<Bytes, RelayFault>> {
    stream::iter(chunks.map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))))
}

/// Limits under which silence is noticed quickly.
pub fn brisk() -> RelayLimits {
    RelayLimits {
        keep_alive: Duration::from_millis(60),
        ..RelayLimits::default()
    }
}

/// Waits for what must come; a test that hangs fails instead.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("{what}: still not"))
}

/// Waits for a condition.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    soon(what, async {
        while !is_so() {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}
