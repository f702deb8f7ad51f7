//! Why an archive can't be written, read or restored; each text names the place.

use super::verify::Breach;
use crate::error::BusError;
use thiserror::Error;

/// What can go wrong with an archive.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The file can't be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file is something else.
    #[error("the file is no archive of a journal: {0}")]
    NotAnArchive(String),
    /// Written by a newer Reveille.
    #[error("the archive was written by a newer version (format {found}, this one reads up to {known})")]
    Newer {
        /// What the file says.
        found: u32,
        /// The newest that is read.
        known: u32,
    },
    /// A line isn't what was written.
    #[error("line {line} of the archive was changed: {reason}")]
    Damaged {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The end is missing.
    #[error(
        "the archive is cut off: it ends behind commit {last}, and should hold the commits up to {expected}"
    )]
    Truncated {
        /// The last commit that is whole; 0 when none is.
        last: u64,
        /// The last that it should hold.
        expected: u64,
    },
    /// The commits don't follow from each other.
    #[error(transparent)]
    Breach(#[from] Breach),
    /// The archive in Postgres can't be read.
    #[error("the archive in Postgres can't be read: {0}")]
    Postgres(String),
    /// There is no journal to read.
    #[error("this NATS server has no journal")]
    NoJournal,
    /// There is a journal where the import should go.
    #[error(
        "the journal isn't empty: it holds {commits} commits, the last one {last} of {subject}. An import goes into an \
         empty one only; nothing was changed"
    )]
    NotEmpty {
        /// How many.
        commits: u64,
        /// The last sequence.
        last: u64,
        /// Its subject.
        subject: String,
    },
    /// A replica would append to the journal and fold half of it.
    #[error("the API replica {replica} runs on this NATS server: stop all replicas, then import")]
    ReplicaRuns {
        /// What it calls itself.
        replica: String,
    },
    /// What an interrupted import left isn't the beginning of this archive.
    #[error(
        "an import was begun here, of something else or with somebody else writing: commit {sequence} ({subject}) isn't \
         the archive's. Delete the stream and import again"
    )]
    OtherImport {
        /// The first that differs.
        sequence: u64,
        /// Its subject in the journal.
        subject: String,
    },
    /// The server put a commit elsewhere.
    #[error(
        "commit {expected} was stored as {found}: somebody else writes into this journal. Delete the stream and import \
         again"
    )]
    Misplaced {
        /// Its sequence in the archive.
        expected: u64,
        /// Its sequence in the journal.
        found: u64,
    },
    /// The server didn't take a commit.
    #[error("commit {sequence} ({subject}) was not taken: {reason}. Import again to go on from there")]
    NotTaken {
        /// Its sequence.
        sequence: u64,
        /// Its subject.
        subject: String,
        /// What the server said.
        reason: String,
    },
    /// The bus broke.
    #[error(transparent)]
    Bus(#[from] BusError),
}
