//! Why the projector stops. It waits out outages, so they are not among these.

use reveille_bus::BusError;
use thiserror::Error;

/// Why the projector can't continue.
#[derive(Debug, Error)]
pub enum ProjectorError {
    /// The database URL is malformed. The text never contains it.
    #[error("the database URL is invalid: {0}")]
    DatabaseUrl(String),
    /// The database's tables belong to another program or to a newer Reveille.
    #[error("the database's schema can't be used: {0}")]
    Schema(String),
    /// The rows come from another journal.
    #[error(
        "the journal no longer holds commit {seq} that the rows contain: it was restored, truncated or replaced. \
         To rebuild the rows from the current journal, run `reveille rows rebuild` and restart the projector; \
         the present rows and archive are kept in a separate schema"
    )]
    Diverged {
        /// The commit's sequence.
        seq: u64,
    },
    /// Only one rebuild can run at a time.
    #[error("another rebuild of these rows is running; if it was just killed, try again in a few seconds")]
    Rebuilding,
    /// NATS can't be used: the server is too old, or its streams have the wrong settings.
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
