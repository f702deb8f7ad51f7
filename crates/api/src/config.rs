//! What an API process needs to know.

use crate::{
    keys::{AuthMode, SecretKey},
    origin::{Host, Origin},
    server::{ServerLimits, tls::Tls},
    wakes::MAX_WAITING,
};
use reveille_bus::{Beginning, JournalHealth, NatsAccess, access::NatsKey};
use reveille_domain::{AgentKey, AgentName, ModelName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The largest body of an inference request by default, in bytes.
pub const DEFAULT_BODY_BYTES: usize = 32 * 1024 * 1024;

/// How this replica answers for the keys of agents, where the hub's NATS servers ask for keys.
#[derive(Debug, Clone)]
pub struct AgentAuth {
    /// Signs the permits of agents. The servers' configs name its public half.
    pub issuer: NatsKey,
    /// Access to the servers' system account. Without it an agent whose key was revoked stays connected until its
    /// connection ends by itself: its messages are ignored, but it still receives those addressed to it.
    pub system: Option<NatsAccess>,
    /// Agents of this machine, which need no token.
    pub trusted: Vec<(AgentName, AgentKey)>,
}

/// Where agents find the hub's NATS servers when they enroll.
#[derive(Debug, Clone)]
pub struct AgentHub {
    /// `tls://host:port` or `nats://host:port`, or several with commas.
    pub nats_url: String,
    /// The certificate authorities that agents have to trust beside the usual ones, in PEM.
    pub ca_pem: Option<String>,
    /// Set if machines can join over NATS itself, which takes a token that names where.
    pub joins: Option<JoinAddresses>,
}

/// Where machines reach the hub's NATS server, and how they recognise it.
#[derive(Debug, Clone)]
pub struct JoinAddresses {
    /// `host:port` of each address of the server, the likeliest first. They change with the machine's own.
    pub addresses: watch::Receiver<Vec<String>>,
    /// The SHA-256 of its certificate authority's certificate, in base64.
    pub ca_sha256: String,
}

#[derive(Debug, Clone)]
pub struct Config {
    /// Where NATS is, and this replica's credentials.
    pub nats: NatsAccess,
    /// How this replica begins with its journal.
    pub beginning: Beginning,
    /// Where this replica reports the journal's health.
    pub journal_health: JournalHealth,
    /// Set if this replica answers for the keys of agents.
    pub agent_auth: Option<AgentAuth>,
    pub agent_hub: AgentHub,
    /// Cancelled once the agent that runs in the same process has published its providers; the replica isn't ready before.
    pub own_agent: CancellationToken,
    /// The replica's name, unique among the replicas: one subject token.
    pub replica: String,
    /// How many requests may wait for one provider.
    pub max_waiting: usize,
    /// The largest body of an inference request, in bytes.
    pub max_body: usize,
    /// The model of a request that names none.
    pub default_model: Option<ModelName>,
    /// The certificate that the API is served with; without it, in plaintext.
    pub tls: Option<Tls>,
    pub server: ServerLimits,
    /// Whether a key is needed.
    pub auth: AuthMode,
    /// The names and addresses by which it is reached, beside loopback's, its listener's and those in its certificate.
    pub hosts: Vec<Host>,
    /// The origins whose pages may use it.
    pub cors_origins: Vec<Origin>,
    /// A key that may do everything and isn't in the journal: the one that makes the others.
    pub root_key: Option<SecretKey>,
}

impl Config {
    /// A replica named `replica`, with the usual limits, open to anyone who can reach it.
    #[must_use]
    pub fn new(nats: NatsAccess, replica: &str) -> Self {
        Self {
            agent_hub: AgentHub {
                nats_url: nats.server.url.clone(),
                ca_pem: None,
                joins: None,
            },
            nats,
            beginning: Beginning::default(),
            journal_health: JournalHealth::default(),
            agent_auth: None,
            own_agent: nobody_to_wait_for(),
            replica: replica.to_owned(),
            max_waiting: MAX_WAITING,
            max_body: DEFAULT_BODY_BYTES,
            default_model: None,
            tls: None,
            server: ServerLimits::default(),
            auth: AuthMode::Open,
            hosts: vec![],
            cors_origins: vec![],
            root_key: None,
        }
    }
}

fn nobody_to_wait_for() -> CancellationToken {
    let token = CancellationToken::new();
    token.cancel();
    token
}
