use super::*;
use crate::{
    GroupName, ModelName, ProviderSpec, RecipeKind, ReportId, ReportSeq, Stage, Timestamp, Wake, WakeCause,
    WakeId, WakeSpec,
    provider::{InactiveReason, RegisteredAs, StableStatus},
    wake::{FOUND_AWAKE_STAGE, Failures, GROUP_STAGE},
};
use uuid::Uuid;

/// What people and programs read about the rules.
const PAGE: &str = include_str!("../../../../docs/invariants.md");

#[test]
fn the_page_has_each_rule_under_its_code_in_their_order() {
    let headings = PAGE.lines().filter_map(|line| line.strip_prefix("### "));
    let codes = Invariant::ALL.iter().map(|rule| format!("`{}`", rule.code()));
    assert_eq!(headings.collect::<Vec<_>>(), codes.collect::<Vec<_>>());
}

#[test]
fn a_commit_of_several_events_is_checked_event_by_event() {
    let mut life = Life::default();
    life.registered("a", RegisteredAs::Active);
    let awoke = |seq| ProviderEvent::BackendAwoke {
        report: report(seq),
        at_ms: at(),
    };
    let slept = ProviderEvent::BackendSlept {
        report: report(1),
        reason: crate::SleepReason::Idle,
        for_wake: None,
        failures: Failures::default(),
        at_ms: at(),
    };
    assert_eq!(life.commit("a", &[slept, awoke(2)]), []);
    assert_eq!(life.commit("a", &[awoke(3)]), [Invariant::Status]);
}

fn at() -> Timestamp {
    Timestamp::from_millis(1_764_000_000_000)
}

fn report(seq: u64) -> ReportId {
    ReportId {
        epoch: Epoch(1),
        seq: ReportSeq(seq),
    }
}

/// Members of the group `gpu0` of one agent.
#[derive(Default)]
struct Life {
    audit: HistoryAudit,
    providers: HashMap<String, Provider>,
    sequence: u64,
    wakes: u128,
}

impl Life {
    /// Commits the events, and returns the rules that they break.
    fn commit(&mut self, name: &str, events: &[ProviderEvent]) -> Vec<Invariant> {
        let id: ProviderId = format!("gpu-box/{name}").parse().expect("legal");
        let before = self.providers.remove(name).unwrap_or_default();
        self.audit.epochs.insert(id.agent.clone(), Epoch(1));
        self.sequence += 1;
        let mut found = Findings::default();
        self.audit
            .provider(&id, &before, events, self.sequence, &mut found);
        let after = events.iter().fold(before, Provider::evolve);
        self.providers.insert(name.to_owned(), after);
        found
            .take()
            .into_iter()
            .map(|violation| violation.invariant)
            .collect()
    }

    fn registered_in(&mut self, name: &str, groups: &[&str], status: RegisteredAs) -> Vec<Invariant> {
        let recipe = WakeSpec {
            kind: RecipeKind::Http,
            budget_ms: 70_000,
        };
        let groups = groups.iter().map(|group| GroupName::parse(group).expect("legal"));
        let spec = ProviderSpec::new(vec![ModelName::parse("a").expect("legal")], Some(recipe), true)
            .and_then(|spec| spec.in_groups(groups.collect()))
            .expect("legal");
        let event = ProviderEvent::ProviderRegistered {
            id: format!("gpu-box/{name}").parse().expect("legal"),
            epoch: Epoch(1),
            seq: ReportSeq(0),
            spec,
            status,
            failures: Failures::default(),
            at_ms: at(),
        };
        self.commit(name, &[event])
    }

    fn registered(&mut self, name: &str, status: RegisteredAs) -> Vec<Invariant> {
        self.registered_in(name, &["gpu0"], status)
    }

    /// A wake that ends well or badly after these stages.
    fn woken(&mut self, name: &str, succeeds: bool, stages: &[&str]) -> Vec<Invariant> {
        self.wakes += 1;
        let id = WakeId(Uuid::from_u128(self.wakes));
        let stage = |name: &&str| Stage {
            name: (*name).to_owned(),
            started_after_ms: 0,
            took_ms: 1,
        };
        let stages = stages.iter().map(stage).collect();
        let requested = ProviderEvent::WakeRequested {
            wake: Wake {
                id,
                cause: WakeCause::Operator { key: None },
                requested_at_ms: at(),
                deadline_ms: at(),
            },
        };
        let ended = match succeeds {
            true => ProviderEvent::WakeSucceeded {
                wake_id: id,
                report: None,
                stages,
                at_ms: at(),
            },
            false => ProviderEvent::WakeFailed {
                wake_id: id,
                report: None,
                failure: crate::WakeFailure::new(crate::WakeFailureKind::Recipe, "step 1 http", "it failed"),
                stages,
                failures: Failures::default(),
                at_ms: at(),
            },
        };
        self.commit(name, &[requested, ended])
    }

    fn lost(&mut self, name: &str) -> Vec<Invariant> {
        let event = ProviderEvent::ProviderBecameInactive {
            epoch: Epoch(1),
            reason: InactiveReason::AgentLost,
            was: StableStatus::Active,
            failures: Failures::default(),
            last_heartbeat_ms: None,
            at_ms: at(),
        };
        self.commit(name, &[event])
    }
}

#[test]
fn no_member_becomes_awake_while_another_of_its_group_is() {
    for (groups, broken) in [(["gpu0"], vec![Invariant::Group]), (["gpu1"], vec![])] {
        let mut life = Life::default();
        assert_eq!(life.registered("a", RegisteredAs::Active), []);
        assert_eq!(life.registered_in("b", &groups, RegisteredAs::Active), broken);
    }
}

#[test]
fn a_recipe_that_failed_had_the_room_too_and_a_wake_that_got_none_had_not() {
    for (stages, broken) in [
        (vec![GROUP_STAGE], vec![]),
        (vec![GROUP_STAGE, "step 1 http"], vec![Invariant::Group]),
    ] {
        let mut life = Life::default();
        life.registered("a", RegisteredAs::Active);
        life.registered("b", RegisteredAs::Hibernating);
        assert_eq!(life.woken("b", false, &stages), broken, "{stages:?}");
    }
}

#[test]
fn of_a_lost_member_it_counts_how_it_was_last() {
    for (status, stages, broken) in [
        (RegisteredAs::Active, "step 1 http", vec![Invariant::Group]),
        (RegisteredAs::Hibernating, "step 1 http", vec![]),
        // Nobody says that the other one is awake, and no recipe was begun.
        (RegisteredAs::Active, FOUND_AWAKE_STAGE, vec![]),
    ] {
        let mut life = Life::default();
        life.registered("a", status);
        life.registered("b", RegisteredAs::Hibernating);
        life.lost("a");
        assert_eq!(life.woken("b", true, &[stages]), broken, "{status:?}, {stages}");
    }
}
