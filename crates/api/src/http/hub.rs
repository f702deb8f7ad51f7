//! Every answer names the hub that it comes from, and a request that has passed this hub before is refused: a provider leads
//! back here, and each round would wake and cost something again.

use super::{ApiError, AppState};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use reveille_bus::{HUB_HEADER, VIA_HEADER, Via};

const X_REVEILLE_HUB: HeaderName = HeaderName::from_static(HUB_HEADER);

/// Names the hub, as soon as this replica knows its id: with the journal.
pub(super) fn add_hub(headers: &mut HeaderMap, state: &AppState) {
    let id = (state.hub_id)().and_then(|id| HeaderValue::from_str(&id.to_string()).ok());
    if let Some(id) = id {
        headers.insert(X_REVEILLE_HUB, id);
    }
}

/// Refuses requests that have passed this hub before, or too many others.
pub(super) fn check_loops(state: &AppState, headers: &HeaderMap) -> Result<(), ApiError> {
    let lines = headers.get_all(VIA_HEADER).iter().map(HeaderValue::as_bytes);
    let via = Via::read(lines).map_err(|_| {
        let message = format!("{VIA_HEADER} must be the ids of hubs, separated by commas");
        ApiError::invalid("invalid_header", VIA_HEADER, message)
    })?;
    if (state.hub_id)().is_some_and(|id| via.contains(id)) {
        return Err(ApiError::Loop);
    }
    if via.is_too_long() {
        return Err(ApiError::TooManyHubs);
    }
    Ok(())
}
