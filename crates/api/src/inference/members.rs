//! What this replica knows of the members of pools from its own requests: how many each works on, whose turn it is, and
//! which fail.

use super::{
    affinity::{Conversation, Remembered},
    choice::{self, Affinity, Candidate, Choice, Health, Reach, Tier, ranked},
    health::{Failure, FailureKind, Suspicion},
    queue::Slot,
};
use crate::{
    metrics::Metrics,
    registry::{ProviderSnapshot, Registry},
    requests::note,
    wakes::now_ms,
};
use parking_lot::Mutex;
use reveille_domain::{ProviderId, Status, Timestamp, WakeFailureKind, provider::StatusName};
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tracing::{Span, debug, info};

/// The field of a request's span that says which member of a pool was chosen, and why.
const CHOSEN: &str = "provider.chosen";

/// How long a turn takes a member of weight 1.
const TURN: u64 = 1_000_000;

/// The members of all pools. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Members {
    inner: Arc<Mutex<Inner>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Inner {
    members: HashMap<ProviderId, Member>,
    choices: u64,
    conversations: Remembered,
}

#[derive(Debug, Default)]
struct Member {
    /// One reference for each request that it works on, beside this one.
    in_flight: Arc<()>,
    /// When its next turn is.
    turn: u64,
    last_choice: u64,
    suspicion: Option<Suspicion>,
}

/// One request at one member: in flight until this is dropped.
#[derive(Debug)]
pub(super) struct Attempt {
    members: Members,
    provider: ProviderId,
    /// The journal sequence of the provider's state that the request was sent by.
    sequence: u64,
    sent_at: Instant,
    /// When the last piece of its answer came, or else when it was sent.
    heard_at: Instant,
    /// Its slot at the provider, if it takes one.
    slot: Option<Box<Slot>>,
    _in_flight: Arc<()>,
}

/// The requests of this replica that failed in a row at a provider, none of which has succeeded since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FailedRequests {
    /// Whether the provider's status is still the same, so that other members of its pools come first.
    pub suspect: bool,
    /// How many.
    count: u32,
    first_at_ms: Timestamp,
    last_at_ms: Timestamp,
    kind: FailureKind,
    /// What the last one saw, for people.
    pub last: String,
}

impl Members {
    pub fn new(metrics: Metrics) -> Self {
        Self {
            inner: Arc::default(),
            metrics: Arc::new(metrics),
        }
    }

    /// The best member of `pool` in `reach`, except `not`, for a request whose `conversation` matters only to a choice. The reason
    /// is in each later log line of the request.
    pub fn choose_for(
        &self,
        conversation: impl FnOnce() -> Option<Conversation>,
        pool: &[Arc<ProviderSnapshot>],
        reach: Reach,
        not: &[ProviderId],
    ) -> Option<Arc<ProviderSnapshot>> {
        let conversation = if pool.len() > 1 { conversation() } else { None };
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let candidates = inner.candidates(conversation, pool, not, now);
        let ranked = ranked(candidates, reach);
        let (best, others) = ranked.split_first()?;
        inner.chosen(best, conversation, now);
        drop(inner);
        note(|recording| recording.step(best.step(pool.len(), others)));
        let provider = &best.candidate.provider;
        if pool.len() > 1 {
            let why = format!("{provider} of {}: {best}", pool.len());
            Span::current().record(CHOSEN, why.as_str());
            debug!(provider.name = %provider, "chose {why}");
        }
        let chosen = pool.iter().find(|snapshot| snapshot.provider.id == *provider);
        chosen.cloned()
    }

    /// The members of `pool`, except `not`, in which a request may look for a slot, the best first: those in `reach`, and those
    /// that are awake and for which it `waits` already. None of them counts as chosen.
    pub fn tiers(
        &self,
        pool: &[Arc<ProviderSnapshot>],
        reach: Reach,
        not: &[ProviderId],
        waits: &[ProviderId],
    ) -> Vec<(ProviderId, Tier)> {
        let candidates = self.inner.lock().candidates(None, pool, not, Instant::now());
        let beyond = candidates.iter().filter(|candidate| {
            let tier = candidate.tier();
            !reach.includes(tier) && tier.is_awake() && waits.contains(&candidate.provider)
        });
        let beyond: Vec<_> = beyond
            .map(|candidate| (candidate.provider.clone(), candidate.tier()))
            .collect();
        let in_reach = ranked(candidates, reach).into_iter();
        let in_reach = in_reach.map(|choice| (choice.candidate.provider, choice.tier));
        in_reach.chain(beyond).collect()
    }

    /// A request finds out whether this member still fails.
    pub fn tries(&self, provider: &ProviderId) {
        if let Some(suspicion) = &mut self.inner.lock().member(provider).suspicion {
            suspicion.tried(Instant::now());
        }
    }

    /// The request goes to this member instead of the one that was chosen.
    pub fn diverted(&self, conversation: Option<Conversation>, to: &ProviderId) {
        if let Some(conversation) = conversation {
            self.inner.lock().conversations.remember(conversation, to.clone());
        }
        note(|recording| recording.step(choice::diverted_step(to)));
        let why = format!("{to}: it had a slot first");
        Span::current().record(CHOSEN, why.as_str());
        debug!(provider.name = %to, "chose {why}");
    }

    /// Forgets the providers that are no longer published, as soon as more are known than are published.
    pub fn forget_withdrawn(&self, registry: &Registry) {
        if self.inner.lock().members.len() <= registry.count() {
            return;
        }
        let all = registry.all();
        let published: HashSet<_> = all.iter().map(|snapshot| &snapshot.provider.id).collect();
        let mut inner = self.inner.lock();
        inner.members.retain(|id, _| published.contains(id));
    }

    /// The members of `pool` in the order in which a request without a conversation would try them now. None of them counts as
    /// chosen.
    pub fn in_order(&self, pool: &[Arc<ProviderSnapshot>]) -> Vec<Arc<ProviderSnapshot>> {
        let candidates = self.inner.lock().candidates(None, pool, &[], Instant::now());
        let places: HashMap<_, _> = ranked(candidates, Reach::All)
            .into_iter()
            .enumerate()
            .map(|(place, choice)| (choice.candidate.provider, place))
            .collect();
        let mut pool = pool.to_vec();
        pool.sort_by_key(|snapshot| places.get(&snapshot.provider.id).copied());
        pool
    }

    /// The members of `pool` in that order, each with what it is for such a request.
    pub fn explained(&self, pool: &[Arc<ProviderSnapshot>]) -> Vec<(Arc<ProviderSnapshot>, String)> {
        let candidates = self.inner.lock().candidates(None, pool, &[], Instant::now());
        let choices = ranked(candidates, Reach::All).into_iter();
        let explained = choices.filter_map(|choice| {
            let mut pool = pool.iter();
            let snapshot = pool.find(|snapshot| snapshot.provider.id == choice.candidate.provider)?;
            Some((snapshot.clone(), choice.to_string()))
        });
        explained.collect()
    }

    /// Counts a request at this provider.
    pub fn enter(&self, snapshot: &ProviderSnapshot) -> Attempt {
        let id = &snapshot.provider.id;
        let in_flight = self.inner.lock().member(id).in_flight.clone();
        let now = Instant::now();
        Attempt {
            members: self.clone(),
            provider: id.clone(),
            sequence: snapshot.sequence,
            sent_at: now,
            heard_at: now,
            slot: None,
            _in_flight: in_flight,
        }
    }

    /// How long the provider has been failing; `None` if this is the first that this replica sees of it.
    pub fn failing_for(&self, snapshot: &ProviderSnapshot) -> Option<Duration> {
        if let Status::Down { since_ms } = snapshot.provider.status {
            return Some(Duration::from_millis(
                now_ms().saturating_sub(since_ms.as_millis()),
            ));
        }
        let inner = self.inner.lock();
        let suspicion = inner
            .suspicion(snapshot)
            .filter(|suspicion| suspicion.failures > 1)?;
        Some(suspicion.lasts())
    }

    /// The provider's last failures in a row; `None` once a request has succeeded.
    pub fn failed_requests(&self, snapshot: &ProviderSnapshot) -> Option<FailedRequests> {
        let inner = self.inner.lock();
        let current = inner.suspicion(snapshot);
        let member = inner.members.get(&snapshot.provider.id)?;
        let failed = current.or(member.suspicion.as_ref())?;
        Some(FailedRequests {
            suspect: current.is_some(),
            count: failed.failures,
            first_at_ms: wall_clock(failed.first_at),
            last_at_ms: wall_clock(failed.last_at),
            kind: failed.last.kind,
            last: failed.last.to_string(),
        })
    }
}

impl Inner {
    /// What is known of the members of `pool`, except `not`.
    fn candidates(
        &self,
        conversation: Option<Conversation>,
        pool: &[Arc<ProviderSnapshot>],
        not: &[ProviderId],
        now: Instant,
    ) -> Vec<Candidate> {
        let others = pool
            .iter()
            .filter(|snapshot| !not.contains(&snapshot.provider.id));
        let mut candidates: Vec<_> = others
            .map(|snapshot| Candidate {
                displaces: displaces(snapshot, pool),
                ..self.candidate(snapshot, conversation, now)
            })
            .collect();
        // Nobody saves up turns for later: no one is behind the others by more than one.
        let latest = candidates.iter().map(|candidate| candidate.turn).max();
        let earliest = latest.unwrap_or_default().saturating_sub(TURN);
        for candidate in &mut candidates {
            candidate.turn = candidate.turn.max(earliest);
        }
        candidates
    }

    fn member(&mut self, id: &ProviderId) -> &mut Member {
        self.members.entry(id.clone()).or_default()
    }

    fn suspicion(&self, snapshot: &ProviderSnapshot) -> Option<&Suspicion> {
        let suspicion = self.members.get(&snapshot.provider.id)?.suspicion.as_ref();
        suspicion.filter(|suspicion| !suspicion.is_void(snapshot.sequence))
    }

    fn candidate(
        &self,
        snapshot: &ProviderSnapshot,
        conversation: Option<Conversation>,
        now: Instant,
    ) -> Candidate {
        let provider = &snapshot.provider;
        let member = self.members.get(&provider.id);
        let in_flight = member.map_or(0, |member| Arc::strong_count(&member.in_flight) - 1);
        let health = match self.suspicion(snapshot) {
            None => Health::Healthy,
            // The request already there will find out.
            Some(suspicion) if suspicion.is_due(now) && in_flight == 0 => Health::Due,
            Some(suspicion) if suspicion.is_sure() => Health::Suspect,
            Some(_) => Health::Doubted,
        };
        let last = provider.failures.last.as_ref();
        let balancing = *provider.spec.balancing();
        let affinity = conversation.map(|conversation| Affinity {
            has_it: self.conversations.member(&conversation) == Some(&provider.id),
            distance: conversation.distance(&provider.id, balancing.weight()),
        });
        Candidate {
            provider: provider.id.clone(),
            status: provider.status.name(),
            declined: last.is_some_and(|failure| failure.kind == WakeFailureKind::NotAllowed),
            failed_wakes: provider.failures.count,
            displaces: false,
            health,
            balancing,
            in_flight,
            turn: member.map_or(0, |member| member.turn),
            last_choice: member.map_or(0, |member| member.last_choice),
            affinity,
        }
    }

    fn chosen(&mut self, best: &Choice, conversation: Option<Conversation>, now: Instant) {
        let chosen = &best.candidate;
        if let Some(conversation) = conversation {
            self.conversations.remember(conversation, chosen.provider.clone());
        }
        self.choices += 1;
        let last_choice = self.choices;
        let member = self.member(&chosen.provider);
        member.last_choice = last_choice;
        member.turn = chosen.turn + TURN / u64::from(chosen.balancing.weight());
        if best.tier == Tier::Trial
            && let Some(suspicion) = &mut member.suspicion
        {
            suspicion.tried(now);
        }
    }
}

/// Whether the wake of a member puts another of its pool to sleep that is awake, or about to be.
fn displaces(snapshot: &ProviderSnapshot, pool: &[Arc<ProviderSnapshot>]) -> bool {
    let (id, groups) = (&snapshot.provider.id, snapshot.provider.spec.groups());
    let is_up = |status| matches!(status, StatusName::Active | StatusName::Waking);
    pool.iter().map(|other| &other.provider).any(|other| {
        let shares = || other.spec.groups().iter().any(|group| groups.contains(group));
        other.id.agent == id.agent && other.id != *id && is_up(other.status.name()) && shares()
    })
}

impl Attempt {
    /// The request has this slot until the attempt ends.
    pub fn with_slot(mut self, slot: Option<Slot>) -> Self {
        self.slot = slot.map(Box::new);
        self
    }

    /// The provider no longer works on the request.
    pub fn give_slot_back(&mut self) {
        self.slot = None;
    }

    /// The request is sent now, by this state of the provider.
    pub fn sent_by(&mut self, snapshot: &ProviderSnapshot) {
        self.sequence = snapshot.sequence;
        self.sent_at = Instant::now();
        self.heard_at = self.sent_at;
    }

    /// A piece of the answer has come.
    pub fn heard(&mut self) {
        self.heard_at = Instant::now();
    }

    /// The member failed.
    pub fn failed(&self, failure: Failure) {
        self.members.metrics.failed_attempt(failure.kind.into());
        let (id, now) = (&self.provider, Instant::now());
        let waited = now - self.heard_at;
        let mut inner = self.members.inner.lock();
        let slot = &mut inner.member(id).suspicion;
        if let Some(suspicion) = slot {
            return suspicion.and(failure, self.sequence, self.sent_at, waited, now);
        }
        info!(provider.name = %id, "a request failed at {id}, so other providers of its models come first: {failure}");
        *slot = Some(Suspicion::first(failure, self.sequence, waited, now));
    }

    /// The member has begun a successful answer.
    pub fn served(&self) {
        let id = &self.provider;
        let mut inner = self.members.inner.lock();
        let member = inner.member(id);
        if let Some(suspicion) = member.suspicion.take() {
            info!(provider.name = %id, "{id} answers again after failed requests: {}", suspicion.failures);
        }
    }
}

fn wall_clock(at: Instant) -> Timestamp {
    let ago = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(now_ms().saturating_sub(ago))
}

#[cfg(test)]
impl Members {
    /// The best member for a request without a conversation.
    pub fn choose(
        &self,
        pool: &[Arc<ProviderSnapshot>],
        reach: Reach,
        not: &[ProviderId],
    ) -> Option<Arc<ProviderSnapshot>> {
        self.choose_for(|| None, pool, reach, not)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::{entry, snapshot_at};
    use reveille_bus::Followed;
    use reveille_domain::{Balancing, Provider};
    use tokio::time::advance;

    fn pool() -> Vec<Arc<ProviderSnapshot>> {
        ["a/p", "b/p", "c/p"].map(|id| snapshot_at(id, 7)).to_vec()
    }

    impl Members {
        /// Whom the next requests go to.
        fn next(&self, pool: &[Arc<ProviderSnapshot>], requests: usize) -> String {
            let chosen = || self.choose(pool, Reach::All, &[]).expect("one");
            let agents = (0..requests).map(|_| chosen().provider.id.agent.to_string());
            agents.collect()
        }

        fn fails_at(&self, snapshot: &ProviderSnapshot) {
            let failure = Failure::in_answer(503, b"").expect("a failure");
            self.enter(snapshot).failed(failure);
        }
    }

    #[test]
    fn equals_take_turns_and_the_least_busy_comes_first() {
        let (members, pool) = (Members::new(Metrics::default()), pool());
        assert_eq!(members.next(&pool, 7), "abcabca");
        let at_b = members.enter(&pool[1]);
        assert_eq!(members.next(&pool, 4), "caca");
        drop(at_b);
        assert_eq!(members.next(&pool, 1), "b");
    }

    #[test]
    fn turns_go_by_weight_and_who_had_none_for_a_while_gets_no_more_for_that() {
        let members = Members::new(Metrics::default());
        let mut pool = pool();
        let mut weighty = (*pool[1]).clone();
        let balancing = Balancing::new(3, 0, None).expect("legal");
        weighty.provider.spec = weighty.provider.spec.with_balancing(balancing);
        pool[1] = Arc::new(weighty);
        let many = members.next(&pool, 50);
        assert_eq!(
            ["a", "b", "c"].map(|agent| many.matches(agent).count()),
            [10, 30, 10]
        );
        let at_b = members.enter(&pool[1]);
        assert_eq!(members.next(&pool, 20).matches('b').count(), 0);
        drop(at_b);
        let next = members.next(&pool, 10);
        assert!((5..=8).contains(&next.matches('b').count()), "{next}");
        // Those that have turns in another pool too have fewer here, and the others share them.
        for _ in 0..50 {
            members.next(&pool[..1], 3);
            members.next(&pool[1..2], 9);
            members.next(
                &[pool[0].clone(), snapshot_at("d/p", 7), snapshot_at("e/p", 7)],
                1,
            );
        }
        let pool = ["a/p", "d/p", "e/p"].map(|id| snapshot_at(id, 7));
        let next: String = (0..20)
            .map(|_| {
                members.next(&pool[..1], 5);
                members.next(&pool, 1)
            })
            .collect();
        assert_eq!(
            ["d", "e"].map(|agent| next.matches(agent).count()),
            [10, 10],
            "{next}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_has_been_failing_since_the_first_request_that_failed_began_to_wait() {
        let (members, pool) = (Members::new(Metrics::default()), pool());
        let failure = || Failure::in_answer(503, b"").expect("a failure");
        let (first, second) = (members.enter(&pool[0]), members.enter(&pool[0]));
        advance(Duration::from_secs(30)).await;
        first.failed(failure());
        assert_eq!(members.failing_for(&pool[0]), None, "it is the first");
        advance(Duration::from_secs(1)).await;
        second.failed(failure());
        assert_eq!(members.failing_for(&pool[0]), Some(Duration::from_secs(31)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_in_a_while_tries_a_member_that_fails_until_one_succeeds() {
        let (members, pool) = (Members::new(Metrics::default()), pool());
        members.fails_at(&pool[0]);
        for pause in [1, 2, 4] {
            assert_eq!(members.next(&pool, 4).matches('a').count(), 0);
            advance(Duration::from_secs(pause)).await;
            assert_eq!(members.next(&pool, 1), "a", "the trial after {pause} s");
            members.fails_at(&pool[0]);
        }
        assert_eq!(members.failing_for(&pool[0]), Some(Duration::from_secs(7)));
        advance(Duration::from_secs(8)).await;
        let trial = members.choose(&pool, Reach::All, &[]).expect("one");
        let failed = members.failed_requests(&pool[0]).expect("they are remembered");
        assert_eq!((failed.suspect, failed.count), (true, 4));
        assert_eq!(failed.last, "HTTP status 503");
        members.enter(&trial).served();
        assert!(members.next(&pool, 3).contains('a'));
        assert_eq!(members.failed_requests(&pool[0]), None, "a success clears them");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_joins_a_trial_that_hangs() {
        let (members, pool) = (Members::new(Metrics::default()), pool());
        members.fails_at(&pool[0]);
        advance(Duration::from_secs(1)).await;
        let trial = members.choose(&pool, Reach::All, &[]).expect("one");
        let hanging = members.enter(&trial);
        advance(Duration::from_secs(600)).await;
        assert_eq!(members.next(&pool, 6).matches('a').count(), 0);
        drop(hanging);
        assert_eq!(members.next(&pool, 1), "a", "its client has left");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_come_together_make_one_trial() {
        let (members, pool) = (Members::new(Metrics::default()), pool());
        members.fails_at(&pool[0]);
        advance(Duration::from_secs(1)).await;
        assert_eq!(members.next(&pool, 1), "a");
        // It isn't on its way yet.
        assert_eq!(members.next(&pool, 4).matches('a').count(), 0);
        advance(Duration::from_secs(1)).await;
        assert_eq!(members.next(&pool, 1), "a", "it never came");
    }

    #[test]
    fn a_member_that_changes_is_given_a_new_chance() {
        let (members, mut pool) = (Members::new(Metrics::default()), pool());
        members.fails_at(&pool[0]);
        assert_eq!(members.next(&pool, 2), "bc");
        pool[0] = snapshot_at("a/p", 8);
        assert_eq!(members.next(&pool, 1), "a");
        let failed = members.failed_requests(&pool[0]).expect("they are remembered");
        assert!(!failed.suspect);
    }

    #[test]
    fn providers_that_come_and_go_are_not_remembered() {
        let (members, registry) = (Members::new(Metrics::default()), Registry::default());
        let publish = |snapshot: &ProviderSnapshot| {
            let (id, state) = (
                &snapshot.provider.id,
                Provider::Registered(snapshot.provider.clone()),
            );
            registry.follow(&Followed::Commit(entry(id, 7, state, vec![])));
        };
        let stays = snapshot_at("a/stays", 7);
        for round in 0..100 {
            let comes = snapshot_at(&format!("a/p{round}"), 7);
            registry.follow(&Followed::Reset);
            publish(&stays);
            publish(&comes);
            members.forget_withdrawn(&registry);
            members.fails_at(&stays);
            members.fails_at(&comes);
        }
        assert!(members.inner.lock().members.len() <= 3);
        let failed = members.failed_requests(&stays).expect("it is still there");
        assert_eq!(failed.count, 100);
    }

    #[test]
    fn the_only_member_is_chosen_whatever_is_known_of_it() {
        let (members, pool) = (Members::new(Metrics::default()), pool());
        members.fails_at(&pool[0]);
        assert_eq!(members.next(&pool[..1], 3), "aaa");
        assert!(members.choose(&pool[..1], Reach::Working, &[]).is_none());
    }
}
