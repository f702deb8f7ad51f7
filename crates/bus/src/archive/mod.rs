//! The journal as a file: what restores a lost JetStream byte for byte, and what shows whether a journal is intact.
//!
//! - [`ArchiveWriter`] and [`ArchiveReader`]: the file, one line per commit, in which damage is noticed and named.
//! - [`LiveCommits`]: the commits of a running NATS, first to last.
//! - [`Verifier`]: whether each commit follows from those before it. [`JournalAudit`]: whether the journal keeps every rule.
//!   [`Stats`]: what a journal consists of.
//! - [`import()`]: fills an empty journal with the commits of an archive, then raises every agent's epoch.

mod audit;
mod commit;
mod error;
mod file;
mod import;
mod live;
mod stats;
mod verify;

pub use audit::{AuditBreach, Audited, JournalAudit};
pub use commit::ArchivedCommit;
pub use error::ArchiveError;
pub use file::{ARCHIVE_VERSION, ArchiveReader, ArchiveWriter};
pub use import::{EPOCHS_LEFT_FREE, Epochs, ImportProgress, Imported, import};
pub use live::LiveCommits;
pub use stats::{AggregateStats, Stats};
pub use verify::{Breach, Fault, LastState, ParsedCommit, Verifier};
