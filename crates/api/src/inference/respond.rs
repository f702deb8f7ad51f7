//! From a backend's answer to the response: its bytes unchanged, and a visible end when they break off.

use super::{Answered, Counted, RelayedBody, headers};
use crate::{
    http::{ApiError, name_provider},
    metrics::FirstByte,
};
use axum::{body::Body, http::StatusCode, response::Response};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream::BoxStream};
use reveille_bus::relay::RelayError;
use reveille_domain::{ProviderId, WakeId};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tracing::{Span, debug, info};

/// The backend's answer as a response.
pub(crate) fn respond(answered: Answered) -> Result<Response, ApiError> {
    let Answered {
        provider,
        wake_id,
        head,
        body,
        counted,
        mut first_byte,
    } = answered;
    let status = match StatusCode::from_u16(head.status) {
        // Nobody could follow a redirect to a place behind the agent.
        Ok(status) if !status.is_informational() && !status.is_redirection() => status,
        Ok(_) | Err(_) => {
            let what = format!("with status {}, which can't be passed on", head.status);
            return Err(ApiError::BadAnswer {
                provider,
                wake_id,
                what,
            });
        }
    };
    log(&provider, wake_id, status);
    let streams = headers::is_event_stream(&head);
    let about = (provider.clone(), wake_id);
    let body = match body {
        RelayedBody::Whole(bytes) => {
            first_byte.seen();
            Body::from(bytes)
        }
        RelayedBody::Pieces(pieces) if streams => {
            Body::from_stream(EventBody::new(pieces, about, counted, first_byte))
        }
        RelayedBody::Pieces(pieces) => Body::from_stream(PlainBody {
            pieces,
            about,
            first_byte,
            span: Span::current(),
            _counted: counted,
        }),
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

type About = (ProviderId, Option<WakeId>);

fn broke_off((provider, wake_id): &About, error: RelayError) -> ApiError {
    ApiError::Relay {
        provider: provider.clone(),
        wake_id: *wake_id,
        error,
    }
}

/// A body that isn't a stream of events: when it breaks off, so does the connection.
struct PlainBody {
    pieces: BoxStream<'static, Result<Bytes, RelayError>>,
    about: About,
    first_byte: FirstByte,
    span: Span,
    _counted: Counted,
}

impl Stream for PlainBody {
    type Item = Result<Bytes, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = ready!(self.pieces.poll_next_unpin(cx));
        if let Some(Ok(_)) = piece {
            self.first_byte.seen();
        }
        Poll::Ready(piece.map(|piece| {
            piece.map_err(|error| {
                let error = broke_off(&self.about, error);
                self.span.in_scope(|| error.log(&error.answer()));
                error
            })
        }))
    }
}

/// A stream of events: when it breaks off, the last event is an error, and no `[DONE]` follows.
pub(super) struct EventBody {
    pieces: Option<BoxStream<'static, Result<Bytes, RelayError>>>,
    about: About,
    ending: Ending,
    first_byte: FirstByte,
    span: Span,
    counted: Option<Counted>,
}

impl EventBody {
    pub fn new(
        pieces: BoxStream<'static, Result<Bytes, RelayError>>,
        about: About,
        counted: Counted,
        first_byte: FirstByte,
    ) -> Self {
        Self {
            pieces: Some(pieces),
            about,
            ending: Ending::default(),
            first_byte,
            span: Span::current(),
            counted: Some(counted),
        }
    }

    fn end(&mut self) {
        self.pieces = None;
        self.counted = None;
    }
}

impl Stream for EventBody {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(pieces) = &mut self.pieces else {
            return Poll::Ready(None);
        };
        match ready!(pieces.poll_next_unpin(cx)) {
            Some(Ok(piece)) => {
                self.first_byte.seen();
                self.ending.see(&piece);
                Poll::Ready(Some(Ok(piece)))
            }
            Some(Err(error)) => {
                let error = broke_off(&self.about, error);
                let between_events = self.ending.is_between_events();
                let event = self.span.in_scope(|| error_event(&error, between_events));
                self.end();
                Poll::Ready(Some(Ok(event)))
            }
            None => {
                self.end();
                Poll::Ready(None)
            }
        }
    }
}

/// The error as an event of its own, without an `event:` line, which clients don't expect. Says it in the log, too.
pub(super) fn error_event(error: &ApiError, between_events: bool) -> Bytes {
    let answer = error.answer();
    error.log(&answer);
    let json = answer.json();
    let mut event = BytesMut::with_capacity(json.len() + 10);
    if !between_events {
        event.extend_from_slice(b"\n\n");
    }
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(&json);
    event.extend_from_slice(b"\n\n");
    event.freeze()
}

/// The last bytes that were sent: they tell whether an event is open.
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
