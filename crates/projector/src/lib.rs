//! The projector: it writes the journal's rows and archive to Postgres, and answers the query port from there.
//!
//! One transaction moves the checkpoint by compare-and-set and writes everything that follows from a batch of commits
//! ([`Projection`]). A crash, a lost answer or a second projector therefore does no harm: a projector that finds the
//! checkpoint moved reads it again and continues from there. [`PostgresRows`] only reads. [`rebuild()`] folds the whole
//! journal into new tables and then swaps them in. [`RowsAudit`] compares all of it with the archived commits. [`reveille_domain::rows`] derives the rows; there are no rules here.

mod archive;
mod as_of;
mod audit;
mod backoff;
mod columns;
mod commits;
mod error;
mod heartbeats;
mod inspect;
mod llms;
mod migrate;
mod order;
mod projection;
mod query;
mod rebuild;
mod replay;
mod request_log;
mod requests;
mod run;
mod scratch;
mod sql;
mod wakes;

pub use as_of::world_as_of;
pub use audit::RowsAudit;
pub use commits::ArchivedCommits;
pub use error::ProjectorError;
pub use inspect::{DatabaseHealth, Tables, inspect_database};
pub use projection::{Applied, Mark, Projection, ProjectionError};
pub use query::PostgresRows;
pub use rebuild::{Rebuilding, Rebuilt, rebuild};
pub use run::{Projector, ProjectorConfig, ProjectorStatus};
