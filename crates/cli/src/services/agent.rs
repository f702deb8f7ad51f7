//! `reveille agent`: the agent of this machine, and what is done with one.

use super::{ready, until_signalled};
use crate::{
    args::DataDirArg,
    config,
    data_dir::AGENT_STATE,
    enroll::{self, AgentRevoke},
    failure::Failure,
    hub::{nats_for_agent, server_of},
    logging,
    pause::{self, AgentPause},
};
use clap::{Args, Subcommand};
use reveille_agent::{AgentError, Options, config::Config};
use reveille_bus::access::NatsKey;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// `reveille agent`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Agent {
    /// Something else than running it.
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
    /// The config file.
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,
    /// The hub's NATS servers, instead of the file's.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    #[command(flatten)]
    pub data_dir: DataDirArg,
}

/// `reveille agent …`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Let an agent in no more: its key and its tokens are good for nothing, and its connections are ended.
    Revoke(AgentRevoke),
    /// Begin no more wakes on this machine, whoever asks for them; what is awake goes on. Needs no hub and no key.
    Pause(AgentPause),
    /// Let wakes begin again on this machine.
    Resume(DataDirArg),
}

/// Runs the agent until a signal, or does what the subcommand says.
pub async fn run(args: Agent) -> Result<(), Failure> {
    match &args.command {
        Some(AgentCommand::Revoke(args)) => enroll::revoke(args).await,
        Some(AgentCommand::Pause(args)) => pause::pause(args),
        Some(AgentCommand::Resume(data_dir)) => pause::resume(data_dir),
        None => serve(args).await,
    }
}

async fn serve(args: Agent) -> Result<(), Failure> {
    let file = args.config.unwrap_or_default();
    let config = config::load(&file)?;
    let nats = match (&args.nats, &config.agent.nats) {
        (Some(url), _) => nats_for_agent(url, &config)?,
        (None, Some(url)) => server_of(url, &config),
        (None, None) => {
            return Err(Failure::Config(format!(
                "{}: agent.nats: is missing; write it there or give --nats",
                file.display()
            )));
        }
    };
    let key = agent_key(&config)?;
    let data_dir = args.data_dir.path()?;
    logging::start()?;
    let options = Options {
        config,
        nats,
        key,
        state_dir: Some(data_dir.join(AGENT_STATE)),
    };
    until_signalled(|stop| serve_agent(options, ready, stop)).await
}

/// The key that the config names, if it names one.
pub fn agent_key(config: &Config) -> Result<Option<NatsKey>, Failure> {
    let read = config.agent.credentials.as_deref().map(NatsKey::read);
    read.transpose()
        .map_err(|error| Failure::Config(format!("agent.credentials: {error}")))
}

/// Runs the agent until `stop`; calls `connected` once control has accepted its session.
pub async fn serve_agent(
    options: Options,
    connected: impl FnOnce(),
    stop: CancellationToken,
) -> Result<(), Failure> {
    reveille_agent::run_and_tell(options, connected, stop)
        .await
        .map_err(|error| match error {
            AgentError::Superseded { .. } => Failure::Superseded(error.to_string()),
            error => error.into(),
        })
}
