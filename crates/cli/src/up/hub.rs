//! The NATS server of `up`: its own, or one that is already running.

use super::{
    nats_program,
    nats_server::{STORE, Server},
};
use crate::{
    data_dir::{DataDir, HUB_KEYS},
    failure::Failure,
    hub::HubNats,
};
use reveille_bus::{JournalHealth, access::HubKeys};
use std::{fs, path::Path};
use tracing::warn;

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
    },
    /// A server that someone else runs.
    Theirs(HubNats),
}

impl Hub {
    /// The given server, or else our own, which is started, and restarted when `health` says that it stores nothing.
    pub async fn ready(
        theirs: Option<HubNats>,
        data_dir: &Path,
        health: JournalHealth,
    ) -> Result<Self, Failure> {
        if let Some(theirs) = theirs {
            return Ok(Self::Theirs(theirs));
        }
        let program = nats_program::find().await?;
        let data = DataDir::open(data_dir).await?;
        let keys = HubKeys::make(&data.join(HUB_KEYS))?;
        let lost_store = data.join(JOURNAL_MARK).exists() && !data.join(STORE).join(STREAMS).exists();
        let server = Server::start(&program, &data, &keys, health).await?;
        Ok(Self::Ours {
            lost_store,
            nats: HubNats::ours(server.url(), keys),
            server,
            version: program.version,
            data,
        })
    }

    /// How to reach it.
    pub const fn nats(&self) -> &HubNats {
        match self {
            Self::Ours { nats, .. } | Self::Theirs(nats) => nats,
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
            Self::Ours { .. } | Self::Theirs(_) => None,
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
            Self::Ours { server, data, .. } => {
                server.stop().await;
                drop(data);
            }
            Self::Theirs(_) => {}
        }
    }
}
