//! Whether a journal proves that at most one member of each exclusive group was awake at any time: by its commits alone, in
//! the order of their sequence.
//!
//! A provider's groups are those of its last registration (`spec.groups`); groups of different agents have nothing in
//! common. What counts of a member:
//!
//! | standing | since |
//! |---|---|
//! | awake | `ProviderRegistered` as `active`, `WakeSucceeded`, `BackendAwoke`, `ProviderResumed` as `active` |
//! | asleep | `ProviderRegistered` as `hibernating` or `down`, `WakeFailed`, `WakeTimedOut`, `BackendSlept`, `BackendWentDown`, `ProviderResumed` as `hibernating` or `down` |
//! | as before | `WakeRequested`, `ProviderRegistered` as `waking`: nothing of the recipe is on record yet |
//! | lost | `ProviderBecameInactive`: nobody says how the backend is; it was last awake, or asleep |
//! | gone | `ProviderDeregistered`, `ProviderExpired` |
//!
//! Two rules follow, and each breach of one is returned:
//!
//! 1. No member becomes awake while another of its group is awake.
//! 2. A recipe begins only when all others of the group are on record as asleep or gone. The journal has a recipe when
//!    the agent reports its outcome with the stages that ran, and until that outcome no other member can be given the
//!    room. So when an outcome with a stage of the recipe is committed, whether it succeeded or failed, no other member is
//!    awake, or lost since it was awake.
//!
//! Starting a backend by hand while another is awake breaks the first rule, and the journal shows it.
//!
//! The journal can't show everything. A wake that ends as `WakeTimedOut`, or because its agent stopped or was lost, names no
//! stages, so the second rule can't judge it. A backend whose wake failed counts as asleep, although it may still use what the
//! group shares: the agent runs its sleep recipe before another member's wake, but that isn't on record.

use crate::Commit;
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// Stages of a wake before its recipe: the look whether the backend is up, and the wait for its group.
const BEFORE_THE_RECIPE: [&str; 2] = ["check", "group"];

/// A moment at which a journal contradicts a group's exclusivity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// The commit.
    pub sequence: u64,
    /// Whom it is about, as `agent/provider`.
    pub provider: String,
    /// Its event.
    pub event: String,
    /// The member that was in the way.
    pub other: String,
    /// The commit since which it was.
    pub since: u64,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sequence,
            provider,
            event,
            other,
            since,
        } = self;
        write!(
            f,
            "{sequence}: {event} of {provider}, but {other} has been awake since {since}"
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Awake,
    Asleep,
    LostAwake,
    LostAsleep,
}

#[derive(Debug)]
struct Member {
    groups: Vec<String>,
    standing: Standing,
    since: u64,
}

/// Asserts that the journal proves its groups exclusive, and that at least one recipe of a member was run.
///
/// # Panics
/// Panics if it doesn't.
pub fn assert_exclusive(journal: &[Commit]) {
    let mut events = journal.iter().flat_map(Commit::events);
    assert!(
        events.any(|event| event["data"]["spec"]["groups"].is_array()),
        "the journal has no group"
    );
    // A member's first recipe comes after its registration.
    assert!(
        events.any(|event| ran_a_recipe(event["type"].as_str().unwrap_or_default(), &event["data"])),
        "the journal has no recipe of a member"
    );
    let breaches: Vec<_> = breaches(journal).iter().map(Breach::to_string).collect();
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// Every breach of the two rules, in order.
pub fn breaches(journal: &[Commit]) -> Vec<Breach> {
    let mut members: BTreeMap<String, Member> = BTreeMap::new();
    let mut breaches = Vec::new();
    for commit in journal {
        let Some(provider) = commit.subject.strip_prefix("reveille.events.provider.") else {
            continue;
        };
        let provider = provider.replacen('.', "/", 1);
        for event in commit.events() {
            let name = event["type"].as_str().unwrap_or_default();
            let was = members.get(&provider).map(|member| member.standing);
            apply(&mut members, &provider, name, &event["data"], commit.sequence);
            let Some(member) = members.get(&provider) else {
                continue;
            };
            let woke = member.standing == Standing::Awake && was != Some(Standing::Awake);
            let ran = ran_a_recipe(name, &event["data"]);
            let in_the_way = |other: &Member| match other.standing {
                Standing::Awake => woke || ran,
                Standing::LostAwake => ran,
                Standing::Asleep | Standing::LostAsleep => false,
            };
            let others = members.iter().filter(|(other, state)| {
                *other != &provider && same_group(&provider, member, other, state) && in_the_way(state)
            });
            breaches.extend(others.map(|(other, state)| Breach {
                sequence: commit.sequence,
                provider: provider.clone(),
                event: name.to_owned(),
                other: other.clone(),
                since: state.since,
            }));
        }
    }
    breaches
}

fn apply(members: &mut BTreeMap<String, Member>, provider: &str, name: &str, data: &Value, sequence: u64) {
    if name == "ProviderRegistered" {
        let groups = data["spec"]["groups"].as_array().into_iter().flatten();
        let groups = groups
            .filter_map(|group| group.as_str().map(str::to_owned))
            .collect();
        let member = members.entry(provider.to_owned()).or_insert_with(|| Member {
            groups: vec![],
            standing: Standing::Asleep,
            since: sequence,
        });
        member.groups = groups;
    }
    let Some(member) = members.get_mut(provider) else {
        return;
    };
    let next = match (name, data["status"].as_str()) {
        ("WakeSucceeded" | "BackendAwoke", _) => Standing::Awake,
        ("ProviderRegistered" | "ProviderResumed", Some("active")) => Standing::Awake,
        ("ProviderRegistered" | "ProviderResumed", Some("hibernating" | "down")) => Standing::Asleep,
        ("WakeFailed" | "WakeTimedOut" | "BackendSlept" | "BackendWentDown", _) => Standing::Asleep,
        ("ProviderBecameInactive", _) => match member.standing {
            Standing::Awake | Standing::LostAwake => Standing::LostAwake,
            Standing::Asleep | Standing::LostAsleep => Standing::LostAsleep,
        },
        ("ProviderDeregistered" | "ProviderExpired", _) => {
            members.remove(provider);
            return;
        }
        ("WakeRequested", _) | ("ProviderRegistered" | "ProviderResumed", Some("waking")) => return,
        unknown => panic!("an event of a provider that no rule covers: {unknown:?}"),
    };
    if member.standing != next {
        (member.standing, member.since) = (next, sequence);
    }
}

/// Whether the event is the outcome of a wake, as its agent reported it, whose recipe was begun.
fn ran_a_recipe(name: &str, data: &Value) -> bool {
    let stages = data["stages"].as_array().into_iter().flatten();
    let mut stages = stages.filter_map(|stage| stage["name"].as_str());
    ["WakeSucceeded", "WakeFailed"].contains(&name) && stages.any(|stage| !BEFORE_THE_RECIPE.contains(&stage))
}

fn same_group(provider: &str, member: &Member, other: &str, state: &Member) -> bool {
    let agent = |id: &str| id.split('/').next().map(str::to_owned);
    agent(provider) == agent(other) && member.groups.iter().any(|group| state.groups.contains(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Commits of those events, one each.
    fn journal(events: &[(&str, &str, Value)]) -> Vec<Commit> {
        let commit = |(index, (provider, name, data)): (usize, &(&str, &str, Value))| {
            let body = json!({ "events": [{ "type": name, "data": data }] });
            let subject = format!("reveille.events.provider.{provider}");
            let sequence = u64::try_from(index).expect("few") + 1;
            Commit::new(
                sequence,
                &subject,
                async_nats::HeaderMap::new(),
                body.to_string().into(),
            )
        };
        events.iter().enumerate().map(commit).collect()
    }

    fn registered<'a>(provider: &'a str, group: &str, status: &str) -> (&'a str, &'static str, Value) {
        let data = json!({ "spec": { "groups": [group] }, "status": status });
        (provider, "ProviderRegistered", data)
    }

    fn ended<'a>(provider: &'a str, name: &'static str, stages: &[&str]) -> (&'a str, &'static str, Value) {
        let stages: Vec<_> = stages.iter().map(|name| json!({ "name": name })).collect();
        (provider, name, json!({ "stages": stages }))
    }

    fn breached(events: &[(&str, &str, Value)]) -> Vec<String> {
        breaches(&journal(events)).iter().map(Breach::to_string).collect()
    }

    #[test]
    fn a_swap_in_order_is_none_and_one_out_of_order_is() {
        let [a, b] = [
            registered("box.a", "gpu0", "hibernating"),
            registered("box.b", "gpu0", "active"),
        ];
        let slept = ("box.b", "BackendSlept", json!({}));
        let woke = ended("box.a", "WakeSucceeded", &["group", "serve"]);
        assert!(breached(&[a.clone(), b.clone(), slept.clone(), woke.clone()]).is_empty());
        assert_eq!(
            breached(&[a, b, woke, slept]),
            ["3: WakeSucceeded of box/a, but box/b has been awake since 2"]
        );
    }

    #[test]
    fn other_agents_and_other_groups_do_not_matter() {
        let awake = [
            registered("box.a", "gpu0", "active"),
            registered("box.b", "gpu1", "active"),
            registered("other.a", "gpu0", "active"),
        ];
        assert!(breached(&awake).is_empty());
    }

    #[test]
    fn a_recipe_that_failed_had_the_room_too_and_a_wake_that_got_none_had_not() {
        let (a, b) = (
            registered("box.a", "gpu0", "hibernating"),
            registered("box.b", "gpu0", "active"),
        );
        let blocked = ended("box.a", "WakeFailed", &["group"]);
        assert!(breached(&[a.clone(), b.clone(), blocked]).is_empty());
        let failed = ended("box.a", "WakeFailed", &["group", "step 1 http"]);
        assert_eq!(breached(&[a, b, failed]).len(), 1);
    }

    #[test]
    fn of_a_lost_member_it_counts_how_it_was_last() {
        let lost = ("box.b", "ProviderBecameInactive", json!({}));
        for (status, breaches) in [("active", 1), ("hibernating", 0)] {
            let woke = ended("box.a", "WakeSucceeded", &["serve"]);
            let events = [
                registered("box.a", "gpu0", "hibernating"),
                registered("box.b", "gpu0", status),
                lost.clone(),
                woke,
            ];
            assert_eq!(breached(&events).len(), breaches, "{status}");
        }
        let found = ("box.a", "BackendAwoke", json!({}));
        let events = [
            registered("box.a", "gpu0", "hibernating"),
            registered("box.b", "gpu0", "active"),
            lost,
            found,
        ];
        assert!(breached(&events).is_empty(), "nobody says that b is awake");
    }
}
