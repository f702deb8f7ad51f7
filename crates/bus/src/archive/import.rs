//! Importing: fills an empty journal with the commits of an archive, each with its sequence and bytes.
//!
//! During an import the stream is marked and publishes no facts: what happened long ago must not look like news. A
//! replica that finds the mark doesn't start, and one that has lost the journal waits until the mark is gone. Running an
//! interrupted import again continues it.

use super::{commit::ArchivedCommit, error::ArchiveError, file::ArchiveReader, live::LiveCommits};
use crate::{
    canaries::{CANARY_EVERY, Canary},
    commit::AnyCommit,
    connection::Connection,
    entry,
    error::{BusError, CommandError},
    journal::{CommitMeta, Expected, Journal},
    messages,
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

/// How far epochs are raised: more than the sessions an agent can have had since the archive was written.
pub const EPOCHS_LEFT_FREE: u64 = 1_000_000;
/// The cause in the commits that raise epochs.
const CAUSE: &str = "import";
/// How long to listen for canaries: a running replica sends several in this time.
const LISTEN: Duration = CANARY_EVERY.saturating_mul(3);
/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Whether an import raises the agents' epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epochs {
    /// Raise them: the archive may lack acknowledged commits, and with them sessions that are still running.
    Advance,
    /// Keep them: the archive holds every acknowledged commit.
    Keep,
}

/// How far an import has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// The archive's commits that are in the journal.
    pub done: u64,
    /// All commits of the archive.
    pub of: u64,
}

/// The result of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// The commits of the archive, which are all in the journal now.
    pub commits: u64,
    /// How many of them an earlier run had stored.
    pub found: u64,
    /// The number of agents whose epoch was raised.
    pub advanced: u64,
}

/// Imports the archive at `path` into the journal behind `connection`. The whole file is read first, so a damaged one
/// changes nothing.
///
/// # Errors
/// When the archive is damaged, the journal isn't empty, a replica is running that hasn't lost it, or NATS isn't available.
pub async fn import(
    connection: &Connection,
    path: &Path,
    epochs: Epochs,
    mut progress: impl FnMut(ImportProgress),
) -> Result<Imported, ArchiveError> {
    let agents = agents(path)?;
    no_replica_appends(connection).await?;
    let js = connection.jetstream();
    begin_import(&js).await?;
    let journal = Journal::new(js.clone());
    let mut stored = LiveCommits::read(&journal).await?;
    let mut archive = open(path)?;
    let of = archive.last_sequence();
    let (mut found, mut reported) = (0, Instant::now());
    while let Some(commit) = archive.next_commit()? {
        match stored.next_commit().await? {
            Some(there) if there.is_same(&commit) => found += 1,
            Some(there) => return Err(other(&there)),
            None => append(&journal, &commit).await?,
        }
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
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

/// Makes an empty journal ready for an import: marks it and stops publishing facts. A journal that is marked already
/// stays as it is.
async fn begin_import(js: &Context) -> Result<(), ArchiveError> {
    if let Ok(stream) = js.get_stream(JOURNAL_STREAM).await
        && streams::is_importing(&stream.cached_info().config)
    {
        return Ok(());
    }
    streams::ensure_streams(js).await?;
    let stream = streams::open(js, JOURNAL_STREAM).await?;
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
    let stream = streams::open(js, JOURNAL_STREAM).await?;
    let mut config = stream.cached_info().config.clone();
    config.republish = streams::journal().republish;
    config.metadata.remove(streams::IMPORTING);
    js.update_stream(config).await.map_err(BusError::unavailable)?;
    streams::ensure_streams(js).await
}

fn open(path: &Path) -> Result<ArchiveReader<BufReader<File>>, ArchiveError> {
    ArchiveReader::new(BufReader::new(File::open(path)?))
}

/// Reads the whole archive and returns the agents in it.
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

/// Fails if a replica is running whose sweeps would append to an incomplete journal. One that has lost the journal appends
/// nothing, and waits for the restored one.
async fn no_replica_appends(connection: &Connection) -> Result<(), ArchiveError> {
    let mut canaries = messages::subscribe(connection.client(), subjects::CANARIES, None).await?;
    let until = tokio::time::Instant::now() + LISTEN;
    loop {
        let canary = match tokio::time::timeout_at(until, canaries.next()).await {
            Ok(Some(canary)) => canary,
            Ok(None) => return Err(BusError::unavailable("the connection was closed").into()),
            Err(_) => return Ok(()),
        };
        let waits = serde_json::from_slice::<Canary>(&canary.payload);
        if waits.is_ok_and(|canary| canary.without_journal) {
            continue;
        }
        return Err(ArchiveError::ReplicaRuns {
            replica: match subjects::sign(&canary.subject) {
                Some(Sign::Canary(replica)) => replica.to_owned(),
                Some(Sign::Heartbeat(_)) | None => canary.subject.to_string(),
            },
        });
    }
}

/// Appends one commit and waits for its acknowledgement: a commit at the wrong sequence can't be taken back.
async fn append(journal: &Journal, commit: &ArchivedCommit) -> Result<(), ArchiveError> {
    let refused = |reason: String| ArchiveError::Refused {
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
        .map_err(|error| refused(error.to_string()))?;
    let ack = sent.await.map_err(|error| refused(error.to_string()))?;
    if ack.stream != JOURNAL_STREAM {
        return Err(refused(format!("stream {} takes its subject", ack.stream)));
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

/// Whether an interrupted import appended this commit after the archive's.
fn is_own(there: &ArchivedCommit) -> bool {
    let id = AggregateId::of_subject(&there.subject);
    let commit = id.map(|id| AnyCommit::decode(&id, &there.payload));
    matches!(commit, Some(Ok(AnyCommit::Agent(commit))) if commit.cause == CAUSE)
}

/// Raises the epoch of every agent of the archive once. Returns how many it raised.
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
    let stream = streams::open(journal.jetstream(), JOURNAL_STREAM).await?;
    Ok(entry::timestamp(stream.cached_info().state.last_timestamp))
}
