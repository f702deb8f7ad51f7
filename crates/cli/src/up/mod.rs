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
    args::Up,
    config_check,
    failure::Failure,
    listen, logging,
    services::{AGENT_STATE, api_config, nats_for_agent, rows, run_agent, run_api, run_projector},
    signals::Signals,
    supervisor::{self, Phase},
};
use anyhow::anyhow;
use banner::Banner;
use data_dir::DataDir;
use parts::{Parts, Role};
use reveille_agent::config::Config;
use server::Server;
use std::{future::pending, path::Path};

/// Runs until a signal, or until a part that the others need has ended.
pub async fn run(args: Up) -> Result<(), Failure> {
    let config = args.config.as_deref().map(config_check::load).transpose()?;
    let theirs = their_nats(&args, config.as_ref())?;
    let data_dir = args.data_dir.map_or_else(data_dir::default_path, Ok)?;
    let rows = rows(args.database_url.as_deref())?;
    logging::start()?;
    let listener = listen::bind(args.listen).await?;
    let address = listener.local_addr()?;
    let signals = Signals::listen()?;
    let hub = tokio::select! {
        hub = Hub::ready(theirs, &data_dir) => hub?,
        () = signals.stop.cancelled() => return Ok(()),
    };

    let mut parts = Parts::default();
    let nats = hub.url();
    parts.start(Role::Api, |stop| run_api(api_config(&nats), rows, listener, stop));
    if let Some(database) = args.database_url.clone() {
        parts.start(Role::Projector, |stop| {
            run_projector(nats.clone(), database, || (), stop)
        });
    }
    let mut banner = Banner::new(listen::reachable(address), &hub, args.database_url.is_some())?;
    let ended = tokio::select! {
        ended = parts.until_one_is_missed(&signals.stop) => Some(ended),
        () = banner.api_is_ready() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            if let Some(config) = config.filter(|config| !config.providers.is_empty()) {
                banner.expect(&config);
                let url = nats_for_agent(&nats, &config)?;
                let remembers = data_dir.join(AGENT_STATE);
                parts.start(Role::Agent, |stop| run_agent(config, url, remembers, || (), stop));
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
fn their_nats(args: &Up, config: Option<&Config>) -> Result<Option<String>, Failure> {
    if let (Some(url), Some(config)) = (&args.nats, config) {
        nats_for_agent(url, config)?;
    }
    let configured = config.and_then(|config| config.agent.nats.as_ref());
    Ok(args
        .nats
        .clone()
        .or_else(|| configured.map(|url| url.as_str().to_owned())))
}

/// Where NATS is.
enum Hub {
    /// Our own server, and the folder that is locked for it.
    Ours {
        server: Server,
        version: String,
        data: DataDir,
    },
    /// Somebody else's.
    Theirs(String),
}

impl Hub {
    async fn ready(theirs: Option<String>, data_dir: &Path) -> Result<Self, Failure> {
        if let Some(url) = theirs {
            return Ok(Self::Theirs(url));
        }
        let program = server_program::find().await?;
        let data = DataDir::open(data_dir).await?;
        let server = Server::start(&program, &data).await?;
        Ok(Self::Ours {
            server,
            version: program.version,
            data,
        })
    }

    fn url(&self) -> String {
        match self {
            Self::Ours { server, .. } => server.url(),
            Self::Theirs(url) => url.clone(),
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
