//! Why the projector ends. Outages are none of these: it waits them out.

use reveille_bus::BusError;
use thiserror::Error;

/// Why the projector can't go on.
#[derive(Debug, Error)]
pub enum ProjectorError {
    /// The database's URL isn't one. The text never holds the URL.
    #[error("the database URL can't be used: {0}")]
    DatabaseUrl(String),
    /// The database's tables are not ours, or a newer Reveille's.
    #[error("the database's schema can't be used: {0}")]
    Schema(String),
    /// The journal is not the one that the rows come from.
    #[error(
        "the journal no longer holds commit {seq} as the rows took it in: it was restored, truncated or replaced. \
         To rebuild the rows from the journal that is there, give the projector an empty database \
         (DROP SCHEMA public CASCADE; CREATE SCHEMA public;) and start it again"
    )]
    Diverged {
        /// The commit's sequence.
        seq: u64,
    },
    /// NATS can't be used: the server is too old, or its streams have other settings.
    #[error(transparent)]
    Bus(BusError),
}
