//! Reads commits from a running journal, the archive in Postgres, or a file.

use super::connect;
use crate::{failure::Failure, hub::HubNats};
use reveille_bus::{
    Journal,
    archive::{ArchiveError, ArchiveReader, ArchivedCommit, LiveCommits},
};
use reveille_projector::ArchivedCommits;
use std::{fs::File, io::BufReader, path::Path};

/// The commits of a journal, first to last.
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Commits {
    Live(LiveCommits),
    Postgres(ArchivedCommits),
    File(ArchiveReader<BufReader<File>>),
}

impl Commits {
    pub async fn live(nats: &HubNats) -> Result<Self, Failure> {
        let connection = connect(nats).await?;
        let commits = LiveCommits::read(&Journal::new(connection.jetstream())).await?;
        Ok(Self::Live(commits))
    }

    pub async fn postgres(url: &str) -> Result<Self, Failure> {
        Ok(Self::Postgres(ArchivedCommits::read(url).await?))
    }

    pub fn file(path: &Path) -> Result<Self, ArchiveError> {
        let reader = ArchiveReader::new(BufReader::new(File::open(path)?))?;
        Ok(Self::File(reader))
    }

    pub const fn last_sequence(&self) -> u64 {
        match self {
            Self::Live(commits) => commits.last_sequence(),
            Self::Postgres(commits) => commits.last_sequence(),
            Self::File(commits) => commits.last_sequence(),
        }
    }

    pub async fn next(&mut self) -> Result<Option<ArchivedCommit>, ArchiveError> {
        match self {
            Self::Live(commits) => commits.next_commit().await,
            Self::Postgres(commits) => commits.next_commit().await,
            Self::File(commits) => commits.next_commit(),
        }
    }
}
