//! `reveille projector`: fills Postgres from the journal.

use super::until_signalled;
use crate::{args::NatsUrl, failure::Failure, hub::HubNats, logging, sd_notify, signals::Hangups};
use clap::Args;
use reveille_bus::access::Role;
use reveille_projector::{ProjectorConfig, ProjectorError};
use std::{convert::Infallible, future::pending};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// `reveille projector`.
#[derive(Debug, Args)]
pub struct Projector {
    #[command(flatten)]
    pub nats: NatsUrl,
    /// The Postgres database to fill.
    #[arg(
        long,
        env = "REVEILLE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: String,
}

impl Projector {
    /// The source and the target.
    pub fn config(self) -> Result<ProjectorConfig, Failure> {
        let hub = HubNats::named(&self.nats.nats, &self.nats.hub)?;
        hub.warn_of_plaintext();
        Ok(ProjectorConfig {
            nats: hub.access(Role::Projector)?,
            database_url: self.database_url,
        })
    }
}

/// Runs the projector until a signal.
pub async fn run(args: Projector, hangups: Hangups) -> Result<(), Failure> {
    logging::start()?;
    let config = args.config()?;
    until_signalled(|stop| async move {
        tokio::select! {
            done = serve_projector(config, sd_notify::ready, stop) => done,
            never = ignore(hangups) => match never {},
        }
    })
    .await
}

/// Runs the projector until `stop`; calls `follows` once it has resumed from its checkpoint.
pub async fn serve_projector(
    config: ProjectorConfig,
    follows: impl FnOnce(),
    stop: CancellationToken,
) -> Result<(), Failure> {
    let projector = reveille_projector::Projector::new(config);
    let mut status = projector.status();
    let notifies = async {
        if status.changed().await.is_ok() {
            follows();
        }
        pending().await
    };
    let done = tokio::select! {
        done = projector.run(stop) => done,
        never = notifies => never,
    };
    done.map_err(failure)
}

/// The failure that a projector's error means for the command.
pub fn failure(error: ProjectorError) -> Failure {
    match error {
        ProjectorError::DatabaseUrl(_) => Failure::Config(format!("--database-url: {error}")),
        ProjectorError::Schema(_)
        | ProjectorError::Diverged { .. }
        | ProjectorError::Rebuilding
        | ProjectorError::Bus(_) => error.into(),
    }
}

/// Nothing that the projector has read can be read again.
async fn ignore(mut hangups: Hangups) -> Infallible {
    loop {
        hangups.next().await;
        info!("SIGHUP changes nothing: the projector reads no file that could have changed");
    }
}
