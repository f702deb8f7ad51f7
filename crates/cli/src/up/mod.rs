//! `reveille up`: all of it on one machine, in one process beside its NATS server, and gone with it.
//!
//! What can be refused is refused before anything is started. The end goes in order: the agent says goodbye while
//! control still hears it, then the API finishes what it holds, then the projector, and NATS last.

mod banner;
pub mod data_dir;
mod parts;
mod server;
pub mod server_program;

use crate::{
    admission::{self, ROOT_KEY},
    args::Up,
    config_check,
    failure::Failure,
    hub::HubNats,
    listen, logging,
    services::{AGENT_STATE, agent_key, api_config, nats_for_agent, rows, run_agent, run_api, run_projector},
    signals::Signals,
    supervisor::{self, Phase},
    tls,
};
use anyhow::anyhow;
use banner::{Banner, Keys};
use data_dir::DataDir;
use parts::{Parts, Role};
use reveille_agent::{
    Options,
    config::{Config, NatsUrl},
};
use reveille_api::{Doors, keys::AuthMode};
use reveille_bus::access::{self, HubKeys, NatsKey};
use reveille_domain::AgentKey;
use server::Server;
use std::{fs::DirBuilder, future::pending, path::Path};

/// The keys of our own NATS server, below the data directory.
pub const HUB_KEYS: &str = "hub-keys";

/// Runs until a signal, or until a part that the others need has ended.
pub async fn run(args: Up) -> Result<(), Failure> {
    let mut config = args.config.as_deref().map(config_check::load).transpose()?;
    if let Some(config) = &mut config {
        // A flag wins over the file.
        config.agent.allow_plaintext |= args.hub.allow_plaintext;
    }
    // Before anything is started, as everything that can be refused.
    let theirs = their_nats(&args, config.as_ref())?;
    if let Some(theirs) = &theirs {
        api_config(theirs, None)?;
    }
    let data_dir = args.data_dir.map_or_else(data_dir::default_path, Ok)?;
    let rows = rows(args.database_url.as_deref())?;
    logging::start()?;
    if let Some(theirs) = &theirs {
        theirs.warn_of_plaintext();
    }
    let tls = tls::load(&args.tls, args.listen, args.hub.allow_plaintext)?;
    let listener = listen::bind(args.listen).await?;
    let address = listener.local_addr()?;
    let url = listen::url(address, tls.is_some());
    let root_key = admission::root_key(&data_dir.join(ROOT_KEY))?;
    let signals = Signals::listen()?;
    let hub = tokio::select! {
        hub = Hub::ready(theirs, &data_dir) => hub?,
        () = signals.stop.cancelled() => return Ok(()),
    };

    let mut parts = Parts::default();
    let nats = hub.nats();
    let mut api = reveille_api::Config {
        tls,
        auth: admission::mode(address, args.admission),
        root_key: Some(root_key.clone()),
        ..api_config(nats, args.agents_nats)?
    };
    let keys = Keys {
        required: api.auth == AuthMode::Required,
        root: &root_key,
        file: data_dir.join(ROOT_KEY),
    };
    let agent = match config.filter(|config| !config.providers.is_empty()) {
        Some(config) => Some(local_agent(config, nats, &data_dir, api.doors.as_mut())?),
        None => None,
    };
    parts.start(Role::Api, |stop| run_api(api, rows, listener, stop));
    if let Some(database) = args.database_url.clone() {
        let nats = nats.access(access::Role::Projector)?;
        parts.start(Role::Projector, |stop| run_projector(nats, database, || (), stop));
    }
    let mut banner = Banner::new(url, &hub, args.database_url.is_some(), &keys)?;
    let ended = tokio::select! {
        ended = parts.until_one_is_missed(&signals.stop) => Some(ended),
        () = banner.api_is_ready() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            if let Some(agent) = agent {
                banner.expect(&agent.config);
                parts.start(Role::Agent, |stop| run_agent(agent, || (), stop));
            }
            tokio::select! {
                ended = parts.until_one_is_missed(&signals.stop) => ended,
                never = async {
                    banner.show().await;
                    supervisor::tell(Phase::Ready);
                    pending().await
                } => never,
            }
        }
    };
    supervisor::tell(Phase::Stopping);
    let stopped = tokio::select! {
        stopped = parts.stop() => stopped,
        () = signals.hurry.cancelled() => Err(anyhow!("stopped before everything was finished").into()),
    };
    hub.stop().await;
    ended.and(stopped)
}

/// The NATS server that runs already, if the command line or the config names one.
fn their_nats(args: &Up, config: Option<&Config>) -> Result<Option<HubNats>, Failure> {
    let configured = config.and_then(|config| config.agent.nats.as_ref());
    let Some(url) = args.nats.as_deref().or(configured.map(NatsUrl::as_str)) else {
        return Ok(None);
    };
    let nats = HubNats::named(url, &args.hub.allowed_by(config))?;
    if let Some(config) = config {
        nats_for_agent(url, config)?;
    }
    Ok(Some(nats))
}

/// The agent of this machine. Where the hub asks for keys it has one of its own, which our API lets in.
fn local_agent(
    config: Config,
    hub: &HubNats,
    data_dir: &Path,
    doors: Option<&mut Doors>,
) -> Result<Options, Failure> {
    let nats = nats_for_agent(&hub.server().url, &config)?;
    let state_dir = data_dir.join(AGENT_STATE);
    let key = match (agent_key(&config)?, doors) {
        (None, Some(doors)) => {
            let name = &config.agent.name;
            DirBuilder::new().recursive(true).create(&state_dir)?;
            let key = NatsKey::read_or_make(&state_dir.join(format!("{name}.nk")), NatsKey::fresh_user)?;
            doors
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
    })
}

/// Where NATS is.
enum Hub {
    /// Our own server, and the folder that is locked for it.
    Ours {
        server: Server,
        version: String,
        data: DataDir,
        nats: HubNats,
    },
    /// Somebody else's.
    Theirs(HubNats),
}

impl Hub {
    async fn ready(theirs: Option<HubNats>, data_dir: &Path) -> Result<Self, Failure> {
        if let Some(theirs) = theirs {
            return Ok(Self::Theirs(theirs));
        }
        let program = server_program::find().await?;
        let data = DataDir::open(data_dir).await?;
        let keys = HubKeys::make(&data.join(HUB_KEYS))?;
        let server = Server::start(&program, &data, &keys).await?;
        Ok(Self::Ours {
            nats: HubNats::ours(server.url(), keys),
            server,
            version: program.version,
            data,
        })
    }

    const fn nats(&self) -> &HubNats {
        match self {
            Self::Ours { nats, .. } | Self::Theirs(nats) => nats,
        }
    }

    async fn stop(self) {
        match self {
            Self::Ours { server, data, .. } => {
                server.stop().await;
                drop(data);
            }
            Self::Theirs(_) => {}
        }
    }
}
