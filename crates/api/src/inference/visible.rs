//! What of the fleet a caller sees: a model that he may not ask doesn't exist for him.

use super::Fleet;
use crate::{http::ApiError, keys::Caller, registry::Known};
use reveille_domain::ModelName;
use std::{collections::BTreeMap, sync::Arc};

/// The providers that serve `model` to the caller.
///
/// # Errors
/// When he may not ask it, or it doesn't exist: he is told the same.
pub(crate) fn pool_for(
    fleet: &dyn Fleet,
    caller: &Caller,
    model: &ModelName,
) -> Result<Vec<Arc<Known>>, ApiError> {
    let asked = model.as_str();
    let pool = fleet.pool(asked);
    let exactly = |known: &Arc<Known>| known.provider.spec.models().contains(model);
    let public = match asked.split_once('/') {
        Some((_, public)) if !pool.iter().any(exactly) => public,
        Some(_) | None => asked,
    };
    if !pool.is_empty() && caller.may_ask(asked, public) {
        return Ok(pool);
    }
    if !fleet.is_ready() {
        return Err(ApiError::NotReady);
    }
    Err(ApiError::UnknownModel {
        model: model.clone(),
        nearest: fleet.nearest(asked, &|name| caller.may_ask(name, name)),
    })
}

/// Everything that the caller may ask, by the name he may ask it by: public names, and `agent/model` for a model that he
/// may ask on one agent alone.
pub(crate) fn pools_for(fleet: &dyn Fleet, caller: &Caller) -> BTreeMap<String, Vec<Arc<Known>>> {
    let mut pools: BTreeMap<String, Vec<Arc<Known>>> = BTreeMap::new();
    for known in fleet.all() {
        for model in known.provider.spec.models() {
            if caller.may_ask(model.as_str(), model.as_str()) {
                pools.entry(model.to_string()).or_default().push(known.clone());
            }
        }
    }
    for name in caller.named_models() {
        let pool = fleet.pool(name);
        if !pool.is_empty() {
            pools.entry(name.to_owned()).or_insert(pool);
        }
    }
    pools
}
