//! The NATS server of `up`: its own, or one that is already running.

use super::{
    agents_port::AgentsPort,
    nats_program,
    nats_server::{STORE, Server},
};
use crate::{
    data_dir::{DataDir, HUB_KEYS, RunningUp},
    failure::Failure,
    hub::HubNats,
};
use reveille_api::JoinAddresses;
use reveille_bus::{JournalHealth, access::HubKeys};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;
use url::Url;

/// The file that tells the next run that there is a journal.
const JOURNAL_MARK: &str = "journal-begun";
/// The folder in which a server keeps its streams, below the one in its config.
const STREAMS: &str = "jetstream";

/// The NATS server.
pub enum Hub {
    /// Our own server, and the data directory locked for it.
    Ours {
        server: Server,
        version: String,
        data: DataDir,
        nats: HubNats,
        /// Whether the folder had a journal before and the server found none of its streams.
        lost_store: bool,
        /// Where agents of other machines reach it, if it listens for them.
        joins: Option<JoinAddresses>,
        /// Keeps the certificate for them current.
        renewal: Option<AbortOnDropHandle<()>>,
    },
    /// A server that someone else runs.
    Theirs { nats: HubNats, data: DataDir },
}

impl Hub {
    /// The given server, or else our own, which is started, and restarted when `health` says that it stores nothing. Locks the data
    /// directory unless that is done.
    pub async fn ready(
        theirs: Option<HubNats>,
        data_dir: &Path,
        locked: Option<DataDir>,
        health: JournalHealth,
        agents: Option<AgentsPort>,
    ) -> Result<Self, Failure> {
        let lock = async || match locked {
            Some(data) => Ok(data),
            None => DataDir::open(data_dir).await,
        };
        if let Some(nats) = theirs {
            let data = lock().await?;
            return Ok(Self::Theirs { nats, data });
        }
        let program = nats_program::find().await?;
        let data = lock().await?;
        let keys = HubKeys::make(&data.join(HUB_KEYS))?;
        let lost_store = data.join(JOURNAL_MARK).exists() && !data.join(STORE).join(STREAMS).exists();
        let server = Server::start(&program, &data, &keys, health, agents.as_ref()).await?;
        let ca = agents.as_ref().map(AgentsPort::ca);
        Ok(Self::Ours {
            lost_store,
            nats: HubNats::ours(server.url().to_owned(), keys, ca),
            joins: agents.as_ref().map(AgentsPort::joins),
            renewal: agents.map(|agents| {
                let data = data.path().to_owned();
                AbortOnDropHandle::new(tokio::spawn(async move {
                    agents.keep_current(&data).await;
                }))
            }),
            server,
            version: program.version,
            data,
        })
    }

    /// How to reach it.
    pub const fn nats(&self) -> &HubNats {
        match self {
            Self::Ours { nats, .. } | Self::Theirs { nats, .. } => nats,
        }
    }

    /// Its address for people, without user and password, and where its journal is.
    pub fn shown(&self) -> String {
        match self {
            Self::Ours {
                server,
                version,
                data,
                ..
            } => format!(
                "{}, nats-server {version}, journal in {}",
                server.url(),
                data.path().display()
            ),
            Self::Theirs { nats, .. } => format!("{} (yours)", nats.shown()),
        }
    }

    /// Tells the commands that use this run's data directory where its API is, which authority of our own its certificate is from, and
    /// which config its agent has.
    pub fn announce(&self, api: &str, ca: Option<PathBuf>, config: Option<&Path>) -> Result<(), Failure> {
        let (data, nats) = match self {
            Self::Ours { data, .. } => (data, None),
            Self::Theirs { nats, data } => (data, Some(nats.shown())),
        };
        let api = Url::parse(api)?;
        let config = config.and_then(|file| file.canonicalize().ok());
        Ok(data.announce(&RunningUp {
            api,
            nats,
            ca,
            config,
        })?)
    }

    /// Where agents of other machines find our own server, if it listens for them.
    pub const fn joins(&self) -> Option<&JoinAddresses> {
        match self {
            Self::Ours { joins, .. } => joins.as_ref(),
            Self::Theirs { .. } => None,
        }
    }

    /// What shows that there was a journal, as a clause, if the folder of our own server's streams is gone.
    pub fn evidence(&self) -> Option<String> {
        match self {
            Self::Ours {
                lost_store: true,
                data,
                ..
            } => Some(format!("one was begun in {}", data.join(STORE).display())),
            Self::Ours { .. } | Self::Theirs { .. } => None,
        }
    }

    /// Notes that our own server has a journal now.
    pub fn mark_journal(&self) {
        let Self::Ours { data, .. } = self else { return };
        let mark = data.join(JOURNAL_MARK);
        let text = format!("A journal was begun in the folder {STORE}.\n");
        if !mark.exists()
            && let Err(error) = fs::write(&mark, text)
        {
            warn!(%error, "can't note in {} that there is a journal", mark.display());
        }
    }

    /// Stops our own server.
    pub async fn stop(self) {
        match self {
            Self::Ours {
                server,
                data,
                renewal,
                ..
            } => {
                drop(renewal);
                server.stop().await;
                drop(data);
            }
            Self::Theirs { .. } => {}
        }
    }
}
