//! `reveille join`: makes this machine's key, has the hub know it, and writes a config that works.
//!
//! The key is made first and kept: should the hub's answer be lost, the same command finishes what it has begun.

use super::{Token, text};
use crate::{
    args::ApiAddress,
    client::{ApiClient, Row, is_local, line},
    failure::Failure,
    init::{self, Ports},
};
use anyhow::{Context, anyhow};
use clap::Args;
use reqwest::Method;
use reveille_agent::config::{Config, NatsUrl};
use reveille_bus::{access::NatsKey, private_file};
use reveille_domain::AgentName;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

const EXAMPLES: &str = "\
Examples:
  reveille agent-token create gpu-box     on the hub: prints the command for the machine
  reveille join rvt_…                     on the machine: makes a key that never leaves it, and writes agent.toml

If it is broken off, run it again: the key that it has made is kept.";

/// `reveille join`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Join {
    /// What `reveille agent-token create` has printed.
    #[arg(env = "REVEILLE_AGENT_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: String,
    /// The agent that this machine is meant to be; another one's token is refused then.
    #[arg(long, value_name = "AGENT")]
    pub name: Option<AgentName>,
    /// The config to write; the key is written beside it.
    #[arg(long, value_name = "FILE", default_value = "agent.toml")]
    pub config: PathBuf,
    /// Replace the config if it exists.
    #[arg(long)]
    pub force: bool,
    /// Where this machine reaches the hub's NATS servers [default: what the hub says].
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// For the hub's API, trust the certificates in this file, in PEM, instead of the system's.
    #[arg(long, env = "REVEILLE_CA_FILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Speak to the hub without TLS: for a network that you trust.
    #[arg(long)]
    pub allow_plaintext: bool,
    #[command(flatten)]
    pub ports: Ports,
}

/// What the config says of the hub.
pub struct HubLines {
    nats: String,
    credentials: PathBuf,
    ca: Option<PathBuf>,
    allow_plaintext: bool,
}

impl HubLines {
    /// The lines of `[agent]`.
    pub fn to_toml(&self) -> Result<String, Failure> {
        let quoted = |path: &Path| -> Result<String, Failure> {
            let text = path
                .to_str()
                .with_context(|| format!("{} is not text", path.display()))?;
            Ok(toml::Value::from(text).to_string())
        };
        let mut text = format!("nats = {}\n", toml::Value::from(self.nats.as_str()));
        if self.allow_plaintext {
            text += "allow_plaintext = true\n";
        }
        text += &format!(
            "# The key by which the hub knows this agent: keep it to yourself.\ncredentials = {}\n",
            quoted(&self.credentials)?
        );
        if let Some(ca) = &self.ca {
            text += &format!("ca = {}\n", quoted(ca)?);
        }
        Ok(text)
    }
}

/// Joins the hub that the token names.
pub async fn join(args: Join) -> Result<(), Failure> {
    // Read here, and not with the other arguments: a complaint about one of those shows it.
    let token: Token = args
        .token
        .parse()
        .map_err(|reason| Failure::Config(format!("the token can't be used: {reason}")))?;
    let Join { name, .. } = &args;
    if let Some(name) = name.as_ref().filter(|name| **name != token.agent) {
        return Err(Failure::Config(format!(
            "the token is for {}, not for {name}: make one by `reveille agent-token create {name}`",
            token.agent
        )));
    }
    if token.hub.scheme() != "https" && !is_local(&token.hub) && !args.allow_plaintext {
        return Err(Failure::Config(format!(
            "the hub is at {}, and whoever is on the way could read the token and use it first: have the hub serve HTTPS, or \
             give --allow-plaintext for a network that you trust",
            token.hub
        )));
    }
    if !args.force && args.config.exists() {
        return Err(init::exists(&args.config));
    }
    let folder = args
        .config
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    private_file::make_folder(folder)?;
    let folder = folder.canonicalize()?;
    let credentials = folder.join(format!("{}.nk", token.agent));
    let key = NatsKey::read_or_make(&credentials, NatsKey::fresh_user)?;

    let enrolled = enroll(&args, &token, &key).await?;
    let nats = args
        .nats
        .clone()
        .map_or_else(|| text(&enrolled, "nats_url"), Ok)?;
    NatsUrl::parse(&nats, args.allow_plaintext).map_err(|reason| {
        Failure::Config(format!(
            "the hub knows {} now, but its NATS address {nats} can't be used: {reason}. Run the same command again with \
             --nats URL, or with --allow-plaintext for a network that you trust",
            token.agent
        ))
    })?;
    let ca = match enrolled["ca_pem"].as_str() {
        Some(pem) => {
            let file = folder.join(format!("{}-ca.pem", token.agent));
            fs::write(&file, pem).with_context(|| format!("cannot write {}", file.display()))?;
            Some(file)
        }
        None => None,
    };
    let hub = HubLines {
        allow_plaintext: args.allow_plaintext && NatsUrl::parse(&nats, false).is_err(),
        nats,
        credentials,
        ca,
    };
    let backends = init::look(&args.ports.ports).await?;
    let text = init::write_config(
        &args.config,
        token.agent.as_str(),
        Some(&hub.to_toml()?),
        &backends,
        args.force,
    )?;
    let has_providers = Config::parse(&text, "", &|_| None).is_ok_and(|config| !config.providers.is_empty());
    line(&format!("{} has joined {}", token.agent, token.hub))?;
    let next = if has_providers {
        "Next"
    } else {
        "Name a backend in it, then"
    };
    line(&format!(
        "{next}: reveille agent --config {}",
        args.config.display()
    ))
}

async fn enroll(args: &Join, token: &Token, key: &NatsKey) -> Result<Row, Failure> {
    let client = ApiClient::new(&ApiAddress {
        ca: args.ca.clone(),
        ..ApiAddress::keyless(token.hub.clone())
    })?;
    let asked = json!({
        "agent": token.agent,
        "token_id": token.id,
        "secret": token.secret,
        "key": key.public(),
    });
    let request = client.request(Method::POST, "/reveille/v1/enroll").json(&asked);
    client.json(request).await.map_err(|failure| match failure {
        Failure::Other(error) => anyhow!("{error:#}")
            .context(format!("{} can't join", token.agent))
            .into(),
        failure => failure,
    })
}
