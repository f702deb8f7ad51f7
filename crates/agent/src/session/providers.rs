//! The providers of a session: their owners, and how a reload changes them.
//!
//! An owner that must leave keeps its backend until the requests inside have finished. What the new config has in its place, or
//! with the same backend, starts after that.

use crate::{
    config::{Change, ProviderConfig},
    hub::Hub,
    provider::{Handle, Input, Leave, Membership, Owner, Setup},
    relay::Relay,
    reload::{ReloadEvent, ReloadProgress},
};
use reveille_bus::{control::ControlRequest, relay::CurrentEpoch};
use reveille_domain::ProviderName;
use std::{collections::BTreeMap, sync::Arc};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

/// What the providers of a session have in common.
pub(super) struct Shared {
    /// The setup of an owner.
    pub setup: Box<dyn Fn(ProviderConfig) -> Setup + Send>,
    pub relay: Arc<Relay>,
    pub hub: Arc<dyn Hub>,
    pub epoch: CurrentEpoch,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

/// All providers of a session.
pub(super) struct Providers {
    shared: Shared,
    running: BTreeMap<ProviderName, Running>,
    owners: JoinSet<(ProviderName, Option<Membership>)>,
    leaving: BTreeMap<ProviderName, Left>,
    starting: Vec<Starting>,
    /// Whether a pause wants awake backends asleep.
    rest_wanted: bool,
}

struct Running {
    config: ProviderConfig,
    handle: Handle,
}

/// A provider whose owner is leaving.
struct Left {
    config: ProviderConfig,
    handle: Handle,
    why: Leave,
    progress: ReloadProgress,
}

/// A provider that starts once those have left that are in its way.
struct Starting {
    config: ProviderConfig,
    progress: ReloadProgress,
}

impl Providers {
    /// Starts the owners of `configs`.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub(super) fn start(shared: Shared, configs: Vec<ProviderConfig>) -> Result<Self, rustls::Error> {
        let mut providers = Self {
            shared,
            running: BTreeMap::new(),
            owners: JoinSet::new(),
            leaving: BTreeMap::new(),
            starting: Vec::new(),
            rest_wanted: false,
        };
        // Members of a group join it before any of them runs.
        let mut owners = Vec::new();
        for config in configs {
            owners.push(providers.make(config)?);
        }
        for (name, owner) in owners {
            providers.spawn(name, owner);
        }
        Ok(providers)
    }

    pub(super) fn find(&self, name: &ProviderName) -> Option<&Handle> {
        self.running.get(name).map(|running| &running.handle)
    }

    /// Whether a provider is about to start again.
    pub(super) fn is_restarting(&self, name: &ProviderName) -> bool {
        self.starting.iter().any(|starting| starting.config.name == *name)
    }

    /// The configs that are used now or soon. One that failed isn't among them, so that the next reload tries again.
    pub(super) fn configs(&self) -> Vec<ProviderConfig> {
        let running = self.running.values().map(|running| &running.config);
        let starting = self.starting.iter().map(|starting| &starting.config);
        running.chain(starting).cloned().collect()
    }

    pub(super) fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.running.values().map(|running| &running.handle)
    }

    /// The connection was restored, or the session is another.
    pub(super) fn reconnected(&self) {
        let leaving = self.leaving.values().map(|left| &left.handle);
        for provider in self.handles().chain(leaving) {
            provider.send(Input::Reconnected);
        }
    }

    /// A pause wants awake backends asleep, or no longer does.
    pub(super) fn rest(&mut self, wanted: bool) {
        self.rest_wanted = wanted;
        for provider in self.handles() {
            if wanted {
                provider.rest();
            } else {
                provider.send(Input::Rest(None));
            }
        }
    }

    /// Takes up what changes; `configs` has all providers of the new config.
    pub(super) fn reload(
        &mut self,
        changes: &BTreeMap<ProviderName, Change>,
        configs: Vec<ProviderConfig>,
        progress: &ReloadProgress,
    ) {
        // Those that leave first: what starts may have to wait for them.
        for (name, change) in changes {
            let in_flight = self.find(name).map_or(0, |handle| handle.gate.in_flight());
            progress.report(ReloadEvent::Changes {
                provider: name.clone(),
                change: change.clone(),
                in_flight,
            });
            match change {
                Change::Removed => self.retire(name, Leave::Removed, progress),
                Change::Restarted { .. } => self.retire(name, Leave::Replaced, progress),
                Change::Added | Change::Adjusted { .. } => {}
            }
        }
        for config in configs {
            match changes.get(&config.name) {
                Some(Change::Adjusted { .. }) if self.running.contains_key(&config.name) => {
                    self.adjust(config, progress);
                }
                Some(Change::Adjusted { .. } | Change::Added | Change::Restarted { .. }) => {
                    let progress = progress.clone();
                    self.starting
                        .retain(|starting| starting.config.name != config.name);
                    self.starting.push(Starting { config, progress });
                }
                Some(Change::Removed) | None => {}
            }
        }
        self.start_what_can();
    }

    /// Waits for the next owner that has left, and starts what waited for it. Cancel-safe.
    pub(super) async fn next_left(&mut self) {
        match self.owners.join_next().await {
            Some(Ok((name, membership))) => self.left(&name, membership),
            Some(Err(error)) => error!(%error, "the owner of a provider broke"),
            None => std::future::pending().await,
        }
    }

    fn left(&mut self, name: &ProviderName, membership: Option<Membership>) {
        let Some(left) = self.leaving.remove(name) else {
            return;
        };
        let again = self.is_restarting(name);
        self.start_what_can();
        if !self.running.contains_key(name) {
            self.shared.relay.remove(name);
        }
        if !again && left.why == Leave::Replaced {
            // Removed by a second reload, while it left for the first.
            self.withdraw(name);
        }
        // Until here its room in the group wasn't free, unless its backend sleeps.
        drop(membership);
        info!(provider.name = %name, "{name} has left");
        left.progress.report(ReloadEvent::Settled {
            provider: name.clone(),
        });
    }

    fn retire(&mut self, name: &ProviderName, why: Leave, progress: &ReloadProgress) {
        self.starting.retain(|starting| starting.config.name != *name);
        let Some(Running { config, handle }) = self.running.remove(name) else {
            return;
        };
        let progress = progress.clone();
        self.leaving.insert(
            name.clone(),
            Left {
                config,
                handle: handle.clone(),
                why,
                progress,
            },
        );
        handle.leave(why);
    }

    fn adjust(&mut self, config: ProviderConfig, progress: &ReloadProgress) {
        let name = &config.name;
        let Some(running) = self.running.get_mut(name) else {
            return;
        };
        if let Err(error) = self.shared.relay.publish(config.clone(), running.handle.clone()) {
            return failed(name, &error, progress);
        }
        running.config = config.clone();
        running.handle.configure(config);
    }

    /// Starts those that nothing is in the way of.
    fn start_what_can(&mut self) {
        let waiting = std::mem::take(&mut self.starting);
        for Starting { config, progress } in waiting {
            if self
                .leaving
                .values()
                .any(|left| is_in_the_way(&left.config, &config))
            {
                self.starting.push(Starting { config, progress });
                continue;
            }
            let name = config.name.clone();
            match self.make(config) {
                Ok((name, owner)) => {
                    self.spawn(name.clone(), owner);
                    if let Some(handle) = self.find(&name).filter(|_| self.rest_wanted) {
                        handle.rest();
                    }
                }
                Err(error) => {
                    failed(&name, &error, &progress);
                    // The owner before it may have left it published.
                    self.withdraw(&name);
                }
            }
        }
    }

    fn make(&mut self, config: ProviderConfig) -> Result<(ProviderName, Owner), rustls::Error> {
        let (owner, handle) = Owner::new((self.shared.setup)(config.clone()));
        self.shared.relay.publish(config.clone(), handle.clone())?;
        let name = config.name.clone();
        self.running.insert(name.clone(), Running { config, handle });
        Ok((name, owner))
    }

    fn spawn(&mut self, name: ProviderName, owner: Owner) {
        let run = owner.run(self.shared.stop.clone());
        let run = async move { (name, run.await) };
        self.owners.spawn(self.shared.tasks.track_future(run));
    }

    fn withdraw(&self, name: &ProviderName) {
        let Some(epoch) = self.shared.epoch.get() else {
            return;
        };
        let provider = name.clone();
        let asked = self
            .shared
            .hub
            .ask(ControlRequest::Deregister { epoch, provider });
        let stop = self.shared.stop.clone();
        self.shared.tasks.spawn(async move {
            // Control's refusal changes nothing: the next start of the agent withdraws it.
            let _ = stop.run_until_cancelled(asked).await;
        });
    }
}

fn failed(name: &ProviderName, error: &rustls::Error, progress: &ReloadProgress) {
    error!(provider.name = %name, %error, "can't set up the HTTP client of {name}");
    progress.report(ReloadEvent::Failed {
        provider: name.clone(),
        reason: format!("can't set up its HTTP client: {error}"),
    });
}

/// Whether a provider can't start before another one has left: it has the same name, the same backend, or one of its models.
fn is_in_the_way(left: &ProviderConfig, config: &ProviderConfig) -> bool {
    let models = |config: &ProviderConfig| config.models.clone().unwrap_or_default();
    let (theirs, own) = (models(left), models(config));
    let shares_a_model = own
        .iter()
        .any(|model| theirs.iter().any(|other| other.public == model.public));
    left.name == config.name || left.base_url == config.base_url || shares_a_model
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(name: &str, port: u16, model: &str) -> ProviderConfig {
        let text = format!(
            "[[provider]]\nname = \"{name}\"\nbase_url = \"http://127.0.0.1:{port}\"\n\
             models = [{{ id = \"{model}\", as = \"{model}-public\" }}]\n"
        );
        let mut config = Config::parse(&text, "test.toml", &|_| None).expect("legal");
        config.providers.remove(0)
    }

    #[test]
    fn a_provider_waits_for_one_that_leaves_if_they_share_a_name_a_backend_or_a_model() {
        let left = config("p", 1, "m");
        for (other, waits) in [
            (config("p", 2, "n"), true),
            (config("q", 1, "n"), true),
            (config("q", 2, "m"), true),
            (config("q", 2, "n"), false),
        ] {
            assert_eq!(is_in_the_way(&left, &other), waits, "{other:?}");
        }
    }
}
