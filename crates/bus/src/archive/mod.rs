//! The journal as a file, and back: what restores a lost JetStream byte for byte, and what tells that a journal is sound.
//!
//! - [`ArchiveWriter`] and [`ArchiveReader`]: the file, a line a commit, in which damage is noticed and named.
//! - [`LiveCommits`]: the commits of a running NATS, first to last.
//! - [`Verifier`]: whether commits follow from each other. [`Stats`]: what they are.
//! - [`import()`]: an empty journal made equal to an archive, and every agent's epoch raised behind it.

mod commit;
mod error;
mod file;
mod import;
mod live;
mod stats;
mod verify;

pub use commit::ArchivedCommit;
pub use error::ArchiveError;
pub use file::{ARCHIVE_VERSION, ArchiveReader, ArchiveWriter};
pub use import::{EPOCHS_LEFT_FREE, Epochs, ImportProgress, Imported, import};
pub use live::LiveCommits;
pub use stats::{AggregateStats, Stats};
pub use verify::{Breach, Fault, Verifier};
