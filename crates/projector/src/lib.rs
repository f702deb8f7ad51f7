//! The projector: the journal taken into Postgres, and the query port answered from there.
//!
//! A transaction moves the checkpoint by compare-and-set and writes the rows and the archive that follow from the
//! commits ([`Projection`]). So a crash anywhere, an outcome that was never learned, or a second projector changes
//! nothing: whoever finds the checkpoint moved reads it again and goes on from there. [`PostgresRows`] only reads.
//! [`rebuild()`] folds the journal anew beside the rows and then puts the new tables in their place.
//! What rows are is decided in [`reveille_domain::rows`]; nothing here knows a rule.

mod archive;
mod backoff;
mod columns;
mod commits;
mod error;
mod heartbeats;
mod llms;
mod order;
mod projection;
mod rebuild;
mod rows;
mod run;
mod scratch;
mod wakes;

pub use commits::ArchivedCommits;
pub use error::ProjectorError;
pub use projection::{Applied, Mark, Projection, ProjectionError};
pub use rebuild::{Rebuilding, Rebuilt, rebuild};
pub use rows::PostgresRows;
pub use run::{Projector, ProjectorConfig, ProjectorStatus, run};
