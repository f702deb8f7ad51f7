//! What a request's search for a slot does next. Pure: [`super::slot`] gathers what it knows, and carries it out.

use super::{WakeMode, choice::Tier};
use reveille_domain::ProviderId;

/// A member of the request's pool, as its search knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub provider: ProviderId,
    pub tier: Tier,
    pub queue: InQueue,
    /// Whether the request may wake it: no wake of it has failed for the request, which has time for one.
    pub can_wake: bool,
}

/// Whether the request waits in a member's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InQueue {
    No,
    Yes,
    /// The queue has no room for it.
    Full,
}

/// The next step of a search that has no slot yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Join the queue of this member, which may have a free slot.
    Join(ProviderId),
    /// Join the queue of this member, and wake it.
    Wake(ProviderId),
    /// Answer that this member sleeps, as the caller's wake mode says.
    Answer(ProviderId),
    /// Wait until a queue has a slot, a wake ends, or a member changes.
    Wait,
    /// No member is left.
    End,
}

impl Found {
    fn can_join(&self) -> bool {
        self.queue == InQueue::No
    }

    fn can_wake(&self) -> bool {
        self.can_wake && self.queue != InQueue::Full
    }

    /// Whether a slot may come here without a wake.
    fn is_waited_for(&self) -> bool {
        self.queue == InQueue::Yes && self.tier.is_awake()
    }
}

/// Decides by the members in reach that haven't been tried, the best first. `is_waking`: the request waits for a wake already.
///
/// 1. It joins the queues of all that are awake and work, and of one that is due for a trial if no other is better: a free slot is
///    taken at once.
/// 2. None had one, so the best of those that sleep or wake already is woken, one at a time; but none whose wake may fail, or ends another
///    member.
/// 3. If none is left to wake, it waits where it has joined.
/// 4. If it hasn't joined any that is awake, it goes to the best that is left: one whose wake may fail or ends another, one that
///    fails, one that is down.
/// 5. If none is left, it ends.
///
/// A caller that doesn't wait for wakes is answered where another one would begin to wait for a wake.
pub(super) fn next_step(members: &[Found], is_waking: bool, mode: WakeMode) -> Step {
    let works = |member: &&Found| matches!(member.tier, Tier::Awake | Tier::Doubted | Tier::Full);
    let is_trial = |member: &&Found| member.tier == Tier::Trial;
    let trial = members.first().filter(is_trial);
    let mut first = trial.into_iter().chain(members.iter().filter(works));
    if let Some(member) = first.find(|member| member.can_join()) {
        return Step::Join(member.provider.clone());
    }
    let wake = |member: &Found| match mode {
        WakeMode::Block => Step::Wake(member.provider.clone()),
        WakeMode::Async | WakeMode::Never => Step::Answer(member.provider.clone()),
    };
    if is_waking {
        return Step::Wait;
    }
    let mut sleeping = members
        .iter()
        .filter(|member| matches!(member.tier, Tier::Waking | Tier::Asleep));
    if let Some(member) = sleeping.find(|member| member.can_wake()) {
        return wake(member);
    }
    if members.iter().any(Found::is_waited_for) {
        return Step::Wait;
    }
    let left = members.iter().find_map(|member| match member.tier {
        Tier::Reluctant { .. } if member.can_wake() => Some(wake(member)),
        Tier::Trial | Tier::Suspect | Tier::Down if member.can_join() => {
            Some(Step::Join(member.provider.clone()))
        }
        Tier::Reluctant { .. }
        | Tier::Trial
        | Tier::Suspect
        | Tier::Down
        | Tier::Awake
        | Tier::Doubted
        | Tier::Full
        | Tier::Waking
        | Tier::Asleep
        | Tier::Inactive => None,
    });
    left.unwrap_or(Step::End)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row has the members, best first, and the step. Of a member: its name, its tier, and in brackets what else is known:
    /// `queued`, `full` if its queue is, `failed` if its wake has. `waking` stands alone for a wake that is waited for.
    const TABLE: &str = "
        a awake                                      -> join a
        a awake (queued) | b awake                   -> join b
        a awake (queued) | b doubted                 -> join b
        a awake (queued) | b full                    -> join b
        a awake (queued) | b full (queued)           -> wait
        a trial | b awake                            -> join a
        a trial (queued) | b awake                   -> join b
        a awake (queued) | b trial                   -> wait
        a trial                                      -> join a
        a asleep | b full                            -> join b
        a asleep | b full (queued)                   -> wake a
        a asleep | b full (full)                     -> wake a
        a waking | b asleep | c full (queued)        -> wake a
        a waking | b asleep | c full (queued) | waking -> wait
        a asleep | b asleep | waking                 -> wait
        a asleep | b full | waking                   -> join b
        a asleep (failed) | b asleep | c full (queued) -> wake b
        a asleep (failed) | b full (queued)          -> wait
        a asleep (full) | b full (queued)            -> wait
        a asleep (queued, failed)                    -> end
        a asleep (queued)                            -> wake a
        a full (queued) | b reluctant                -> wait
        b reluctant                                  -> wake b
        b reluctant (failed)                         -> end
        b reluctant (failed) | c suspect | d down    -> join c
        b reluctant | c suspect (queued)             -> wait
        a suspect                                    -> join a
        a asleep | b suspect (queued)                -> wake a
        a suspect (queued) | b down                  -> wait
        a down | b inactive                          -> join a
        a awake (full) | b full (full)               -> end
        a full (queued) | b inactive                 -> wait
        a inactive (queued)                          -> end
        a inactive                                   -> end
    ";

    fn found(cell: &str) -> Found {
        let (head, known) = cell.split_once('(').unwrap_or((cell, ""));
        let (name, tier) = head.trim().split_once(' ').expect("a name and a tier");
        let tier = match tier.trim() {
            "trial" => Tier::Trial,
            "awake" => Tier::Awake,
            "doubted" => Tier::Doubted,
            "waking" => Tier::Waking,
            "asleep" => Tier::Asleep,
            "full" => Tier::Full,
            "reluctant" => Tier::Reluctant {
                declined: false,
                failed_wakes: 1,
                displaces: false,
            },
            "suspect" => Tier::Suspect,
            "down" => Tier::Down,
            "inactive" => Tier::Inactive,
            unknown => panic!("{unknown:?} is no tier"),
        };
        let queue = match known {
            known if known.contains("queued") => InQueue::Yes,
            known if known.contains("full") => InQueue::Full,
            _ => InQueue::No,
        };
        Found {
            provider: format!("{name}/p").parse().expect("legal"),
            tier,
            queue,
            can_wake: !known.contains("failed"),
        }
    }

    /// The members of a row, whether it waits for a wake, and the step.
    fn rows() -> impl Iterator<Item = (&'static str, Vec<Found>, bool, &'static str)> {
        let rows = TABLE.lines().map(str::trim).filter(|row| !row.is_empty());
        rows.map(|row| {
            let (members, step) = row.split_once("->").expect("a step");
            let cells: Vec<_> = members.split('|').map(str::trim).collect();
            let is_waking = cells.contains(&"waking");
            let members = cells.iter().filter(|cell| **cell != "waking");
            (
                row,
                members.map(|cell| found(cell)).collect(),
                is_waking,
                step.trim(),
            )
        })
    }

    fn named(step: &Step) -> String {
        let (word, provider) = match step {
            Step::Join(provider) => ("join", Some(provider)),
            Step::Wake(provider) => ("wake", Some(provider)),
            Step::Answer(provider) => ("answer", Some(provider)),
            Step::Wait => ("wait", None),
            Step::End => ("end", None),
        };
        provider.map_or_else(
            || word.to_owned(),
            |provider| format!("{word} {}", provider.agent),
        )
    }

    #[test]
    fn every_search_goes_on_so() {
        for (row, members, is_waking, step) in rows() {
            let next = next_step(&members, is_waking, WakeMode::Block);
            assert_eq!(named(&next), step, "{row}");
        }
    }

    #[test]
    fn a_caller_that_waits_for_no_wake_is_answered_where_another_one_begins_to_wait_for_one() {
        for (row, members, _, step) in rows().filter(|(_, _, is_waking, _)| !is_waking) {
            for mode in [WakeMode::Async, WakeMode::Never] {
                let next = next_step(&members, false, mode);
                assert_eq!(named(&next), step.replace("wake", "answer"), "{mode:?}: {row}");
            }
        }
    }

    #[test]
    fn only_what_sleeps_is_woken_and_what_has_failed_is_not_woken_again() {
        for (row, members, is_waking, _) in rows() {
            for mode in [WakeMode::Block, WakeMode::Async, WakeMode::Never] {
                if let Step::Wake(id) | Step::Answer(id) = next_step(&members, is_waking, mode) {
                    let member = members
                        .iter()
                        .find(|member| member.provider == id)
                        .expect("one of them");
                    assert!(!member.tier.is_awake() && member.can_wake, "{row}");
                }
            }
        }
    }
}
