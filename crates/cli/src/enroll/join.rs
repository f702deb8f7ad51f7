//! `reveille join`: creates this machine's key, enrolls it at the hub, writes a working config, and hands over to the agent.
//!
//! The key is created first and kept, so that the same command can finish if the hub's response is lost.

use super::{
    HubAddress, Token,
    hub_nats::{self, Hub},
    moved::{self, Correction},
    service, text,
};
use crate::{
    args::{ApiAddress, DataDirArg, Format},
    client::{ApiClient, is_local, line},
    config,
    config_file::{CONFIG_FILE, default_file},
    data_dir::{self, AGENT_STATE, RunningUp},
    failure::Failure,
    init::{self, Ports},
    whole_file,
};
use anyhow::{Context, anyhow};
use clap::Args;
use reveille_agent::{
    config::{Config, NatsUrl},
    reload, shell,
    state_dir::StateDir,
};
use reveille_bus::{access::NatsKey, private_file};
use reveille_domain::AgentName;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use std::{
    fs::{self, File, TryLockError},
    io::{self, BufRead},
    path::{Path, PathBuf},
};
use url::Url;

/// More than any token has.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;
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
    /// The token that `reveille up --agents` or `reveille agent token` printed; `-` reads it from standard input, where no
    /// other user of this machine sees it.
    #[arg(env = "REVEILLE_AGENT_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: String,
    /// The agent this machine should become; a token for another agent is refused.
    #[arg(long, value_name = "AGENT")]
    pub name: Option<AgentName>,
    /// The config file to write; the key is written beside it [default: reveille.toml in the data directory].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Replace the config file if it exists, and with --service a unit that was changed.
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

/// The first line of a text that is a token.
fn first_line(input: impl BufRead) -> Result<String, Failure> {
    let mut line = String::new();
    let mut input = input.take(MAX_TOKEN_BYTES);
    input
        .read_line(&mut line)
        .context("cannot read the token from standard input")?;
    Ok(line)
}

/// Joins the hub that the token names. Returns the agent to start, unless it isn't to be started here.
pub async fn join(args: Join) -> Result<Option<Joined>, Failure> {
    // Parsed here, not by clap, whose error messages would show it.
    let token = match args.token.as_str() {
        "-" => first_line(io::stdin().lock())?,
        token => token.to_owned(),
    };
    let token = token.parse::<Token>().map_err(Failure::Config)?;
    let agent = &token.join.agent;
    if let Some(name) = args.name.as_ref().filter(|name| *name != agent) {
        return Err(Failure::Config(format!(
            "the token is for {agent}, not for {name}: create one with `reveille agent token {name}` on the hub"
        )));
    }
    let data_dir = match args.data_dir.data_dir {
        None if args.service => service::data_dir()?,
        _ => args.data_dir.path()?,
    };
    // Links stay: systemd makes one of the service's own folder at its first start.
    let data_dir = std::path::absolute(data_dir)?;
    // A config elsewhere, for an agent that isn't started here, has nothing to do with this folder.
    let uses_folder = args.config.is_none() || !args.no_start;
    if let Some(up) = data_dir::running_up(&data_dir).filter(|_| uses_folder) {
        return Err(is_hub(&data_dir, &up));
    }
    let file = args.config.clone().unwrap_or_else(|| data_dir.join(CONFIG_FILE));
    let file = std::path::absolute(file)?;
    if args.service {
        service::check(&file, &data_dir, args.force)?;
    }
    let folder = whole_file::folder_of(&file);
    private_file::make_folder(folder).with_context(|| format!("cannot use {}", folder.display()))?;
    let _alone = alone(folder)?;
    let kept = match file.exists() && !args.force {
        true => Some(KeptConfig::read(&file, agent)?),
        false => None,
    };
    let credentials = match &kept {
        Some(kept) => kept.credentials.clone(),
        None => folder.join(format!("{agent}.nk")),
    };
    let key = NatsKey::read_or_make(&credentials, NatsKey::fresh_user)?;

    let mut correction = None;
    let hub = match &token.hub {
        HubAddress::Nats { nats, ca } => {
            let hub = hub_nats::find(nats, ca).await?;
            if let Some(kept) = &kept {
                // Before the token is used.
                correction = kept.checked(&hub, args.nats.as_deref()).await?;
            }
            hub_nats::enroll(&hub, &token.join, &key).await?;
            hub
        }
        HubAddress::Api { hub } => {
            let hub = enroll_at_api(&args, hub, &token, &key).await?;
            // Only now is it known where the hub's NATS servers are.
            if let Some(kept) = &kept {
                correction = kept.checked(&hub, args.nats.as_deref()).await?;
            }
            hub
        }
    };
    line(&format!("{agent} has joined the hub at {}.", hub.shown))?;

    let providers = if let Some(kept) = kept {
        let shown = file.display();
        line(&match correction.map(Correction::place).transpose()? {
            None => format!("Its config is {shown}, which stays as it is."),
            Some(changed) => format!(
                "Its config is {shown}. The hub has moved, so line {changed} has its new address; the rest stays as it is."
            ),
        })?;
        kept.config.providers.len()
    } else {
        let nats = args.nats.clone().unwrap_or(hub.nats);
        NatsUrl::parse(&nats, args.allow_plaintext).map_err(|reason| {
            Failure::Config(format!(
                "{agent} is enrolled, but the hub's NATS address {nats} can't be used: {reason}. Run the same command again \
                 with --nats URL, or with --allow-plaintext on a network you trust"
            ))
        })?;
        let allow_plaintext = args.allow_plaintext && NatsUrl::parse(&nats, false).is_err();
        let ca_file = folder.join(format!("{agent}-ca.pem"));
        if let Some(pem) = &hub.ca_pem {
            fs::write(&ca_file, pem).with_context(|| format!("cannot write {}", ca_file.display()))?;
        }
        let ca = hub.ca_pem.is_some().then_some(ca_file.as_path());
        let lines = hub_lines(&nats, allow_plaintext, &credentials, ca)?;
        let backends = service::runnable(init::look_for(&args.ports.ports, &[]).await?, args.service);
        let backends = init::choose(backends, args.yes)?;
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
    let state = StateDir::new(data_dir.join(AGENT_STATE));
    let running = reload::agent(&state, agent).await;
    if let Some(asked) = running.with_context(|| format!("cannot reach the running {agent}"))? {
        line(&format!("{agent} is running on this machine already."))?;
        crate::reload::follow(asked, Format::Table, &mut vec![]).await?;
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

/// Keeps another `join` from the same folder while this one writes there.
fn alone(folder: &Path) -> Result<Option<File>, Failure> {
    // Some file systems have no locks.
    let Ok(lock) = File::open(folder) else {
        return Ok(None);
    };
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Failure::Config(format!(
            "another `reveille join` is using {}, so nothing was done here and the token was not used: wait until that one has \
             joined, or end it and run the same command again",
            folder.display()
        ))),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(lock)),
    }
}

/// Nothing is to be joined here: `up` has an agent of its own, in the same folder.
fn is_hub(data_dir: &Path, up: &RunningUp) -> Failure {
    Failure::Config(format!(
        "a `reveille up` runs here with the data directory {} (its API is at {}), and has an agent of its own: run this on the \
         machine that joins. The backends of this machine belong into the config of that `up`, which `reveille init` writes; for \
         another agent beside it use --data-dir DIR. The token was not used",
        data_dir.display(),
        up.api.as_str().trim_end_matches('/')
    ))
}

/// A config that an earlier `join` has written. It stays as it is, so the hub gets the key that it names.
#[derive(Debug)]
struct KeptConfig {
    config: Config,
    credentials: PathBuf,
    file: PathBuf,
}

impl KeptConfig {
    /// Reads the config, which must be `agent`'s.
    fn read(file: &Path, agent: &AgentName) -> Result<Self, Failure> {
        let config = config::load(file)?;
        if config.agent.name != *agent {
            let what = format!("the config of {}", config.agent.name);
            return Err(is_another(file, &what));
        }
        match config.agent.credentials.clone() {
            None => Err(is_another(file, "not from `reveille join`")),
            Some(credentials) => Ok(Self {
                config,
                credentials,
                file: file.to_owned(),
            }),
        }
    }

    /// Checks that the config leads to this hub, and prepares its correction if the hub has moved.
    async fn checked(&self, hub: &Hub, given: Option<&str>) -> Result<Option<Correction>, Failure> {
        self.check(hub, given)?;
        let address = moved::address(&self.config.agent, hub, given).await;
        address
            .map(|address| moved::correct(&self.file, &address))
            .transpose()
    }

    /// Fails unless the config leads to this hub, which the authority shows that it trusts, or else an address: the hub's own,
    /// or the one that is given for it.
    fn check(&self, hub: &Hub, given: Option<&str>) -> Result<(), Failure> {
        let Some(nats) = &self.config.agent.nats else {
            return Ok(());
        };
        let is_same = match (&self.config.agent.ca, &hub.ca_pem) {
            (Some(file), Some(pem)) => {
                let trusted = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
                certificates(pem.as_bytes())
                    .iter()
                    .any(|authority| certificates(&trusted).contains(authority))
            }
            _ => {
                let theirs = given.unwrap_or(&hub.nats).split(',').map(address_in);
                let theirs: Vec<_> = theirs.collect();
                nats.as_str()
                    .split(',')
                    .any(|url| theirs.contains(&address_in(url)))
            }
        };
        if is_same {
            return Ok(());
        }
        Err(is_another(
            &self.file,
            &format!("for another hub, at {}", nats.as_str()),
        ))
    }
}

fn is_another(file: &Path, what: &str) -> Failure {
    Failure::Config(format!(
        "{} exists already and is {what}: use --config FILE to write another file, or --force to replace it",
        file.display()
    ))
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .collect()
}

/// What of a NATS URL says where it leads.
fn address_in(url: &str) -> &str {
    let url = url.trim().trim_end_matches('/');
    url.split_once("://").map_or(url, |(_, address)| address)
}

/// What starts the agent with this config, as short as it can be.
fn start_command(file: &Path) -> String {
    match default_file(None) {
        Some(default) if file.canonicalize().is_ok_and(|file| file == default) => "reveille agent".to_owned(),
        _ => format!("reveille agent --config {}", shell::path(file)),
    }
}

/// Enrolls over HTTP: tokens of hubs whose NATS servers others run lead to the API.
async fn enroll_at_api(args: &Join, hub: &Url, token: &Token, key: &NatsKey) -> Result<Hub, Failure> {
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
    Ok(Hub {
        shown: hub.as_str().trim_end_matches('/').to_owned(),
        nats: text(&enrolled, "nats_url")?,
        ca_pem: enrolled["ca_pem"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub_init::certificates;

    /// The config of `gpu-box` with this `[agent]`.
    fn kept(folder: &Path, agent: &str) -> Result<KeptConfig, Failure> {
        let file = folder.join("reveille.toml");
        fs::write(&file, format!("[agent]\nname = 'gpu-box'\n{agent}")).unwrap();
        KeptConfig::read(&file, &AgentName::parse("gpu-box").unwrap())
    }

    fn authority(folder: &Path) -> (PathBuf, String) {
        private_file::make_folder(folder).unwrap();
        certificates::make(folder, &["192.0.2.1".to_owned()]).unwrap();
        let file = folder.join(certificates::AUTHORITY);
        let pem = fs::read_to_string(&file).unwrap();
        (file, pem)
    }

    fn hub(nats: &str, ca_pem: Option<&str>) -> Hub {
        Hub {
            shown: "a hub".to_owned(),
            nats: nats.to_owned(),
            ca_pem: ca_pem.map(str::to_owned),
        }
    }

    #[test]
    fn a_token_is_read_from_standard_input_without_what_follows() {
        let read = first_line(&b"rvt_abc\nmore"[..]).unwrap();
        assert_eq!(read.trim(), "rvt_abc");
        let endless = io::BufReader::new(io::repeat(b'a'));
        assert_eq!(first_line(endless).unwrap().len() as u64, MAX_TOKEN_BYTES);
    }

    #[test]
    fn two_joins_at_once_in_one_folder_are_told_of_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let first = alone(folder.path()).unwrap();
        let said = alone(folder.path()).unwrap_err().to_string();
        for part in [
            "another `reveille join` is using",
            "the token was not used",
            "run the same command again",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        drop(first);
        alone(folder.path()).unwrap();
    }

    #[test]
    fn the_key_of_a_kept_config_is_the_one_that_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(folder.path(), "credentials = '/keys/mine.nk'\n").unwrap();
        assert_eq!(kept.credentials, Path::new("/keys/mine.nk"));
        let file = folder.path().join("reveille.toml");
        let other = AgentName::parse("nas").unwrap();
        let said = KeptConfig::read(&file, &other).unwrap_err().to_string();
        assert!(said.contains("is the config of gpu-box"), "{said}");
    }

    #[test]
    fn a_kept_config_is_for_one_hub_by_its_authority_or_else_by_an_address() {
        let folder = tempfile::tempdir().unwrap();
        let [(own, own_pem), (_, other_pem)] =
            ["own", "other"].map(|name| authority(&folder.path().join(name)));
        let agent = |ca: &str| {
            let nats = "nats = 'tls://192.0.2.1:8422,tls://hub.example:4222'\ncredentials = '/k.nk'\n";
            kept(folder.path(), &format!("{nats}{ca}")).unwrap()
        };
        let trusting = agent(&format!("ca = '{}'\n", own.display()));
        let public = agent("");
        for (kept, nats, ca_pem, given, is_same) in [
            (&trusting, "tls://192.0.2.1:8422", Some(&own_pem), None, true),
            // Its owner has written another address.
            (&trusting, "tls://198.51.100.1:8422", Some(&own_pem), None, true),
            (&trusting, "tls://192.0.2.1:8422", Some(&other_pem), None, false),
            (&trusting, "tls://192.0.2.1:8422", None, None, true),
            (&public, "tls://hub.example:4222/", None, None, true),
            (&public, "tls://other.example:4222", None, None, false),
            (
                &public,
                "tls://inside.example:4222",
                None,
                Some("tls://hub.example:4222"),
                true,
            ),
            (&public, "tls://other.example:4222", Some(&other_pem), None, false),
        ] {
            let hub = hub(nats, ca_pem.map(String::as_str));
            let checked = kept.check(&hub, given);
            assert_eq!(checked.is_ok(), is_same, "{nats} {given:?}: {checked:?}");
            if let Err(failure) = checked {
                let said = failure.to_string();
                assert!(
                    said.contains("is for another hub, at tls://192.0.2.1:8422"),
                    "{said}"
                );
            }
        }
    }
}
