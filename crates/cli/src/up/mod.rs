//! `reveille up`: everything on one machine, in one process beside its NATS server.
//!
//! Arguments and config are checked before anything starts. Shutdown goes in order: the agent signs off while the API
//! still hears it, the API finishes its requests, then the projector stops, and NATS last.

pub mod agents_port;
mod banner;
pub mod disk;
mod hub;
pub mod nats_program;
mod nats_server;
mod parts;

use crate::{
    api_auth,
    args::{DataDirArg, HubArgs, ServeArgs},
    config,
    config_file::file_here,
    data_dir::{self, AGENT_STATE, DataDir, ROOT_KEY},
    failure::Failure,
    hub::{HubNats, agent_key, nats_for_agent},
    listen, logging, sd_notify,
    services::{
        agent::serve_agent,
        api::{self, database, serve_api},
        projector::serve_projector,
    },
    signals::{Hangups, Signals},
    tls,
};
use agents_port::AgentsPort;
use anyhow::anyhow;
use banner::Banner;
use clap::Args;
use hub::Hub;
use parts::{Parts, Role};
use reveille_agent::{
    Options,
    config::{Config, ConfigFile, NatsUrl},
    reload::Reload,
    state_dir::StateDir,
};
use reveille_api::{AgentAuth, keys::AuthMode};
use reveille_bus::{
    Beginning, JournalHealth, NatsServer,
    access::{self, NatsKey},
};
use reveille_domain::{AgentKey, AgentName};
use reveille_projector::ProjectorConfig;
use std::{
    fs::{self, DirBuilder},
    future::pending,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tokio_util::sync::CancellationToken;

/// What the name of a file ends with that has the key of an agent.
const KEY_SUFFIX: &str = ".nk";

const EXAMPLES: &str = "\
Examples:
  reveille up                               the API, a NATS server, and the providers in ./reveille.toml
  reveille up --config box.toml             the same, with the providers in that file
  reveille up --listen 0.0.0.0:8420 --tls-cert cert.pem --tls-key key.pem
                                            reachable from other machines, with a key
  reveille up --nats nats://127.0.0.1:4222  with a NATS server that is already running

The journal is kept in the data directory, so the next run continues where this one stopped.";

/// `reveille up`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Up {
    /// The agent's config file [default: reveille.toml in this folder]; without one this machine publishes no providers.
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub data_dir: DataDirArg,
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Use this NATS server instead of starting one.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// Listen for agents of other machines, with TLS and keys of its own making; the banner shows how they join. Without an address,
    /// and with 0.0.0.0, at all addresses of this machine, of IPv6 too.
    #[arg(
        long,
        env = "REVEILLE_AGENTS",
        value_name = "ADDRESS[:PORT]",
        num_args = 0..=1,
        default_missing_value = agents_port::EVERYWHERE,
        value_parser = agents_port::parse,
        conflicts_with = "nats"
    )]
    pub agents: Option<SocketAddr>,
    #[command(flatten)]
    pub hub: HubArgs,
}

/// Runs until a signal, or until a part that the others need has stopped.
pub async fn run(args: Up, hangups: Hangups) -> Result<(), Failure> {
    let config_file = args.config.clone().or_else(file_here);
    let mut config = config_file.as_deref().map(config::load).transpose()?;
    if let Some(config) = &mut config {
        // A flag overrides the file.
        config.agent.allow_plaintext |= args.hub.allow_plaintext;
    }
    // Checked before anything starts.
    let theirs = their_nats(&args, config.as_ref())?;
    if let Some(theirs) = &theirs {
        api::config(theirs, None)?;
    }
    if let Some(agents) = args.agents {
        listen::are_apart(("--listen", args.serve.listen), ("--agents", agents))?;
    }
    let data_dir = args.data_dir.path()?;
    let serve = args.serve;
    let database_url = serve.database.database_url;
    let database = database(database_url.as_deref())?;
    logging::start_calmly()?;
    if !logging::is_calm() {
        config.iter().for_each(config::warn_of_mistakes);
    }
    if let Some(theirs) = &theirs {
        theirs.warn_of_plaintext();
    }
    data_dir::usable(&data_dir)?;
    let signals = Signals::listen()?;
    let mut locked = None;
    if args.agents.is_some() {
        // The certificate is written into the folder, with which another run may be about to start too.
        locked = tokio::select! {
            data = DataDir::open(&data_dir) => Some(data?),
            () = signals.stop.cancelled() => return Ok(()),
        };
    }
    let agents = args
        .agents
        .map(|listens| AgentsPort::prepare(listens, &data_dir, &serve.origin.hosts))
        .transpose()?;
    let tls_args = match &agents {
        Some(agents) if !args.hub.allow_plaintext => serve.tls.or_own(agents.tls_files(), serve.listen),
        _ => serve.tls,
    };
    let own_ca = agents.as_ref().and_then(|agents| {
        let (certificate, _) = agents.tls_files();
        (tls_args.tls_cert.as_ref() == Some(&certificate)).then(|| agents.ca())
    });
    let tls = tls::load(&tls_args, serve.listen, args.hub.allow_plaintext)?;
    let listener = listen::bind(serve.listen, "--listen").await?;
    let address = listener.local_addr()?;
    let url = listen::url(address, tls.is_some());
    let elsewhere = agents_port::url_elsewhere(address, tls.is_some(), &serve.origin.hosts);
    let root_key = api_auth::root_key(&data_dir.join(ROOT_KEY))?;
    let journal_health = JournalHealth::default();
    let hub = tokio::select! {
        hub = Hub::ready(theirs, &data_dir, locked, journal_health.clone(), agents) => hub?,
        () = signals.stop.cancelled() => return Ok(()),
    };

    hub.announce(&url, own_ca.clone(), config_file.as_deref())?;
    let mut parts = Parts::default();
    let nats = hub.nats();
    let own_agent = CancellationToken::new();
    let mut api = reveille_api::Config {
        own_agent: own_agent.clone(),
        tls,
        auth: api_auth::mode(address, serve.auth),
        hosts: serve.origin.hosts,
        cors_origins: serve.origin.cors_origins,
        max_body: serve.requests.max_body,
        default_model: serve.requests.default_model,
        root_key: Some(root_key.clone()),
        beginning: Beginning {
            evidence: hub.evidence(),
            new_journal: serve.new_journal,
            ..Beginning::default()
        },
        journal_health,
        ..api::config(nats, serve.agents_nats)?
    };
    api.agent_hub.joins = hub.joins().cloned();
    let own_name = config.as_ref().map(|config| config.agent.name.clone());
    api.agent_hub.own_agent.clone_from(&own_name);
    if let Some(agent_auth) = &mut api.agent_auth {
        agent_auth.ended = ended_agents(&data_dir.join(AGENT_STATE), own_name.as_ref());
    }
    let root_key_file = (api.auth == AuthMode::Required).then(|| data_dir.join(ROOT_KEY));
    let agent = match config.zip(config_file) {
        Some((config, path)) => {
            let file = ConfigFile {
                path,
                allow_plaintext: args.hub.allow_plaintext,
            };
            let hangups = hangups.clone().counted();
            let server = match &hub {
                Hub::Ours { nats, .. } => nats.server().clone(),
                Hub::Theirs { nats, .. } => nats_for_agent(&nats.server().url, &config)?,
            };
            let agent = local_agent(config, server, &data_dir, api.agent_auth.as_mut())?;
            Some(Options {
                reload: Some(Reload { file, hangups }),
                ..agent
            })
        }
        None => None,
    };
    parts.start(Role::Api, |stop| {
        serve_api(api, database, listener, hangups, stop)
    });
    let has_database = database_url.is_some();
    if let Some(database_url) = database_url {
        let nats = nats.access(access::Role::Projector)?;
        let config = ProjectorConfig { nats, database_url };
        parts.start(Role::Projector, |stop| serve_projector(config, || (), stop));
    }
    let agents = hub.joins().map(|joins| joins.addresses.borrow().clone());
    let mut banner = Banner::new(url, hub.shown(), agents, has_database, &root_key, root_key_file)?;
    banner.misses_agents(&data_dir);
    banner.trusts(own_ca);
    banner.is_reached_at(elsewhere);
    let ended = until_ended(&mut parts, &mut banner, &hub, agent, &own_agent, &signals.stop).await;
    sd_notify::stopping();
    let stopped = tokio::select! {
        stopped = parts.stop() => stopped,
        () = signals.hurry.cancelled() => Err(anyhow!("stopped before all work was finished").into()),
    };
    hub.stop().await;
    ended.and(stopped)
}

/// Starts the agent once the API is ready, shows the banner, and waits until `stop` or a failure.
async fn until_ended(
    parts: &mut Parts,
    banner: &mut Banner,
    hub: &Hub,
    agent: Option<Options>,
    own_agent: &CancellationToken,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let prepared = async {
        banner.api_is_ready().await;
        hub.mark_journal();
        if let Some(agent) = &agent {
            banner.expect(&agent.config).await;
        }
        banner.invite().await;
    };
    tokio::select! {
        ended = parts.until_one_fails(stop) => return ended,
        () = prepared => {}
    }
    if let Some(agent) = agent {
        parts.start(Role::Agent, |stop| serve_agent(agent, || (), stop));
    }
    tokio::select! {
        ended = parts.until_one_fails(stop) => ended,
        never = async {
            let providers = banner.providers(own_agent).await;
            banner.show(&providers);
            logging::all();
            sd_notify::ready();
            pending().await
        } => never,
    }
}

/// The running NATS server that the command line or the config names, if any.
fn their_nats(args: &Up, config: Option<&Config>) -> Result<Option<HubNats>, Failure> {
    let configured = config.and_then(|config| config.agent.nats.as_ref());
    let Some(url) = args.nats.as_deref().or(configured.map(NatsUrl::as_str)) else {
        return Ok(None);
    };
    if args.agents.is_some() {
        return Err(Failure::Config(format!(
            "--agents is for `up`'s own NATS server, but the config names another one ({url}): leave one of them out"
        )));
    }
    let nats = HubNats::named(url, &args.hub.allowed_by(config))?;
    if let Some(config) = config {
        nats_for_agent(url, config)?;
    }
    Ok(Some(nats))
}

/// The agents that earlier runs had with this state directory, by the keys that they got: all but this run's. They don't run now, or
/// else the directory is in use.
fn ended_agents(state_dir: &Path, own: Option<&AgentName>) -> Vec<(AgentName, AgentKey)> {
    let is_in_use = StateDir::new(state_dir.to_owned()).is_in_use();
    let Ok(files) = fs::read_dir(state_dir) else {
        return vec![];
    };
    if is_in_use.map_or(true, |in_use| in_use == Some(true)) {
        return vec![];
    }
    let ended = files.flatten().filter_map(|file| {
        let (file_name, path) = (file.file_name(), file.path());
        let name = AgentName::parse(file_name.to_str()?.strip_suffix(KEY_SUFFIX)?).ok()?;
        let key = NatsKey::read(&path).ok()?.public();
        Some((name, AgentKey::parse(&key).ok()?))
    });
    ended.filter(|(name, _)| Some(name) != own).collect()
}

/// This machine's agent. If the hub requires keys, the agent gets its own, and our API trusts it.
fn local_agent(
    config: Config,
    nats: NatsServer,
    data_dir: &Path,
    agent_auth: Option<&mut AgentAuth>,
) -> Result<Options, Failure> {
    let state_dir = data_dir.join(AGENT_STATE);
    let key = match (agent_key(&config)?, agent_auth) {
        (None, Some(agent_auth)) => {
            let name = &config.agent.name;
            DirBuilder::new().recursive(true).create(&state_dir)?;
            let key = NatsKey::read_or_make(
                &state_dir.join(format!("{name}{KEY_SUFFIX}")),
                NatsKey::fresh_user,
            )?;
            agent_auth
                .trusted
                .push((name.clone(), AgentKey::parse(&key.public())?));
            Some(key)
        }
        (key, _) => key,
    };
    Ok(Options {
        config,
        nats,
        key,
        state_dir: Some(state_dir),
        reload: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn ctrl_c_is_heard_while_the_api_does_not_answer_the_invitation() {
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub::Theirs {
            nats: HubNats::named("nats://127.0.0.1:1", &HubArgs::default()).unwrap(),
            data: DataDir::open(folder.path()).await.unwrap(),
        };
        let (mut banner, mut invitations) = Banner::of_an_api_that_answers_no_invitation().await;
        let stop = CancellationToken::new();
        let ended = async {
            let (mut parts, own_agent) = (Parts::default(), CancellationToken::new());
            until_ended(&mut parts, &mut banner, &hub, None, &own_agent, &stop).await
        };
        let interrupted = async {
            invitations.recv().await.expect("it invites");
            stop.cancel();
            pending().await
        };
        let ended = timeout(Duration::from_secs(10), async {
            tokio::select! { ended = ended => ended, never = interrupted => never }
        });
        ended.await.expect("it ended in time").unwrap();
    }
}
