//! What an API process needs to know.

use crate::{
    keys::{AuthMode, SecretKey},
    origin::{Host, Origin},
    server::{ServerLimits, tls::Tls},
    wakes::MAX_WAITING,
};
use reveille_bus::{Beginning, JournalHealth, NatsAccess, access::NatsKey};
use reveille_domain::{AgentKey, AgentName, ModelName, requests::PastRequests, rows::Rows};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The largest body of an inference request by default, in bytes.
pub const DEFAULT_BODY_BYTES: usize = 32 * 1024 * 1024;

/// The projector's database, as a replica reads it.
#[derive(Clone)]
pub struct Database {
    pub rows: Arc<dyn Rows>,
    pub requests: Arc<dyn PastRequests>,
}

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
    /// Agents of this machine that ran before and don't run now: what they published is inactive from the start, unless another
    /// machine has taken the name with a key of its own.
    pub ended: Vec<(AgentName, AgentKey)>,
}

/// Where agents find the hub's NATS servers when they enroll.
#[derive(Debug, Clone)]
pub struct AgentHub {
    /// `tls://host:port` or `nats://host:port`, or several with commas, if an operator has chosen what agents get.
    pub chosen_url: Option<String>,
    /// The same as this process reaches them.
    pub own_url: String,
    /// The certificate authorities that agents have to trust beside the usual ones, in PEM.
    pub ca_pem: Option<String>,
    /// Set if machines can join over NATS itself, which takes a token that names where.
    pub joins: Option<JoinAddresses>,
    /// The agent that runs in the same process: no other machine may take its name.
    pub own_agent: Option<AgentName>,
}

impl AgentHub {
    /// The URLs for agents, with commas. Those of a hub that machines join over NATS change with its addresses.
    #[must_use]
    pub fn nats_url(&self) -> String {
        let joined = |joins: &JoinAddresses| {
            let addresses = joins.addresses.borrow();
            let urls: Vec<_> = addresses
                .iter()
                .map(|address| format!("tls://{address}"))
                .collect();
            urls.join(",")
        };
        let joined = self.joins.as_ref().map(joined).filter(|urls| !urls.is_empty());
        let chosen = self.chosen_url.clone();
        chosen.or(joined).unwrap_or_else(|| self.own_url.clone())
    }
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
                chosen_url: None,
                own_url: nats.server.url.clone(),
                ca_pem: None,
                joins: None,
                own_agent: None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_get_the_addresses_of_the_moment_unless_others_were_chosen() {
        let addresses = watch::Sender::new(vec![]);
        let mut hub = AgentHub {
            chosen_url: None,
            own_url: "tls://127.0.0.1:8422".to_owned(),
            ca_pem: None,
            joins: Some(JoinAddresses {
                addresses: addresses.subscribe(),
                ca_sha256: String::new(),
            }),
            own_agent: None,
        };
        assert_eq!(
            hub.nats_url(),
            "tls://127.0.0.1:8422",
            "it has no other address now"
        );
        addresses.send_replace(vec!["192.0.2.1:8422".to_owned(), "hub.example:8422".to_owned()]);
        assert_eq!(hub.nats_url(), "tls://192.0.2.1:8422,tls://hub.example:8422");
        hub.chosen_url = Some("tls://outside.example:443".to_owned());
        assert_eq!(hub.nats_url(), "tls://outside.example:443");
    }
}
