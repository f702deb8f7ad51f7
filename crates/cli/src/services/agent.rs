//! `reveille agent`: runs this machine's agent, or a command about an agent.

use super::until_signalled;
use crate::{
    args::DataDirArg,
    client::Agents,
    config,
    config_file::{CONFIG_FILE, default_file},
    data_dir::AGENT_STATE,
    enroll::{self, AgentForget, AgentRevoke, AgentTokenCreate, Joined},
    failure::Failure,
    hub::{agent_key, nats_for_agent, server_of},
    logging, past,
    pause::{self, AgentPause, AgentResume},
    reload::{self, AgentReload},
    sd_notify,
    signals::Hangups,
};
use clap::{Args, Subcommand};
use reveille_agent::{AgentError, Options, config::ConfigFile, reload::Reload};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// `reveille agent`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Agent {
    /// A command other than running the agent.
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
    /// The agent's config file [default: reveille.toml in this folder, or else in the data directory].
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The hub's NATS servers [default: those in the config].
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    #[command(flatten)]
    pub data_dir: DataDirArg,
}

/// `reveille agent …`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// List the agents.
    List(Agents),
    /// Create a one-time token with which a machine joins as this agent.
    Token(AgentTokenCreate),
    /// Remove an agent that isn't connected from all lists, such as one under a former name. Its key stays valid.
    Forget(AgentForget),
    /// Revoke an agent: its key and tokens stop working, and its connections are closed.
    Revoke(AgentRevoke),
    /// Pause this machine's agent: no backend is woken, and those awake keep running. Needs no hub or key.
    Pause(AgentPause),
    /// Resume this machine's agent: backends are woken again.
    Resume(AgentResume),
    /// Make this machine's agent use its config file as it is now. Providers that it doesn't change go on undisturbed.
    Reload(AgentReload),
}

impl Agent {
    /// The agent of a machine that has just joined.
    pub fn of(joined: Joined) -> Self {
        Self {
            command: None,
            config: Some(joined.config),
            nats: None,
            data_dir: DataDirArg {
                data_dir: Some(joined.data_dir),
            },
        }
    }
}

/// Runs the agent until a signal, or the subcommand.
pub async fn run(args: Agent) -> Result<(), Failure> {
    match &args.command {
        Some(AgentCommand::List(args)) => past::agents(args).await,
        Some(AgentCommand::Token(args)) => enroll::create_token(args).await,
        Some(AgentCommand::Forget(args)) => enroll::forget(args).await,
        Some(AgentCommand::Revoke(args)) => enroll::revoke(args).await,
        Some(AgentCommand::Pause(args)) => pause::pause(args),
        Some(AgentCommand::Resume(args)) => pause::resume(args),
        Some(AgentCommand::Reload(args)) => reload::run(args).await,
        None => serve(args, Hangups::listen()?).await,
    }
}

async fn serve(args: Agent, hangups: Hangups) -> Result<(), Failure> {
    let data_dir = args.data_dir.path()?;
    let file = match args.config {
        Some(file) => file,
        None => default_file(Some(&data_dir)).ok_or_else(|| {
            Failure::Config(format!(
                "there is no {CONFIG_FILE} here or in {}: join a hub with `reveille join TOKEN`, or use --config FILE",
                data_dir.display()
            ))
        })?,
    };
    let config = config::load(&file)?;
    let nats = match (&args.nats, &config.agent.nats) {
        (Some(url), _) => nats_for_agent(url, &config)?,
        (None, Some(url)) => server_of(url, &config),
        (None, None) => {
            return Err(Failure::Config(format!(
                "{}: agent.nats is missing: set it there, or use --nats",
                file.display()
            )));
        }
    };
    let key = agent_key(&config)?;
    logging::start()?;
    config::warn_of_mistakes(&config);
    let file = ConfigFile {
        path: file,
        allow_plaintext: false,
    };
    until_signalled(|stop| {
        let options = Options {
            config,
            nats,
            key,
            state_dir: Some(data_dir.join(AGENT_STATE)),
            reload: Some(Reload {
                file,
                hangups: hangups.counted(),
            }),
        };
        serve_agent(options, sd_notify::ready, stop)
    })
    .await
}

/// Runs the agent until `stop`; calls `connected` once control has accepted its session.
pub async fn serve_agent(
    options: Options,
    connected: impl FnOnce(),
    stop: CancellationToken,
) -> Result<(), Failure> {
    reveille_agent::run(options, connected, stop)
        .await
        .map_err(|error| match error {
            AgentError::Superseded { .. } => Failure::Superseded(error.to_string()),
            AgentError::Revoked => Failure::Revoked(error.to_string()),
            error => error.into(),
        })
}
