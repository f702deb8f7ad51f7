//! Exclusive groups: of providers that share something that only one of them can use, such as a GPU, one is awake at a time.
//!
//! Wakes queue, the oldest first among those of the same groups. The first asks the members in its way to sleep, each once
//! it has been awake for its `min_awake`, and begins when all of them are known to sleep. A member that isn't known to sleep
//! counts as using the resource: nothing is assumed to be free.
//!
//! No task runs this. Each owner reports the state of its own backend, and a queued wake checks again after every report.

use super::happened::Happened;
use parking_lot::{Mutex, MutexGuard};
use reveille_domain::{GroupName, ProviderName, WakeId};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The groups of one agent, shared by the owners of its providers.
#[derive(Debug, Clone, Default)]
pub struct Groups(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) members: BTreeMap<ProviderName, Member>,
    /// Waiting wakes, oldest first.
    queue: VecDeque<Queued>,
    tickets: u64,
    /// How many memberships there have been.
    memberships: u64,
    /// Notified after every change.
    pub(super) changed: watch::Sender<()>,
}

#[derive(Debug)]
pub(super) struct Member {
    membership: u64,
    policy: GroupPolicy,
    occupancy: Occupancy,
    eviction: Option<EvictionRequest>,
    /// The ticket whose eviction request it has refused, and why.
    refusal: Option<(u64, String)>,
    /// The oldest event that control has yet to hear.
    pub(super) unreported: Option<Happened>,
}

#[derive(Debug)]
struct Queued {
    ticket: u64,
    member: ProviderName,
}

/// The config of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPolicy {
    /// In each of these groups, one member is awake at a time.
    pub groups: Vec<GroupName>,
    /// How long it stays awake at least.
    pub min_awake: Duration,
    /// Whether it never sleeps for others: they wait until it sleeps by itself.
    pub persistent: bool,
    /// How long its own wakes may queue.
    pub max_wait: Duration,
}

/// Whether a member uses what its groups share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occupancy {
    /// It is known to sleep.
    Free,
    /// It may: it wasn't probed yet, didn't come up, or no longer answers.
    Doubtful,
    /// It sleeps, but control hasn't recorded that yet.
    Unrecorded,
    Waking,
    Awake {
        since: Instant,
    },
}

/// Asks a member to sleep, so that another can wake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictionRequest {
    /// The wake that needs the room.
    pub for_wake: WakeId,
    /// When that wake gives up.
    pub until: Instant,
    ticket: u64,
}

/// A member of groups, as its owner holds it.
#[derive(Debug)]
pub struct Membership {
    groups: Groups,
    number: u64,
    pub(super) name: ProviderName,
    changed: watch::Receiver<()>,
}

/// A wake's place in the queue, which it leaves when this is dropped.
struct QueueTicket {
    groups: Groups,
    number: u64,
}

enum Step {
    Granted,
    Refused(String),
    /// Until the state changes, or that time.
    Wait(Option<Instant>),
}

impl Groups {
    /// A provider's membership; `None` if it has no group. Its occupancy is doubtful until its owner reports it. It replaces an
    /// earlier membership of the same provider.
    #[must_use]
    pub fn join(&self, name: &ProviderName, policy: GroupPolicy) -> Option<Membership> {
        if policy.groups.is_empty() {
            return None;
        }
        let mut state = self.lock();
        state.memberships += 1;
        let number = state.memberships;
        let member = Member {
            membership: number,
            policy,
            occupancy: Occupancy::Doubtful,
            eviction: None,
            refusal: None,
            unreported: Some(Happened::UNKNOWN),
        };
        state.members.insert(name.clone(), member);
        state.changed.send_replace(());
        Some(Membership {
            groups: self.clone(),
            number,
            name: name.clone(),
            changed: state.changed.subscribe(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl Membership {
    /// Queues until there is room for `wake`, and takes it.
    ///
    /// # Errors
    /// Which member was in the way, and why.
    pub fn acquire(&self, wake: WakeId) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let (groups, member) = (self.groups.clone(), self.name.clone());
        async move {
            let mut changed = groups.lock().changed.subscribe();
            let max_wait = groups.lock().members[&member].policy.max_wait;
            let until = Instant::now() + max_wait;
            let ticket = QueueTicket::draw(groups.clone(), member);
            loop {
                changed.borrow_and_update();
                let now = Instant::now();
                let step = groups.lock().step(ticket.number, wake, until, now);
                let wait = match step {
                    Step::Granted => return Ok(()),
                    Step::Refused(why) => return Err(why),
                    Step::Wait(_) if now >= until => {
                        let who = groups.lock().blocker(ticket.number);
                        return Err(format!("{who} after {max_wait:?} (`max_group_wait`)"));
                    }
                    Step::Wait(at) => at.map_or(until, |at| at.min(until)),
                };
                tokio::select! {
                    _ = changed.changed() => {}
                    () = sleep_until(wait) => {}
                }
            }
        }
    }

    /// Waits until something has changed in the groups since this last returned. Cancel-safe.
    pub async fn changed(&mut self) {
        // It can't be closed: the groups live as long as this.
        let _ = self.changed.changed().await;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.groups.lock()
    }

    /// Uses another policy, with the same groups.
    pub fn set_policy(&self, policy: GroupPolicy) {
        let mut state = self.lock();
        if let Some(member) = state.members.get_mut(&self.name) {
            member.policy = policy;
        }
        state.changed.send_replace(());
    }

    /// The current eviction request.
    #[must_use]
    pub fn eviction(&self) -> Option<EvictionRequest> {
        self.lock().members.get(&self.name)?.eviction.clone()
    }

    /// Whether this request was refused before.
    #[must_use]
    pub fn has_refused(&self, request: &EvictionRequest) -> bool {
        let state = self.lock();
        let member = state.members.get(&self.name);
        let refusal = member.and_then(|member| member.refusal.as_ref());
        refusal.is_some_and(|(ticket, _)| *ticket == request.ticket)
    }

    /// The backend answers. An eviction request from before is withdrawn, and made again after `min_awake`.
    pub fn is_awake(&self) {
        self.update(|was| match was {
            Occupancy::Awake { .. } => was,
            Occupancy::Free | Occupancy::Doubtful | Occupancy::Unrecorded | Occupancy::Waking => {
                let since = Instant::now();
                Occupancy::Awake { since }
            }
        });
    }

    /// The backend is known to sleep.
    pub fn sleeps(&self) {
        self.update(|_| Occupancy::Free);
    }

    /// The backend doesn't answer. If it was known to sleep, it still is.
    pub fn is_doubtful(&self) {
        self.occupies(Occupancy::Doubtful);
    }

    /// The backend sleeps, but that isn't on record yet. If it was, it still is.
    pub fn is_unrecorded(&self) {
        self.occupies(Occupancy::Unrecorded);
    }

    fn occupies(&self, next: Occupancy) {
        self.update(|was| if was == Occupancy::Free { was } else { next });
    }

    /// The member can't sleep for this request.
    pub fn refuse(&self, request: &EvictionRequest, why: &str) {
        let why = format!("{} {why}", self.name);
        let mut state = self.lock();
        if let Some(member) = state.members.get_mut(&self.name) {
            member.refusal = Some((request.ticket, why));
        }
        state.changed.send_replace(());
    }

    fn update(&self, next: impl FnOnce(Occupancy) -> Occupancy) {
        let mut state = self.lock();
        let Some(member) = state.members.get_mut(&self.name) else {
            return;
        };
        let was = member.occupancy;
        member.occupancy = next(was);
        if member.occupancy == was {
            return;
        }
        if let Occupancy::Awake { .. } = member.occupancy {
            member.eviction = None;
        }
        state.changed.send_replace(());
    }
}

/// The provider leaves its groups, unless another membership has replaced this one.
impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.lock();
        let current = state.members.get(&self.name);
        if current.is_some_and(|member| member.membership == self.number) {
            state.members.remove(&self.name);
            state.changed.send_replace(());
        }
    }
}

impl QueueTicket {
    fn draw(groups: Groups, member: ProviderName) -> Self {
        let mut state = groups.lock();
        state.tickets += 1;
        let number = state.tickets;
        state.queue.push_back(Queued {
            ticket: number,
            member,
        });
        state.changed.send_replace(());
        drop(state);
        Self { groups, number }
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        let mut state = self.groups.lock();
        state.queue.retain(|queued| queued.ticket != self.number);
        for member in state.members.values_mut() {
            member.eviction.take_if(|request| request.ticket == self.number);
            member.refusal.take_if(|(ticket, _)| *ticket == self.number);
        }
        state.changed.send_replace(());
    }
}

impl State {
    /// Grants the room to a ticket whose turn has come, if it is free; otherwise asks the members in its way to sleep.
    fn step(&mut self, ticket: u64, wake: WakeId, until: Instant, now: Instant) -> Step {
        let Some(index) = self.queue.iter().position(|queued| queued.ticket == ticket) else {
            return Step::Refused("the wake has left the queue".to_owned());
        };
        let name = self.queue[index].member.clone();
        let mut earlier = self.queue.iter().take(index).map(|queued| &queued.member);
        if earlier.any(|other| self.share(&name, other)) {
            return Step::Wait(None);
        }
        let mut next: Option<Instant> = None;
        let others: Vec<_> = self.others(&name).cloned().collect();
        for other in &others {
            let Some(member) = self.members.get_mut(other) else {
                continue;
            };
            if let Some((refused, why)) = &member.refusal
                && *refused == ticket
            {
                return Step::Refused(why.clone());
            }
            let from = match member.occupancy {
                Occupancy::Free | Occupancy::Waking => continue,
                Occupancy::Awake { .. } if member.policy.persistent => continue,
                Occupancy::Awake { since } => since + member.policy.min_awake,
                Occupancy::Doubtful | Occupancy::Unrecorded => now,
            };
            if from > now {
                next = Some(next.map_or(from, |next| next.min(from)));
            } else if member.eviction.is_none() {
                member.eviction = Some(EvictionRequest {
                    for_wake: wake,
                    until,
                    ticket,
                });
                self.changed.send_replace(());
            }
        }
        if others
            .iter()
            .any(|other| self.members[other].occupancy != Occupancy::Free)
        {
            return Step::Wait(next);
        }
        if let Some(member) = self.members.get_mut(&name) {
            member.occupancy = Occupancy::Waking;
        }
        Step::Granted
    }

    /// The member that keeps a ticket waiting, in words.
    fn blocker(&self, ticket: u64) -> String {
        let Some(queued) = self.queue.iter().find(|queued| queued.ticket == ticket) else {
            return "nobody made room".to_owned();
        };
        let blocks = |name: &&ProviderName| self.members[*name].occupancy != Occupancy::Free;
        let Some(other) = self.others(&queued.member).find(blocks) else {
            return "earlier wakes were still queued".to_owned();
        };
        let member = &self.members[other];
        match member.occupancy {
            Occupancy::Awake { .. } if member.policy.persistent => {
                format!("{other} was still awake, and is not put to sleep for others,")
            }
            Occupancy::Awake { .. } => format!("{other} had not made room"),
            Occupancy::Waking => format!("{other} was still waking"),
            Occupancy::Unrecorded => format!("{other} had not been recorded as asleep yet"),
            Occupancy::Free | Occupancy::Doubtful => format!("{other} was not known to sleep"),
        }
    }

    pub(super) fn others<'a>(&'a self, name: &'a ProviderName) -> impl Iterator<Item = &'a ProviderName> {
        self.members
            .keys()
            .filter(move |other| *other != name && self.share(name, other))
    }

    fn share(&self, one: &ProviderName, other: &ProviderName) -> bool {
        let groups = |name| self.members.get(name).map(|member| &member.policy.groups);
        groups(one)
            .zip(groups(other))
            .is_some_and(|(one, other)| one.iter().any(|group| other.contains(group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{task::JoinHandle, time::advance};
    use uuid::Uuid;

    const MIN_AWAKE: Duration = Duration::from_secs(5);
    const MAX_WAIT: Duration = Duration::from_secs(60);

    fn join(groups: &Groups, name: &str, list: &[&str]) -> Membership {
        let policy = GroupPolicy {
            groups: list
                .iter()
                .map(|group| GroupName::parse(group).expect("legal"))
                .collect(),
            min_awake: MIN_AWAKE,
            persistent: name == "persistent",
            max_wait: MAX_WAIT,
        };
        let name = ProviderName::parse(name).expect("legal");
        let member = groups.join(&name, policy).expect("a member");
        member.sleeps();
        member
    }

    /// Asks for a turn, and lets it look for the first time.
    async fn turn(member: &Membership) -> JoinHandle<Result<(), String>> {
        let turn = tokio::spawn(member.acquire(WakeId(Uuid::now_v7())));
        settle().await;
        turn
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_provider_without_groups_is_no_member() {
        let policy = GroupPolicy {
            groups: vec![],
            min_awake: MIN_AWAKE,
            persistent: false,
            max_wait: MAX_WAIT,
        };
        let name = ProviderName::parse("p").expect("legal");
        assert!(Groups::default().join(&name, policy).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_has_just_woken_is_asked_only_after_its_min_awake() {
        let groups = Groups::default();
        let (a, b) = (join(&groups, "a", &["gpu0"]), join(&groups, "b", &["gpu0"]));
        a.is_awake();
        let turn = turn(&b).await;
        advance(MIN_AWAKE - Duration::from_millis(10)).await;
        settle().await;
        assert_eq!(a.eviction(), None);
        a.is_awake();
        advance(Duration::from_millis(10)).await;
        settle().await;
        assert!(
            a.eviction().is_some(),
            "being awake still doesn't restart `min_awake`"
        );
        a.sleeps();
        turn.await.expect("no panic").expect("room");
        assert_eq!(a.eviction(), None, "nothing more is wanted");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_the_order_in_which_they_were_asked_for() {
        let groups = Groups::default();
        let members = ["a", "b", "c"].map(|name| join(&groups, name, &["gpu0"]));
        turn(&members[0]).await.await.expect("no panic").expect("room");
        members[0].is_awake();
        let second = turn(&members[1]).await;
        let third = turn(&members[2]).await;
        advance(MIN_AWAKE).await;
        members[0].sleeps();
        second.await.expect("no panic").expect("room");
        assert!(!third.is_finished());
        assert_eq!(
            members[1].eviction(),
            None,
            "it is being woken: nobody can be asked yet"
        );
        members[1].is_awake();
        advance(MIN_AWAKE).await;
        settle().await;
        assert!(members[1].eviction().is_some());
        members[1].is_doubtful();
        settle().await;
        assert!(!third.is_finished(), "what isn't known to sleep has its room");
        members[1].sleeps();
        third.await.expect("no panic").expect("room");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_that_leaves_the_queue_withdraws_its_eviction_request() {
        let groups = Groups::default();
        let (a, b) = (join(&groups, "a", &["gpu0"]), join(&groups, "b", &["gpu0"]));
        a.is_awake();
        advance(MIN_AWAKE).await;
        let turn = turn(&b).await;
        assert!(a.eviction().is_some());
        turn.abort();
        settle().await;
        assert_eq!(a.eviction(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_in_time_and_says_who_was_in_the_way() {
        let groups = Groups::default();
        let blocked = join(&groups, "blocked", &["gpu0", "gpu1"]);
        let (awake, other) = (join(&groups, "a", &["gpu0"]), join(&groups, "b", &["gpu1"]));
        let persistent = join(&groups, "persistent", &["gpu2"]);
        awake.is_awake();
        let first = turn(&blocked).await;
        let elsewhere = turn(&persistent).await;
        elsewhere.await.expect("no panic").expect("nobody shares gpu2");
        advance(MIN_AWAKE).await;
        let behind = turn(&other).await;
        assert!(!behind.is_finished(), "the older one wants gpu1 too");
        let request = awake.eviction().expect("asked for");
        advance(MAX_WAIT - MIN_AWAKE).await;
        let why = first.await.expect("no panic").unwrap_err();
        assert_eq!(why, "a had not made room after 60s (`max_group_wait`)");
        behind.await.expect("no panic").expect("its turn has come");

        let again = turn(&blocked).await;
        assert_ne!(awake.eviction(), Some(request.clone()), "another turn");
        awake.refuse(&request, "can't");
        settle().await;
        assert!(!again.is_finished(), "what was said of another turn isn't meant");
        let request = awake.eviction().expect("asked for");
        assert!(!awake.has_refused(&request));
        awake.refuse(&request, "can't");
        assert!(awake.has_refused(&request));
        assert_eq!(again.await.expect("no panic"), Err("a can't".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_of_a_member_that_is_replaced_stays_taken_and_that_of_one_that_leaves_is_free() {
        let groups = Groups::default();
        let (a, b) = (join(&groups, "a", &["gpu0"]), join(&groups, "b", &["gpu0"]));
        a.is_awake();
        let turn = turn(&b).await;
        let policy = GroupPolicy {
            groups: vec![GroupName::parse("gpu0").expect("legal")],
            min_awake: MIN_AWAKE,
            persistent: false,
            max_wait: MAX_WAIT,
        };
        let next = groups.join(&a.name, policy);
        drop(a);
        settle().await;
        assert!(!turn.is_finished(), "its backend isn't known to sleep");
        drop(next);
        turn.await.expect("no panic").expect("room");
    }

    #[tokio::test(start_paused = true)]
    async fn a_persistent_one_is_never_asked() {
        let groups = Groups::default();
        let (stays, b) = (
            join(&groups, "persistent", &["gpu0"]),
            join(&groups, "b", &["gpu0"]),
        );
        stays.is_awake();
        let turn = turn(&b).await;
        advance(MAX_WAIT).await;
        let why = turn.await.expect("no panic").unwrap_err();
        assert!(
            why.starts_with("persistent was still awake, and is not put to sleep"),
            "{why}"
        );
        assert_eq!(stays.eviction(), None);
    }
}
