//! What is said over NATS and isn't taken, counted by the kind of subject and by why. The server's permissions stand before
//! all of it: what they refuse never comes here, and is seen in the server's log alone.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What kind of subject a message came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectKind {
    /// A request of an agent.
    Control,
    /// A sign of life.
    Heartbeats,
    /// A frame of an answer.
    Replies,
    /// A server's question about a connection.
    Connections,
}

/// Why it wasn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It isn't what belongs on its subject.
    Malformed,
    /// It has a version that this program doesn't know.
    UnknownVersion,
    /// It names another than its subject does.
    OtherName,
    /// It is of another epoch than the current one.
    OtherEpoch,
    /// It is about a provider that the session hasn't registered.
    Undeclared,
    /// It contradicts what is so.
    Invalid,
    /// It wants its answer elsewhere than in the sender's own inbox.
    ReplySubject,
    /// Its request is over, or never was.
    UnknownRequest,
    /// It was there before.
    Repeated,
    /// Whoever connects hasn't proven to hold a key.
    Unproven,
    /// No agent is known by the key.
    UnknownKey,
}

impl SubjectKind {
    const ALL: [Self; 4] = [Self::Control, Self::Heartbeats, Self::Replies, Self::Connections];

    /// `control`, `heartbeats`, …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Heartbeats => "heartbeats",
            Self::Replies => "replies",
            Self::Connections => "connections",
        }
    }
}

impl Reason {
    const ALL: [Self; 11] = [
        Self::Malformed,
        Self::UnknownVersion,
        Self::OtherName,
        Self::OtherEpoch,
        Self::Undeclared,
        Self::Invalid,
        Self::ReplySubject,
        Self::UnknownRequest,
        Self::Repeated,
        Self::Unproven,
        Self::UnknownKey,
    ];

    /// `malformed`, `unknown_version`, …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownVersion => "unknown_version",
            Self::OtherName => "other_name",
            Self::OtherEpoch => "other_epoch",
            Self::Undeclared => "undeclared",
            Self::Invalid => "invalid",
            Self::ReplySubject => "reply_subject",
            Self::UnknownRequest => "unknown_request",
            Self::Repeated => "repeated",
            Self::Unproven => "unproven",
            Self::UnknownKey => "unknown_key",
        }
    }
}

/// The counts since the process began. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    counts: Arc<[[AtomicU64; Reason::ALL.len()]; SubjectKind::ALL.len()]>,
}

impl Refusals {
    /// One more.
    pub fn count(&self, kind: SubjectKind, reason: Reason) {
        self.counts[kind as usize][reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often each has happened that has happened at all.
    pub fn all(&self) -> impl Iterator<Item = (SubjectKind, Reason, u64)> {
        let each = SubjectKind::ALL
            .into_iter()
            .flat_map(|kind| Reason::ALL.map(|reason| (kind, reason)));
        each.filter_map(|(kind, reason)| {
            let count = self.counts[kind as usize][reason as usize].load(Ordering::Relaxed);
            (count > 0).then_some((kind, reason, count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_and_reason_has_a_place_and_a_name_of_its_own() {
        let (refusals, clone) = (Refusals::default(), Refusals::default());
        assert_eq!(refusals.all().count(), 0);
        let shared = clone.clone();
        for kind in SubjectKind::ALL {
            for reason in Reason::ALL {
                shared.count(kind, reason);
            }
        }
        let all: Vec<_> = clone.all().collect();
        assert_eq!(all.len(), SubjectKind::ALL.len() * Reason::ALL.len());
        assert!(all.iter().all(|(_, _, count)| *count == 1));
        let mut names: Vec<_> = all
            .iter()
            .map(|(kind, reason, _)| (kind.name(), reason.name()))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
