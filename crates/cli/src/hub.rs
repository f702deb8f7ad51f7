//! How the processes of a hub reach its NATS servers: the address, the keys, and who speaks.

use crate::{args::HubArgs, failure::Failure};
use reveille_agent::config::{Config, NatsUrl};
use reveille_api::AgentAuth;
use reveille_bus::{
    NatsAccess, NatsServer,
    access::{HubKeys, NatsKeyError, Role},
};
use std::{fs, path::PathBuf};
use tracing::warn;

/// Where the hub's NATS is, and the folder of keys that it asks for.
#[derive(Debug, Clone)]
pub struct HubNats {
    server: NatsServer,
    keys: Option<HubKeys>,
}

impl HubNats {
    /// The servers that the command line names.
    ///
    /// # Errors
    /// When one of them is another machine, would be spoken to in plaintext, and nobody has allowed that.
    pub fn named(url: &str, args: &HubArgs) -> Result<Self, Failure> {
        let server = NatsServer {
            url: url.to_owned(),
            ca: args.nats_ca.clone(),
        };
        if let Some(open) = server.plaintext_beyond_loopback()
            && !args.allow_plaintext
        {
            return Err(Failure::Config(format!(
                "--nats: {open} is not on this machine and would be spoken to without TLS: whoever is on the way could read \
                 prompts and answers, and act in this process's name. Write tls://{open} (and --nats-ca FILE for an authority \
                 of the hub's own); or give --allow-plaintext, if you trust the network"
            )));
        }
        Ok(Self {
            server,
            keys: args.nats_keys.as_deref().map(HubKeys::of),
        })
    }

    /// A server of our own, which lets in whoever has one of these keys.
    pub fn ours(url: String, keys: HubKeys) -> Self {
        Self {
            server: NatsServer { url, ca: None },
            keys: Some(keys),
        }
    }

    /// Its address, and whose certificates it may show.
    pub const fn server(&self) -> &NatsServer {
        &self.server
    }

    /// Says so in the log, if it is spoken to in plaintext on another machine.
    pub fn warn_of_plaintext(&self) {
        if let Some(open) = self.server.plaintext_beyond_loopback() {
            warn!(
                nats.server = open,
                "NATS at {open} is spoken to without TLS (--allow-plaintext): whoever is on the way reads prompts and \
                 answers, and may act in this process's name"
            );
        }
    }

    /// How `role` reaches it; with the role's key, if there is a folder of keys.
    ///
    /// # Errors
    /// When the key is missing or can't be used.
    pub fn access(&self, role: Role) -> Result<NatsAccess, Failure> {
        let key = self.keys.as_ref().map(|keys| keys.role(&role));
        Ok(NatsAccess {
            server: self.server.clone(),
            role,
            key: key.transpose().map_err(|error| unusable(&error))?,
        })
    }

    /// The authorities that are trusted for it beside the usual ones, in PEM.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn ca_pem(&self) -> Result<Option<String>, Failure> {
        let read = |file: &PathBuf| {
            fs::read_to_string(file)
                .map_err(|error| Failure::Config(format!("--nats-ca: {}: {error}", file.display())))
        };
        self.server.ca.as_ref().map(read).transpose()
    }

    /// What an API replica lets agents in and shows them out with; `None` when the folder has no issuer's key.
    ///
    /// # Errors
    /// When a key is there that can't be used.
    pub fn agent_auth(&self) -> Result<Option<AgentAuth>, Failure> {
        let Some(keys) = &self.keys else { return Ok(None) };
        let Some(issuer) = keys.issuer().map_err(|error| unusable(&error))? else {
            return Ok(None);
        };
        let system = keys.system().map_err(|error| unusable(&error))?;
        let system = system.map(|key| NatsAccess {
            server: self.server.clone(),
            role: Role::System,
            key: Some(key),
        });
        Ok(Some(AgentAuth {
            issuer,
            system,
            trusted: vec![],
        }))
    }
}

fn unusable(error: &NatsKeyError) -> Failure {
    Failure::Config(format!("--nats-keys: {error}"))
}

/// The hub that the command line names; refused when the config's agent must not speak to it, such as in plaintext to
/// another machine.
pub fn nats_for_agent(url: &str, config: &Config) -> Result<NatsServer, Failure> {
    NatsUrl::parse(url, config.agent.allow_plaintext)
        .map(|url| server_of(&url, config))
        .map_err(|reason| Failure::Config(format!("--nats: {reason}")))
}

/// The hub that the config names.
pub fn server_of(url: &NatsUrl, config: &Config) -> NatsServer {
    NatsServer {
        url: url.as_str().to_owned(),
        ca: config.agent.ca.clone(),
    }
}
