//! The model of a request that names none.

use super::{
    InferenceError, ModelGap, Startup,
    model_access::{pool_for, pools_for},
};
use crate::{keys::Caller, registry::Registry};
use reveille_domain::ModelName;

/// How many models the error lists.
const LISTED: usize = 5;

/// The `default` model for a body with such a `gap`, if the caller may use it.
///
/// # Errors
/// [`InferenceError::NoModel`] if there is none for this caller, with some that it could name instead.
pub(crate) fn default_for(
    registry: &Registry,
    startup: &Startup,
    caller: &Caller,
    default: Option<&ModelName>,
    gap: &ModelGap,
) -> Result<ModelName, InferenceError> {
    let usable = default.filter(|model| pool_for(registry, startup, caller, model).is_ok());
    if let Some(usable) = usable {
        return Ok(usable.clone());
    }
    Err(match startup.missing() {
        Some(missing) => InferenceError::NotReady(missing),
        None => InferenceError::NoModel {
            code: gap.code,
            some: pools_for(registry, caller).into_keys().take(LISTED).collect(),
        },
    })
}
