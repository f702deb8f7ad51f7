//! How the processes of a hub reach its NATS servers: the address, the keys and the role.

use crate::{
    args::HubArgs,
    data_dir::{self, HUB_KEYS},
    failure::Failure,
};
use reveille_agent::config::{Config, NatsUrl};
use reveille_api::AgentAuth;
use reveille_bus::{
    NatsAccess, NatsServer,
    access::{HubKeys, NatsKey, NatsKeyError, Role},
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tracing::warn;

/// The hub's NATS servers, and the folder of the keys they require.
#[derive(Debug, Clone)]
pub struct HubNats {
    server: NatsServer,
    keys: Option<HubKeys>,
}

impl HubNats {
    /// The servers named on the command line.
    ///
    /// # Errors
    /// When one of them is another machine, has no TLS, and plaintext isn't allowed.
    pub fn named(url: &str, args: &HubArgs) -> Result<Self, Failure> {
        let server = NatsServer {
            url: url.to_owned(),
            ca: args.nats_ca.clone(),
        };
        if let Some(open) = server.plaintext_beyond_loopback()
            && !args.allow_plaintext
        {
            return Err(Failure::Config(format!(
                "--nats: {open} is another machine, and without TLS anyone on the network path could read prompts \
                 and answers and impersonate this process. Use tls://{open} (with --nats-ca FILE if the hub has its \
                 own certificate authority), or --allow-plaintext on a network you trust"
            )));
        }
        Ok(Self {
            server,
            keys: args.nats_keys.as_deref().map(HubKeys::of),
        })
    }

    /// Our own server, which accepts these keys; `ca` is its authority if it uses TLS.
    pub fn ours(url: String, keys: HubKeys, ca: Option<PathBuf>) -> Self {
        Self {
            server: NatsServer { url, ca },
            keys: Some(keys),
        }
    }

    /// Its address, and the certificate authorities to trust.
    pub const fn server(&self) -> &NatsServer {
        &self.server
    }

    /// Its address for people: without user and password.
    pub fn shown(&self) -> String {
        without_credentials(&self.server.url)
    }

    /// Logs a warning if the connection leaves this machine without TLS.
    pub fn warn_of_plaintext(&self) {
        if let Some(open) = self.server.plaintext_beyond_loopback() {
            warn!(
                nats.server = open,
                "the connection to NATS at {open} has no TLS (--allow-plaintext): anyone on the network path can \
                 read prompts and answers and impersonate this process"
            );
        }
    }

    /// How `role` connects; with the role's key, if there is a folder of keys.
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

    /// Whether a folder of keys was named.
    pub const fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// The additional certificate authorities, in PEM.
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
            ended: vec![],
        }))
    }
}

/// The NATS server of the `up` that runs with a data directory.
#[derive(Debug)]
pub enum UpNats {
    /// Its own server.
    Ours(HubNats),
    /// A server that it was given, by its address without a password.
    Given(String),
}

impl UpNats {
    /// `None` if no `up` runs with this data directory.
    pub fn of(data_dir: &Path) -> Option<Self> {
        if let Some(given) = data_dir::running_up(data_dir).and_then(|up| up.nats) {
            return Some(Self::Given(given));
        }
        let url = data_dir::nats_url(data_dir).filter(|_| data_dir::is_locked(data_dir))?;
        let keys = HubKeys::of(&data_dir.join(HUB_KEYS));
        Some(Self::Ours(HubNats::ours(
            url,
            keys,
            data_dir::authority(data_dir),
        )))
    }
}

fn unusable(error: &NatsKeyError) -> Failure {
    Failure::Config(format!("--nats-keys: {error}"))
}

/// The hub named on the command line, checked against the rules for this config's agent, such as no plaintext to
/// another machine.
pub fn nats_for_agent(url: &str, config: &Config) -> Result<NatsServer, Failure> {
    NatsUrl::parse(url, config.agent.allow_plaintext)
        .map(|url| server_of(&url, config))
        .map_err(|reason| Failure::Config(format!("--nats: {reason}")))
}

/// The hub named in the config.
pub fn server_of(url: &NatsUrl, config: &Config) -> NatsServer {
    NatsServer {
        url: url.as_str().to_owned(),
        ca: config.agent.ca.clone(),
    }
}

/// The key named in the config, if any.
pub fn agent_key(config: &Config) -> Result<Option<NatsKey>, Failure> {
    let read = config.agent.credentials.as_deref().map(NatsKey::read);
    read.transpose()
        .map_err(|error| Failure::Config(format!("agent.credentials: {error}")))
}

fn without_credentials(urls: &str) -> String {
    let shown = urls
        .split(',')
        .map(|url| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            (None, Some((_, host))) => host.to_owned(),
            (_, None) => url.to_owned(),
        });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        for (urls, shown) in [
            ("nats://u:secret@a:1,tls://b", "nats://a:1,tls://b"),
            ("u:secret@a", "a"),
            ("nats://t@k@a:1", "nats://a:1"),
        ] {
            assert_eq!(without_credentials(urls), shown);
        }
    }
}
