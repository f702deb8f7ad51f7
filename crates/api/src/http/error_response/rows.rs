//! What a client sees of a journal or rows that can't be reached.

use super::{ErrorResponse, RETRY_SOON_SECONDS};
use axum::http::StatusCode;
use reveille_domain::rows::RowsError;

pub(super) fn of_journal() -> ErrorResponse {
    let message = "the journal is unreachable; try again shortly".to_owned();
    ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable", message)
        .retry_in(RETRY_SOON_SECONDS)
}

pub(super) fn of_rows(error: &RowsError) -> ErrorResponse {
    let say = |status, code| ErrorResponse::new(status, code, error.to_string());
    match error {
        RowsError::Unavailable(_) => {
            let message = "the row store is unreachable; inference works without it".to_owned();
            ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "rows_unavailable", message)
                .retry_in(RETRY_SOON_SECONDS)
        }
        RowsError::Behind { .. } => say(StatusCode::SERVICE_UNAVAILABLE, "rows_behind").retry_in(1),
        RowsError::BadCursor => say(StatusCode::BAD_REQUEST, "invalid_cursor"),
        RowsError::NotHeld { .. } => say(StatusCode::GONE, "events_not_held"),
    }
}
