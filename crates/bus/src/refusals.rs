//! Counts of the messages that Reveille refuses, by the kind of subject and the reason. What the server's permissions
//! refuse never arrives here and appears only in the server's log.

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::{
    array, fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use strum::{EnumCount, IntoStaticStr, VariantArray};

/// How often per second the log repeats the same kind and reason: the sender decides how often it is refused.
const LOGGED_PER_SECOND: NonZeroU32 = NonZeroU32::MIN;

/// The kind of subject on which a message arrived, named in metrics `control`, `heartbeats`, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum SubjectKind {
    /// An agent's request to control.
    Control,
    /// A heartbeat or a canary.
    Heartbeats,
    /// A frame of a relayed response.
    Replies,
    /// A server's request to authorize a connection.
    Connections,
}

/// Why a message was refused, named in metrics `malformed`, `unknown_version`, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// The payload is not what its subject calls for.
    Malformed,
    /// The message has a version that this program doesn't know.
    UnknownVersion,
    /// The payload and the subject name different parties.
    OtherName,
    /// The message belongs to another epoch than the current one.
    OtherEpoch,
    /// The session hasn't registered the provider that it names.
    Undeclared,
    /// The request contradicts the current state.
    Invalid,
    /// The reply subject is not in the sender's inbox.
    ReplySubject,
    /// The frame's request has ended, or never existed.
    UnknownRequest,
    /// The message arrived before.
    Repeated,
    /// The connecting party hasn't proven that it holds a key.
    Unproven,
    /// The key belongs to no agent.
    UnknownKey,
    /// The token was used or revoked, has expired, or never existed.
    Token,
}

/// The counts since the process started. Clones share them.
#[derive(Clone)]
pub struct Refusals {
    counts: Arc<[[Counter; Reason::COUNT]; SubjectKind::COUNT]>,
}

struct Counter {
    count: AtomicU64,
    log_limit: DefaultDirectRateLimiter,
}

impl Default for Refusals {
    fn default() -> Self {
        let counter = || Counter {
            count: AtomicU64::new(0),
            log_limit: RateLimiter::direct(Quota::per_second(LOGGED_PER_SECOND)),
        };
        Self {
            counts: Arc::new(array::from_fn(|_| array::from_fn(|_| counter()))),
        }
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl Refusals {
    /// Counts one message. Returns the count so far if the log should mention it now.
    pub fn count(&self, kind: SubjectKind, reason: Reason) -> Option<u64> {
        let counter = &self.counts[kind as usize][reason as usize];
        let count = counter.count.fetch_add(1, Ordering::Relaxed) + 1;
        counter.log_limit.check().is_ok().then_some(count)
    }

    /// Every count above zero.
    pub fn all(&self) -> impl Iterator<Item = (SubjectKind, Reason, u64)> {
        let reasons = |kind| Reason::VARIANTS.iter().map(move |reason| (kind, *reason));
        let each = SubjectKind::VARIANTS.iter().copied().flat_map(reasons);
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
        for kind in SubjectKind::VARIANTS {
            for reason in Reason::VARIANTS {
                assert_eq!(
                    shared.count(*kind, *reason),
                    Some(1),
                    "the log tells of the first"
                );
            }
        }
        let all: Vec<_> = clone.all().collect();
        assert_eq!(all.len(), SubjectKind::COUNT * Reason::COUNT);
        assert!(all.iter().all(|(_, _, count)| *count == 1));
        let mut names: Vec<_> = all
            .iter()
            .map(|(kind, reason, _)| (<&str>::from(*kind), <&str>::from(*reason)))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn a_flood_is_logged_now_and_then_only() {
        let refusals = Refusals::default();
        let flood = || refusals.count(SubjectKind::Control, Reason::Malformed);
        let told = (0..10_000).filter_map(|_| flood()).count();
        assert!((1..100).contains(&told), "told {told} times");
        assert_eq!(refusals.all().map(|(_, _, count)| count).sum::<u64>(), 10_000);
        let other = refusals.count(SubjectKind::Control, Reason::OtherName);
        assert_eq!(other, Some(1), "one flood hides no other reason");
    }
}
