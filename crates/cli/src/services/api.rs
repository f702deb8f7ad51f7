//! `reveille api`: an API replica.

use super::until_signalled;
use crate::{
    api_auth,
    args::{NatsUrl, ServeArgs, some},
    client::ApiClient,
    failure::Failure,
    hub::HubNats,
    listen, logging, replica, sd_notify,
    signals::Hangups,
    tls,
};
use clap::Args;
use reveille_api::{
    AgentHub, Config, Database,
    server::{MAX_CONNECTIONS, ServerLimits},
};
use reveille_bus::{Beginning, access::Role};
use reveille_projector::PostgresRows;
use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often to check whether the starting API is ready.
const READY_LOOK: Duration = Duration::from_millis(100);

/// `reveille api`.
#[derive(Debug, Args)]
pub struct Api {
    #[command(flatten)]
    pub nats: NatsUrl,
    #[command(flatten)]
    pub serve: ServeArgs,
    /// File of the root key, which may do everything and creates the other keys; a missing file is created.
    #[arg(long, env = "REVEILLE_ROOT_KEY_FILE", value_name = "FILE")]
    pub root_key_file: Option<PathBuf>,
    /// How many requests may wait for one provider to wake or to have a free slot; any more get status 429.
    #[arg(long, env = "REVEILLE_MAX_WAITING", value_name = "REQUESTS", default_value_t = reveille_api::wakes::MAX_WAITING, value_parser = some())]
    pub max_waiting: usize,
    /// How many connections there may be at a time; any more wait. Each takes an open file (`ulimit -n`).
    #[arg(long, env = "REVEILLE_MAX_CONNECTIONS", value_name = "CONNECTIONS", default_value_t = MAX_CONNECTIONS, value_parser = some())]
    pub max_connections: usize,
}

/// Runs a replica until a signal.
pub async fn run(args: Api, hangups: Hangups) -> Result<(), Failure> {
    logging::start()?;
    let serve = args.serve;
    let database = database(serve.database.database_url.as_deref())?;
    let hub = HubNats::named(&args.nats.nats, &args.nats.hub)?;
    hub.warn_of_plaintext();
    let tls = tls::load(&serve.tls, serve.listen, args.nats.hub.allow_plaintext)?;
    let listener = listen::bind(serve.listen, "--listen").await?;
    let address = listener.local_addr()?;
    let url = listen::url(address, tls.is_some());
    info!(api.listen = %address, "the API listens on {address}: {url}");
    let root_key = args
        .root_key_file
        .as_deref()
        .map(api_auth::root_key)
        .transpose()?;
    let config = Config {
        max_waiting: args.max_waiting,
        server: ServerLimits {
            connections: args.max_connections,
            ..ServerLimits::default()
        },
        tls,
        auth: api_auth::mode(address, serve.auth),
        hosts: serve.origin.hosts,
        cors_origins: serve.origin.cors_origins,
        max_body: serve.requests.max_body,
        default_model: serve.requests.default_model,
        root_key,
        beginning: Beginning {
            new_journal: serve.new_journal,
            ..Beginning::default()
        },
        ..config(&hub, serve.agents_nats)?
    };
    if config.root_key.is_none() {
        warn!(
            "there is no root key (--root-key-file), so only keys with the admin scope can manage keys and agents"
        );
    }
    let client = ApiClient::local(&url, None)?;
    until_signalled(|stop| async move {
        let notifies = async {
            while !client.is_ready().await {
                sleep(READY_LOOK).await;
            }
            sd_notify::ready();
            pending().await
        };
        tokio::select! {
            done = serve_api(config, database, listener, hangups, stop) => done,
            never = notifies => never,
        }
    })
    .await
}

/// The database, which needn't be up yet. Without one the API keeps its rows in memory.
pub fn database(url: Option<&str>) -> Result<Option<Database>, Failure> {
    let Some(url) = url else { return Ok(None) };
    let rows = PostgresRows::new(url).map_err(|error| Failure::Config(format!("--database-url: {error}")))?;
    let rows = Arc::new(rows);
    Ok(Some(Database {
        rows: rows.clone(),
        requests: rows,
    }))
}

/// The config of a replica with a unique name and the default limits.
pub fn config(hub: &HubNats, agents_nats: Option<String>) -> Result<Config, Failure> {
    Ok(Config {
        agent_auth: hub.agent_auth()?,
        agent_hub: AgentHub {
            chosen_url: agents_nats,
            own_url: hub.server().url.clone(),
            ca_pem: hub.ca_pem()?,
            joins: None,
            own_agent: None,
        },
        ..Config::new(hub.access(Role::Api)?, &replica::name())
    })
}

/// Runs the API and control until `stop`.
pub async fn serve_api(
    config: Config,
    database: Option<Database>,
    listener: TcpListener,
    hangups: Hangups,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let reloads = tls::reload_on_hangup(config.tls.clone(), hangups);
    tokio::select! {
        done = reveille_api::run(config, database, listener, stop) => Ok(done?),
        never = reloads => match never {},
    }
}
