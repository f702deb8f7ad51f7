//! The model of a request that names none.

use super::{
    InferenceError, ModelGap,
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
    caller: &Caller,
    default: Option<&ModelName>,
    gap: &ModelGap,
) -> Result<ModelName, InferenceError> {
    if !registry.is_ready() {
        return Err(InferenceError::NotReady);
    }
    let usable = default.filter(|model| pool_for(registry, caller, model).is_ok());
    usable.cloned().ok_or_else(|| InferenceError::NoModel {
        code: gap.code,
        some: pools_for(registry, caller).into_keys().take(LISTED).collect(),
    })
}
