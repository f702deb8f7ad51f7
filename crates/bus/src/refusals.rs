//! What is said over NATS and isn't taken, counted by the kind of subject and by why. The server's permissions stand before
//! all of it: what they refuse never comes here, and is seen in the server's log alone.

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::{
    array, fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How often a second the log tells of the same kind and reason: whoever is refused decides how often he asks.
const TOLD_PER_SECOND: NonZeroU32 = NonZeroU32::MIN;

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
#[derive(Clone)]
pub struct Refusals {
    counts: Arc<[[Counted; Reason::ALL.len()]; SubjectKind::ALL.len()]>,
}

struct Counted {
    count: AtomicU64,
    told: DefaultDirectRateLimiter,
}

impl Default for Refusals {
    fn default() -> Self {
        let counted = || Counted {
            count: AtomicU64::new(0),
            told: RateLimiter::direct(Quota::per_second(TOLD_PER_SECOND)),
        };
        Self {
            counts: Arc::new(array::from_fn(|_| array::from_fn(|_| counted()))),
        }
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl Refusals {
    /// One more. How many that makes, if the log is to tell of it now.
    pub fn count(&self, kind: SubjectKind, reason: Reason) -> Option<u64> {
        let counted = &self.counts[kind as usize][reason as usize];
        let count = counted.count.fetch_add(1, Ordering::Relaxed) + 1;
        counted.told.check().is_ok().then_some(count)
    }

    /// How often each has happened that has happened at all.
    pub fn all(&self) -> impl Iterator<Item = (SubjectKind, Reason, u64)> {
        let each = SubjectKind::ALL
            .into_iter()
            .flat_map(|kind| Reason::ALL.map(|reason| (kind, reason)));
        each.filter_map(|(kind, reason)| {
            let count = self.counts[kind as usize][reason as usize]
                .count
                .load(Ordering::Relaxed);
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
                assert_eq!(shared.count(kind, reason), Some(1), "the log tells of the first");
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

    #[test]
    fn the_log_is_told_of_a_flood_now_and_then_only() {
        let refusals = Refusals::default();
        let flood = || refusals.count(SubjectKind::Control, Reason::Malformed);
        let told = (0..10_000).filter_map(|_| flood()).count();
        assert!((1..100).contains(&told), "told {told} times");
        assert_eq!(refusals.all().map(|(_, _, count)| count).sum::<u64>(), 10_000);
        let other = refusals.count(SubjectKind::Control, Reason::OtherName);
        assert_eq!(other, Some(1), "one flood hides no other reason");
    }
}
