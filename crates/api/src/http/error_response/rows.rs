//! What a client sees of a journal or rows that can't be reached.

use super::{ErrorResponse, RETRY_SOON_SECONDS};
use axum::http::StatusCode;
use reveille_bus::{BusError, JournalTrouble};
use reveille_domain::rows::RowsError;

pub(super) fn of_journal(error: &BusError) -> ErrorResponse {
    match error {
        BusError::Journal(trouble) => of_trouble(trouble),
        _ => unreachable(),
    }
}

/// Its text is ours, for people.
pub(super) fn of_trouble(trouble: &JournalTrouble) -> ErrorResponse {
    let next = match trouble {
        JournalTrouble::Lost(_) => "it has to be restored, or a new one begun",
        JournalTrouble::Full(_) => "models that are awake can be used",
    };
    unavailable(format!("{trouble}; {next}"))
}

pub(super) fn unreachable() -> ErrorResponse {
    unavailable("the journal is unreachable; try again shortly".to_owned())
}

fn unavailable(message: String) -> ErrorResponse {
    ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable", message)
        .retry_in(RETRY_SOON_SECONDS)
}

pub(super) fn of_rows(error: &RowsError) -> ErrorResponse {
    let say = |status, code| ErrorResponse::new(status, code, error.to_string());
    match error {
        RowsError::Unavailable(_) => {
            let message =
                "lists and history can't be read now; requests still work. `reveille doctor` says why, with \
                 --database-url if they are kept in Postgres"
                    .to_owned();
            ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "rows_unavailable", message)
                .retry_in(RETRY_SOON_SECONDS)
        }
        RowsError::Behind { .. } => say(StatusCode::SERVICE_UNAVAILABLE, "rows_behind").retry_in(1),
        RowsError::BadCursor => say(StatusCode::BAD_REQUEST, "invalid_cursor"),
        RowsError::NotHeld { .. } => say(StatusCode::GONE, "events_not_held"),
    }
}
