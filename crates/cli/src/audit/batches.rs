//! The commits of a journal in batches, which are parsed on other threads while the commits before them are checked.

use crate::journal::Commits;
use reveille_bus::archive::{ArchiveError, ArchivedCommit, ParsedCommit};
use std::collections::VecDeque;
use tokio::task::JoinHandle;

/// How many commits are parsed at once.
const BATCH_COMMITS: usize = 256;
/// How many batches are parsed ahead of the one that is checked: enough for two more threads.
const BATCHES_AHEAD: usize = 4;

/// Consecutive commits.
pub struct Batch {
    pub parsed: Vec<ParsedCommit>,
    /// The same ones as they were read, if they are needed.
    pub kept: Vec<ArchivedCommit>,
}

/// Reads ahead, no further than a few batches.
pub struct Batches {
    commits: Commits,
    /// Whether the commits are needed as they were read, too.
    keep: bool,
    parsing: VecDeque<JoinHandle<Batch>>,
    /// How reading ended, once it has.
    ended: Option<Result<(), ArchiveError>>,
}

impl Batches {
    pub fn new(commits: Commits, keep: bool) -> Self {
        Self {
            commits,
            keep,
            parsing: VecDeque::new(),
            ended: None,
        }
    }

    /// The next batch; `None` after the last one. What comes before an error is handed over first.
    pub async fn next(&mut self) -> Result<Option<Batch>, ArchiveError> {
        while self.ended.is_none() && self.parsing.len() < BATCHES_AHEAD {
            let batch = self.read().await;
            let keep = self.keep;
            self.parsing.push_back(tokio::task::spawn_blocking(move || {
                let kept = if keep { batch.clone() } else { vec![] };
                let parsed = batch.into_iter().map(ParsedCommit::from).collect();
                Batch { parsed, kept }
            }));
        }
        match (self.parsing.pop_front(), self.ended.take()) {
            (Some(batch), ended) => {
                self.ended = ended;
                Ok(Some(batch.await.map_err(std::io::Error::other)?))
            }
            (None, Some(Err(error))) => {
                self.ended = Some(Ok(()));
                Err(error)
            }
            (None, ended) => {
                self.ended = ended;
                Ok(None)
            }
        }
    }

    async fn read(&mut self) -> Vec<ArchivedCommit> {
        let mut batch = Vec::with_capacity(BATCH_COMMITS);
        while batch.len() < BATCH_COMMITS {
            match self.commits.next().await {
                Ok(Some(commit)) => batch.push(commit),
                Ok(None) => {
                    self.ended = Some(Ok(()));
                    break;
                }
                Err(error) => {
                    self.ended = Some(Err(error));
                    break;
                }
            }
        }
        batch
    }
}
