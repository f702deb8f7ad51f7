//! Which member of a pool a request goes to. Pure: [`super::members`] gathers what is known of each.

use reveille_domain::{ProviderId, provider::StatusName};
use std::fmt;

/// What is known of one member of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub provider: ProviderId,
    pub status: StatusName,
    /// Whether the owner of its machine declined its last wake.
    pub declined: bool,
    /// How many of its wakes have failed in a row.
    pub failed_wakes: u32,
    pub health: Health,
    /// How many requests of this replica it works on.
    pub in_flight: usize,
    /// The number of this replica's last choice that fell on it; 0 if none has.
    pub last_turn: u64,
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
    Asleep {
        declined: bool,
        failed_wakes: u32,
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
    /// Those of them that are awake.
    Awake,
}

impl Reach {
    fn includes(self, tier: Tier) -> bool {
        match self {
            Self::All => true,
            Self::Working => tier < Tier::Suspect,
            Self::Awake => tier <= Tier::Awake,
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
            Self::Asleep { declined: true, .. } => {
                f.write_str("it is asleep, and its owner declined its last wake")
            }
            Self::Asleep { failed_wakes: 0, .. } => f.write_str("it is asleep"),
            Self::Asleep { failed_wakes, .. } => {
                write!(f, "it is asleep, and wakes that failed in a row: {failed_wakes}")
            }
            Self::Suspect => f.write_str("it is awake, but fails"),
            Self::Down => f.write_str("it is down, and has no wake recipe"),
            Self::Inactive => f.write_str("its agent is lost or stopped"),
        }
    }
}

impl Candidate {
    pub fn tier(&self) -> Tier {
        match (self.status, self.health) {
            (StatusName::Active, Health::Healthy) => Tier::Awake,
            (StatusName::Active, Health::Due) => Tier::Trial,
            (StatusName::Active, Health::Doubted) => Tier::Doubted,
            (StatusName::Active, Health::Suspect) => Tier::Suspect,
            // A wake changes everything.
            (StatusName::Waking, _) => Tier::Waking,
            (StatusName::Hibernating, _) => Tier::Asleep {
                declined: self.declined,
                failed_wakes: self.failed_wakes,
            },
            (StatusName::Down, _) => Tier::Down,
            (StatusName::Inactive, _) => Tier::Inactive,
        }
    }

    /// Members of one tier: the least busy first, and then in turn. Sleeping and waking ones take no turns, so that requests
    /// that come together share one wake. A request that has failed once is used for a trial only as a last resort.
    fn rank(&self, reach: Reach) -> (bool, Tier, usize, u64, &ProviderId) {
        let tier = self.tier();
        let is_last_resort = tier == Tier::Trial && reach != Reach::All;
        let turn = match tier {
            Tier::Trial | Tier::Awake | Tier::Doubted | Tier::Suspect | Tier::Down => self.last_turn,
            Tier::Waking | Tier::Asleep { .. } | Tier::Inactive => 0,
        };
        (is_last_resort, tier, self.in_flight, turn, &self.provider)
    }
}

/// The members that are in reach, the best first.
pub(super) fn ranked(candidates: impl IntoIterator<Item = Candidate>, reach: Reach) -> Vec<Candidate> {
    let mut ranked: Vec<_> = candidates
        .into_iter()
        .filter(|candidate| reach.includes(candidate.tier()))
        .collect();
    ranked.sort_by(|one, other| one.rank(reach).cmp(&other.rank(reach)));
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row is a pool, best first: a member's name, its status, and in brackets what else is known of it: `busy 2`,
    /// `turn 3`, `doubted`, `suspect`, `due`, `declined`, `failed 2`.
    const TABLE: &str = "
        b active                  | a waking | a2 hibernating | a3 down | a4 inactive
        b active                  | a active (busy 1)
        b active (turn 1)         | a active (turn 2)
        b active (turn 9)         | a active (busy 1, turn 1)
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
    ";

    fn candidate(cell: &str) -> Candidate {
        let (head, known) = cell.trim().split_once('(').unwrap_or((cell, ""));
        let (name, status) = head.trim().split_once(' ').expect("a name and a status");
        let mut candidate = Candidate {
            provider: format!("{name}/p").parse().expect("legal"),
            status: status.trim().parse().expect("a status"),
            declined: false,
            failed_wakes: 0,
            health: Health::Healthy,
            in_flight: 0,
            last_turn: 0,
        };
        for fact in known.trim_end_matches(')').split(',').map(str::trim) {
            match fact.split_once(' ').unwrap_or((fact, "0")) {
                ("", _) => {}
                ("busy", count) => candidate.in_flight = count.parse().expect("a number"),
                ("turn", turn) => candidate.last_turn = turn.parse().expect("a number"),
                ("failed", count) => candidate.failed_wakes = count.parse().expect("a number"),
                ("doubted", _) => candidate.health = Health::Doubted,
                ("suspect", _) => candidate.health = Health::Suspect,
                ("due", _) => candidate.health = Health::Due,
                ("declined", _) => candidate.declined = true,
                unknown => panic!("{unknown:?} is no fact"),
            }
        }
        candidate
    }

    fn rows() -> impl Iterator<Item = Vec<Candidate>> {
        let rows = TABLE.trim().lines();
        rows.map(|row| row.split('|').map(candidate).collect())
    }

    #[test]
    fn the_members_of_every_pool_are_tried_in_this_order() {
        for row in rows() {
            let reversed = row.iter().rev().cloned();
            assert_eq!(ranked(reversed, Reach::All), row);
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
        ];
        let names = |reach| {
            let ranked = ranked(pool.map(candidate), reach);
            let names = ranked
                .iter()
                .map(|candidate| candidate.provider.agent.to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(Reach::Awake), "f g");
        assert_eq!(names(Reach::Working), "f h e d g");
        assert_eq!(names(Reach::All), "g f h e d a b c");
    }

    #[test]
    fn every_place_has_a_reason_for_people() {
        let reasons: Vec<_> = rows()
            .flatten()
            .map(|candidate| candidate.tier().to_string())
            .collect();
        for reason in [
            "it is awake",
            "it is awake, but fails",
            "it is awake, but its last request failed",
            "it has failed, and is due for a trial",
            "it is asleep, and wakes that failed in a row: 2",
            "it is asleep, and its owner declined its last wake",
            "it is down, and has no wake recipe",
        ] {
            assert!(reasons.iter().any(|is| is == reason), "{reason}: {reasons:?}");
        }
    }
}
