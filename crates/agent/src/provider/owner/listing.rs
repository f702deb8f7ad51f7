//! What the owner publishes of its backend's models, and how it keeps that up to date.
//!
//! The list is asked for with each probe that finds the backend available. A list that doesn't come withdraws nothing, and neither
//! does a backend that sleeps.

use super::Owner;
use crate::{
    config::ProviderConfig,
    models::{self, Listed, Memory},
};
use futures::{FutureExt, future::BoxFuture};
use reveille_domain::{MAX_MODELS, ModelDetails, ModelName, PresetSpec, ProviderName, ProviderSpec};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;
use tracing::{error, info, warn};

/// How many changes in a row are published at once. A list that changes all the time would flood the journal.
const CHANGES_AT_ONCE: u32 = 8;
/// How long it takes until one more change may be published. Until then the list is looked at again with each probe.
const CHANGE_EVERY: Duration = Duration::from_secs(60);
/// After this many lists in a row without a model, the backend has none: it may not have found them yet.
const EMPTY_LISTS: u32 = 3;

/// What the backend lists, and what of it is published.
pub(super) struct Listing {
    pub listed: Listed,
    under_way: Option<BoxFuture<'static, Option<Listed>>>,
    /// Whether the first list since the start has come or failed to.
    decided: bool,
    /// Whether there was a list since the backend came up.
    current: bool,
    /// How many of the last lists had no model.
    empty: u32,
    published: Option<ProviderSpec>,
    changes: Changes,
}

impl Listing {
    /// What is remembered of the provider's backend, with the models of its config.
    pub(super) fn open(memory: &Memory, config: &ProviderConfig) -> Self {
        memory.claim(config);
        let known = memory.recall(&config.name);
        let mut listed = (*known).clone();
        if let Some(models) = &config.models {
            for model in models {
                listed.models.entry(model.id.clone()).or_default();
            }
            listed = listed.known_since(&known, unix_now());
        }
        if listed != *known {
            remember(memory, &config.name, &listed);
        }
        Self {
            listed,
            under_way: None,
            decided: false,
            current: false,
            empty: 0,
            published: None,
            changes: Changes::new(Instant::now()),
        }
    }

    /// The list that is being asked for.
    pub(super) fn under_way(&mut self) -> Option<&mut BoxFuture<'static, Option<Listed>>> {
        self.under_way.as_mut()
    }

    /// Whether there was a list since the backend came up.
    pub(super) const fn is_current(&self) -> bool {
        self.current
    }

    /// Whether the first list is on its way, so that it is better to wait for it than to publish something else before.
    pub(super) const fn is_undecided(&self) -> bool {
        !self.decided && self.under_way.is_some()
    }

    /// Takes over what the backend lists. Models of the config stay, whatever it lists.
    fn take_over(&mut self, mut found: Listed, configured: bool) {
        if configured {
            for (model, details) in &self.listed.models {
                let found = found.models.entry(model.clone());
                found.or_insert_with(|| details.clone());
            }
        } else if found.models.is_empty() && !self.listed.models.is_empty() {
            self.empty += 1;
            if self.empty < EMPTY_LISTS {
                return;
            }
        }
        self.empty = 0;
        self.listed = found.known_since(&self.listed, unix_now());
    }
}

impl Owner {
    /// Asks for the list. A backend that has just come up is asked for everything, since it may be another than before; the
    /// models of the config are asked for only then.
    pub(super) fn list(&mut self, came_up: bool) {
        let listing = &mut self.listing;
        listing.current &= !came_up;
        let done = self.setup.config.models.is_some() && listing.current && !listing.changes.are_held();
        if done || listing.under_way.is_some() {
            return;
        }
        let known = listing.current.then(|| listing.listed.clone());
        let client = self.client.clone();
        let list = models::discover(client, self.setup.config.clone(), known);
        listing.under_way = Some(list.boxed());
    }

    pub(super) fn listed(&mut self, found: Option<Listed>) {
        self.listing.under_way = None;
        self.listing.decided = true;
        let Some(found) = found else { return };
        self.listing.current = true;
        let before = self.listing.listed.clone();
        let configured = self.setup.config.models.is_some();
        self.listing.take_over(found, configured);
        if self.listing.listed != before {
            remember(&self.setup.memory, self.name(), &self.listing.listed);
        }
        self.publish_changes();
    }

    /// Publishes the provider again if what there is to publish isn't what was published.
    fn publish_changes(&mut self) {
        let Some(spec) = self.spec() else { return };
        if self.listing.published.is_none() {
            return self.reported.unregistered();
        }
        if self.listing.published.as_ref() == Some(&spec) {
            return self.listing.changes.settle();
        }
        let was_held = self.listing.changes.are_held();
        let name = &self.setup.config.name;
        if self.listing.changes.take(Instant::now()) {
            // The first wake of a backend tells what the config doesn't say of its models.
            let published = self.listing.published.as_ref().map(ProviderSpec::models);
            let what = match published == Some(spec.models()) {
                true => "says something else about its models",
                false => "lists other models",
            };
            info!(provider.name = %name, provider.models = spec.models().len(), "the backend of {name} {what} than before");
            self.reported.register_again();
        } else if !was_held {
            warn!(
                provider.name = %name,
                "the backend of {name} keeps listing other models: its list is published again within {CHANGE_EVERY:?}"
            );
        }
    }

    /// Begins again with another config, which is published if it publishes anything else.
    pub(super) fn reopen_listing(&mut self) {
        let published = self.listing.published.take();
        self.listing = Listing::open(&self.setup.memory, &self.setup.config);
        if self.spec() == published {
            self.listing.published = published;
        } else {
            self.reported.register_again();
        }
    }

    /// What is to be published now.
    pub(super) fn spec(&self) -> Option<ProviderSpec> {
        if let Some(refused) = self.refused_spec() {
            return Some(refused);
        }
        let mut details = match &self.setup.config.models {
            Some(_) => self.configured(),
            None => self.discovered(),
        };
        let config = &self.setup.config;
        let mut models: Vec<_> = match &config.models {
            Some(models) => models.iter().map(|model| model.public.clone()).collect(),
            None => details.keys().cloned().collect(),
        };
        let presets = self.presets(&models);
        // A preset is as able as its model.
        for (name, preset) in &presets {
            if let Some(of_model) = details.get(&preset.model).cloned() {
                details.insert(name.clone(), of_model);
            }
        }
        models.extend(presets.keys().cloned());
        let spec = ProviderSpec::new(models, config.wake_spec(), config.sleep.is_some())
            .and_then(|spec| spec.in_groups(config.exclusive.clone()))
            .and_then(|spec| spec.with_extra_paths(config.extra_paths.clone()))
            .and_then(|spec| spec.with_details(details))
            .and_then(|spec| spec.with_presets(presets));
        let spec = spec.map_err(
            |error| error!(provider.name = %config.name, %error, "{} can't be published", config.name),
        );
        let latest_tag = self.listing.listed.has_latest_tag();
        Some(
            spec.ok()?
                .with_latest_tag(latest_tag)
                .with_balancing(config.balancing),
        )
    }

    /// The same, which is being published.
    pub(super) fn publish(&mut self) -> Option<ProviderSpec> {
        self.listing.published = self.spec();
        self.published_as_hub = self.hub_itself.is_some();
        self.listing.published.clone()
    }

    /// The models of the config by their public names.
    fn configured(&self) -> BTreeMap<ModelName, ModelDetails> {
        let models = self.setup.config.models.iter().flatten();
        let details = models.filter_map(|model| {
            let details = self.listing.listed.models.get(&model.id)?;
            Some((model.public.clone(), details.clone()))
        });
        details.collect()
    }

    /// The listed models, but for those that another provider of this backend has in its config, and whose names are presets'.
    fn discovered(&self) -> BTreeMap<ModelName, ModelDetails> {
        let (memory, config) = (&self.setup.memory, &self.setup.config);
        let listed = self.listing.listed.models.iter();
        let own = listed.filter(|(model, _)| !memory.is_claimed(config, model));
        let room = MAX_MODELS - config.presets.len();
        own.take(room)
            .map(|(model, details)| (model.clone(), details.clone()))
            .collect()
    }

    /// What is to be published of the presets whose models are among these.
    fn presets(&self, models: &[ModelName]) -> BTreeMap<ModelName, PresetSpec> {
        let config = &self.setup.config;
        let model = |model: &ModelName| match config.models {
            Some(_) => Some(model.clone()),
            None => self.listing.listed.name_of(model).cloned(),
        };
        let presets = config.presets.iter().filter_map(|preset| {
            let model = model(&preset.model).filter(|model| models.contains(model))?;
            Some((preset.name.clone(), preset.spec(model)))
        });
        presets.collect()
    }
}

fn remember(memory: &Memory, provider: &ProviderName, listed: &Listed) {
    if let Err(error) = memory.remember(provider, listed.clone()) {
        warn!(provider.name = %provider, %error, "can't remember the models of {provider}");
    }
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// How many changes may be published: up to [`CHANGES_AT_ONCE`], and one more for each [`CHANGE_EVERY`].
struct Changes {
    left: u32,
    /// Since when the next one accrues.
    since: Instant,
    held: bool,
}

impl Changes {
    const fn new(now: Instant) -> Self {
        Self {
            left: CHANGES_AT_ONCE,
            since: now,
            held: false,
        }
    }

    /// Whether a change waits to be published.
    const fn are_held(&self) -> bool {
        self.held
    }

    /// No change waits any longer.
    const fn settle(&mut self) {
        self.held = false;
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        while self.left < CHANGES_AT_ONCE && now >= self.since + CHANGE_EVERY {
            self.left += 1;
            self.since += CHANGE_EVERY;
        }
        if self.left == CHANGES_AT_ONCE {
            self.since = now;
        }
        self.held = self.left == 0;
        self.left = self.left.saturating_sub(1);
        !self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_keeps_changing_is_published_less_and_less_often_but_at_least_once_a_minute() {
        let begin = Instant::now();
        let mut changes = Changes::new(begin);
        let times: Vec<u64> = (0..600)
            .filter(|second| changes.take(begin + Duration::from_secs(*second)))
            .collect();
        assert_eq!(times[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(times[8..], [60, 120, 180, 240, 300, 360, 420, 480, 540]);
        assert!(changes.are_held());
        let rested = begin + Duration::from_secs(10_000);
        let burst = (0..20).filter(|_| changes.take(rested)).count();
        assert_eq!(burst, 8, "after a rest it may change at once again");
    }
}
