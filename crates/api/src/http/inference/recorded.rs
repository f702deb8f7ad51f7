//! What is recorded of a request where it becomes HTTP. A record repeats nothing that its client has written: of a request that is
//! wrong, it has the code of the error alone.

use crate::{
    http::{ApiError, request_id::RequestId},
    inference::Endpoint,
    keys::Caller,
    requests::{Received, RecordedBody, Recorder, Recording},
};
use axum::response::Response;
use reveille_domain::requests::RequestError;
use std::borrow::Cow;

/// Begins the recording of a request for `path`, one of the endpoint's.
pub(super) fn begin(
    recorder: &Recorder,
    id: &RequestId,
    caller: &Caller,
    endpoint: &'static Endpoint,
    path: &str,
) -> Recording {
    let listed = endpoint.paths.iter().find(|listed| **listed == path);
    recorder.begin(Received {
        id: id.as_str(),
        key: caller.key(),
        path: listed.map_or_else(|| path.to_owned().into(), |listed| Cow::Borrowed(*listed)),
        priority: caller.priority(),
    })
}

/// Records how a request is answered, and how its answer ends.
pub(super) fn end(recording: &Recording, answered: Result<Response, ApiError>) -> Result<Response, ApiError> {
    match &answered {
        Ok(response) => recording.status(response.status().as_u16()),
        Err(error) => {
            failed(recording, error);
            recording.status(error.response().status.as_u16());
            recording.ended(true);
        }
    }
    answered.map(|response| response.map(|body| RecordedBody::of(body, recording.clone())))
}

/// Records why a request fails.
pub(super) fn failed(recording: &Recording, error: &ApiError) {
    let response = error.response();
    let says_nothing_of_it = match error {
        ApiError::Inference(error) => !error.repeats_the_request(),
        ApiError::Denied(_)
        | ApiError::NotReady
        | ApiError::MemoryFull { .. }
        | ApiError::BodyTimeout { .. } => true,
        _ => false,
    };
    let reason = if says_nothing_of_it {
        &*response.object.message
    } else {
        ""
    };
    recording.failed(
        RequestError::new(response.object.code, reason),
        response.provider.as_ref(),
        response.wake_id,
    );
}
