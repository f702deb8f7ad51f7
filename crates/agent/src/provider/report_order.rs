//! The order in which the members of a group report to control.
//!
//! Whether a report is true depends on the others of the group: a report that one member woke contradicts the journal for
//! as long as the journal shows the member that made room for it as awake. Each owner notes when the oldest event happened
//! that it has yet to report, and reports only when no other member of its groups has an older one. An event counts as
//! unreported until control has answered, and control answers after its commit: what is sent later is committed later,
//! whichever replica takes it.

use super::{groups::Membership, happened::Happened};

impl Membership {
    /// Notes the oldest event that control has yet to hear. Whether it may be reported now.
    pub(super) fn note(&self, unreported: Option<Happened>) -> bool {
        let mut state = self.lock();
        let Some(member) = state.members.get_mut(&self.name) else {
            return true;
        };
        if std::mem::replace(&mut member.unreported, unreported) != unreported {
            state.changed.send_replace(());
        }
        unreported.is_none_or(|own| {
            let mut others = state.others(&self.name);
            others.all(|other| {
                state.members[other]
                    .unreported
                    .is_none_or(|unreported| unreported >= own)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{GroupPolicy, Groups};
    use futures::FutureExt;
    use reveille_domain::{GroupName, ProviderName};
    use std::time::Duration;
    use tokio::time::Instant;
    use tokio::time::advance;

    fn join(order: &Groups, name: &str, groups: &[&str]) -> Membership {
        let groups = groups.iter().map(|group| GroupName::parse(group).expect("legal"));
        let policy = GroupPolicy {
            groups: groups.collect(),
            min_awake: Duration::ZERO,
            persistent: false,
            max_wait: Duration::ZERO,
        };
        order
            .join(&ProviderName::parse(name).expect("legal"), policy)
            .expect("a member")
    }

    /// Something that happens now, a moment after what happened before.
    async fn now(up: bool) -> Option<Happened> {
        advance(Duration::from_millis(1)).await;
        let at = Some(Instant::now());
        Some(Happened { at, up })
    }

    #[tokio::test(start_paused = true)]
    async fn what_happened_later_waits_until_what_happened_before_is_reported() {
        let order = Groups::default();
        let (mut a, b) = (join(&order, "a", &["gpu0"]), join(&order, "b", &["gpu0"]));
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
        let order = Groups::default();
        let stuck = join(&order, "stuck", &["gpu0"]);
        let both = join(&order, "both", &["gpu0", "gpu1"]);
        let other = join(&order, "other", &["gpu1"]);
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
        let order = Groups::default();
        let (a, b) = (join(&order, "a", &["gpu0"]), join(&order, "b", &["gpu0"]));
        let (up, down) = ([true, false]).map(|up| Some(Happened { at: None, up })).into();
        assert!(!a.note(up), "nobody has looked at b yet");
        assert!(b.note(down));
        assert!(!a.note(up));
        assert!(b.note(up), "two that are both up don't wait for each other");
        assert!(a.note(up));
    }
}
