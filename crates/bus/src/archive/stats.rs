//! What a journal consists of, in numbers.

use super::commit::ArchivedCommit;
use crate::{commit, subjects::AggregateId};
use reveille_domain::Timestamp;
use std::collections::{BTreeMap, HashSet};

/// Counts over the commits of a journal.
#[derive(Debug, Default)]
pub struct Stats {
    /// The number of commits.
    pub commits: u64,
    /// The bytes of their payloads in total.
    pub bytes: u64,
    /// When the first commit was decided.
    pub first_at: Option<Timestamp>,
    /// When the last commit was decided.
    pub last_at: Option<Timestamp>,
    /// The counts of each type of aggregate.
    pub aggregates: BTreeMap<&'static str, AggregateStats>,
    /// The number of events of each type.
    pub events: BTreeMap<String, u64>,
    /// The number of messages that aren't commits.
    pub unreadable: u64,
    seen: HashSet<String>,
}

/// Counts over one type of aggregate.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct AggregateStats {
    /// The number of aggregates.
    pub aggregates: u64,
    /// The number of their commits.
    pub commits: u64,
    /// The bytes of those commits' payloads.
    pub bytes: u64,
}

impl Stats {
    /// Counts one more commit.
    pub fn take(&mut self, commit: &ArchivedCommit) {
        let bytes = commit.payload.len() as u64;
        self.commits += 1;
        self.bytes += bytes;
        let id = AggregateId::of_subject(&commit.subject);
        let (Some(id), Some(outline)) = (id, commit::outline(&commit.payload)) else {
            self.unreadable += 1;
            return;
        };
        self.first_at = self.first_at.or(Some(outline.at));
        self.last_at = Some(outline.at);
        let of_kind = self.aggregates.entry(id.kind()).or_default();
        of_kind.commits += 1;
        of_kind.bytes += bytes;
        if !self.seen.contains(&commit.subject) {
            self.seen.insert(commit.subject.clone());
            of_kind.aggregates += 1;
        }
        for (event_type, _, _) in outline.events {
            *self.events.entry(event_type).or_default() += 1;
        }
    }
}
