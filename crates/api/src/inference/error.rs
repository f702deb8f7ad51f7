//! Why an inference request gets no response from a backend.

use super::{Standing, request_body::BodyFault, startup::Missing};
use crate::wakes::WakeError;
use reveille_bus::relay::{PRESET_PATHS, RelayError};
use reveille_domain::{ModelName, ProviderId, WakeId, counted};
use std::time::Duration;
use thiserror::Error;

/// Why a request gets no response from a backend.
#[derive(Debug, Error)]
pub(crate) enum InferenceError {
    /// The request may be for something that only isn't there yet.
    #[error("{0}: retry")]
    NotReady(Missing),
    #[error("the model `{model}` does not exist{}", suggestion(nearest))]
    UnknownModel { model: ModelName, nearest: Vec<String> },
    /// No provider of the model has the path in its config.
    #[error("no provider of `{model}` has {path} among its extra_paths")]
    LacksPath { model: ModelName, path: String },
    /// The model is a preset, and a request for this path has no place for one.
    #[error(
        "`{model}` is a preset, and a request for {path} has no place for a system prompt: name a model, or ask the preset by one of {}",
        PRESET_PATHS.join(", ")
    )]
    NoPlaceForPreset { model: ModelName, path: String },
    /// The request names no model, and there is none for such requests.
    #[error("`model` is missing or empty{}", listed(some))]
    NoModel { code: &'static str, some: Vec<String> },
    #[error(
        "{provider} is asleep, and this request doesn't wake it: load the model first, with POST /models/load"
    )]
    Asleep { provider: ProviderId },
    /// The backend is still finishing earlier requests. `waited`: for how long, by a request that may wait.
    #[error("{provider} is being put to sleep{}", advice(*waited))]
    FallingAsleep {
        provider: ProviderId,
        waited: Option<Duration>,
    },
    #[error("{provider} is waking: retry")]
    Waking {
        provider: ProviderId,
        wake_id: WakeId,
        left: Option<Duration>,
    },
    /// As many requests of this replica wait for the provider as may. `room_in`: how long they usually take.
    #[error(
        "{provider} has {} waiting in this replica, as many as may (--max-waiting): retry later, or use another model",
        counted(*length, "request")
    )]
    QueueFull {
        provider: ProviderId,
        length: usize,
        room_in: Option<Duration>,
    },
    /// The caller's own wait ended in the queue.
    #[error(
        "{provider} had no free slot within {:.1} s, the longest this request may wait ({header}){}: retry, or wait longer",
        waited.as_secs_f64(),
        ahead(*standing)
    )]
    QueueTimedOut {
        provider: ProviderId,
        waited: Duration,
        /// The caller's header that sets this time.
        header: &'static str,
        /// How it stood at the end.
        standing: Option<Standing>,
    },
    /// The wake usually takes longer than the caller waits, so the caller hears of it at once; the wake goes on.
    #[error(
        "{provider} usually takes {:.1} s more to wake, and this request waits {:.1} s (X-Reveille-Wait); the wake goes on",
        left.as_secs_f64(),
        waits.as_secs_f64()
    )]
    WaitTooShort {
        provider: ProviderId,
        wake_id: WakeId,
        left: Duration,
        waits: Duration,
    },
    #[error(transparent)]
    Wake(Box<WakeError>),
    /// `failing_for`: for how long the provider's requests have failed before this one.
    #[error("{provider}: {error}")]
    Relay {
        provider: ProviderId,
        wake_id: Option<WakeId>,
        error: Box<RelayError>,
        failing_for: Option<Duration>,
    },
    /// The backend's response can't be passed on.
    #[error("the backend of {provider} answered {what}")]
    BadResponse {
        provider: ProviderId,
        wake_id: Option<WakeId>,
        what: String,
    },
    /// The rest of the request's body, which was still coming in, can't be used.
    #[error(transparent)]
    Body(#[from] BodyFault),
    /// The backend's stream ended without an outcome.
    #[error("the backend of {provider} ended its stream before its answer was complete")]
    CutShort {
        provider: ProviderId,
        wake_id: Option<WakeId>,
    },
}

fn suggestion(nearest: &[String]) -> String {
    if nearest.is_empty() {
        String::new()
    } else {
        format!("; similar names: {}", nearest.join(", "))
    }
}

fn listed(some: &[String]) -> String {
    if some.is_empty() {
        ", and no model is available".to_owned()
    } else {
        format!(": name one of GET /v1/models, such as {}", some.join(", "))
    }
}

fn ahead(standing: Option<Standing>) -> String {
    let ahead = standing.map_or(0, |standing| standing.place.saturating_sub(1));
    if ahead == 0 {
        String::new()
    } else {
        format!("; {} still before it", counted(ahead, "request"))
    }
}

fn advice(waited: Option<Duration>) -> String {
    match waited {
        None => ", and the request asks not to wait for it: retry, and it will be woken".to_owned(),
        Some(waited) => format!(
            ", and still was after {:.1} s, the longest this request may wait (X-Reveille-Wait): retry, and it will be woken",
            waited.as_secs_f64()
        ),
    }
}

impl From<WakeError> for InferenceError {
    fn from(error: WakeError) -> Self {
        Self::Wake(Box::new(error))
    }
}

impl InferenceError {
    /// Whether another provider of the same model may do better: this one never got the request.
    pub fn is_about_one_provider(&self) -> bool {
        match self {
            Self::Wake(error) => error.is_about_one_provider(),
            Self::QueueFull { .. } => true,
            Self::NotReady(_)
            | Self::UnknownModel { .. }
            | Self::LacksPath { .. }
            | Self::NoPlaceForPreset { .. }
            | Self::NoModel { .. }
            | Self::Asleep { .. }
            | Self::FallingAsleep { .. }
            | Self::Waking { .. }
            | Self::QueueTimedOut { .. }
            | Self::WaitTooShort { .. }
            | Self::Relay { .. }
            | Self::BadResponse { .. }
            | Self::Body(_)
            | Self::CutShort { .. } => false,
        }
    }

    /// Whether the caller's key may not start another wake.
    pub fn is_quota(&self) -> bool {
        matches!(self, Self::Wake(error) if matches!(**error, WakeError::Quota { .. }))
    }

    /// The same error for a caller that has waited for `time`.
    pub fn after(self, time: Duration) -> Self {
        match self {
            Self::Wake(error) => error.after(time).into(),
            other => other,
        }
    }

    /// Whether the caller asked for this: not to wait, or not for longer.
    pub fn is_as_asked(&self) -> bool {
        match self {
            Self::Asleep { .. }
            | Self::FallingAsleep { .. }
            | Self::Waking { .. }
            | Self::QueueTimedOut { .. }
            | Self::WaitTooShort { .. } => true,
            Self::Wake(error) => matches!(**error, WakeError::CallerTimedOut { .. }),
            Self::NotReady(_)
            | Self::UnknownModel { .. }
            | Self::LacksPath { .. }
            | Self::NoPlaceForPreset { .. }
            | Self::NoModel { .. }
            | Self::QueueFull { .. }
            | Self::Relay { .. }
            | Self::BadResponse { .. }
            | Self::Body(_)
            | Self::CutShort { .. } => false,
        }
    }

    /// Whether its words may have something that only the request has.
    pub const fn repeats_the_request(&self) -> bool {
        match self {
            Self::UnknownModel { .. } | Self::Body(_) => true,
            Self::NotReady(_)
            | Self::LacksPath { .. }
            | Self::NoPlaceForPreset { .. }
            | Self::NoModel { .. }
            | Self::Asleep { .. }
            | Self::FallingAsleep { .. }
            | Self::Waking { .. }
            | Self::QueueFull { .. }
            | Self::QueueTimedOut { .. }
            | Self::WaitTooShort { .. }
            | Self::Wake(_)
            | Self::Relay { .. }
            | Self::BadResponse { .. }
            | Self::CutShort { .. } => false,
        }
    }

    /// True when no backend can have seen the request.
    pub fn never_handed_over(&self) -> bool {
        match self {
            Self::Relay { error, .. } => error.never_handed_over(),
            // A form is handed over while it comes in.
            Self::BadResponse { .. } | Self::CutShort { .. } | Self::Body(_) => false,
            Self::NotReady(_)
            | Self::UnknownModel { .. }
            | Self::LacksPath { .. }
            | Self::NoPlaceForPreset { .. }
            | Self::NoModel { .. }
            | Self::Asleep { .. }
            | Self::FallingAsleep { .. }
            | Self::Waking { .. }
            | Self::QueueFull { .. }
            | Self::QueueTimedOut { .. }
            | Self::WaitTooShort { .. }
            | Self::Wake(_) => true,
        }
    }
}
