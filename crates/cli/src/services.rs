//! The services in the foreground, each until a signal ends it; and how the command line's words become their configs.

use crate::{
    admission,
    args::{Agent, Api, Projector},
    client::ApiClient,
    config_check,
    failure::Failure,
    hub::HubNats,
    listen, logging, replica,
    signals::Signals,
    supervisor::{self, Phase},
    tls,
    up::data_dir,
};
use anyhow::anyhow;
use reveille_agent::{
    Options,
    config::{Config, NatsUrl},
};
use reveille_api::{AgentHub, keys::AuthMode};
use reveille_bus::{
    NatsAccess, NatsServer,
    access::{NatsKey, Role},
};
use reveille_domain::rows::Rows;
use reveille_projector::{PostgresRows, ProjectorConfig, ProjectorError};
use std::{
    future::{Future, pending},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Where an agent keeps what it must know after a restart, below the data directory.
pub const AGENT_STATE: &str = "agent";
/// How often a starting API is asked whether it is ready.
const READY_LOOK: Duration = Duration::from_millis(100);

/// `reveille api`.
pub async fn api(args: Api) -> Result<(), Failure> {
    logging::start()?;
    let rows = rows(args.database_url.as_deref())?;
    let hub = HubNats::named(&args.nats, &args.hub)?;
    hub.warn_of_plaintext();
    let tls = tls::load(&args.tls, args.listen, args.hub.allow_plaintext)?;
    let listener = listen::bind(args.listen).await?;
    let address = listener.local_addr()?;
    let url = listen::url(address, tls.is_some());
    info!(api.listen = %address, "the API listens on {address}: {url}");
    let root_key = args
        .root_key_file
        .as_deref()
        .map(admission::root_key)
        .transpose()?;
    let config = reveille_api::Config {
        max_waiting: args.max_waiting,
        tls,
        auth: admission::mode(address, args.admission),
        root_key,
        ..api_config(&hub, args.agents_nats)?
    };
    if config.auth == AuthMode::Required && config.root_key.is_none() {
        warn!("there is no root key (--root-key-file): only a key with the scope admin can make others");
    }
    let client = ApiClient::local(&url, None)?;
    until_signalled(|stop| async move {
        let told = async {
            while !client.is_ready().await {
                sleep(READY_LOOK).await;
            }
            supervisor::tell(Phase::Ready);
            pending().await
        };
        tokio::select! {
            done = run_api(config, rows, listener, stop) => done,
            never = told => never,
        }
    })
    .await
}

/// `reveille agent`.
pub async fn agent(args: Agent) -> Result<(), Failure> {
    let file = args.config.unwrap_or_default();
    let config = config_check::load(&file)?;
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
    let data_dir = args.data_dir.map_or_else(data_dir::default_path, Ok)?;
    logging::start()?;
    let options = Options {
        config,
        nats,
        key,
        state_dir: Some(data_dir.join(AGENT_STATE)),
    };
    until_signalled(|stop| run_agent(options, ready, stop)).await
}

/// `reveille projector`.
pub async fn projector(args: Projector) -> Result<(), Failure> {
    logging::start()?;
    let hub = HubNats::named(&args.nats, &args.hub)?;
    hub.warn_of_plaintext();
    let nats = hub.access(Role::Projector)?;
    until_signalled(|stop| run_projector(nats, args.database_url, ready, stop)).await
}

/// The rows of a database, which doesn't have to be up; none without one, and then the API keeps them in memory.
pub fn rows(database_url: Option<&str>) -> Result<Option<Arc<dyn Rows>>, Failure> {
    let Some(url) = database_url else { return Ok(None) };
    let rows = PostgresRows::new(url).map_err(|error| Failure::Config(format!("--database-url: {error}")))?;
    Ok(Some(Arc::new(rows)))
}

/// The hub that the command line names; refused when the config's agent must not speak to it, such as in plaintext to
/// another machine.
pub fn nats_for_agent(url: &str, config: &Config) -> Result<NatsServer, Failure> {
    NatsUrl::parse(url, config.agent.allow_plaintext)
        .map(|url| server_of(&url, config))
        .map_err(|reason| Failure::Config(format!("--nats: {reason}")))
}

fn server_of(url: &NatsUrl, config: &Config) -> NatsServer {
    NatsServer {
        url: url.as_str().to_owned(),
        ca: config.agent.ca.clone(),
    }
}

/// The key that the config names, if it names one.
pub fn agent_key(config: &Config) -> Result<Option<NatsKey>, Failure> {
    let read = config.agent.credentials.as_deref().map(NatsKey::read);
    read.transpose()
        .map_err(|error| Failure::Config(format!("agent.credentials: {error}")))
}

/// A replica of a name of its own, with the usual limits.
pub fn api_config(hub: &HubNats, agents_nats: Option<String>) -> Result<reveille_api::Config, Failure> {
    Ok(reveille_api::Config {
        doors: hub.doors()?,
        agent_hub: AgentHub {
            nats_url: agents_nats.unwrap_or_else(|| hub.server().url.clone()),
            ca_pem: hub.ca_pem()?,
        },
        ..reveille_api::Config::new(hub.access(Role::Api)?, &replica::name())
    })
}

/// Runs the API and control until `stop`.
pub async fn run_api(
    config: reveille_api::Config,
    rows: Option<Arc<dyn Rows>>,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let hangups = tls::reload_on_hangup(config.tls.clone());
    tokio::select! {
        done = reveille_api::run(config, rows, listener, stop) => Ok(done?),
        never = hangups => match never? {},
    }
}

/// Runs the agent until `stop`; calls `connected` once control has accepted its session.
pub async fn run_agent(
    options: Options,
    connected: impl FnOnce(),
    stop: CancellationToken,
) -> Result<(), Failure> {
    reveille_agent::run_and_tell(options, connected, stop)
        .await
        .map_err(|error| match error {
            reveille_agent::AgentError::Superseded { .. } => Failure::Superseded(error.to_string()),
            error => error.into(),
        })
}

/// Runs the projector until `stop`; calls `follows` once it goes on from its checkpoint.
pub async fn run_projector(
    nats: NatsAccess,
    database_url: String,
    follows: impl FnOnce(),
    stop: CancellationToken,
) -> Result<(), Failure> {
    let config = ProjectorConfig { nats, database_url };
    let projector = reveille_projector::Projector::new(config);
    let mut status = projector.status();
    let told = async {
        if status.changed().await.is_ok() {
            follows();
        }
        pending().await
    };
    let done = tokio::select! {
        done = projector.run(stop) => done,
        never = told => never,
    };
    done.map_err(|error| match error {
        ProjectorError::DatabaseUrl(_) => Failure::Config(format!("--database-url: {error}")),
        ProjectorError::Schema(_)
        | ProjectorError::Diverged { .. }
        | ProjectorError::Rebuilding
        | ProjectorError::Bus(_) => error.into(),
    })
}

async fn until_signalled<F, S>(service: S) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
    S: FnOnce(CancellationToken) -> F,
{
    let signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let told = async {
        signals.stop.cancelled().await;
        supervisor::tell(Phase::Stopping);
        // Only now, or a service that ends at once would end before it is told.
        stop.cancel();
        pending().await
    };
    tokio::select! {
        done = service(stop.clone()) => done,
        never = told => never,
        () = signals.hurry.cancelled() => Err(anyhow!("stopped before everything was finished").into()),
    }
}

fn ready() {
    supervisor::tell(Phase::Ready);
}
