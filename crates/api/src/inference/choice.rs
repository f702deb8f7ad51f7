//! Which member of a pool a request goes to, and why. Pure: [`super::members`] gathers what is known of each.
//!
//! Members come in tiers by what they are, and within a tier in the order of their priorities. Among those that are awake, a
//! conversation goes to the member that has it, or else to the one that its hash leads to; unless that works on more than its
//! share, and then to the next. Any other request goes to the least busy one, and in turn among equals.

use reveille_domain::{
    Balancing, ProviderId,
    provider::StatusName,
    requests::{MAX_OTHERS, NotChosen, StepKind},
};
use std::{borrow::Cow, cmp::Reverse, fmt};

/// By how much a member may exceed its share of the requests in flight and still get conversations, as a fraction: 1.25 times.
const BOUND: (u64, u64) = (5, 4);
/// So many requests more than that a member may have for a conversation that it has had before. Requests come and go all the
/// time; without some play, one in five conversations would move with every turn.
const PLAY: u64 = 1;
/// The load of one request at a member of weight 1.
const LOAD: u64 = 1_000_000;

/// What is known of one member of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub provider: ProviderId,
    pub status: StatusName,
    /// Whether the owner of its machine declined its last wake.
    pub declined: bool,
    /// How many of its wakes have failed since it last stayed awake for [`STABLE_AFTER`](reveille_domain::provider::STABLE_AFTER).
    pub failed_wakes: u32,
    /// Whether its wake would put another member to sleep that is awake.
    pub displaces: bool,
    pub health: Health,
    pub balancing: Balancing,
    /// How many requests of this replica it works on.
    pub in_flight: usize,
    /// When its turn is among equals. A turn takes the longer the smaller its weight is.
    pub turn: u64,
    /// The number of this replica's last choice that fell on it; 0 if none has.
    pub last_choice: u64,
    /// What it is to the request's conversation, if it has one.
    pub affinity: Option<Affinity>,
}

/// What a member is to a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Affinity {
    /// Whether it had the last turn.
    pub has_it: bool,
    /// The conversation's hash leads to the nearest one.
    pub distance: u64,
}

/// What a replica's own requests say of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Healthy,
    /// Its last requests failed, but they may have been the reason themselves.
    Doubted,
    /// It fails.
    Suspect,
    /// It has been avoided for long enough that one request may find out whether it still fails.
    Due,
}

/// How good a choice a member is, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// One request finds out whether it still fails.
    Trial,
    Awake,
    /// Another that is awake comes first, but none is woken instead.
    Doubted,
    Waking,
    Asleep,
    /// This replica has handed over as many requests as its config allows, so one has to wait for it.
    Full,
    /// Its wake may fail, or takes another one's place.
    Reluctant {
        declined: bool,
        failed_wakes: u32,
        displaces: bool,
    },
    Suspect,
    Down,
    Inactive,
}

/// Which members a request may still go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// All: it hasn't failed anywhere.
    All,
    /// Those that aren't known to fail, sleeping ones included.
    Working,
    /// Those and, last of all, those that are down: it has reached no backend, and only they can tell whether they are back.
    WorkingOrDown,
    /// Those of them that are awake.
    Awake,
}

impl Tier {
    /// Whether requests are handed over without a wake.
    pub const fn is_awake(self) -> bool {
        match self {
            Self::Trial | Self::Awake | Self::Doubted | Self::Full | Self::Suspect | Self::Down => true,
            Self::Waking | Self::Asleep | Self::Reluctant { .. } | Self::Inactive => false,
        }
    }
}

impl Reach {
    /// Whether a member of this tier is in reach.
    pub fn includes(self, tier: Tier) -> bool {
        match self {
            Self::All => true,
            Self::Working => tier < Tier::Suspect,
            Self::WorkingOrDown => tier < Tier::Suspect || tier == Tier::Down,
            Self::Awake => matches!(tier, Tier::Trial | Tier::Awake | Tier::Full),
        }
    }
}

/// The reason, for people.
impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trial => f.write_str("it has failed, and is due for a trial"),
            Self::Awake => f.write_str("it is awake"),
            Self::Doubted => f.write_str("it is awake, but its last request failed"),
            Self::Waking => f.write_str("it is waking"),
            Self::Asleep => f.write_str("it is asleep"),
            Self::Full => f.write_str("it is awake, but at its max_concurrency"),
            Self::Reluctant { declined: true, .. } => {
                f.write_str("it is asleep, and its owner declined its last wake")
            }
            Self::Reluctant { failed_wakes: 0, .. } => {
                f.write_str("it is asleep, and its wake ends another one of its group")
            }
            Self::Reluctant { failed_wakes, .. } => {
                write!(
                    f,
                    "it is asleep; wakes that failed since it last stayed awake: {failed_wakes}"
                )
            }
            Self::Suspect => f.write_str("it is awake, but fails"),
            Self::Down => f.write_str("it is down, and has no wake recipe"),
            Self::Inactive => f.write_str("its agent is lost or stopped"),
        }
    }
}

/// Why a member comes before others of its tier and priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draw {
    /// It has the conversation.
    Continues,
    /// The conversation's hash leads to it.
    Begins,
    /// Those that the conversation would rather go to have more than their share.
    Diverted,
    LeastBusy,
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Continues => "it had this conversation's last turn",
            Self::Begins => "the conversation's hash leads to it",
            Self::Diverted => "it is less busy than those that the conversation would rather go to",
            Self::LeastBusy => "none like it is less busy",
        })
    }
}

/// A member, and why it comes where it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub candidate: Candidate,
    pub tier: Tier,
    pub draw: Option<Draw>,
}

/// The reason, for people.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.tier)?;
        self.draw.map_or(Ok(()), |draw| write!(f, "; {draw}"))
    }
}

impl Choice {
    /// What a record has of it. `others` are those in reach that come after it, and the pool has `of` members.
    pub fn step(&self, of: usize, others: &[Self]) -> StepKind {
        let others = others.iter().take(MAX_OTHERS).map(|other| NotChosen {
            provider: other.candidate.provider.clone(),
            why: other.why(),
        });
        StepKind::Chosen {
            provider: self.candidate.provider.clone(),
            of: u32::try_from(of).unwrap_or(u32::MAX),
            why: self.why(),
            others: others.collect(),
        }
    }

    fn why(&self) -> Cow<'static, str> {
        match (self.tier, self.draw) {
            (Tier::Awake, None | Some(Draw::LeastBusy)) => Cow::Borrowed("it is awake"),
            (Tier::Asleep, _) => Cow::Borrowed("it is asleep"),
            _ => Cow::Owned(self.to_string()),
        }
    }
}

/// What a record has of a request that goes to another member than the chosen one.
pub(super) fn diverted_step(to: &ProviderId) -> StepKind {
    StepKind::Chosen {
        provider: to.clone(),
        of: 0,
        why: Cow::Borrowed("it had a slot first"),
        others: vec![],
    }
}

impl Candidate {
    pub fn tier(&self) -> Tier {
        match (self.status, self.health) {
            (StatusName::Active, Health::Due) => Tier::Trial,
            (StatusName::Active, Health::Suspect) => Tier::Suspect,
            (StatusName::Active, Health::Healthy | Health::Doubted) if self.is_full() => Tier::Full,
            (StatusName::Active, Health::Healthy) => Tier::Awake,
            (StatusName::Active, Health::Doubted) => Tier::Doubted,
            // A wake changes everything.
            (StatusName::Waking, _) => Tier::Waking,
            (StatusName::Hibernating, _) => {
                let (declined, failed_wakes, displaces) = (self.declined, self.failed_wakes, self.displaces);
                if declined || failed_wakes > 0 || displaces {
                    Tier::Reluctant {
                        declined,
                        failed_wakes,
                        displaces,
                    }
                } else {
                    Tier::Asleep
                }
            }
            (StatusName::Down, _) => Tier::Down,
            (StatusName::Inactive, _) => Tier::Inactive,
        }
    }

    fn is_full(&self) -> bool {
        let limit = self.balancing.max_concurrency();
        limit.is_some_and(|limit| self.in_flight >= limit as usize)
    }

    fn load(&self) -> u64 {
        self.in_flight as u64 * LOAD / u64::from(self.balancing.weight())
    }
}

/// The members of one tier and priority.
#[derive(Default)]
struct Equals {
    in_flight: u64,
    weight: u64,
}

impl Equals {
    fn of(all: &[Candidate], one: &Candidate) -> Self {
        let (tier, priority) = (one.tier(), one.balancing.priority());
        let equals = all
            .iter()
            .filter(|other| other.tier() == tier && other.balancing.priority() == priority);
        equals.fold(Self::default(), |sum, other| Self {
            in_flight: sum.in_flight + other.in_flight as u64,
            weight: sum.weight + u64::from(other.balancing.weight()),
        })
    }

    /// Whether a member works on more than its share, so that conversations go elsewhere.
    fn exceeds(&self, one: &Candidate, affinity: Affinity) -> bool {
        let play = if affinity.has_it { PLAY } else { 0 };
        let (most, of) = BOUND;
        let in_flight = (one.in_flight as u64).saturating_sub(play);
        in_flight * self.weight * of > self.in_flight * u64::from(one.balancing.weight()) * most
    }
}

/// What decides between two members of one tier and priority, the smallest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Preference {
    /// Its conversation wants it: it has it, or is so far from it.
    Wanted { new: bool, distance: u64 },
    /// So busy it is; and when its turn is.
    Busy { load: u64, turn: u64, last_choice: u64 },
    /// Sleeping and waking ones take no turns, so that requests that come together share one wake.
    Quiet,
}

impl Preference {
    fn of(one: &Candidate, equals: &Equals) -> Self {
        let busy = Self::Busy {
            load: one.load(),
            turn: one.turn,
            last_choice: one.last_choice,
        };
        match (one.tier(), one.affinity) {
            (Tier::Awake | Tier::Doubted, Some(affinity)) if !equals.exceeds(one, affinity) => Self::Wanted {
                new: !affinity.has_it,
                distance: affinity.distance,
            },
            (Tier::Trial | Tier::Awake | Tier::Doubted | Tier::Full | Tier::Suspect | Tier::Down, _) => busy,
            (Tier::Waking | Tier::Asleep | Tier::Reluctant { .. } | Tier::Inactive, _) => Self::Quiet,
        }
    }
}

/// The members that are in reach, the best first. A request that has failed once is used for a trial only as a last resort.
pub(super) fn ranked(candidates: impl IntoIterator<Item = Candidate>, reach: Reach) -> Vec<Choice> {
    let all: Vec<_> = candidates.into_iter().collect();
    let in_reach = all.iter().filter(|candidate| reach.includes(candidate.tier()));
    let mut ranked: Vec<_> = in_reach
        .map(|candidate| {
            let tier = candidate.tier();
            let is_last_resort = tier == Tier::Trial && reach != Reach::All;
            let priority = Reverse(candidate.balancing.priority());
            let preference = Preference::of(candidate, &Equals::of(&all, candidate));
            (
                (is_last_resort, tier, priority, preference, &candidate.provider),
                candidate,
            )
        })
        .collect();
    ranked.sort_by(|(one, _), (other, _)| one.cmp(other));
    ranked
        .into_iter()
        .map(|((_, tier, _, preference, _), candidate)| Choice {
            tier,
            draw: draw(candidate, &preference, &all),
            candidate: candidate.clone(),
        })
        .collect()
}

/// Why a member comes before those behind it.
fn draw(one: &Candidate, preference: &Preference, all: &[Candidate]) -> Option<Draw> {
    let tier = one.tier();
    if !matches!(tier, Tier::Awake | Tier::Doubted) {
        return None;
    }
    let Some(affinity) = one.affinity else {
        return Some(Draw::LeastBusy);
    };
    let is_preferred = all
        .iter()
        .filter(|other| other.tier() == tier && other.balancing.priority() == one.balancing.priority())
        .filter_map(|other| other.affinity)
        .all(|other| (!affinity.has_it, affinity.distance) <= (!other.has_it, other.distance));
    Some(match preference {
        Preference::Wanted { new: false, .. } => Draw::Continues,
        Preference::Wanted { .. } if is_preferred => Draw::Begins,
        Preference::Wanted { .. } | Preference::Busy { .. } | Preference::Quiet => Draw::Diverted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row is a pool, best first: a member's name, its status, and in brackets what else is known of it: `busy 2`,
    /// `turn 3`, `last 7`, `doubted`, `suspect`, `due`, `declined`, `failed 2`, `displaces`, `weight 2`, `priority 1`, `limit 4`, and of
    /// the request's conversation `has` or `far 5`.
    const TABLE: &str = "
        b active                  | a waking | a2 hibernating | a3 down | a4 inactive
        b active                  | a active (busy 1)
        b active (turn 1)         | a active (turn 2)
        b active (turn 9)         | a active (busy 1, turn 1)
        b active (turn 1, last 2) | a active (turn 1, last 3) | a2 active (turn 2, last 1)
        a active                  | b active
        b active                  | a active (doubted) | a2 waking | a3 hibernating
        b active (doubted, turn 1) | a active (doubted, turn 2)
        b hibernating             | a active (suspect) | a2 down
        b active (due)            | a active
        b active (due, turn 1)    | a active (due, turn 2)
        b waking                  | a active (suspect)
        a waking (turn 5)         | b waking
        a hibernating (turn 5)    | b hibernating
        b hibernating             | a hibernating (failed 1) | a2 hibernating (failed 2) | a3 hibernating (declined)
        b hibernating (suspect)   | a active (suspect)
        b active (suspect, turn 1) | a active (suspect, turn 2) | a2 active (suspect, busy 1)
        b down (turn 1)           | a down (turn 2) | a2 inactive

        b active (far 1)          | a active (far 2) | a2 active (far 3)
        b active (has)            | a active (far 1) | a2 active (far 2)
        b active (has, turn 9)    | a active (far 1, turn 1)
        b active (far 2)          | a active (far 1, busy 1)
        b active (far 1, busy 1)  | a active (far 2, busy 1)
        b active (has, busy 1)    | a active (far 1)
        b active (has, busy 2)    | a active (far 1)
        b active (far 1)          | a active (has, busy 3)
        b active (has, busy 5)    | a active (far 1, busy 3) | a2 active (far 2, busy 4)
        b active (far 9)          | a active (far 2, busy 3) | a2 active (far 1, busy 4)
        b active (far 9)          | a active (doubted, has)
        b active (doubted, has)   | a active (doubted, far 1)
        b active (far 9)          | a active (has, suspect)
        b active (far 9)          | a hibernating (has)
        a hibernating (far 2)     | b hibernating (has, far 1)

        b active (weight 3, busy 2) | a active (busy 1)
        b active (weight 3, busy 3, turn 1) | a active (busy 1, turn 2)
        b active (weight 3, busy 3, far 1) | a active (busy 1, far 2)
        b active (far 2)          | a active (weight 3, busy 5, far 1)
        a active (weight 3, busy 5, far 1) | b active (busy 1, far 2)

        b active (priority 1, busy 9) | a active
        b active (priority 1, far 2) | a active (has)
        b active                  | a waking (priority 1) | a2 hibernating (priority 2)
        b waking                  | a hibernating (priority 1)
        b hibernating (priority 1) | a hibernating
        b hibernating             | a hibernating (priority 1, failed 1)
        b active                  | a active (priority 1, doubted) | a2 active (priority 2, suspect)

        b active (limit 2, busy 1) | a active (busy 2)
        b active                  | a active (priority 1, limit 2, busy 2)
        b active (far 9)          | a active (has, limit 1, busy 1)
        b waking                  | a active (limit 2, busy 2)
        b hibernating             | a active (limit 2, busy 2)
        b active (limit 2, busy 2) | a hibernating (failed 1)
        b active (limit 2, busy 2) | a hibernating (displaces)
        b active (limit 2, busy 2) | a active (limit 3, busy 3) | a2 active (suspect)
        b active (limit 2, busy 2) | a active (doubted, limit 2, busy 3)
        b hibernating             | a hibernating (displaces)
    ";

    fn candidate(cell: &str) -> Candidate {
        let (head, known) = cell.trim().split_once('(').unwrap_or((cell, ""));
        let (name, status) = head.trim().split_once(' ').expect("a name and a status");
        let mut candidate = Candidate {
            provider: format!("{name}/p").parse().expect("legal"),
            status: status.trim().parse().expect("a status"),
            declined: false,
            failed_wakes: 0,
            displaces: false,
            health: Health::Healthy,
            balancing: Balancing::default(),
            in_flight: 0,
            turn: 0,
            last_choice: 0,
            affinity: None,
        };
        let (mut weight, mut priority, mut limit) = (1, 0, None);
        for fact in known.trim().trim_end_matches(')').split(',').map(str::trim) {
            let (word, number) = fact.split_once(' ').unwrap_or((fact, "9"));
            let number: u32 = number.parse().expect("a number");
            match word {
                "" => {}
                "busy" => candidate.in_flight = number as usize,
                "turn" => candidate.turn = number.into(),
                "last" => candidate.last_choice = number.into(),
                "failed" => candidate.failed_wakes = number,
                "doubted" => candidate.health = Health::Doubted,
                "suspect" => candidate.health = Health::Suspect,
                "due" => candidate.health = Health::Due,
                "declined" => candidate.declined = true,
                "displaces" => candidate.displaces = true,
                "weight" => weight = number,
                "priority" => priority = number,
                "limit" => limit = Some(number),
                "has" | "far" => {
                    candidate.affinity = Some(Affinity {
                        has_it: word == "has" || candidate.affinity.is_some_and(|affinity| affinity.has_it),
                        distance: number.into(),
                    });
                }
                unknown => panic!("{unknown:?} is no fact"),
            }
        }
        candidate.balancing = Balancing::new(weight, priority, limit).expect("legal");
        candidate
    }

    fn pool(row: &str) -> Vec<Candidate> {
        row.split('|').map(candidate).collect()
    }

    fn rows() -> impl Iterator<Item = Vec<Candidate>> {
        let rows = TABLE.lines().map(str::trim).filter(|row| !row.is_empty());
        rows.map(pool)
    }

    #[test]
    fn the_members_of_every_pool_are_tried_in_this_order() {
        for row in rows() {
            let ranked = ranked(row.iter().rev().cloned(), Reach::All).into_iter();
            assert_eq!(ranked.map(|choice| choice.candidate).collect::<Vec<_>>(), row);
        }
    }

    #[test]
    fn a_failed_request_goes_on_to_members_that_are_not_known_to_fail() {
        let pool = [
            "a active (suspect)",
            "b down",
            "c inactive",
            "d hibernating",
            "e waking",
            "f active",
            "g active (due)",
            "h active (doubted)",
            "i active (limit 1, busy 1)",
        ];
        let names = |reach| {
            let ranked = ranked(pool.map(candidate), reach);
            let names = ranked
                .iter()
                .map(|choice| choice.candidate.provider.agent.to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(Reach::Awake), "f i g");
        assert_eq!(names(Reach::Working), "f h e d i g");
        assert_eq!(names(Reach::All), "g f h e d i a b c");
    }

    #[test]
    fn every_choice_has_a_reason_for_people() {
        for (row, reason) in [
            ("a active", "it is awake; none like it is less busy"),
            (
                "a active (has) | b active (far 1)",
                "it is awake; it had this conversation's last turn",
            ),
            (
                "a active (far 1) | b active (far 2)",
                "it is awake; the conversation's hash leads to it",
            ),
            (
                "a active (far 2) | b active (far 1, busy 1)",
                "it is awake; it is less busy than those that the conversation would rather go to",
            ),
            (
                "a active (far 1) | b active (has, busy 3)",
                "it is awake; it is less busy than those that the conversation would rather go to",
            ),
            (
                "a active (doubted)",
                "it is awake, but its last request failed; none like it is less busy",
            ),
            ("a active (suspect)", "it is awake, but fails"),
            ("a active (due)", "it has failed, and is due for a trial"),
            (
                "a active (limit 1, busy 1)",
                "it is awake, but at its max_concurrency",
            ),
            ("a waking", "it is waking"),
            ("a hibernating (has)", "it is asleep"),
            (
                "a hibernating (failed 2)",
                "it is asleep; wakes that failed since it last stayed awake: 2",
            ),
            (
                "a hibernating (declined)",
                "it is asleep, and its owner declined its last wake",
            ),
            (
                "a hibernating (displaces)",
                "it is asleep, and its wake ends another one of its group",
            ),
            ("a down", "it is down, and has no wake recipe"),
            ("a inactive", "its agent is lost or stopped"),
        ] {
            let best = ranked(pool(row), Reach::All).remove(0);
            assert_eq!(
                (best.candidate.provider.to_string(), best.to_string()),
                ("a/p".to_owned(), reason.to_owned()),
                "{row}"
            );
        }
    }
}
