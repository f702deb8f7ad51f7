//! Which models a caller may see: a model that a key doesn't allow doesn't exist for that key.

use super::{InferenceError, Startup};
use crate::{
    keys::Caller,
    registry::{ProviderSnapshot, Registry},
};
use reveille_domain::{ModelName, PresetSpec};
use std::{collections::BTreeMap, sync::Arc};

/// The providers of each model, by its name.
pub(crate) type Pools = BTreeMap<String, Vec<Arc<ProviderSnapshot>>>;

/// The providers that serve `model` to the caller. A model that it may not use gives the same error as one that doesn't
/// exist. Neither does until the start is over.
pub(crate) fn pool_for(
    registry: &Registry,
    startup: &Startup,
    caller: &Caller,
    model: &ModelName,
) -> Result<Vec<Arc<ProviderSnapshot>>, InferenceError> {
    let asked = model.as_str();
    let pool = registry.pool(asked);
    // All of a pool publish the same name.
    let public = pool.first().and_then(|snapshot| snapshot.named(asked));
    if public.is_some_and(|public| {
        caller.may_ask(asked, public.as_str()) || may_ask_agent(registry, caller, &pool, asked, public)
    }) {
        return Ok(pool);
    }
    if let Some(missing) = startup.missing() {
        return Err(InferenceError::NotReady(missing));
    }
    Err(unknown_model(registry, caller, model))
}

/// The error for a model that doesn't exist for the caller, with the names that are like its own.
pub(super) fn unknown_model(registry: &Registry, caller: &Caller, model: &ModelName) -> InferenceError {
    let is_another = |name: &str| name != model.as_str() && caller.may_ask(name, name);
    InferenceError::UnknownModel {
        model: model.clone(),
        nearest: registry.nearest(model.as_str(), &is_another),
    }
}

/// Whether `asked` is `agent/provider/model`, and the caller may ask all of that agent's providers for the model by `agent/model`. That
/// name must mean this model there: it may be another one's public name, even at the same provider.
fn may_ask_agent(
    registry: &Registry,
    caller: &Caller,
    pool: &[Arc<ProviderSnapshot>],
    asked: &str,
    public: &ModelName,
) -> bool {
    let [only] = pool else { return false };
    let id = &only.provider.id;
    let of_agent = format!("{}/{public}", id.agent);
    asked == format!("{id}/{public}")
        && only.named(&of_agent) == Some(public)
        && caller.may_ask(&of_agent, &of_agent)
        && registry
            .pool(&of_agent)
            .iter()
            .any(|snapshot| snapshot.provider.id == *id)
}

/// Whether the caller may use the model of a preset itself. Otherwise that has no name for it.
pub(crate) fn sees_model(caller: &Caller, snapshot: &ProviderSnapshot, preset: &PresetSpec) -> bool {
    let (model, id) = (preset.model.as_str(), &snapshot.provider.id);
    let names = [
        model.to_owned(),
        format!("{}/{model}", id.agent),
        format!("{id}/{model}"),
    ];
    names.iter().any(|name| caller.may_ask(name, model))
}

/// Every model that the caller may use, by the name it may use: public names, and `agent/model` or `agent/provider/model` for a
/// model that it may use on one agent or at one provider only.
pub(crate) fn pools_for(registry: &Registry, caller: &Caller) -> Pools {
    let mut pools = Pools::new();
    let all = registry.all();
    let models = all.iter().flat_map(|snapshot| snapshot.provider.spec.models());
    let public = models
        .map(ModelName::as_str)
        .filter(|name| caller.may_ask(name, name));
    for name in public.chain(caller.named_models()) {
        if !pools.contains_key(name) {
            pools.insert(name.to_owned(), registry.pool(name));
        }
    }
    // One may have gone meanwhile.
    pools.retain(|_, pool| !pool.is_empty());
    pools
}
