//! Why an archive can't be written, read or imported. Each text names the place.

use super::verify::Breach;
use crate::error::BusError;
use reveille_domain::counted;
use thiserror::Error;

/// What can go wrong with an archive.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The file can't be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file is no archive.
    #[error("the file is not an archive of a journal: {0}")]
    NotAnArchive(String),
    /// A newer Reveille wrote the archive.
    #[error("the archive was written by a newer version (format {found}, this one reads up to {known})")]
    Newer {
        /// The format of the file.
        found: u32,
        /// The newest format that is read.
        known: u32,
    },
    /// A line was changed after it was written.
    #[error("line {line} of the archive was changed: {reason}")]
    Damaged {
        /// The line's number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The end of the file is missing.
    #[error(
        "the archive is cut off: it ends after commit {last} and should hold the commits up to {expected}"
    )]
    Truncated {
        /// The last complete commit; 0 when there is none.
        last: u64,
        /// The last commit that it should hold.
        expected: u64,
    },
    /// A commit doesn't follow from those before it.
    #[error(transparent)]
    Breach(#[from] Breach),
    /// The archive in Postgres can't be read.
    #[error("the archive in Postgres can't be read: {0}")]
    Postgres(String),
    /// The server has no journal to read.
    #[error("this NATS server has no journal")]
    NoJournal,
    /// The server has a journal already.
    #[error(
        "the journal isn't empty: it holds {}, up to commit {last} of {subject}. An import needs an empty journal; nothing \
         was changed",
        counted(*commits, "commit")
    )]
    NotEmpty {
        /// How many commits it holds.
        commits: u64,
        /// The sequence of the last one.
        last: u64,
        /// The subject of the last one.
        subject: String,
    },
    /// A replica is running that hasn't lost the journal, and would fold and append to an incomplete one.
    #[error("the API replica {replica} is running on this NATS server: stop all replicas, then import")]
    ReplicaRuns {
        /// The replica's name.
        replica: String,
    },
    /// An interrupted import left commits that aren't the beginning of this archive.
    #[error(
        "an earlier import was of another archive, or something else has written here: commit {sequence} ({subject}) \
         differs from the archive. Delete the stream and import again"
    )]
    OtherImport {
        /// The first commit that differs.
        sequence: u64,
        /// The subject of that commit in the journal.
        subject: String,
    },
    /// The server stored a commit at another sequence.
    #[error(
        "commit {expected} was stored as {found}: something else writes to this journal. Delete the stream and import \
         again"
    )]
    Misplaced {
        /// The commit's sequence in the archive.
        expected: u64,
        /// The commit's sequence in the journal.
        found: u64,
    },
    /// The server refused a commit.
    #[error(
        "the server refused commit {sequence} ({subject}): {reason}. Import again to continue from there"
    )]
    Refused {
        /// The commit's sequence.
        sequence: u64,
        /// The commit's subject.
        subject: String,
        /// The server's answer.
        reason: String,
    },
    /// NATS failed.
    #[error(transparent)]
    Bus(#[from] BusError),
}
