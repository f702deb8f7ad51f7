//! A commit as an archive holds it.

use crate::commit::CommitHash;
use async_nats::HeaderMap;
use bytes::Bytes;
use reveille_domain::Timestamp;

/// A message of the journal with everything that restores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedCommit {
    /// Its stream sequence.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers, by name.
    pub headers: Vec<(String, String)>,
    /// Its bytes.
    pub payload: Bytes,
    /// When the server stored it, where that is known. It informs; a restored message is stored anew.
    pub stored_at: Option<Timestamp>,
}

impl ArchivedCommit {
    /// A message with its headers in whatever order NATS or a table had them.
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

    /// Whether the journal would hold the same with either: everything but when it was stored.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.sequence == other.sequence
            && self.subject == other.subject
            && self.headers == other.headers
            && self.payload == other.payload
    }

    pub(super) fn header_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            map.append(name.as_str(), value.as_str());
        }
        map
    }

    /// The hash of this commit and of everything before it, whose hash is `before`. Lengths stand before texts, so that
    /// no two different commits are hashed as the same bytes.
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
