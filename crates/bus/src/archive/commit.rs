//! A commit as an archive holds it.

use crate::{
    commit::{AnyCommit, CommitError, CommitHash},
    entry::JournalEntry,
    subjects::AggregateId,
};
use async_nats::HeaderMap;
use bytes::Bytes;
use reveille_domain::{Timestamp, rows::RowSource};

/// A message of the journal with everything needed to restore it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedCommit {
    /// Its position in the stream.
    pub sequence: u64,
    /// The subject, which names the aggregate.
    pub subject: String,
    /// The headers, sorted by name.
    pub headers: Vec<(String, String)>,
    /// The message's bytes.
    pub payload: Bytes,
    /// When the server stored it, where that is known. For information only: an import stores the message again.
    pub stored_at: Option<Timestamp>,
}

impl ArchivedCommit {
    /// A message whose headers come in any order.
    #[must_use]
    pub fn new(
        sequence: u64,
        subject: String,
        mut headers: Vec<(String, String)>,
        payload: Bytes,
        stored_at: Option<Timestamp>,
    ) -> Self {
        headers.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self {
            sequence,
            subject,
            headers,
            payload,
            stored_at,
        }
    }

    /// Whether both are the same message, no matter when each was stored.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.sequence == other.sequence
            && self.subject == other.subject
            && self.headers == other.headers
            && self.payload == other.payload
    }

    /// Its events as the row stores take them in. The state isn't read: it may have an older format.
    #[must_use]
    pub fn events_source(&self) -> RowSource {
        let commit = match AggregateId::of_subject(&self.subject) {
            None => Err(CommitError::Subject),
            Some(id) => AnyCommit::decode_events(&id, &self.payload).map(|commit| (id, commit)),
        };
        let entry = JournalEntry {
            sequence: self.sequence,
            subject: self.subject.clone(),
            headers: HeaderMap::new(),
            payload: self.payload.clone(),
            hash: CommitHash::of(&self.payload),
            stored_at: self.stored_at.unwrap_or_default(),
            commit,
        };
        entry.row_source()
    }

    pub(super) fn header_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            map.append(name.as_str(), value.as_str());
        }
        map
    }

    /// The hash of this commit and of all commits before it, whose hash is `before`. Every text is preceded by its
    /// length, so that no two different commits are hashed as the same bytes.
    pub(super) fn digest(&self, before: CommitHash) -> CommitHash {
        let mut bytes = before.to_string().into_bytes();
        bytes.extend(self.sequence.to_be_bytes());
        let mut add = |part: &[u8]| {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part);
        };
        add(self.subject.as_bytes());
        add(&(self.headers.len() as u64).to_be_bytes());
        for (name, value) in &self.headers {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        add(&self.payload);
        CommitHash::of(&bytes)
    }
}
