//! A large form that is relayed while it comes in: its model is known once the file has begun.

use crate::{
    http::{
        ApiError, AppState,
        body::{self, HeldBody, PacedBody, form_type},
    },
    inference::{
        BadBody, BodyFault, Endpoint, Incoming, InferenceError, MODEL_WITHIN_BYTES, RequestBody,
        check_whole_form, peek_begun_form,
    },
};
use axum::{body::Body, http::request::Parts};
use bytes::BytesMut;
use futures::{FutureExt, future::BoxFuture};
use reveille_bus::relay::{BadForm, FormReader, boundary};
use reveille_domain::ModelName;
use std::time::Duration;
use tokio::time::timeout;

/// How long the rest of a body is read whose request has failed, so that a client that sends everything before it reads sees the
/// error.
const LINGER: Duration = Duration::from_secs(1);

/// A form, as far as its request needs it.
pub(super) enum Form {
    /// All of it.
    Whole(HeldBody),
    /// What its beginning asks for; the rest comes in while `reading` is awaited.
    Arriving {
        model: ModelName,
        stream: bool,
        body: RequestBody,
        reading: Reading,
    },
}

/// Reads the rest of a body.
pub(super) type Reading = BoxFuture<'static, Result<(), BodyFault>>;

/// Reads a form as far as its request needs it.
pub(super) async fn read(
    state: &AppState,
    endpoint: &'static Endpoint,
    parts: &Parts,
    body: Body,
) -> Result<Form, ApiError> {
    let boundary = boundary(form_type(&parts.headers)?).unwrap_or_default();
    let within = MODEL_WITHIN_BYTES..=state.limits.body_bytes;
    let announced = body::announced_bytes(&parts.headers).and_then(|bytes| usize::try_from(bytes).ok());
    let Some(bytes) = announced.filter(|bytes| within.contains(bytes)) else {
        return super::held(state, parts, body).await.map(Form::Whole);
    };
    let mut incoming = PacedBody::new(body, state.limits.timings.body_idle);
    let begun = begin(state, endpoint, bytes, &mut incoming, FormReader::new(boundary)).await;
    match begun {
        Ok(begun) => Ok(begun.form(incoming)),
        Err(error) => {
            incoming.linger().await;
            Err(error.into())
        }
    }
}

struct Begun {
    read: HeldBody,
    /// The model, and whether a stream is asked for.
    peeked: Option<(ModelName, bool)>,
    form: FormReader,
    bytes: usize,
    endpoint: &'static Endpoint,
}

/// Reads until it is known what the form asks for, or else all of it.
async fn begin(
    state: &AppState,
    endpoint: &'static Endpoint,
    bytes: usize,
    incoming: &mut PacedBody,
    mut form: FormReader,
) -> Result<Begun, BodyFault> {
    let (mut read, mut held, mut peeked) = (BytesMut::new(), state.bodies.hold(), None);
    while peeked.is_none()
        && let Some(piece) = incoming.next().await?
    {
        held.add(piece.len())
            .map_err(|limit| BodyFault::MemoryFull { limit })?;
        form.read(&piece).map_err(bad_form)?;
        read.extend_from_slice(&piece);
        if read.len() < bytes {
            peeked = peek_begun_form(&read, &form, endpoint).map_err(BodyFault::Bad)?;
        }
    }
    Ok(Begun {
        read: HeldBody {
            bytes: read.freeze(),
            held,
        },
        peeked,
        form,
        bytes,
        endpoint,
    })
}

impl Begun {
    fn form(self, incoming: PacedBody) -> Form {
        let Some((model, stream)) = self.peeked else {
            return Form::Whole(self.read);
        };
        let (body, into) = RequestBody::arriving(self.bytes, self.read.held);
        let read = self.read.bytes.len();
        into.push(&self.read.bytes);
        Form::Arriving {
            model,
            stream,
            body,
            reading: rest(self.endpoint, self.bytes - read, self.form, incoming, into).boxed(),
        }
    }
}

/// Reads `left` more bytes. The last ones are relayed only if nothing is wrong with the form.
async fn rest(
    endpoint: &'static Endpoint,
    mut left: usize,
    mut form: FormReader,
    mut incoming: PacedBody,
    into: Incoming,
) -> Result<(), BodyFault> {
    while let Some(piece) = incoming.next().await? {
        into.hold(piece.len())?;
        form.read(&piece).map_err(bad_form)?;
        left = left.saturating_sub(piece.len());
        if left == 0 {
            form.end().map_err(bad_form)?;
            check_whole_form(form.parts(), endpoint).map_err(BodyFault::Bad)?;
        }
        into.push(&piece);
    }
    if left == 0 {
        Ok(())
    } else {
        Err(BodyFault::BrokeOff)
    }
}

fn bad_form(bad: BadForm) -> BodyFault {
    BodyFault::Bad(BadBody::from(bad))
}

/// What `answering` gives, unless something is wrong with the rest of the body, which is read meanwhile.
pub(super) async fn while_reading<T>(
    reading: Option<Reading>,
    answering: impl Future<Output = Result<T, InferenceError>>,
) -> Result<T, InferenceError> {
    let Some(mut reading) = reading else {
        return answering.await;
    };
    let mut answering = std::pin::pin!(answering);
    tokio::select! {
        biased;
        read = &mut reading => {
            read?;
            answering.await
        }
        answered = &mut answering => {
            if answered.is_ok() {
                // A backend may read the rest while it answers. It ends with the client's connection at the latest.
                tokio::spawn(reading);
            } else {
                // What comes of the rest doesn't matter.
                let _ = timeout(LINGER, reading).await;
            }
            answered
        }
    }
}
