//! The NATS server of `up`: its own, or one that is already running.

use super::{nats_program, nats_server::Server};
use crate::{
    data_dir::{DataDir, HUB_KEYS},
    failure::Failure,
    hub::HubNats,
};
use reveille_bus::access::HubKeys;
use std::path::Path;

/// The NATS server.
pub enum Hub {
    /// Our own server, and the data directory locked for it.
    Ours {
        server: Server,
        version: String,
        data: DataDir,
        nats: HubNats,
    },
    /// A server that someone else runs.
    Theirs(HubNats),
}

impl Hub {
    /// The given server, or else our own, which is started.
    pub async fn ready(theirs: Option<HubNats>, data_dir: &Path) -> Result<Self, Failure> {
        if let Some(theirs) = theirs {
            return Ok(Self::Theirs(theirs));
        }
        let program = nats_program::find().await?;
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

    /// How to reach it.
    pub const fn nats(&self) -> &HubNats {
        match self {
            Self::Ours { nats, .. } | Self::Theirs(nats) => nats,
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
