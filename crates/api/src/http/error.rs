//! Every error that an HTTP client can see. How a client sees them is in [`super::error_response`].

use super::{
    body::{BodyLimit, MIN_BYTES_PER_SECOND},
    error_response::ErrorResponse,
};
use crate::{
    inference::{InferenceError, REMEMBERED},
    keys::Denied,
    origin::OriginError,
    wakes::{SleepError, WakeError},
};
use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use reveille_bus::{BusError, MAX_HUBS};
use reveille_domain::{AgentRejection, rows::RowsError};
use reveille_http1_guard::ProtocolError;
use std::time::Duration;
use thiserror::Error;
use tracing::{info, warn};

/// Why a request fails.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    #[error("{message}")]
    Invalid {
        code: &'static str,
        /// The invalid field or header.
        param: Option<&'static str>,
        message: String,
    },
    /// Bytes that make no request.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It names another host, or comes from a page of another origin.
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error(
        "there is no path {path:?}{}: the base URL for OpenAI's clients is {base}/v1, and for Anthropic's, Ollama's and \
         llama.cpp's {base}",
        nearest.map(|nearest| format!("; is {nearest} meant?")).unwrap_or_default()
    )]
    UnknownPath {
        path: String,
        nearest: Option<&'static str>,
        /// Where the client reaches the API, `http://host:port`; empty for one that names no host.
        base: String,
    },
    #[error("this path doesn't support that method")]
    MethodNotAllowed,
    #[error("the body is larger than {}", .0)]
    TooLarge(BodyLimit),
    #[error(
        "the content-type {0:?} is not supported: send JSON with the header `content-type: application/json`"
    )]
    MediaType(String),
    #[error(
        "the content-type {0:?} is not supported: this path takes a form, multipart/form-data with a boundary"
    )]
    NoForm(String),
    #[error("the content-encoding {0:?} is not supported: send the body as it is, without that header")]
    ContentEncoding(String),
    #[error("the body needs the header `content-type: application/json`")]
    NoMediaType,
    #[error(
        "the body did not arrive: nothing came for {} s, or less than {} KiB a second on average",
        idle.as_secs(),
        MIN_BYTES_PER_SECOND / 1024
    )]
    BodyTimeout { idle: Duration },
    #[error("waiting requests take up all {limit} bytes of memory for request bodies; try again shortly")]
    MemoryFull { limit: usize },
    #[error(
        "this replica doesn't know the response {id:?}: only the one that passed it on does, as one of its last {REMEMBERED}, and \
         until it is restarted"
    )]
    UnknownResponse { id: String },
    #[error("there is no {what} {name}")]
    NotFound { what: &'static str, name: String },
    #[error(transparent)]
    Inference(#[from] InferenceError),
    #[error(transparent)]
    Sleep(#[from] SleepError),
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It has passed this hub before.
    #[error(
        "this request has passed this hub before, because the base_url of a provider leads back to it: set base_url to \
         the backend's own address"
    )]
    Loop,
    #[error(
        "this request has passed more than {MAX_HUBS} hubs: set base_url to the backend's own address at one of them"
    )]
    TooManyHubs,
    /// A token doesn't enroll a machine.
    #[error(transparent)]
    TokenRefused(AgentRejection),
    #[error("{message}")]
    Conflict { code: &'static str, message: String },
    /// A commit failed, or its result is unknown.
    #[error("the journal: {0}")]
    Journal(BusError),
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

    /// Logs it once, unless it is the caller's own mistake. An agent whose backend is the hub itself asks again and again,
    /// and logs why it is refused.
    pub fn log(&self, response: &ErrorResponse) {
        if matches!(self, Self::Loop) {
            return;
        }
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
