//! The order in which the members of a group report to control.
//!
//! Whether a report is true depends on the others of the group: a report that one member woke contradicts the journal for
//! as long as the journal shows the member that made room for it as awake. Each owner notes when the oldest event happened that it has
//! yet to report, and reports only when no other member of its groups has an older one. An event counts as
//! unreported until control has answered, and control answers after its commit: what is sent later is committed later,
//! whichever replica takes it.

use parking_lot::{Mutex, MutexGuard};
use reveille_domain::{GroupName, ProviderName};
use std::{collections::BTreeMap, sync::Arc};
use tokio::{sync::watch, time::Instant};

/// What the members of one agent's groups have yet to report.
#[derive(Debug, Clone)]
pub struct ReportOrder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    members: Mutex<BTreeMap<ProviderName, Member>>,
    /// Notified when the oldest unreported event of a member changes.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Member {
    groups: Vec<GroupName>,
    unreported: Option<Happened>,
}

/// When something happened to a backend. Of what happened at once, falling asleep comes before waking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Happened {
    /// `None` for what was so already when the agent started.
    pub at: Option<Instant>,
    /// Whether the backend came up.
    pub up: bool,
}

impl Happened {
    /// A backend that was never probed: it may have been asleep since before the agent started.
    pub(super) const UNKNOWN: Self = Self { at: None, up: false };
}

/// A member, as its owner holds it.
#[derive(Debug)]
pub(super) struct ReportTurn {
    order: ReportOrder,
    name: ProviderName,
    changed: watch::Receiver<()>,
}

impl Default for ReportOrder {
    fn default() -> Self {
        Self(Arc::new(Shared {
            members: Mutex::default(),
            changed: watch::Sender::new(()),
        }))
    }
}

impl ReportOrder {
    /// A member's turn; `None` for a provider without a group, which never waits.
    pub(super) fn join(&self, name: &ProviderName, groups: &[GroupName]) -> Option<ReportTurn> {
        if groups.is_empty() {
            return None;
        }
        let member = Member {
            groups: groups.to_vec(),
            unreported: Some(Happened::UNKNOWN),
        };
        self.lock().insert(name.clone(), member);
        Some(ReportTurn {
            order: self.clone(),
            name: name.clone(),
            changed: self.0.changed.subscribe(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProviderName, Member>> {
        self.0.members.lock()
    }
}

impl ReportTurn {
    /// Notes the oldest event that control has yet to hear. Whether it may be reported now.
    pub(super) fn note(&mut self, unreported: Option<Happened>) -> bool {
        // Before the look at the others, so that a change right after it is noticed.
        self.changed.borrow_and_update();
        let mut members = self.order.lock();
        let Some(member) = members.get_mut(&self.name) else {
            return true;
        };
        let changed = std::mem::replace(&mut member.unreported, unreported) != unreported;
        let groups = &members[&self.name].groups;
        let first = unreported.is_none_or(|own| {
            members
                .values()
                .filter(|other| other.groups.iter().any(|group| groups.contains(group)))
                .all(|other| other.unreported.is_none_or(|unreported| unreported >= own))
        });
        drop(members);
        if changed {
            self.order.0.changed.send_replace(());
        }
        first
    }

    /// Waits until another member has noted something. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // Unreachable: the sender lives as long as this.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for ReportTurn {
    fn drop(&mut self) {
        self.order.lock().remove(&self.name);
        self.order.0.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::time::Duration;
    use tokio::time::advance;

    fn join(order: &ReportOrder, name: &str, groups: &[&str]) -> ReportTurn {
        let groups: Vec<_> = groups
            .iter()
            .map(|group| GroupName::parse(group).expect("legal"))
            .collect();
        order
            .join(&ProviderName::parse(name).expect("legal"), &groups)
            .expect("a member")
    }

    /// Something that happens now, a moment after what happened before.
    async fn now(up: bool) -> Option<Happened> {
        advance(Duration::from_millis(1)).await;
        let at = Some(Instant::now());
        Some(Happened { at, up })
    }

    #[test]
    fn a_provider_without_a_group_waits_for_nobody() {
        let name = ProviderName::parse("p").expect("legal");
        assert!(ReportOrder::default().join(&name, &[]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_happened_later_waits_until_what_happened_before_is_reported() {
        let order = ReportOrder::default();
        let (mut a, mut b) = (join(&order, "a", &["gpu0"]), join(&order, "b", &["gpu0"]));
        assert!(a.note(None) && b.note(None));
        let (woke, slept, other_woke) = (now(true).await, now(false).await, now(true).await);
        assert!(b.note(woke));
        assert!(!a.note(other_woke));
        assert!(b.note(slept), "the next of the same member is still older");
        assert!(a.changed().now_or_never().is_some());
        assert!(!a.note(other_woke));
        assert!(a.changed().now_or_never().is_none());
        assert!(b.note(None));
        assert!(a.changed().now_or_never().is_some());
        assert!(a.note(other_woke));
    }

    #[tokio::test(start_paused = true)]
    async fn only_members_of_the_same_group_wait_for_each_other() {
        let order = ReportOrder::default();
        let mut stuck = join(&order, "stuck", &["gpu0"]);
        let mut both = join(&order, "both", &["gpu0", "gpu1"]);
        let mut other = join(&order, "other", &["gpu1"]);
        assert!(both.note(None) && other.note(None));
        assert!(stuck.note(now(false).await));
        let happened = now(true).await;
        assert!(other.note(happened), "nothing of gpu1 is unreported");
        let later = now(true).await;
        assert!(!both.note(later));
        drop(stuck);
        assert!(!both.note(later), "gpu1's is still older");
        assert!(other.note(None));
        assert!(both.note(later));
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_start_the_awake_one_waits_until_the_others_are_known_and_reported() {
        let order = ReportOrder::default();
        let (mut a, mut b) = (join(&order, "a", &["gpu0"]), join(&order, "b", &["gpu0"]));
        let (up, down) = ([true, false]).map(|up| Some(Happened { at: None, up })).into();
        assert!(!a.note(up), "nobody has looked at b yet");
        assert!(b.note(down));
        assert!(!a.note(up));
        assert!(b.note(up), "two that are both up don't wait for each other");
        assert!(a.note(up));
    }
}
