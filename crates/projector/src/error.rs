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
         To rebuild the rows from the journal that is there, run `reveille rows rebuild` and start the projector \
         again; what the rows and the archive hold now is kept in a schema of its own"
    )]
    Diverged {
        /// The commit's sequence.
        seq: u64,
    },
    /// Only one rebuild of a database's rows runs at a time.
    #[error(
        "another rebuild of these rows is running; if it was killed a moment ago, the database notices soon: try again"
    )]
    Rebuilding,
    /// NATS can't be used: the server is too old, or its streams have other settings.
    #[error(transparent)]
    Bus(BusError),
}

impl From<BusError> for ProjectorError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Diverged { seq } => Self::Diverged { seq },
            error => Self::Bus(error),
        }
    }
}
