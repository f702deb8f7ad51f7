//! `reveille join`: creates this machine's key, enrolls it at the hub, and writes a working config.
//!
//! The key is created first and kept, so that the same command can finish if the hub's response is lost.

use super::{Token, text};
use crate::{
    args::ApiAddress,
    client::{ApiClient, Row, is_local, line},
    failure::Failure,
    init::{self, Ports},
    whole_file,
};
use anyhow::{Context, anyhow};
use clap::Args;
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
  reveille join rvt_…                     on the machine: creates a key that never leaves it, and writes agent.toml

If it is interrupted, run it again: it keeps the key it created.";

/// `reveille join`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Join {
    /// The token that `reveille agent-token create` printed.
    #[arg(env = "REVEILLE_AGENT_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: String,
    /// The agent this machine should become; a token for another agent is refused.
    #[arg(long, value_name = "AGENT")]
    pub name: Option<AgentName>,
    /// The config file to write; the key is written beside it.
    #[arg(long, value_name = "FILE", default_value = "agent.toml")]
    pub config: PathBuf,
    /// Replace the config file if it exists.
    #[arg(long)]
    pub force: bool,
    /// URL at which this machine reaches the hub's NATS servers [default: the one the hub announces].
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// PEM file of the certificate authorities to trust for the hub's API instead of the system's.
    #[arg(long, env = "REVEILLE_CA_FILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Connect to the hub without TLS: only on a network you trust.
    #[arg(long)]
    pub allow_plaintext: bool,
    #[command(flatten)]
    pub ports: Ports,
}

/// The hub's lines in `[agent]`.
fn hub_lines(
    nats: &str,
    allow_plaintext: bool,
    credentials: &Path,
    ca: Option<&Path>,
) -> Result<String, Failure> {
    let quoted = |path: &Path| -> Result<String, Failure> {
        let text = path
            .to_str()
            .with_context(|| format!("{} is not valid UTF-8", path.display()))?;
        Ok(toml::Value::from(text).to_string())
    };
    let mut text = format!("nats = {}\n", toml::Value::from(nats));
    if allow_plaintext {
        text += "allow_plaintext = true\n";
    }
    text += "# The key that authenticates this agent at the hub: keep it secret.\n";
    text += &format!("credentials = {}\n", quoted(credentials)?);
    if let Some(ca) = ca {
        text += &format!("ca = {}\n", quoted(ca)?);
    }
    Ok(text)
}

/// Joins the hub that the token names.
pub async fn join(args: Join) -> Result<(), Failure> {
    // Parsed here, not by clap, whose error messages would show it.
    let token = args
        .token
        .parse::<Token>()
        .map_err(|reason| Failure::Config(reason.to_owned()))?;
    let Join { name, .. } = &args;
    if let Some(name) = name.as_ref().filter(|name| **name != token.agent) {
        return Err(Failure::Config(format!(
            "the token is for {}, not for {name}: create one with `reveille agent-token create {name}`",
            token.agent
        )));
    }
    if token.hub.scheme() != "https" && !is_local(&token.hub) && !args.allow_plaintext {
        return Err(Failure::Config(format!(
            "the hub at {} has no TLS, so anyone on the network path could read the token and use it first: serve \
             HTTPS on the hub, or use --allow-plaintext on a network you trust",
            token.hub
        )));
    }
    if !args.force && args.config.exists() {
        return Err(init::exists(&args.config));
    }
    let folder = whole_file::folder_of(&args.config);
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
            "{} is enrolled, but the hub's NATS address {nats} can't be used: {reason}. Run the same command again \
             with --nats URL, or with --allow-plaintext on a network you trust",
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
    let allow_plaintext = args.allow_plaintext && NatsUrl::parse(&nats, false).is_err();
    let hub = hub_lines(&nats, allow_plaintext, &credentials, ca.as_deref())?;
    let backends = init::look(&args.ports.ports).await?;
    let written = init::write_config(
        &args.config,
        token.agent.as_str(),
        Some(&hub),
        &backends,
        args.force,
    )?;
    let has_providers =
        Config::parse(&written.text, "", &|_| None).is_ok_and(|config| !config.providers.is_empty());
    line(&format!("{} has joined {}", token.agent, token.hub))?;
    let next = if has_providers {
        "Next"
    } else {
        "Add a backend to it, then"
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
    let body = json!({
        "agent": token.agent,
        "token_id": token.id,
        "secret": token.secret,
        "key": key.public(),
    });
    let enrolled = client.post("/reveille/v1/enroll", &body).await;
    enrolled.map_err(|failure| match failure {
        Failure::Other(error) => anyhow!("{error:#}")
            .context(format!("{} cannot join", token.agent))
            .into(),
        failure => failure,
    })
}
