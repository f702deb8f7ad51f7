//! Where `up` has its NATS: a server of its own, or one that runs already.

use super::{server::Server, server_program};
use crate::{
    data_dir::{DataDir, HUB_KEYS},
    failure::Failure,
    hub::HubNats,
};
use reveille_bus::access::HubKeys;
use std::path::Path;

/// Where NATS is.
pub enum Hub {
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
    /// The one that is named; otherwise our own, started.
    pub async fn ready(theirs: Option<HubNats>, data_dir: &Path) -> Result<Self, Failure> {
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

    /// How it is reached.
    pub const fn nats(&self) -> &HubNats {
        match self {
            Self::Ours { nats, .. } | Self::Theirs(nats) => nats,
        }
    }

    /// Ends our own.
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
