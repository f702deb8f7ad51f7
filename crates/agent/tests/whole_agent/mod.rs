//! A whole agent over a real NATS server, and a hub's relay.

use crate::{
    backend::eventually,
    control::{Control, EPOCH},
};
use bytes::Bytes;
use futures::StreamExt;
use reveille_agent::{
    AgentError, Options,
    config::{Config, ConfigFile},
    reload::Reload,
};
use reveille_bus::{
    NatsServer,
    relay::{RelayClient, RelayError, RelayFault, RelayLimits, RequestHead, ResponseBody, ResponseHead},
};
use reveille_domain::{AgentName, ProviderName};
use reveille_tests::Nats;
use std::path::Path;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// An agent that runs, and what it talks to.
pub struct World {
    pub nats: Nats,
    pub client: async_nats::Client,
    pub relay: RelayClient,
    pub control: Control,
    pub agent: JoinHandle<Result<(), AgentError>>,
    pub shutdown: CancellationToken,
}

pub fn agent_name() -> AgentName {
    AgentName::parse("box").expect("legal")
}

/// The config of an agent with the provider that `rest` describes.
pub fn config(rest: &str) -> String {
    format!("[agent]\nname = \"box\"\nheartbeat = \"200ms\"\n[[provider]]\nname = \"p\"\n{rest}")
}

impl World {
    /// An agent with the provider that `rest` describes.
    pub async fn start(rest: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self::with(&config(rest), None).await
    }

    /// An agent with this config, which it reads again from `agent.toml` in a state directory if it has one.
    pub async fn with(text: &str, state_dir: Option<&Path>) -> Self {
        Self::under(Control::new(), text, state_dir).await
    }

    /// The same with this control.
    pub async fn under(control: Control, text: &str, state_dir: Option<&Path>) -> Self {
        let nats = Nats::start().await;
        let client = nats.connect().await;
        tokio::spawn(control.clone().serve(nats.connect().await));
        let relay = RelayClient::start(nats.connect().await, "replica", RelayLimits::default()).await;
        let config = Config::parse(text, "test.toml", &|_| None).unwrap_or_else(|error| panic!("{error}"));
        let shutdown = CancellationToken::new();
        let options = Options {
            config,
            nats: NatsServer::at(&nats.url()),
            key: None,
            state_dir: state_dir.map(Path::to_owned),
            reload: state_dir.map(|folder| Reload {
                file: ConfigFile {
                    path: folder.join("agent.toml"),
                    allow_plaintext: false,
                },
                hangups: watch::channel(0).1,
            }),
        };
        let agent = tokio::spawn(reveille_agent::run(options, || (), shutdown.clone()));
        Self {
            nats,
            client,
            relay: relay.expect("a relay"),
            control,
            agent,
            shutdown,
        }
    }

    pub async fn until(&self, status: reveille_domain::provider::StatusName) {
        eventually(<&str>::from(status), || self.control.status() == Some(status)).await;
    }

    pub async fn send(&self, path: &str, body: &str) -> Result<(ResponseHead, Bytes), RelayError> {
        let (head, mut answer) = self.open(path, body).await?;
        let mut whole = Vec::new();
        while let Some(chunk) = answer.next().await {
            whole.extend_from_slice(&chunk?);
        }
        Ok((head, whole.into()))
    }

    pub async fn open(&self, path: &str, body: &str) -> Result<(ResponseHead, ResponseBody), RelayError> {
        self.open_held(path, body, None).await
    }

    /// The same for a request that may be held for so long.
    pub async fn open_held(
        &self,
        path: &str,
        body: &str,
        hold_ms: Option<u64>,
    ) -> Result<(ResponseHead, ResponseBody), RelayError> {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let head = RequestHead {
            provider: ProviderName::parse("p").expect("legal"),
            method: "POST".to_owned(),
            path: path.to_owned(),
            headers: vec![
                header("content-type", "application/json"),
                header("authorization", "Bearer the caller's own"),
            ],
            traceparent: None,
            hold_ms,
            turn_within_ms: None,
            model: None,
            preset: None,
            body_bytes: 0,
        };
        let body = Bytes::copy_from_slice(body.as_bytes());
        let reserved = self.relay.reserve(tokio::time::Instant::now()).await?;
        reserved
            .send(&agent_name(), EPOCH, head, body)
            .await?
            .head()
            .await
    }

    pub async fn fault(&self, path: &str) -> RelayFault {
        match self.send(path, "{}").await {
            Err(RelayError::Fault(fault)) => fault,
            other => panic!("{other:?}"),
        }
    }

    pub async fn end(self) -> Result<(), AgentError> {
        self.agent.await.expect("no panic")
    }
}
