//! `reveille join`: creates this machine's key, enrolls it at the hub, writes a working config, and hands over to the agent.
//!
//! The key is created first and kept, so that the same command can finish if the hub's response is lost.

use super::{
    HubAddress, Token,
    hub_nats::{self, Hub},
    service, text,
};
use crate::{
    args::{ApiAddress, DataDirArg},
    client::{ApiClient, is_local, line},
    config::{self, CONFIG_FILE},
    data_dir::AGENT_STATE,
    failure::Failure,
    init::{self, Ports},
    whole_file,
};
use anyhow::{Context, anyhow};
use clap::Args;
use reveille_agent::{
    config::{Config, NatsUrl},
    reload,
    state_dir::StateDir,
};
use reveille_bus::{access::NatsKey, private_file};
use reveille_domain::AgentName;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};
use url::Url;

const EXAMPLES: &str = "\
Examples:
  reveille up --agents             on the hub: prints the line for the other machine
  reveille join rvt_…              on the machine: joins, looks for backends, and runs the agent until Ctrl-C
  reveille join rvt_… --service    the same as a systemd service, which starts with the machine

If it is interrupted, run it again: it keeps the key and the config that it has written.";

/// `reveille join`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Join {
    /// The token that `reveille up --agents` or `reveille agent-token create` printed.
    #[arg(env = "REVEILLE_AGENT_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: String,
    /// The agent this machine should become; a token for another agent is refused.
    #[arg(long, value_name = "AGENT")]
    pub name: Option<AgentName>,
    /// The config file to write; the key is written beside it [default: reveille.toml in the data directory].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Replace the config file if it exists.
    #[arg(long)]
    pub force: bool,
    /// Ask nothing: add every backend that is found, even one that is only installed. Without a terminal and without this, only
    /// those that run are added.
    #[arg(long)]
    pub yes: bool,
    /// Join and write the config, but don't start the agent.
    #[arg(long)]
    pub no_start: bool,
    /// Install the agent as a systemd service and start it: for the machine as root, otherwise for this user.
    #[arg(long, conflicts_with = "no_start")]
    pub service: bool,
    /// URL at which this machine reaches the hub's NATS servers [default: as the token or the hub says].
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// PEM file of the certificate authorities to trust for the hub's API instead of the system's.
    #[arg(long, env = "REVEILLE_CA_FILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Connect to the hub without TLS: only on a network you trust.
    #[arg(long)]
    pub allow_plaintext: bool,
    #[command(flatten)]
    pub data_dir: DataDirArg,
    #[command(flatten)]
    pub ports: Ports,
}

/// An agent to be started: its config and its data directory.
#[derive(Debug)]
pub struct Joined {
    /// The config file.
    pub config: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
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

/// Joins the hub that the token names. Returns the agent to start, unless it isn't to be started here.
pub async fn join(args: Join) -> Result<Option<Joined>, Failure> {
    // Parsed here, not by clap, whose error messages would show it.
    let token = args.token.parse::<Token>().map_err(Failure::Config)?;
    let agent = &token.join.agent;
    if let Some(name) = args.name.as_ref().filter(|name| *name != agent) {
        return Err(Failure::Config(format!(
            "the token is for {agent}, not for {name}: create one with `reveille agent-token create {name}` on the hub"
        )));
    }
    if args.service {
        service::check()?;
    }
    let data_dir = match args.data_dir.data_dir {
        None if args.service => service::data_dir()?,
        _ => args.data_dir.path()?,
    };
    let file = args.config.clone().unwrap_or_else(|| data_dir.join(CONFIG_FILE));
    let kept = match file.exists() && !args.force {
        true => Some(ours(&file, &token)?),
        false => None,
    };
    let folder = whole_file::folder_of(&file);
    private_file::make_folder(folder).with_context(|| format!("cannot use {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    let file = folder.join(file.file_name().context("--config names a folder")?);
    let credentials = folder.join(format!("{agent}.nk"));
    let key = NatsKey::read_or_make(&credentials, NatsKey::fresh_user)?;
    let ca_file = folder.join(format!("{agent}-ca.pem"));

    let hub = match &token.hub {
        HubAddress::Nats { nats, ca } => hub_nats::enroll(nats, ca, &ca_file, &token.join, &key).await?,
        HubAddress::Api { hub } => enroll_at_api(&args, hub, &token, &key, &ca_file).await?,
    };
    line(&format!("{agent} has joined the hub at {}.", hub.shown))?;

    let providers = if let Some(kept) = kept {
        line(&format!(
            "Its config is {}, which stays as it is.",
            file.display()
        ))?;
        kept.providers.len()
    } else {
        let nats = args.nats.clone().unwrap_or(hub.nats);
        NatsUrl::parse(&nats, args.allow_plaintext).map_err(|reason| {
            Failure::Config(format!(
                "{agent} is enrolled, but the hub's NATS address {nats} can't be used: {reason}. Run the same command again \
                 with --nats URL, or with --allow-plaintext on a network you trust"
            ))
        })?;
        let allow_plaintext = args.allow_plaintext && NatsUrl::parse(&nats, false).is_err();
        let ca = hub.has_ca.then_some(ca_file.as_path());
        let lines = hub_lines(&nats, allow_plaintext, &credentials, ca)?;
        let backends = init::choose(&args.ports.ports, args.yes).await?;
        let written = init::write_config(&file, agent.as_str(), Some(&lines), &backends, args.force)?;
        Config::parse(&written.text, "", &|_| None).map_or(0, |config| config.providers.len())
    };
    if providers == 0 {
        line(&format!(
            "No backend was added. Add one to {}: a template is in it. A running agent takes it up with `reveille agent reload`.",
            file.display()
        ))?;
    }
    if args.service {
        service::install(&file, &data_dir)?;
        return Ok(None);
    }
    if is_running(&data_dir, agent).await {
        line(&format!(
            "{agent} is running on this machine already, and reads its config again."
        ))?;
        return Ok(None);
    }
    if args.no_start {
        line(&format!("Next: {}", start_command(&file)))?;
        return Ok(None);
    }
    line(&format!(
        "Starting the agent. Press Ctrl-C to stop it; `{}` starts it again.\n",
        start_command(&file)
    ))?;
    Ok(Some(Joined {
        config: file,
        data_dir,
    }))
}

/// The config that an earlier `join` has written for the token's agent and hub.
fn ours(file: &Path, token: &Token) -> Result<Config, Failure> {
    let config = config::load(file)?;
    let shown = file.display();
    let other = |what: String| {
        Failure::Config(format!(
            "{shown} exists already and is {what}: use --config FILE to write another file, or --force to replace it"
        ))
    };
    let agent = &token.join.agent;
    if config.agent.name != *agent {
        return Err(other(format!("the config of {}", config.agent.name)));
    }
    if config.agent.credentials.is_none() {
        return Err(other("not from `reveille join`".to_owned()));
    }
    if let (HubAddress::Nats { nats, .. }, Some(theirs)) = (&token.hub, &config.agent.nats) {
        let is_known = |one: &str| {
            nats.iter()
                .any(|address| one.trim().ends_with(&format!("/{address}")))
        };
        if !theirs.as_str().split(',').any(is_known) {
            return Err(other(format!("for another hub, at {}", theirs.as_str())));
        }
    }
    Ok(config)
}

/// What starts the agent with this config, as short as it can be.
fn start_command(file: &Path) -> String {
    match config::default_file(None) {
        Some(default) if default == file => "reveille agent".to_owned(),
        _ => format!("reveille agent --config {}", file.display()),
    }
}

/// Whether a process of this agent runs with this data directory. To find out is to ask it to reload.
async fn is_running(data_dir: &Path, agent: &AgentName) -> bool {
    let state = StateDir::new(data_dir.join(AGENT_STATE));
    let asked = reload::agents(&state).await.unwrap_or_default();
    asked.iter().any(|asked| asked.agent == *agent)
}

/// Enrolls over HTTP, as tokens of hubs want it whose NATS servers others run.
async fn enroll_at_api(
    args: &Join,
    hub: &Url,
    token: &Token,
    key: &NatsKey,
    ca_file: &Path,
) -> Result<Hub, Failure> {
    if hub.scheme() != "https" && !is_local(hub) && !args.allow_plaintext {
        return Err(Failure::Config(format!(
            "the hub at {hub} has no TLS, so anyone on the network path could read the token and use it first: serve \
             HTTPS on the hub, or use --allow-plaintext on a network you trust"
        )));
    }
    let client = ApiClient::new(&ApiAddress {
        ca: args.ca.clone(),
        ..ApiAddress::keyless(hub.clone())
    })?;
    let body = json!({
        "agent": token.join.agent,
        "token_id": token.join.id,
        "secret": token.join.secret,
        "key": key.public(),
    });
    let enrolled = client.post("/reveille/v1/enroll", &body).await;
    let enrolled = enrolled.map_err(|failure| match failure {
        Failure::Other(error) => {
            Failure::from(anyhow!("{error:#}").context(format!("{} cannot join", token.join.agent)))
        }
        failure => failure,
    })?;
    let ca_pem = enrolled["ca_pem"].as_str();
    if let Some(pem) = ca_pem {
        fs::write(ca_file, pem).with_context(|| format!("cannot write {}", ca_file.display()))?;
    }
    Ok(Hub {
        shown: hub.as_str().trim_end_matches('/').to_owned(),
        nats: text(&enrolled, "nats_url")?,
        has_ca: ca_pem.is_some(),
    })
}
