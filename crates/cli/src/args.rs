//! The arguments that several commands share, each flattened into theirs.
//!
//! A flag wins over its variable, which wins over the config file, which wins over the default.

use crate::{data_dir, failure::Failure};
use clap::{Args, ValueEnum, builder::FalseyValueParser};
use reveille_agent::config::{Config, parse_duration};
use reveille_api::origin::{Host, Origin};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use url::Url;

/// Where the API listens unless it is told otherwise: this machine only.
const DEFAULT_LISTEN: &str = "127.0.0.1:8420";
/// Where the API is looked for unless it is told otherwise.
pub const DEFAULT_API: &str = "http://127.0.0.1:8420";

/// How the hub's processes speak to its NATS servers and to other machines.
#[derive(Debug, Clone, Default, Args)]
pub struct HubArgs {
    /// The folder of the hub's keys, as `reveille hub init` makes it; only this process's own are read.
    #[arg(long, env = "REVEILLE_NATS_KEYS", value_name = "DIR")]
    pub nats_keys: Option<PathBuf>,
    /// A PEM file of the certificate authorities that are trusted for tls://, beside the system's own.
    #[arg(long, env = "REVEILLE_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Serve and reach other machines without TLS: for a network that you trust, or behind a proxy that speaks it.
    #[arg(long, env = "REVEILLE_ALLOW_PLAINTEXT", value_parser = FalseyValueParser::new())]
    pub allow_plaintext: bool,
}

impl HubArgs {
    /// The same, and plaintext also where the agent's config allows it.
    pub fn allowed_by(&self, config: Option<&Config>) -> Self {
        let configured = config.is_some_and(|config| config.agent.allow_plaintext);
        Self {
            allow_plaintext: self.allow_plaintext || configured,
            ..self.clone()
        }
    }
}

/// The hub's NATS servers, which must be named.
#[derive(Debug, Args)]
pub struct NatsUrl {
    /// The hub's NATS servers.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: String,
    #[command(flatten)]
    pub hub: HubArgs,
}

/// A Postgres database, if there is one.
#[derive(Debug, Args)]
pub struct DatabaseUrl {
    /// The Postgres database of the rows; without it they are kept in memory.
    #[arg(
        long,
        env = "REVEILLE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: Option<String>,
}

/// Reveille's folder on this machine.
#[derive(Debug, Args)]
pub struct DataDirArg {
    /// Reveille's data directory [default: reveille/ in the user's data directory].
    #[arg(long, env = "REVEILLE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl DataDirArg {
    /// The folder that is named, or else the user's.
    pub fn path(&self) -> Result<PathBuf, Failure> {
        match &self.data_dir {
            Some(path) => Ok(path.clone()),
            None => Ok(data_dir::default_path()?),
        }
    }
}

/// How an API is served: on what address, to whom, and what it tells agents.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where the API listens.
    #[arg(long, env = "REVEILLE_LISTEN", value_name = "ADDRESS", default_value = DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub auth: AuthArgs,
    #[command(flatten)]
    pub origin: OriginArgs,
    /// Where agents reach the hub's NATS servers, for those that join [default: as this process does].
    #[arg(long, env = "REVEILLE_AGENTS_NATS_URL", value_name = "URL")]
    pub agents_nats: Option<String>,
    #[command(flatten)]
    pub database: DatabaseUrl,
}

/// How the API is protected on its way.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Serve HTTPS with this certificate and its chain, in PEM; taken up again when it changes.
    #[arg(long, env = "REVEILLE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, env = "REVEILLE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// Whom the API answers. On loopback everybody, anywhere else those who have a key, unless it is told otherwise.
#[derive(Debug, Clone, Copy, Args)]
pub struct AuthArgs {
    /// Answer nobody without a key, not on loopback either.
    #[arg(long, env = "REVEILLE_REQUIRE_KEYS", value_parser = FalseyValueParser::new())]
    pub require_keys: bool,
    /// Answer everybody although the API listens beyond loopback: whoever reaches it may use and wake everything.
    #[arg(long, env = "REVEILLE_INSECURE_NO_KEYS", value_parser = FalseyValueParser::new())]
    pub insecure_no_keys: bool,
}

/// The hosts that the API answers to, and the pages that may use it.
#[derive(Debug, Args)]
pub struct OriginArgs {
    /// A name or an address by which the API is reached, beside loopback's, the listener's own and those in its certificate. May be
    /// given several times.
    #[arg(
        long = "host",
        env = "REVEILLE_HOST",
        value_name = "HOST,…",
        value_delimiter = ','
    )]
    pub hosts: Vec<Host>,
    /// An origin whose pages may use the API from a browser, such as https://chat.example. May be given several times.
    #[arg(
        long = "cors-origin",
        env = "REVEILLE_CORS_ORIGIN",
        value_name = "ORIGIN,…",
        value_delimiter = ','
    )]
    pub cors_origins: Vec<Origin>,
}

/// Where the API is.
#[derive(Debug, Args)]
pub struct ApiAddress {
    /// The API to ask.
    #[arg(long, env = "REVEILLE_API_URL", value_name = "URL", default_value = DEFAULT_API)]
    pub api: Url,
    /// Trust the certificates in this file, in PEM, instead of the system's.
    #[arg(long, env = "REVEILLE_CA_FILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The key to ask with [default: `up`'s root key, when an API on this machine wants one].
    #[arg(long, env = "REVEILLE_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub key: Option<String>,
    #[command(flatten)]
    pub data_dir: DataDirArg,
}

impl ApiAddress {
    /// An API that is asked without a key.
    pub const fn keyless(api: Url) -> Self {
        Self {
            api,
            ca: None,
            key: None,
            data_dir: DataDirArg { data_dir: None },
        }
    }
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON array.
    Json,
    /// One JSON object a line.
    Jsonl,
}

/// A question to the API, and how its answer is printed.
#[derive(Debug, Args)]
pub struct Listing {
    #[command(flatten)]
    pub api: ApiAddress,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// A duration of a second or more, such as `30d`, `12h` or `90s`.
pub fn duration(raw: &str) -> Result<Duration, String> {
    let duration = parse_duration(raw)?;
    if duration < Duration::from_secs(1) {
        return Err("must be at least 1s".to_owned());
    }
    Ok(duration)
}
