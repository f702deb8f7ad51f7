//! The model of a request that names none.

use super::{
    InferenceError, Startup,
    model_access::{pool_for, pools_for},
};
use crate::{keys::Caller, registry::Registry};
use reveille_domain::ModelName;

/// How many models the error lists.
const LISTED: usize = 5;

/// The `default` model for a request that lacks one, if the caller may use it.
///
/// # Errors
/// [`InferenceError::NoModel`] with this `code` if there is none for this caller, and with some that it could name instead.
pub(crate) fn default_for(
    registry: &Registry,
    startup: &Startup,
    caller: &Caller,
    default: Option<&ModelName>,
    code: &'static str,
) -> Result<ModelName, InferenceError> {
    let usable = default.filter(|model| pool_for(registry, startup, caller, model).is_ok());
    if let Some(usable) = usable {
        return Ok(usable.clone());
    }
    Err(match startup.missing() {
        Some(missing) => InferenceError::NotReady(missing),
        None => InferenceError::NoModel {
            code,
            some: pools_for(registry, caller).into_keys().take(LISTED).collect(),
        },
    })
}
