//! Why an inference request gets no response from a backend.

use super::{QueuePosition, request_body::BodyFault, startup::Missing};
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
        ahead(*position)
    )]
    QueueTimedOut {
        provider: ProviderId,
        waited: Duration,
        /// The caller's header that sets this time.
        header: &'static str,
        /// Where it stood at the end.
        position: Option<QueuePosition>,
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

/// What follows from an error. See the methods of the same names.
struct Nature {
    is_about_one_provider: bool,
    is_as_asked: bool,
    never_handed_over: bool,
    repeats_the_request: bool,
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

fn ahead(position: Option<QueuePosition>) -> String {
    let ahead = position.map_or(0, |position| position.place.saturating_sub(1));
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
    /// What follows from it.
    fn nature(&self) -> Nature {
        let unsent = Nature {
            is_about_one_provider: false,
            is_as_asked: false,
            never_handed_over: true,
            repeats_the_request: false,
        };
        match self {
            Self::NotReady(_)
            | Self::LacksPath { .. }
            | Self::NoPlaceForPreset { .. }
            | Self::NoModel { .. } => unsent,
            Self::UnknownModel { .. } => Nature {
                repeats_the_request: true,
                ..unsent
            },
            Self::Asleep { .. }
            | Self::FallingAsleep { .. }
            | Self::Waking { .. }
            | Self::QueueTimedOut { .. }
            | Self::WaitTooShort { .. } => Nature {
                is_as_asked: true,
                ..unsent
            },
            Self::QueueFull { .. } => Nature {
                is_about_one_provider: true,
                ..unsent
            },
            Self::Wake(error) => Nature {
                is_about_one_provider: error.is_about_one_provider(),
                is_as_asked: matches!(**error, WakeError::CallerTimedOut { .. }),
                ..unsent
            },
            Self::Relay { error, .. } => Nature {
                never_handed_over: error.never_handed_over(),
                ..unsent
            },
            Self::BadResponse { .. } | Self::CutShort { .. } => Nature {
                never_handed_over: false,
                ..unsent
            },
            // A form is handed over while it comes in.
            Self::Body(_) => Nature {
                never_handed_over: false,
                repeats_the_request: true,
                ..unsent
            },
        }
    }

    /// Whether another provider of the same model may do better: this one never got the request.
    pub fn is_about_one_provider(&self) -> bool {
        self.nature().is_about_one_provider
    }

    /// Whether the caller asked for this: not to wait, or not for longer.
    pub fn is_as_asked(&self) -> bool {
        self.nature().is_as_asked
    }

    /// True when no backend can have seen the request.
    pub fn never_handed_over(&self) -> bool {
        self.nature().never_handed_over
    }

    /// Whether its words may have something that only the request has.
    pub fn repeats_the_request(&self) -> bool {
        self.nature().repeats_the_request
    }

    /// The same error for a caller that may not know the models of its provider.
    pub fn without_models(self) -> Self {
        match self {
            Self::Wake(error) => error.without_models().into(),
            other => other,
        }
    }

    /// Whether the provider sleeps, and may not be woken for the request.
    pub const fn is_asleep(&self) -> bool {
        matches!(self, Self::Asleep { .. })
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
}
