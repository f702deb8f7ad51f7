//! Every refusal and failure that an HTTP client can see. What it sees of them is in [`super::answer`].

use super::{answer::Answer, body::MIN_BYTES_PER_SECOND};
use crate::{
    keys::Denied,
    server::Refusal,
    wakes::{SleepError, WakeError},
};
use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use reveille_bus::{BusError, relay::RelayError};
use reveille_domain::{AgentRejection, ModelName, ProviderId, WakeId, rows::RowsError};
use std::time::Duration;
use thiserror::Error;
use tracing::{info, warn};

/// Why a request isn't answered as asked.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    /// The request makes no sense.
    #[error("{message}")]
    Invalid {
        /// The error's code.
        code: &'static str,
        /// The field or header that is wrong.
        param: Option<&'static str>,
        /// What is wrong with it.
        message: String,
    },
    /// No request at all.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("there is nothing at this path")]
    UnknownPath,
    #[error("this path doesn't take that method")]
    MethodNotAllowed,
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body must be JSON without a content encoding: {what}")]
    UnsupportedMedia { what: String },
    #[error(
        "the body did not arrive: nothing came for {} s, or in all that time less than {} KiB a second",
        idle.as_secs(),
        MIN_BYTES_PER_SECOND / 1024
    )]
    BodyTimeout { idle: Duration },
    #[error("the request bodies that wait take up all the memory set aside for them ({limit} bytes)")]
    MemoryFull { limit: usize },
    #[error("the model `{model}` does not exist{}", suggestion(nearest))]
    UnknownModel { model: ModelName, nearest: Vec<String> },
    /// A row or provider that was asked for by its name.
    #[error("there is no {what} {name}")]
    NotFound { what: &'static str, name: String },
    #[error("{provider} is asleep, and the request asks not to wake it")]
    Asleep { provider: ProviderId },
    /// It works on others' requests first. `waited`: for how long, by a request that waits.
    #[error("{provider} is being put to sleep{}", told(*waited))]
    Leaving {
        provider: ProviderId,
        waited: Option<Duration>,
    },
    #[error("{provider} is waking: ask again")]
    Waking {
        provider: ProviderId,
        wake_id: WakeId,
        left: Option<Duration>,
    },
    /// The caller waits for less than the wake usually takes, so it isn't kept waiting in vain; the wake goes on.
    #[error(
        "{provider} usually takes {:.1} s more to wake, and this request waits {:.1} s (X-Reveille-Wait); the wake goes on",
        left.as_secs_f64(),
        waits.as_secs_f64()
    )]
    TooLate {
        provider: ProviderId,
        wake_id: Option<WakeId>,
        left: Duration,
        waits: Duration,
    },
    #[error(transparent)]
    Wake(Box<WakeError>),
    #[error(transparent)]
    Sleep(#[from] SleepError),
    #[error("{provider}: {error}")]
    Relay {
        provider: ProviderId,
        wake_id: Option<WakeId>,
        error: RelayError,
    },
    /// The backend's answer can't be passed on.
    #[error("the backend of {provider} answered {what}")]
    BadAnswer {
        provider: ProviderId,
        wake_id: Option<WakeId>,
        what: String,
    },
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// Because of who asks, or how much.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// What should let a machine in as an agent doesn't.
    #[error(transparent)]
    TokenRefused(AgentRejection),
    /// It contradicts what is.
    #[error("{message}")]
    Conflict { code: &'static str, message: String },
    /// The journal can't be appended to, or not for sure.
    #[error("the journal: {0}")]
    Journal(BusError),
    /// The fold of the journal isn't there yet.
    #[error("this replica has not read the journal yet")]
    NotReady,
}

fn suggestion(nearest: &[String]) -> String {
    if nearest.is_empty() {
        String::new()
    } else {
        format!("; similar names: {}", nearest.join(", "))
    }
}

/// What comes of a request that met a backend which was being put to sleep.
fn told(waited: Option<Duration>) -> String {
    match waited {
        None => ", and the request asks not to wait for it: ask again, and it is woken".to_owned(),
        Some(waited) => format!(
            ", and still was after {:.1} s, as long as this request waits (X-Reveille-Wait): ask again, and it is woken",
            waited.as_secs_f64()
        ),
    }
}

impl From<WakeError> for ApiError {
    fn from(error: WakeError) -> Self {
        Self::Wake(Box::new(error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let answer = self.answer();
        self.log(&answer);
        answer.into_response()
    }
}

impl ApiError {
    /// A request that makes no sense.
    pub fn invalid(
        code: &'static str,
        param: impl Into<Option<&'static str>>,
        message: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            code,
            param: param.into(),
            message: message.into(),
        }
    }

    /// Whether another provider of the same model may do better, to which the request wasn't handed over yet.
    pub fn is_about_one_provider(&self) -> bool {
        matches!(self, Self::Wake(error) if error.is_about_one_provider())
    }

    /// Whether it says that the caller's key may not start another wake.
    pub fn is_quota(&self) -> bool {
        matches!(self, Self::Wake(error) if matches!(**error, WakeError::Quota { .. }))
    }

    /// The same, told to somebody who has waited for `time`.
    pub fn after(self, time: Duration) -> Self {
        match self {
            Self::Wake(error) => error.after(time).into(),
            other => other,
        }
    }

    /// Whether the caller wanted it so: not to wait, or not for longer.
    fn is_as_asked(&self) -> bool {
        match self {
            Self::Asleep { .. } | Self::Leaving { .. } | Self::Waking { .. } | Self::TooLate { .. } => true,
            Self::Wake(error) => matches!(**error, WakeError::CallerTimedOut { .. }),
            _ => false,
        }
    }

    /// True when no backend can have seen the request.
    pub fn never_handed_over(&self) -> bool {
        match self {
            Self::Relay { error, .. } => error.never_handed_over(),
            Self::BadAnswer { .. } => false,
            Self::Invalid { .. }
            | Self::Refused(_)
            | Self::UnknownPath
            | Self::MethodNotAllowed
            | Self::TooLarge { .. }
            | Self::UnsupportedMedia { .. }
            | Self::BodyTimeout { .. }
            | Self::MemoryFull { .. }
            | Self::UnknownModel { .. }
            | Self::NotFound { .. }
            | Self::Asleep { .. }
            | Self::Leaving { .. }
            | Self::Waking { .. }
            | Self::TooLate { .. }
            | Self::Wake(_)
            | Self::Sleep(_)
            | Self::Rows(_)
            | Self::Denied(_)
            | Self::TokenRefused(_)
            | Self::Conflict { .. }
            | Self::Journal(_)
            | Self::NotReady => true,
        }
    }

    /// Says it in the log, once: what isn't the caller's own mistake.
    pub fn log(&self, answer: &Answer) {
        let (status, code) = (answer.status.as_u16(), answer.object.code);
        if answer.status.is_server_error() && !self.is_as_asked() {
            warn!(
                http.status = status,
                error.code = code,
                "answered {status}: {self}"
            );
        } else if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS {
            info!(
                http.status = status,
                error.code = code,
                "answered {status}: {self}"
            );
        }
    }
}
