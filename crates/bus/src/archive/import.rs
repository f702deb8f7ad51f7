//! Restoring: an empty journal gets the commits of an archive, with their sequences and bytes.
//!
//! While it lasts the stream is marked, and tells no facts: what happened long ago must not look like news. A replica
//! that finds the mark doesn't start. An import that was broken off is gone on with by running it again.

use super::{commit::ArchivedCommit, error::ArchiveError, file::ArchiveReader, live::LiveCommits};
use crate::{
    commit::AnyCommit,
    connection::Connection,
    error::{BusError, CommandError},
    heartbeats::CANARY_EVERY,
    journal::{CommitMeta, Expected, Journal},
    streams::{self, JOURNAL_STREAM},
    subjects::{self, AggregateId, Sign},
};
use async_nats::jetstream::Context;
use futures::StreamExt;
use reveille_domain::{AdvanceReason, Agent, AgentCommand, Epoch, Timestamp};
use std::{
    collections::BTreeSet,
    fs::File,
    io::BufReader,
    path::Path,
    time::{Duration, Instant},
};

/// By how much epochs are raised: more sessions than an agent had since the archive was taken.
pub const EPOCHS_LEFT_FREE: u64 = 1_000_000;
/// What stands as cause in the commits that raise them.
const CAUSE: &str = "import";
/// A replica that runs is heard within this.
const LISTEN: Duration = CANARY_EVERY.saturating_mul(3);
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What becomes of the agents' epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epochs {
    /// They are raised: the archive may lack acknowledged commits, and so sessions that are still about.
    Advance,
    /// They stay: the archive holds every commit that was ever acknowledged.
    Keep,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// Commits that are in the journal.
    pub done: u64,
    /// Commits of the archive.
    pub of: u64,
}

/// What an import has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Commits of the archive, all in the journal now.
    pub commits: u64,
    /// How many of them an earlier run had left there.
    pub found: u64,
    /// Agents whose epoch was raised.
    pub advanced: u64,
}

/// Makes the journal that `connection` leads to what the archive at `path` says. The whole file is read first: one that
/// is damaged changes nothing.
///
/// # Errors
/// When the archive is damaged, the journal isn't empty, a replica runs, or NATS isn't available.
pub async fn import(
    connection: &Connection,
    path: &Path,
    epochs: Epochs,
    mut progress: impl FnMut(ImportProgress),
) -> Result<Imported, ArchiveError> {
    let agents = agents(path)?;
    no_replica_runs(connection).await?;
    let js = connection.jetstream();
    begin_import(&js).await?;
    let journal = Journal::new(js.clone());
    let mut stored = LiveCommits::read(&journal).await?;
    let mut archive = open(path)?;
    let of = archive.last_sequence();
    let (mut found, mut told) = (0, Instant::now());
    while let Some(commit) = archive.next_commit()? {
        match stored.next_commit().await? {
            Some(there) if there.is_same(&commit) => found += 1,
            Some(there) => return Err(other(&there)),
            None => append(&journal, &commit).await?,
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            progress(ImportProgress {
                done: commit.sequence,
                of,
            });
        }
    }
    while let Some(there) = stored.next_commit().await? {
        if !is_own(&there) {
            return Err(other(&there));
        }
    }
    progress(ImportProgress { done: of, of });
    let advanced = match epochs {
        Epochs::Advance => advance(&journal, &agents, of).await?,
        Epochs::Keep => 0,
    };
    end_import(&js).await?;
    Ok(Imported {
        commits: of,
        found,
        advanced,
    })
}

/// Makes an empty journal ready for an import: marks it and stops publishing facts. A journal that is marked already stays
/// as it is.
async fn begin_import(js: &Context) -> Result<(), ArchiveError> {
    if let Ok(stream) = js.get_stream(JOURNAL_STREAM).await
        && streams::is_importing(&stream.cached_info().config)
    {
        return Ok(());
    }
    streams::ensure_streams(js).await?;
    let stream = js
        .get_stream(JOURNAL_STREAM)
        .await
        .map_err(BusError::unavailable)?;
    let info = stream.cached_info();
    if info.state.last_sequence > 0 {
        let last = stream.get_raw_message(info.state.last_sequence).await;
        return Err(ArchiveError::NotEmpty {
            commits: info.state.messages,
            last: info.state.last_sequence,
            subject: last.map_or_else(|error| error.to_string(), |last| last.subject.to_string()),
        });
    }
    let mut config = info.config.clone();
    config.republish = None;
    config
        .metadata
        .insert(streams::IMPORTING.to_owned(), "true".to_owned());
    js.update_stream(config).await.map_err(BusError::unavailable)?;
    Ok(())
}

/// Turns the restored journal into an ordinary one.
async fn end_import(js: &Context) -> Result<(), BusError> {
    let stream = js
        .get_stream(JOURNAL_STREAM)
        .await
        .map_err(BusError::unavailable)?;
    let mut config = stream.cached_info().config.clone();
    config.republish = streams::journal().republish;
    config.metadata.remove(streams::IMPORTING);
    js.update_stream(config).await.map_err(BusError::unavailable)?;
    streams::ensure_streams(js).await
}

fn open(path: &Path) -> Result<ArchiveReader<BufReader<File>>, ArchiveError> {
    ArchiveReader::new(BufReader::new(File::open(path)?))
}

/// Reads the archive to its end; the agents in it.
fn agents(path: &Path) -> Result<BTreeSet<AggregateId>, ArchiveError> {
    let mut archive = open(path)?;
    let mut agents = BTreeSet::new();
    while let Some(commit) = archive.next_commit()? {
        if let Some(id @ AggregateId::Agent(_)) = AggregateId::of_subject(&commit.subject) {
            agents.insert(id);
        }
    }
    Ok(agents)
}

/// A replica would sweep: it would append to a journal that isn't whole.
async fn no_replica_runs(connection: &Connection) -> Result<(), ArchiveError> {
    let client = connection.client();
    let canaries = client.subscribe(subjects::CANARIES).await;
    let mut canaries = canaries.map_err(BusError::unavailable)?;
    match tokio::time::timeout(LISTEN, canaries.next()).await {
        Ok(Some(canary)) => Err(ArchiveError::ReplicaRuns {
            replica: match subjects::sign(&canary.subject) {
                Some(Sign::Canary(replica)) => replica.to_owned(),
                Some(Sign::Heartbeat(_)) | None => canary.subject.to_string(),
            },
        }),
        Ok(None) => Err(BusError::unavailable("the connection was closed").into()),
        Err(_) => Ok(()),
    }
}

/// One after the other: what is stored in the wrong place can't be taken back.
async fn append(journal: &Journal, commit: &ArchivedCommit) -> Result<(), ArchiveError> {
    let not_taken = |reason: String| ArchiveError::NotTaken {
        sequence: commit.sequence,
        subject: commit.subject.clone(),
        reason,
    };
    let sent = journal
        .jetstream()
        .publish_with_headers(
            commit.subject.clone(),
            commit.header_map(),
            commit.payload.clone(),
        )
        .await
        .map_err(|error| not_taken(error.to_string()))?;
    let ack = sent.await.map_err(|error| not_taken(error.to_string()))?;
    if ack.stream != JOURNAL_STREAM {
        return Err(not_taken(format!("stream {} keeps its subject", ack.stream)));
    }
    if ack.duplicate || ack.sequence != commit.sequence {
        return Err(ArchiveError::Misplaced {
            expected: commit.sequence,
            found: ack.sequence,
        });
    }
    Ok(())
}

fn other(there: &ArchivedCommit) -> ArchiveError {
    ArchiveError::OtherImport {
        sequence: there.sequence,
        subject: there.subject.clone(),
    }
}

/// Whether an import that was broken off has left this commit behind the archive's.
fn is_own(there: &ArchivedCommit) -> bool {
    let id = AggregateId::of_subject(&there.subject);
    let commit = id.map(|id| AnyCommit::decode(&id, &there.payload));
    matches!(commit, Some(Ok(AnyCommit::Agent(commit))) if commit.cause == CAUSE)
}

/// Raises the epoch of every agent of the archive, once; how many it was.
async fn advance(journal: &Journal, agents: &BTreeSet<AggregateId>, last: u64) -> Result<u64, ArchiveError> {
    let mut advanced = 0;
    for id in agents {
        let agent = journal.load::<Agent>(id).await?;
        if matches!(agent.expected(), Expected::After(sequence) if sequence > last) {
            continue;
        }
        let at = nats_time(journal).await?;
        let command = AgentCommand::Advance {
            to: Epoch(agent.state().epoch().0.saturating_add(EPOCHS_LEFT_FREE)),
            reason: AdvanceReason::JournalRestored,
            at,
        };
        let done = journal
            .execute::<Agent>(id, command, &CommitMeta::new(CAUSE, at))
            .await;
        match done {
            Ok(done) => advanced += u64::from(!done.events.is_empty()),
            Err(CommandError::Bus(error)) => return Err(error.into()),
            Err(CommandError::Rejected(rejection)) => {
                return Err(BusError::Unreadable {
                    aggregate: id.to_string(),
                    reason: rejection.to_string(),
                }
                .into());
            }
        }
    }
    Ok(advanced)
}

/// When the server stored the journal's last message.
async fn nats_time(journal: &Journal) -> Result<Timestamp, BusError> {
    let stream = journal.jetstream().get_stream(JOURNAL_STREAM).await;
    let stream = stream.map_err(BusError::unavailable)?;
    let millis = stream.cached_info().state.last_timestamp.unix_timestamp_nanos() / 1_000_000;
    Ok(Timestamp::from_millis(u64::try_from(millis).unwrap_or(0)))
}
