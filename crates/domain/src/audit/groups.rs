//! Whether the members of each group were awake one at a time.
//!
//! A provider's groups are those of its last registration; groups of different agents have nothing in common. What counts
//! of a member:
//!
//! | standing | since |
//! |---|---|
//! | awake | it was registered or resumed as active, a wake succeeded, or its backend came up by itself |
//! | asleep | it was registered or resumed otherwise, a wake failed or timed out, or its backend slept or went down |
//! | as before | a wake was requested: nothing of the recipe is on record yet |
//! | lost | it became inactive: nobody says how the backend is, which was last awake, or asleep |
//! | gone | it was withdrawn or expired |
//!
//! 1. No member becomes awake while another one is.
//! 2. When the outcome of a recipe is committed, no other member is awake, or lost since it was awake: the recipe may only
//!    begin once all others are on record as asleep or gone, and until its outcome none is given the room. A wake whose agent
//!    was lost or stopped, or that timed out, has no stages and can't be judged.

use super::{findings::Findings, invariant::Invariant};
use crate::{
    names::{AgentName, GroupName, ProviderId, ProviderName},
    provider::{ProviderEvent, RegisteredAs, StableStatus},
    wake::{FOUND_AWAKE_STAGE, GROUP_STAGE, Stage},
};
use std::collections::{BTreeMap, HashMap};

/// The look whether the backend is up, as agents report it.
const CHECK_STAGE: &str = "check";
/// Stages of a wake without a step of its recipe.
const NOT_OF_THE_RECIPE: [&str; 3] = [CHECK_STAGE, GROUP_STAGE, FOUND_AWAKE_STAGE];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Awake,
    Asleep,
    LostAwake,
    LostAsleep,
}

#[derive(Debug)]
struct Member {
    groups: Vec<GroupName>,
    standing: Standing,
    since: u64,
}

/// The members of all groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    of_agents: HashMap<AgentName, BTreeMap<ProviderName, Member>>,
}

impl Groups {
    /// Takes in an event of the commit at `sequence`.
    pub(super) fn check(
        &mut self,
        id: &ProviderId,
        event: &ProviderEvent,
        sequence: u64,
        found: &mut Findings,
    ) {
        if !self.of_agents.contains_key(&id.agent) {
            self.of_agents.insert(id.agent.clone(), BTreeMap::new());
        }
        let Some(members) = self.of_agents.get_mut(&id.agent) else {
            return;
        };
        let was = members.get(&id.provider).map(|member| member.standing);
        take(members, &id.provider, event, sequence);
        let Some(member) = members.get(&id.provider).filter(|it| !it.groups.is_empty()) else {
            return;
        };
        let woke = member.standing == Standing::Awake && was != Some(Standing::Awake);
        let ran = ran_a_recipe(event);
        if !woke && !ran {
            return;
        }
        let in_the_way = members.iter().find(|(name, other)| {
            let is_in_the_way = match other.standing {
                Standing::Awake => true,
                Standing::LostAwake => ran,
                Standing::Asleep | Standing::LostAsleep => false,
            };
            *name != &id.provider && is_in_the_way && share_a_group(member, other)
        });
        found.apply(Invariant::Group, in_the_way.is_none(), || {
            let (other, since) = in_the_way
                .map(|(name, other)| (name.to_string(), other.since))
                .unwrap_or_default();
            format!(
                "{} of {id}, but {}/{other} of the same group was awake since commit {since}",
                <&str>::from(event),
                id.agent
            )
        });
    }
}

fn take(
    members: &mut BTreeMap<ProviderName, Member>,
    name: &ProviderName,
    event: &ProviderEvent,
    sequence: u64,
) {
    if let ProviderEvent::ProviderRegistered { spec, .. } = event {
        let member = members.entry(name.clone()).or_insert_with(|| Member {
            groups: vec![],
            standing: Standing::Asleep,
            since: sequence,
        });
        member.groups = spec.groups().to_vec();
    }
    let Some(member) = members.get_mut(name) else {
        return;
    };
    let next = match event {
        ProviderEvent::ProviderRegistered { status, .. } => match status {
            RegisteredAs::Active => Standing::Awake,
            RegisteredAs::Hibernating | RegisteredAs::Down => Standing::Asleep,
            RegisteredAs::Waking => return,
        },
        ProviderEvent::ProviderResumed { status, .. } => match status {
            StableStatus::Active => Standing::Awake,
            StableStatus::Hibernating | StableStatus::Down => Standing::Asleep,
        },
        ProviderEvent::WakeRequested { .. } => return,
        ProviderEvent::WakeSucceeded { .. } | ProviderEvent::BackendAwoke { .. } => Standing::Awake,
        ProviderEvent::WakeFailed { .. }
        | ProviderEvent::WakeTimedOut { .. }
        | ProviderEvent::BackendSlept { .. }
        | ProviderEvent::BackendWentDown { .. } => Standing::Asleep,
        ProviderEvent::ProviderBecameInactive { .. } => match member.standing {
            Standing::Awake | Standing::LostAwake => Standing::LostAwake,
            Standing::Asleep | Standing::LostAsleep => Standing::LostAsleep,
        },
        ProviderEvent::ProviderDeregistered { .. } | ProviderEvent::ProviderExpired { .. } => {
            members.remove(name);
            return;
        }
    };
    if member.standing != next {
        (member.standing, member.since) = (next, sequence);
    }
}

/// Whether the event is the outcome of a wake whose recipe was begun.
fn ran_a_recipe(event: &ProviderEvent) -> bool {
    let is_of_the_recipe = |stage: &Stage| !NOT_OF_THE_RECIPE.contains(&stage.name.as_str());
    match event {
        ProviderEvent::WakeSucceeded { stages, .. } | ProviderEvent::WakeFailed { stages, .. } => {
            stages.iter().any(is_of_the_recipe)
        }
        ProviderEvent::ProviderRegistered { .. }
        | ProviderEvent::WakeRequested { .. }
        | ProviderEvent::WakeTimedOut { .. }
        | ProviderEvent::BackendSlept { .. }
        | ProviderEvent::BackendWentDown { .. }
        | ProviderEvent::BackendAwoke { .. }
        | ProviderEvent::ProviderBecameInactive { .. }
        | ProviderEvent::ProviderResumed { .. }
        | ProviderEvent::ProviderDeregistered { .. }
        | ProviderEvent::ProviderExpired { .. } => false,
    }
}

fn share_a_group(member: &Member, other: &Member) -> bool {
    member.groups.iter().any(|group| other.groups.contains(group))
}
