//! Whether anybody still wants a wake, by what the replicas of control say.
//!
//! A replica knows only its own callers. So the agent keeps the last word of each, and a wake is wanted as long as one says so. While
//! the agent can't hear them, their last words count.

use reveille_bus::wakes::WakeMessage;
use reveille_domain::WakeId;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// How long a replica's word counts. Its sweeps repeat it every second; when a replica ends, its callers' connections end too.
const WORD_COUNTS_FOR: Duration = Duration::from_secs(10);
/// How long a wake outlasts the last caller that wanted it. Clients that time out ask again after half a second or a second, and
/// keep their place in the queue.
const GRACE: Duration = Duration::from_millis(1_500);

/// The wake in flight, and until when each replica wants it.
#[derive(Debug, Default)]
pub(super) struct Demand {
    wake: Option<WakeId>,
    words: BTreeMap<String, Word>,
}

/// What a replica has said last.
#[derive(Debug, Clone, Copy)]
struct Word {
    wanted: bool,
    /// How long that counts.
    until: Instant,
}

impl Demand {
    /// Takes a replica's word.
    pub(super) fn hear(&mut self, message: &WakeMessage, now: Instant) {
        if self.wake != Some(message.wake_id) {
            *self = Self {
                wake: Some(message.wake_id),
                words: BTreeMap::new(),
            };
        }
        let counts_for = if message.wanted { WORD_COUNTS_FOR } else { GRACE };
        let wanted = message.wanted;
        let mut until = now + counts_for;
        let is_first = self.words.is_empty();
        match self.words.get_mut(&message.replica) {
            Some(word) => {
                if !wanted {
                    // Saying it again doesn't prolong anything.
                    until = until.min(word.until);
                }
                *word = Word { wanted, until };
            }
            None if wanted || is_first => {
                // Replicas that have ended are forgotten.
                self.words.retain(|_, word| word.until > now);
                self.words.insert(message.replica.clone(), Word { wanted, until });
            }
            None => {}
        }
    }

    /// Nothing could be heard until now, so what replicas have said before counts from now on. Returns whether any of them wants
    /// the wake.
    pub(super) fn outlast(&mut self, now: Instant) -> bool {
        let mut is_wanted = false;
        for word in self.words.values_mut().filter(|word| word.wanted) {
            word.until = now + WORD_COUNTS_FOR;
            is_wanted = true;
        }
        is_wanted
    }

    /// When nobody wants `wake` any longer, unless a replica says otherwise before.
    pub(super) fn end_of(&self, wake: WakeId) -> Option<Instant> {
        let known = self.wake == Some(wake);
        let ends = self.words.values().map(|word| word.until);
        ends.max().filter(|_| known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_domain::{Epoch, Timestamp};
    use uuid::Uuid;

    fn says(replica: &str, wanted: bool, wake_id: WakeId) -> WakeMessage {
        WakeMessage {
            provider: "box/p".parse().expect("legal"),
            wake_id,
            epoch: Epoch(1),
            sequence: 1,
            deadline_ms: Timestamp::from_millis(1),
            now_ms: Timestamp::from_millis(0),
            awaited: true,
            wanted,
            replica: replica.to_owned(),
        }
    }

    #[test]
    fn a_wake_is_wanted_until_the_last_replica_takes_its_word_back_and_a_moment_longer() {
        let (wake, now) = (WakeId(Uuid::now_v7()), Instant::now());
        let mut demand = Demand::default();
        assert_eq!(demand.end_of(wake), None, "nothing is known of it");
        demand.hear(&says("a", true, wake), now);
        demand.hear(&says("b", true, wake), now);
        demand.hear(&says("a", false, wake), now);
        assert_eq!(
            demand.end_of(wake),
            Some(now + WORD_COUNTS_FOR),
            "b's word counts"
        );
        let later = now + Duration::from_secs(2);
        for again in 0..3 {
            demand.hear(
                &says("b", false, wake),
                later + Duration::from_millis(again * 300),
            );
            assert_eq!(demand.end_of(wake), Some(later + GRACE), "{again}");
        }
        demand.hear(&says("c", false, wake), later);
        assert_eq!(demand.end_of(wake), Some(later + GRACE), "c has never wanted it");
        demand.hear(&says("c", true, wake), later);
        assert_eq!(demand.end_of(wake), Some(later + WORD_COUNTS_FOR));
    }

    #[test]
    fn a_wake_that_nobody_wants_from_the_first_is_given_a_moment_and_each_wake_its_own() {
        let (wake, next, now) = (WakeId(Uuid::now_v7()), WakeId(Uuid::now_v7()), Instant::now());
        let mut demand = Demand::default();
        demand.hear(&says("a", false, wake), now);
        assert_eq!(demand.end_of(wake), Some(now + GRACE));
        demand.hear(&says("a", true, next), now);
        assert_eq!(
            (demand.end_of(wake), demand.end_of(next)),
            (None, Some(now + WORD_COUNTS_FOR))
        );
    }

    #[test]
    fn what_replicas_have_said_outlasts_a_time_when_nothing_could_be_heard() {
        let (wake, now) = (WakeId(Uuid::now_v7()), Instant::now());
        let mut demand = Demand::default();
        demand.hear(&says("a", true, wake), now);
        demand.hear(&says("b", true, wake), now);
        demand.hear(&says("b", false, wake), now);
        let later = now + Duration::from_secs(60);
        assert!(demand.outlast(later));
        assert_eq!(demand.end_of(wake), Some(later + WORD_COUNTS_FOR));
        demand.hear(&says("a", false, wake), later);
        assert!(!demand.outlast(later + Duration::from_secs(60)));
        assert_eq!(demand.end_of(wake), Some(later + GRACE), "no longer wanted");
    }

    #[test]
    fn replicas_that_have_ended_are_forgotten() {
        let (wake, mut now) = (WakeId(Uuid::now_v7()), Instant::now());
        let mut demand = Demand::default();
        for replica in 0..1_000 {
            demand.hear(&says(&replica.to_string(), true, wake), now);
            now += WORD_COUNTS_FOR;
        }
        assert_eq!(demand.words.len(), 1);
    }
}
