//! From a backend's response to ours: its bytes unchanged, and a visible end when they break off.

use crate::{
    http::{ApiError, error_response::name_provider},
    inference::{InferenceError, InferenceResponse, ResponseBody, headers},
};
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use reveille_bus::relay::RelayError;
use reveille_domain::{ProviderId, WakeId};
use std::convert::Infallible;
use tracing::{Span, debug, info};

/// Passes the backend's response on.
pub(super) fn respond(response: InferenceResponse) -> Result<Response, InferenceError> {
    let InferenceResponse {
        provider,
        wake_id,
        head,
        body,
    } = response;
    let status = match StatusCode::from_u16(head.status) {
        // Clients can't follow a redirect to an address behind the agent.
        Ok(status) if !status.is_informational() && !status.is_redirection() => status,
        Ok(_) | Err(_) => {
            return Err(InferenceError::BadResponse {
                provider,
                wake_id,
                what: format!("with status {}, which can't be passed on", head.status),
            });
        }
    };
    log(&provider, wake_id, status);
    let streams = headers::is_event_stream(&head);
    let source = Source {
        provider: provider.clone(),
        wake_id,
        span: Span::current(),
    };
    let body = match body {
        ResponseBody::Whole(bytes) => Body::from(bytes),
        ResponseBody::Pieces(pieces) if streams => Body::from_stream(events(pieces, source)),
        // When this breaks off, so does the connection.
        ResponseBody::Pieces(pieces) => Body::from_stream(pieces.map(move |piece| {
            piece.map_err(|error| {
                let error = ApiError::from(source.broke_off(error));
                source.span.in_scope(|| error.log(&error.response()));
                error
            })
        })),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    headers::to_caller(&head, response.headers_mut());
    if streams {
        headers::unbuffered(response.headers_mut());
    }
    name_provider(response.headers_mut(), Some(&provider), wake_id);
    Ok(response)
}

fn log(provider: &ProviderId, wake_id: Option<WakeId>, status: StatusCode) {
    let status = status.as_u16();
    if let Some(wake) = wake_id {
        info!(provider.name = %provider, wake.id = %wake, http.status = status, "{provider} answers after a wake");
    } else {
        debug!(provider.name = %provider, http.status = status, "{provider} answers");
    }
}

/// Where a body comes from, for the error when it breaks off.
pub(super) struct Source {
    pub provider: ProviderId,
    pub wake_id: Option<WakeId>,
    pub span: Span,
}

impl Source {
    fn broke_off(&self, error: RelayError) -> InferenceError {
        InferenceError::Relay {
            provider: self.provider.clone(),
            wake_id: self.wake_id,
            error,
        }
    }
}

pub(super) type Events = BoxStream<'static, Result<Bytes, Infallible>>;

/// A stream of events: when it breaks off, the last event is an error, and no `[DONE]` follows.
pub(super) fn events(pieces: BoxStream<'static, Result<Bytes, RelayError>>, source: Source) -> Events {
    stream::unfold(Some((pieces, source, Ending::default())), async |open| {
        let (mut pieces, source, mut ending) = open?;
        match pieces.next().await? {
            Ok(piece) => {
                ending.see(&piece);
                Some((Ok(piece), Some((pieces, source, ending))))
            }
            Err(error) => {
                let (error, between_events) = (source.broke_off(error), ending.is_between_events());
                let event = source.span.in_scope(|| error_event(error, between_events));
                Some((Ok(event), None))
            }
        }
    })
    .boxed()
}

/// The response that begins a stream of events, which proxies don't buffer.
pub(in crate::http) fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers::unbuffered(headers);
    response
}

/// Logs the error and makes an event of it, without an `event:` line, which clients don't expect.
pub(super) fn error_event(error: InferenceError, between_events: bool) -> Bytes {
    let error = ApiError::from(error);
    let response = error.response();
    error.log(&response);
    let json = response.json();
    let mut event = BytesMut::with_capacity(json.len() + 10);
    if !between_events {
        event.extend_from_slice(b"\n\n");
    }
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(&json);
    event.extend_from_slice(b"\n\n");
    event.freeze()
}

/// The last bytes that were sent, which show whether an event is open.
#[derive(Debug)]
struct Ending([u8; 4]);

impl Default for Ending {
    fn default() -> Self {
        Self(*b"\n\n\n\n")
    }
}

impl Ending {
    fn see(&mut self, piece: &[u8]) {
        let last = &piece[piece.len().saturating_sub(4)..];
        self.0.rotate_left(last.len());
        self.0[4 - last.len()..].copy_from_slice(last);
    }

    fn is_between_events(&self) -> bool {
        self.0.ends_with(b"\n\n") || self.0 == *b"\r\n\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_event_is_noticed_however_its_bytes_were_cut() {
        let sent = |pieces: &[&str]| {
            let mut ending = Ending::default();
            pieces.iter().for_each(|piece| ending.see(piece.as_bytes()));
            ending.is_between_events()
        };
        for closed in [
            &[][..],
            &["data: 1\n\n"],
            &["data: 1\n", "\n"],
            &["a\r", "\n\r", "\n"],
            &["a\r\n", "", "\r\n"],
        ] {
            assert!(sent(closed), "{closed:?}");
        }
        for open in [
            &["data: 1"][..],
            &["data: 1\n"],
            &["data: 1\n\n", "d"],
            &["a\r\n"],
            &["\n\n", "\r"],
        ] {
            assert!(!sent(open), "{open:?}");
        }
    }
}
