//! The fold of the journal in memory: which provider serves a model, and the status of each. Requests read it without
//! waiting; a request that waits for a change watches one provider.

mod meaning;
#[cfg(test)]
pub(crate) mod tests;

use crate::{agents::Agents, keys::Keys, owner_refusals::OwnerRefusals, staying_awake::StayingAwake};
use meaning::LoggedConflicts;
pub(crate) use meaning::{Kind, Overruled};
use parking_lot::RwLock;
use reveille_bus::{
    AggregateId, BusError, Followed, Follower, JournalContext, JournalEntry, commit::AnyCommit,
};
use reveille_domain::{
    AgentName, Epoch, ModelName, PresetSpec, Provider, ProviderId, ProviderSpec, counted, latest_alias,
    named,
    provider::{InactiveReason, Registered},
    rows::{LoadedAt, MemoryRows},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

/// How many similar model names an error suggests, and how similar they must be.
const SUGGESTIONS: usize = 3;
const SIMILAR: f64 = 0.7;

/// A published provider and the journal sequence of the commit it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProviderSnapshot {
    pub provider: Registered,
    /// The sequence of its last commit that this version can read.
    pub sequence: u64,
    /// Set if this version can't read a later commit, with the reason: the snapshot may be out of date, and no command is
    /// accepted until a commit can be read again.
    pub unreadable: Option<String>,
}

impl ProviderSnapshot {
    /// The public name of the model that `asked` means at this provider.
    pub(crate) fn named(&self, asked: &str) -> Option<&ModelName> {
        let spec = &self.provider.spec;
        named(
            &spec.models().iter(),
            spec.has_latest_tag(),
            &self.provider.id,
            asked,
        )
    }

    /// The preset that `asked` means at this provider, if it isn't a model.
    pub(crate) fn preset(&self, asked: &str) -> Option<&PresetSpec> {
        self.provider.spec.preset(self.named(asked)?)
    }
}

/// Why an agent is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// It went silent.
    Silent,
    Stopped,
    /// Its key was revoked.
    Revoked,
    /// The same of one that the next start of this process admits again.
    RevokedUntilStart,
}

/// Hears of the providers as they are folded, before anybody can see them so in the registry. It must not look into it.
pub(crate) trait ProviderObserver: Send + Sync {
    /// A provider has changed; `None` if it is no longer published.
    fn folded(&self, id: &ProviderId, provider: Option<&Registered>);

    /// These are all providers: everything that was in the journal is folded.
    fn loaded(&self, all: &[Arc<ProviderSnapshot>]);
}

/// The fold of the journal in memory. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    table: RwLock<Table>,
    observers: RwLock<Vec<Arc<dyn ProviderObserver>>>,
    /// The folded sequence; `None` before everything that was there at the start is folded.
    applied: watch::Sender<Option<u64>>,
    rows: Arc<MemoryRows>,
    agents: Agents,
    keys: Keys,
    owner_refusals: OwnerRefusals,
    staying_awake: StayingAwake,
}

#[derive(Default)]
struct Table {
    providers: BTreeMap<ProviderId, watch::Sender<Arc<ProviderSnapshot>>>,
    models: HashMap<String, Vec<ProviderId>>,
    unreadable: HashSet<String>,
    logged_conflicts: LoggedConflicts,
    /// The commit each provider's next command builds on.
    last_commits: HashMap<ProviderId, JournalContext<Provider>>,
    /// Whether the journal is being followed, and is surely the one that was folded.
    current: bool,
}

impl Registry {
    /// The providers that serve `asked`: those that publish exactly this name, or else those of one agent meant by
    /// `agent/model`, or else the one meant by `agent/provider/model`; or else those that mean the same with or without the tag
    /// `latest`. Empty for an unknown model. The name is one preset at all of them, or a model at all of them.
    pub(crate) fn pool(&self, asked: &str) -> Vec<Arc<ProviderSnapshot>> {
        let table = self.inner.table.read();
        let mut pool = table.asked(asked, |name| Some(name.to_owned()), |_| true);
        if pool.is_empty() {
            pool = table.asked(asked, latest_alias, ProviderSpec::has_latest_tag);
        }
        meaning::agreeing(pool, asked)
    }

    /// The names by which a provider gets no requests, because they mean something else at another one.
    pub(crate) fn overruled(&self, snapshot: &ProviderSnapshot) -> Vec<Overruled> {
        let table = self.inner.table.read();
        let models = snapshot.provider.spec.models().iter();
        let overruled = models.filter_map(|name| meaning::overruled(&table.publishing(name), snapshot, name));
        overruled.collect()
    }

    pub(crate) fn get(&self, id: &ProviderId) -> Option<Arc<ProviderSnapshot>> {
        self.inner.table.read().snapshot(id)
    }

    /// All providers, by id.
    pub(crate) fn all(&self) -> Vec<Arc<ProviderSnapshot>> {
        self.inner.table.read().snapshots()
    }

    /// Tells `observer` of all providers, and of each change from now on.
    pub(crate) fn observe(&self, observer: Arc<dyn ProviderObserver>) {
        let table = self.inner.table.write();
        if self.is_ready() {
            observer.loaded(&table.snapshots());
        }
        self.inner.observers.write().push(observer);
    }

    /// How many providers there are.
    pub(crate) fn count(&self) -> usize {
        self.inner.table.read().providers.len()
    }

    /// The commit that the provider's next command builds on; `None` while it may belong to another journal.
    pub(crate) fn last_commit(&self, id: &ProviderId) -> Option<JournalContext<Provider>> {
        let table = self.inner.table.read();
        let last = table.last_commits.get(id).filter(|_| table.current);
        last.cloned()
    }

    /// The providers of one agent.
    pub(crate) fn of_agent(&self, agent: &AgentName) -> Vec<Arc<ProviderSnapshot>> {
        self.all()
            .into_iter()
            .filter(|snapshot| snapshot.provider.id.agent == *agent)
            .collect()
    }

    /// Why the agent of an inactive provider is away.
    pub(crate) fn absence(&self, agent: &AgentName, reason: InactiveReason) -> Absence {
        let agents = self.agents();
        match (agents.is_revoked(agent), reason) {
            (true, _) if agents.is_admitted_at_start(agent) => Absence::RevokedUntilStart,
            (true, _) => Absence::Revoked,
            (false, InactiveReason::AgentLost) => Absence::Silent,
            (false, InactiveReason::AgentStopped) => Absence::Stopped,
        }
    }

    /// The current epoch of an agent.
    pub(crate) fn agent_epoch(&self, agent: &AgentName) -> Option<Epoch> {
        self.agents().get(agent).map(|snapshot| snapshot.epoch)
    }

    /// Watches one provider: the receiver sees every later state, and closes when the provider is gone.
    pub(crate) fn watch(&self, id: &ProviderId) -> Option<watch::Receiver<Arc<ProviderSnapshot>>> {
        self.inner
            .table
            .read()
            .providers
            .get(id)
            .map(watch::Sender::subscribe)
    }

    /// Public model names similar to `model` that are `allowed`, most similar first.
    pub(crate) fn nearest(&self, model: &str, allowed: &dyn Fn(&str) -> bool) -> Vec<String> {
        let table = self.inner.table.read();
        let score = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &model.to_lowercase());
        let names = table.models.keys().filter(|name| allowed(name));
        let mut scored: Vec<_> = names
            .map(|name| (score(name), name))
            .filter(|(score, _)| *score >= SIMILAR)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        scored.truncate(SUGGESTIONS);
        scored.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// How many aggregates have a last commit that this version can't read.
    pub(crate) fn unreadable(&self) -> usize {
        self.inner.table.read().unreadable.len()
    }

    /// The sequence of the last commit that is folded.
    pub(crate) fn applied(&self) -> u64 {
        self.inner.applied.borrow().unwrap_or(0)
    }

    /// Waits until `sequence` is folded; `false` if `until` comes first.
    pub(crate) async fn applied_to(&self, sequence: u64, until: Instant) -> bool {
        let mut applied = self.inner.applied.subscribe();
        let reached = applied.wait_for(|applied| applied.is_some_and(|applied| applied >= sequence));
        matches!(tokio::time::timeout_at(until, reached).await, Ok(Ok(_)))
    }

    /// Waits until everything that was in the journal at the start is folded.
    pub(crate) async fn ready(&self) {
        // The sender lives as long as this registry.
        let _ = self.inner.applied.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until another fold than this one has begun, because the journal was replaced.
    pub(crate) async fn another_fold(&self, loaded_at: LoadedAt) {
        let mut applied = self.inner.applied.subscribe();
        while self.inner.rows.loaded_at() == loaded_at && applied.changed().await.is_ok() {}
    }

    /// Whether everything that was in the journal at the start is folded.
    pub(crate) fn is_ready(&self) -> bool {
        self.inner.applied.borrow().is_some()
    }

    /// The same fold as rows.
    pub(crate) fn rows(&self) -> Arc<MemoryRows> {
        self.inner.rows.clone()
    }

    /// The same fold as agents and their keys.
    pub(crate) fn agents(&self) -> &Agents {
        &self.inner.agents
    }

    /// The same fold as keys.
    pub(crate) fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// What agents' heartbeats say of their owners.
    pub(crate) fn owner_refusals(&self) -> &OwnerRefusals {
        &self.inner.owner_refusals
    }

    /// What agents' heartbeats say of backends that were to sleep.
    pub(crate) fn staying_awake(&self) -> &StayingAwake {
        &self.inner.staying_awake
    }

    /// Folds the journal, for as long as this version can follow it.
    pub(crate) async fn run(&self, mut follower: Follower) -> Result<Infallible, BusError> {
        loop {
            self.follow(&follower.next().await?);
        }
    }

    pub(crate) fn follow(&self, followed: &Followed) {
        match followed {
            Followed::Reset => self.reset(),
            Followed::Commit(entry) => self.take(entry),
            Followed::Interrupted => self.inner.table.write().current = false,
            Followed::CaughtUp { sequence } => self.caught_up(*sequence),
        }
    }

    fn reset(&self) {
        // First, so that a request whose provider vanishes can tell why.
        self.inner.applied.send_replace(None);
        *self.inner.table.write() = Table::default();
        self.inner.rows.reset();
        self.inner.agents.reset();
        self.inner.keys.reset();
    }

    fn caught_up(&self, sequence: u64) {
        let mut table = self.inner.table.write();
        if !self.is_ready() {
            self.inner.rows.loaded(sequence);
            let all = table.snapshots();
            let observers = self.inner.observers.read();
            observers.iter().for_each(|observer| observer.loaded(&all));
            let providers = all.len();
            info!(
                journal.sequence = sequence,
                providers,
                "read the journal: {}",
                counted(providers, "provider")
            );
            table.log_all();
        }
        table.current = true;
        drop(table);
        self.inner.applied.send_replace(Some(sequence));
    }

    fn take(&self, entry: &JournalEntry) {
        let ready = self.is_ready();
        let committed = entry.row_source();
        if ready {
            self.inner.rows.apply(&committed);
        } else {
            self.inner.rows.load(&committed);
        }
        if let Ok((AggregateId::Agent(name), AnyCommit::Agent(commit))) = &entry.commit {
            let agents = &self.inner.agents;
            agents.take(name, &commit.state, &commit.events, entry.sequence);
        }
        self.take_key(entry);
        let mut table = self.inner.table.write();
        if ready && let Ok((AggregateId::Provider(id), AnyCommit::Provider(commit))) = &entry.commit {
            let (observers, provider) = (self.inner.observers.read(), commit.state.registered());
            observers
                .iter()
                .for_each(|observer| observer.folded(id, provider));
        }
        table.take(entry, ready);
        drop(table);
        if ready {
            self.inner.applied.send_replace(Some(entry.sequence));
        }
    }

    fn take_key(&self, entry: &JournalEntry) {
        let keys = &self.inner.keys;
        match &entry.commit {
            Ok((_, AnyCommit::Key(commit))) => keys.take(&commit.state, entry.sequence),
            Ok((_, AnyCommit::Provider(commit))) => keys.quota().take(&commit.events),
            Ok((_, AnyCommit::Agent(_))) => {}
            Err(_) => {
                if let Some(AggregateId::Key(id)) = AggregateId::of_subject(&entry.subject) {
                    keys.take_unreadable(id, entry.sequence);
                }
            }
        }
    }
}

impl Table {
    /// The providers that publish what `asked` names once it is `read`, or else what follows `agent/` in it, or else what follows
    /// `agent/provider/`; only those whose spec is `fit` for that.
    fn asked(
        &self,
        asked: &str,
        read: impl Fn(&str) -> Option<String>,
        fit: impl Fn(&ProviderSpec) -> bool,
    ) -> Vec<Arc<ProviderSnapshot>> {
        let publishing = |name: &str, is_meant: &dyn Fn(&ProviderId) -> bool| -> Vec<_> {
            let ids = read(name).and_then(|name| self.models.get(&name));
            let meant = ids.into_iter().flatten().filter(|id| is_meant(id));
            let pool = meant.filter_map(|id| self.snapshot(id));
            pool.filter(|snapshot| fit(&snapshot.provider.spec)).collect()
        };
        let pool = publishing(asked, &|_| true);
        let Some((agent, of_agent)) = asked.split_once('/').filter(|_| pool.is_empty()) else {
            return pool;
        };
        let pool = publishing(of_agent, &|id| id.agent.as_str() == agent);
        let Some((provider, model)) = of_agent.split_once('/').filter(|_| pool.is_empty()) else {
            return pool;
        };
        publishing(model, &|id| {
            id.agent.as_str() == agent && id.provider.as_str() == provider
        })
    }

    /// All that publish this very name, in order.
    fn publishing(&self, name: &ModelName) -> Vec<Arc<ProviderSnapshot>> {
        let ids = self.models.get(name.as_str()).into_iter().flatten();
        ids.filter_map(|id| self.snapshot(id)).collect()
    }

    /// Logs what has changed about names that mean different things.
    fn log_changes(&mut self, names: &[ModelName]) {
        for name in names {
            let pool = self.publishing(name);
            self.logged_conflicts.log_changes(&pool, name);
        }
    }

    fn log_all(&mut self) {
        let all = self.providers.values();
        let names: BTreeSet<_> = all
            .flat_map(|slot| slot.borrow().provider.spec.models().to_vec())
            .collect();
        self.log_changes(&names.into_iter().collect::<Vec<_>>());
    }

    fn snapshot(&self, id: &ProviderId) -> Option<Arc<ProviderSnapshot>> {
        self.providers.get(id).map(|slot| slot.borrow().clone())
    }

    fn snapshots(&self) -> Vec<Arc<ProviderSnapshot>> {
        let slots = self.providers.values();
        slots.map(|slot| slot.borrow().clone()).collect()
    }

    /// `ready`: everything that was there at the start has been taken.
    fn take(&mut self, entry: &JournalEntry, ready: bool) {
        if entry.commit.is_ok() {
            self.unreadable.remove(&entry.subject);
        }
        if let Some(AggregateId::Provider(id)) = AggregateId::of_subject(&entry.subject) {
            match JournalContext::after(entry) {
                Some(last) => self.last_commits.insert(id, last),
                None => self.last_commits.remove(&id),
            };
        }
        match &entry.commit {
            Ok((_, AnyCommit::Agent(_) | AnyCommit::Key(_))) => {}
            Ok((_, AnyCommit::Provider(commit))) => {
                let published = self.take_provider(&commit.state, entry.sequence);
                if ready {
                    self.log_changes(&published);
                }
            }
            Err(error) => {
                if self.unreadable.insert(entry.subject.clone()) {
                    let subject = &entry.subject;
                    warn!(journal.sequence = entry.sequence, %error, "can't read a commit of {subject}: refusing its commands");
                }
                if let Some(AggregateId::Provider(id)) = AggregateId::of_subject(&entry.subject)
                    && let Some(slot) = self.providers.get(&id)
                {
                    slot.send_modify(|snapshot| Arc::make_mut(snapshot).unreadable = Some(error.to_string()));
                }
            }
        }
    }

    /// Returns the names that it publishes, or published before.
    fn take_provider(&mut self, provider: &Provider, sequence: u64) -> Vec<ModelName> {
        let names = |snapshot: Option<Arc<ProviderSnapshot>>| {
            let models = snapshot.map(|snapshot| snapshot.provider.spec.models().to_vec());
            models.unwrap_or_default()
        };
        match provider {
            Provider::Unregistered => Vec::new(),
            Provider::Gone(gone) => {
                let before = names(self.snapshot(&gone.id));
                self.forget(&gone.id);
                before
            }
            Provider::Registered(provider) => {
                let snapshot = Arc::new(ProviderSnapshot {
                    provider: provider.clone(),
                    sequence,
                    unreadable: None,
                });
                let id = &provider.id;
                let mut published = names(self.snapshot(id));
                let same_models = self
                    .snapshot(id)
                    .is_some_and(|was| was.provider.spec.models() == provider.spec.models());
                if !same_models {
                    self.unlist(id);
                    for model in provider.spec.models() {
                        let pool = self.models.entry(model.to_string()).or_default();
                        pool.push(id.clone());
                        pool.sort();
                    }
                }
                let slot = self.providers.entry(id.clone());
                slot.or_insert_with(|| watch::Sender::new(snapshot.clone()))
                    .send_replace(snapshot);
                if !same_models {
                    published.extend_from_slice(provider.spec.models());
                }
                published
            }
        }
    }

    fn forget(&mut self, id: &ProviderId) {
        self.unlist(id);
        self.providers.remove(id);
        self.last_commits.remove(id);
    }

    fn unlist(&mut self, id: &ProviderId) {
        self.models.retain(|_, pool| {
            pool.retain(|other| other != id);
            !pool.is_empty()
        });
    }
}
