//! Every refusal and failure that an HTTP client can see. What it sees of them is in [`super::answer`].

use super::{answer::ErrorResponse, body::MIN_BYTES_PER_SECOND};
use crate::{
    inference::InferenceError,
    keys::Denied,
    origin::OriginError,
    wakes::{SleepError, WakeError},
};
use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use reveille_bus::BusError;
use reveille_domain::{AgentRejection, rows::RowsError};
use reveille_http1_guard::ProtocolError;
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
    /// Bytes that make no request.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It names another host, or a page of another origin sends it.
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("there is nothing at this path")]
    UnknownPath,
    #[error("this path doesn't take that method")]
    MethodNotAllowed,
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body must be JSON without a content encoding: {what}")]
    UnsupportedMedia { what: String },
    #[error("the body needs the header `content-type: application/json`")]
    NoMediaType,
    #[error(
        "the body did not arrive: nothing came for {} s, or in all that time less than {} KiB a second",
        idle.as_secs(),
        MIN_BYTES_PER_SECOND / 1024
    )]
    BodyTimeout { idle: Duration },
    #[error("the request bodies that wait take up all the memory set aside for them ({limit} bytes)")]
    MemoryFull { limit: usize },
    /// A row or provider that was asked for by its name.
    #[error("there is no {what} {name}")]
    NotFound { what: &'static str, name: String },
    #[error(transparent)]
    Inference(#[from] InferenceError),
    #[error(transparent)]
    Sleep(#[from] SleepError),
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

impl From<WakeError> for ApiError {
    fn from(error: WakeError) -> Self {
        InferenceError::from(error).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let response = self.response();
        self.log(&response);
        response.into_response()
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

    /// Logs it once, unless it is the caller's own mistake.
    pub fn log(&self, response: &ErrorResponse) {
        let (status, code) = (response.status.as_u16(), response.object.code);
        let is_as_asked = matches!(self, Self::Inference(error) if error.is_as_asked());
        if response.status.is_server_error() && !is_as_asked {
            warn!(
                http.status = status,
                error.code = code,
                "answered {status}: {self}"
            );
        } else if response.status.is_server_error() || response.status == StatusCode::TOO_MANY_REQUESTS {
            info!(
                http.status = status,
                error.code = code,
                "answered {status}: {self}"
            );
        }
    }
}
