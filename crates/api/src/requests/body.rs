//! A response's body whose end is recorded.

use super::{Recording, current::Unwinding};
use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// Records how its body ends. Dropped before, it leaves the recording as that of a client that has left.
pub(crate) struct RecordedBody {
    // Dropped first, so that what it has seen is recorded.
    body: Body,
    recording: Recording,
}

impl RecordedBody {
    /// The same body, recorded.
    pub fn of(body: Body, recording: Recording) -> Body {
        // One that is in memory is hyper's from here on.
        if body.size_hint().exact().is_some() {
            recording.ended(true);
            return body;
        }
        Body::new(Self { body, recording })
    }
}

impl HttpBody for RecordedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let unwinding = Unwinding(&this.recording);
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        drop(unwinding);
        match &frame {
            Some(Err(_)) => self.recording.ended(false),
            // hyper doesn't ask again.
            Some(Ok(_)) if self.body.is_end_stream() => self.recording.ended(true),
            Some(Ok(_)) => {}
            None => self.recording.ended(true),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
