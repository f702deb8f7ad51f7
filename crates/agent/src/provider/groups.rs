//! Exclusive groups: of the providers that share something which only one can have, such as a GPU, one is awake at a time.
//!
//! A wake takes its turn: the oldest first, of those that want the same. When its turn has come, the members that are in
//! its way are asked to make room, each when it has been awake for long enough, and it begins when all of them are
//! known to sleep. What isn't known to sleep holds its place: room is never assumed.
//!
//! Nobody runs this. Each owner tells what becomes of its own backend, and a wake that waits looks again whenever
//! something was told.

use super::report_order::ReportOrder;
use reveille_domain::{GroupName, ProviderName, WakeId};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The groups of one agent, shared by the owners of its providers.
#[derive(Debug, Clone)]
pub struct Groups(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told whenever the state has changed.
    changed: watch::Sender<()>,
    reports: ReportOrder,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeMap<ProviderName, Member>,
    /// The wakes that wait, oldest first.
    queue: VecDeque<Waiting>,
    turns: u64,
}

#[derive(Debug)]
struct Member {
    terms: Terms,
    place: Place,
    /// What it is asked for, and by which turn.
    room: watch::Sender<Option<Room>>,
    /// The turn that it can't make room for, and why.
    stays: Option<(u64, String)>,
}

#[derive(Debug)]
struct Waiting {
    turn: u64,
    member: ProviderName,
}

/// What the config says of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Its groups: of each, one member is awake at a time.
    pub groups: Vec<GroupName>,
    /// How long it stays once it is awake.
    pub min_awake: Duration,
    /// Whether it never makes room: others wait until it sleeps by itself.
    pub persistent: bool,
    /// How long its own wake waits for room.
    pub max_wait: Duration,
}

/// Whether a member has what its groups share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is known not to.
    Free,
    /// It may: nobody has looked, or its backend didn't come up, or no longer answers.
    Doubtful,
    /// It is being woken.
    Waking,
    /// It has it, and answers.
    Awake { since: Instant },
}

/// What a member is asked for: to be put to sleep, so that another can wake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The wake that needs it.
    pub for_wake: WakeId,
    /// When it is too late.
    pub until: Instant,
    turn: u64,
}

/// A member of groups, as its owner holds it.
#[derive(Debug)]
pub struct Membership {
    groups: Groups,
    name: ProviderName,
    room: watch::Receiver<Option<Room>>,
}

/// A wake's place in the queue; leaves it when dropped.
struct Turn {
    groups: Groups,
    number: u64,
}

enum Step {
    Granted,
    Refused(String),
    /// Until something changes, and at the latest until then.
    Wait(Option<Instant>),
}

impl Default for Groups {
    fn default() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            reports: ReportOrder::default(),
        }))
    }
}

impl Groups {
    /// The order in which the members report.
    pub(super) fn reports(&self) -> &ReportOrder {
        &self.0.reports
    }

    /// A provider's membership; `None` for one that shares nothing. Whether its backend sleeps isn't known yet.
    #[must_use]
    pub fn join(&self, name: &ProviderName, terms: Terms) -> Option<Membership> {
        if terms.groups.is_empty() {
            return None;
        }
        let (room, asked) = watch::channel(None);
        let member = Member {
            terms,
            place: Place::Doubtful,
            room,
            stays: None,
        };
        self.lock().members.insert(name.clone(), member);
        Some(Membership {
            groups: self.clone(),
            name: name.clone(),
            room: asked,
        })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.0.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Membership {
    /// Waits for room for `wake`, and takes it.
    ///
    /// # Errors
    /// Who doesn't make room, and why.
    pub fn take_turn(&self, wake: WakeId) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let (groups, member) = (self.groups.clone(), self.name.clone());
        async move {
            let mut changed = groups.0.changed.subscribe();
            let patience = groups.lock().members[&member].terms.max_wait;
            let until = Instant::now() + patience;
            let turn = Turn::begin(groups.clone(), member);
            loop {
                changed.borrow_and_update();
                let now = Instant::now();
                let step = groups.lock().step(turn.number, wake, until, now);
                let wait = match step {
                    Step::Granted => return Ok(()),
                    Step::Refused(why) => return Err(why),
                    Step::Wait(_) if now >= until => {
                        let who = groups.lock().in_the_way(turn.number);
                        return Err(format!("{who} after {patience:?} (`max_group_wait`)"));
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

    /// Waits until room is asked for, or no longer is. May be dropped and called again.
    pub async fn asked(&mut self) {
        if self.room.changed().await.is_err() {
            // Never: the groups live as long as this does.
            std::future::pending::<()>().await;
        }
    }

    /// The room that is asked for now.
    #[must_use]
    pub fn wanted(&self) -> Option<Room> {
        self.room.borrow().clone()
    }

    /// Whether it was said already that this room can't be made.
    #[must_use]
    pub fn has_answered(&self, room: &Room) -> bool {
        let state = self.groups.lock();
        let stays = state
            .members
            .get(&self.name)
            .and_then(|member| member.stays.as_ref());
        stays.is_some_and(|(turn, _)| *turn == room.turn)
    }

    /// Its backend answers. What was asked of it while that wasn't known is asked again, if it still may be.
    pub fn is_awake(&self) {
        self.place(|place| match place {
            Place::Awake { .. } => place,
            Place::Free | Place::Doubtful | Place::Waking => Place::Awake {
                since: Instant::now(),
            },
        });
    }

    /// Its backend is known to sleep, and so has nothing that the groups share.
    pub fn sleeps(&self) {
        self.place(|_| Place::Free);
    }

    /// Its backend neither answers nor is known to sleep. One that was known to, still is.
    pub fn is_doubtful(&self) {
        self.place(|place| match place {
            Place::Free => Place::Free,
            Place::Doubtful | Place::Waking | Place::Awake { .. } => Place::Doubtful,
        });
    }

    /// It can't make the room that is wanted.
    pub fn stays(&self, room: &Room, why: &str) {
        let why = format!("{} {why}", self.name);
        self.groups.change(|state| {
            if let Some(member) = state.members.get_mut(&self.name) {
                member.stays = Some((room.turn, why));
            }
        });
    }

    fn place(&self, next: impl FnOnce(Place) -> Place) {
        let mut state = self.groups.lock();
        let Some(member) = state.members.get_mut(&self.name) else {
            return;
        };
        let was = member.place;
        member.place = next(was);
        let changed = member.place != was;
        if changed && matches!(member.place, Place::Awake { .. }) {
            member.room.send_replace(None);
        }
        drop(state);
        if changed {
            self.groups.0.changed.send_replace(());
        }
    }
}

impl Turn {
    fn begin(groups: Groups, member: ProviderName) -> Self {
        let mut number = 0;
        groups.change(|state| {
            state.turns += 1;
            number = state.turns;
            state.queue.push_back(Waiting { turn: number, member });
        });
        Self { groups, number }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.groups.change(|state| {
            state.queue.retain(|waiting| waiting.turn != self.number);
            for member in state.members.values_mut() {
                member.room.send_if_modified(|room| {
                    let ours = room.as_ref().is_some_and(|room| room.turn == self.number);
                    if ours {
                        *room = None;
                    }
                    ours
                });
                member.stays.take_if(|(turn, _)| *turn == self.number);
            }
        });
    }
}

impl State {
    /// What is next for a turn: its room, if there is some; else it is asked for.
    fn step(&mut self, turn: u64, wake: WakeId, until: Instant, now: Instant) -> Step {
        let Some(place) = self.queue.iter().position(|waiting| waiting.turn == turn) else {
            return Step::Refused("the wake is no longer waited for".to_owned());
        };
        let name = self.queue[place].member.clone();
        let earlier: Vec<_> = self
            .queue
            .iter()
            .take(place)
            .map(|waiting| &waiting.member)
            .collect();
        if earlier.into_iter().any(|other| self.share(&name, other)) {
            return Step::Wait(None);
        }
        let mut next: Option<Instant> = None;
        let others: Vec<_> = self.others(&name).cloned().collect();
        for other in &others {
            let Some(member) = self.members.get_mut(other) else {
                continue;
            };
            if let Some((refused, why)) = &member.stays
                && *refused == turn
            {
                return Step::Refused(why.clone());
            }
            let from = match member.place {
                Place::Free | Place::Waking => continue,
                Place::Awake { .. } if member.terms.persistent => continue,
                Place::Awake { since } => since + member.terms.min_awake,
                Place::Doubtful => now,
            };
            if from > now {
                next = Some(next.map_or(from, |next| next.min(from)));
            } else if member.room.borrow().is_none() {
                member.room.send_replace(Some(Room {
                    for_wake: wake,
                    until,
                    turn,
                }));
            }
        }
        if others
            .iter()
            .any(|other| self.members[other].place != Place::Free)
        {
            return Step::Wait(next);
        }
        if let Some(member) = self.members.get_mut(&name) {
            member.place = Place::Waking;
        }
        Step::Granted
    }

    /// Who keeps a turn waiting, in words.
    fn in_the_way(&self, turn: u64) -> String {
        let Some(waiting) = self.queue.iter().find(|waiting| waiting.turn == turn) else {
            return "nobody made room".to_owned();
        };
        let blocks = |name: &&ProviderName| self.members[*name].place != Place::Free;
        let Some(other) = self.others(&waiting.member).find(blocks) else {
            return "others were still to be woken first".to_owned();
        };
        let member = &self.members[other];
        match member.place {
            Place::Awake { .. } if member.terms.persistent => {
                format!("{other} was still awake, and is not put to sleep for others,")
            }
            Place::Awake { .. } => format!("{other} had not made room"),
            Place::Waking => format!("{other} was still waking"),
            Place::Free | Place::Doubtful => format!("{other} was not known to sleep"),
        }
    }

    fn others<'a>(&'a self, name: &'a ProviderName) -> impl Iterator<Item = &'a ProviderName> {
        self.members
            .keys()
            .filter(move |other| *other != name && self.share(name, other))
    }

    fn share(&self, one: &ProviderName, other: &ProviderName) -> bool {
        let groups = |name| self.members.get(name).map(|member| &member.terms.groups);
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
        let terms = Terms {
            groups: list
                .iter()
                .map(|group| GroupName::parse(group).expect("legal"))
                .collect(),
            min_awake: MIN_AWAKE,
            persistent: name == "persistent",
            max_wait: MAX_WAIT,
        };
        let name = ProviderName::parse(name).expect("legal");
        let member = groups.join(&name, terms).expect("a member");
        member.sleeps();
        member
    }

    /// Asks for a turn, and lets it look for the first time.
    async fn turn(member: &Membership) -> JoinHandle<Result<(), String>> {
        let turn = tokio::spawn(member.take_turn(WakeId(Uuid::now_v7())));
        settle().await;
        turn
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn who_shares_nothing_is_no_member() {
        let terms = Terms {
            groups: vec![],
            min_awake: MIN_AWAKE,
            persistent: false,
            max_wait: MAX_WAIT,
        };
        let name = ProviderName::parse("p").expect("legal");
        assert!(Groups::default().join(&name, terms).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_woken_is_asked_only_after_its_time() {
        let groups = Groups::default();
        let (a, b) = (join(&groups, "a", &["gpu0"]), join(&groups, "b", &["gpu0"]));
        a.is_awake();
        let turn = turn(&b).await;
        advance(MIN_AWAKE - Duration::from_millis(10)).await;
        settle().await;
        assert_eq!(a.wanted(), None);
        a.is_awake();
        advance(Duration::from_millis(10)).await;
        settle().await;
        assert!(a.wanted().is_some(), "being awake still doesn't begin it anew");
        a.sleeps();
        turn.await.expect("no panic").expect("room");
        assert_eq!(a.wanted(), None, "nothing more is wanted");
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
            members[1].wanted(),
            None,
            "it is being woken: nobody can be asked yet"
        );
        members[1].is_awake();
        advance(MIN_AWAKE).await;
        settle().await;
        assert!(members[1].wanted().is_some());
        members[1].is_doubtful();
        settle().await;
        assert!(!third.is_finished(), "what isn't known to sleep has its room");
        members[1].sleeps();
        third.await.expect("no panic").expect("room");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_the_queue_takes_his_wish_with_him() {
        let groups = Groups::default();
        let (a, b) = (join(&groups, "a", &["gpu0"]), join(&groups, "b", &["gpu0"]));
        a.is_awake();
        advance(MIN_AWAKE).await;
        let turn = turn(&b).await;
        assert!(a.wanted().is_some());
        turn.abort();
        settle().await;
        assert_eq!(a.wanted(), None);
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
        let room = awake.wanted().expect("asked for");
        advance(MAX_WAIT - MIN_AWAKE).await;
        let why = first.await.expect("no panic").unwrap_err();
        assert_eq!(why, "a had not made room after 60s (`max_group_wait`)");
        behind.await.expect("no panic").expect("its turn has come");

        let again = turn(&blocked).await;
        assert_ne!(awake.wanted(), Some(room.clone()), "another turn");
        awake.stays(&room, "can't");
        settle().await;
        assert!(!again.is_finished(), "what was said of another turn isn't meant");
        let room = awake.wanted().expect("asked for");
        assert!(!awake.has_answered(&room));
        awake.stays(&room, "can't");
        assert!(awake.has_answered(&room));
        assert_eq!(again.await.expect("no panic"), Err("a can't".to_owned()));
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
        assert_eq!(stays.wanted(), None);
    }
}
