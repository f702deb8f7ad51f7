//! A large form that is relayed while it comes in: its model is known once the file has begun.

use super::asked::held;
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
use reveille_bus::relay::{BadForm, FormReader, boundary};
use reveille_domain::ModelName;
use tracing::{Instrument, Span, info};

/// A form, as far as its request needs it.
pub(super) enum FormBody {
    /// All of it.
    Whole(HeldBody),
    /// What its beginning asks for; the rest comes in while `reading` is awaited.
    Arriving {
        model: ModelName,
        stream: bool,
        body: RequestBody,
        reading: Box<Reading>,
    },
}

/// Reads the rest of a form.
pub(super) struct Reading {
    endpoint: &'static Endpoint,
    /// How many bytes are still to come.
    left: usize,
    form: FormReader,
    incoming: PacedBody,
    into: Incoming,
}

/// Reads a form as far as its request needs it.
pub(super) async fn read(
    state: &AppState,
    endpoint: &'static Endpoint,
    parts: &Parts,
    body: Body,
) -> Result<FormBody, ApiError> {
    let boundary = boundary(form_type(&parts.headers)?).unwrap_or_default();
    let within = MODEL_WITHIN_BYTES..=state.limits.body_bytes;
    let announced = body::announced_bytes(&parts.headers).and_then(|bytes| usize::try_from(bytes).ok());
    let Some(bytes) = announced.filter(|bytes| within.contains(bytes)) else {
        return held(state, parts, body).await.map(FormBody::Whole);
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

struct BegunForm {
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
) -> Result<BegunForm, BodyFault> {
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
    Ok(BegunForm {
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

impl BegunForm {
    fn form(self, incoming: PacedBody) -> FormBody {
        let Some((model, stream)) = self.peeked else {
            return FormBody::Whole(self.read);
        };
        let (body, into) = RequestBody::arriving(self.bytes, self.read.held);
        let read = self.read.bytes.len();
        into.push(&self.read.bytes);
        FormBody::Arriving {
            model,
            stream,
            body,
            reading: Box::new(Reading {
                endpoint: self.endpoint,
                left: self.bytes - read,
                form: self.form,
                incoming,
                into,
            }),
        }
    }
}

impl Reading {
    /// Goes on until all has come. The last bytes are relayed only if nothing is wrong with the form.
    async fn go_on(&mut self) -> Result<(), BodyFault> {
        while let Some(piece) = self.incoming.next().await? {
            self.into.hold(piece.len())?;
            self.form.read(&piece).map_err(bad_form)?;
            self.left = self.left.saturating_sub(piece.len());
            if self.left == 0 {
                self.form.end().map_err(bad_form)?;
                check_whole_form(self.form.parts(), self.endpoint).map_err(BodyFault::Bad)?;
            }
            self.into.push(&piece);
        }
        if self.left == 0 {
            Ok(())
        } else {
            Err(BodyFault::BrokeOff)
        }
    }

    /// Discards what is still to come of a request that has failed.
    async fn linger(self) {
        let Self {
            mut incoming, into, ..
        } = self;
        drop(into);
        incoming.linger().await;
    }

    /// Goes on behind an answer that has begun, which no fault can turn into an error: it breaks off without the last bytes.
    async fn go_on_behind_an_answer(mut self) {
        if let Err(fault) = self.go_on().await {
            info!("the rest of the request's body can't be used, although its answer has begun: {fault}");
        }
    }
}

fn bad_form(bad: BadForm) -> BodyFault {
    BodyFault::Bad(BadBody::from(bad))
}

/// What `answering` gives, unless something is wrong with the rest of the body, which is read meanwhile.
pub(super) async fn while_reading<T>(
    reading: Option<Box<Reading>>,
    answering: impl Future<Output = Result<T, InferenceError>> + Unpin,
) -> Result<T, InferenceError> {
    match reading {
        None => answering.await,
        // On the heap, so that the others hold no room for it.
        Some(reading) => Box::pin(while_reading_on(reading, answering)).await,
    }
}

async fn while_reading_on<T>(
    mut reading: Box<Reading>,
    answering: impl Future<Output = Result<T, InferenceError>>,
) -> Result<T, InferenceError> {
    let mut answering = std::pin::pin!(answering);
    let answered = tokio::select! {
        biased;
        read = reading.go_on() => match read {
            Ok(()) => {
                // Whoever reads the body sees its end.
                drop(reading);
                return answering.await;
            }
            Err(fault) => Err(fault.into()),
        },
        answered = &mut answering => answered,
    };
    match &answered {
        // A backend may read the rest while it answers. It ends with the client's connection at the latest, for which a shutdown
        // waits.
        Ok(_) => _ = tokio::spawn(reading.go_on_behind_an_answer().instrument(Span::current())),
        Err(InferenceError::Body(BodyFault::TooSlow { .. } | BodyFault::BrokeOff)) => {}
        Err(_) => reading.linger().await,
    }
    answered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::{BodyBudget, Missing, Verb};
    use bytes::Bytes;
    use futures::{StreamExt, stream};
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };
    use tokio::time::sleep;

    const PIECES: usize = 5;

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_form_is_discarded_once_its_request_has_failed() {
        let budget = BodyBudget::new(1_000);
        let (body, into) = RequestBody::arriving(PIECES * 100, budget.hold());
        let (observed, come) = (budget.clone(), Arc::new(AtomicUsize::new(0)));
        let count = come.clone();
        let pieces = stream::iter(0..PIECES).then(move |_| {
            assert_eq!(observed.used(), 0, "nothing is kept");
            count.fetch_add(1, Ordering::SeqCst);
            async {
                sleep(Duration::from_millis(50)).await;
                Ok::<_, Infallible>(Bytes::from(vec![b'x'; 100]))
            }
        });
        let reading = Reading {
            endpoint: Endpoint::find(Verb::Post, "/v1/audio/transcriptions").expect("a path"),
            left: PIECES * 100,
            form: FormReader::new("b"),
            incoming: PacedBody::new(Body::from_stream(pieces), Duration::from_secs(30)),
            into,
        };
        let failed = async { Err::<(), _>(InferenceError::NotReady(Missing::Journal)) };
        let failing = while_reading(Some(Box::new(reading)), Box::pin(failed));
        failing.await.expect_err("it failed");
        assert_eq!(come.load(Ordering::SeqCst), PIECES, "all were read");
        drop(body);
    }
}
