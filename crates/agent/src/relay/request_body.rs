//! The memory for the bodies of requests, and how much of a body is read before the request is sent.

use super::rename;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use reveille_bus::relay::{FaultCode, FormReader, MAX_BODY_BYTES, RelayFault, RequestBody, RequestHead};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

/// The memory for all request bodies together, in KiB: at least two of the largest. Requests beyond that wait, and then get
/// `overloaded`.
const MAX_HELD_KIB: u32 = 512 * 1024;
/// How much of a form is read for its model before it is sent, in bytes: the API takes none whose model comes later.
const FORM_BEGINNING_BYTES: usize = 128 * 1024;
/// The memory for a form that is sent while it comes in, in KiB: its beginning, and what comes in at once.
const ARRIVING_KIB: u32 = 512;

/// The memory for request bodies, in KiB.
pub(super) struct BodyMemory(Semaphore);

/// A request's body as far as it was read.
pub(super) struct Begun<'a> {
    pub bytes: Bytes,
    /// Reads the fields of a form.
    pub form: Option<FormReader>,
    /// What is still to come.
    pub rest: Option<RequestBody>,
    /// Its share of the memory.
    pub held: SemaphorePermit<'a>,
}

impl BodyMemory {
    pub fn new() -> Self {
        Self(Semaphore::new(MAX_HELD_KIB as usize))
    }

    /// The whole body, or that of a form as far as its `model`.
    pub async fn read(
        &self,
        head: &RequestHead,
        mut body: RequestBody,
        mut form: Option<FormReader>,
    ) -> Result<Begun<'_>, RelayFault> {
        let overloaded = |message| RelayFault::new(FaultCode::Overloaded, message);
        let most = form.as_ref().map_or(u32::MAX, |_| ARRIVING_KIB);
        let kib = u32::try_from(head.body_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        if head.body_bytes > MAX_BODY_BYTES {
            return Err(overloaded("the request's body is larger than the agent takes"));
        }
        // The semaphore serves requests in order.
        let held = timeout(head.hold(), self.0.acquire_many(kib.min(most))).await;
        let held = held
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| overloaded("the agent has no memory for another request body"))?;
        let mut begun = Begun {
            bytes: Bytes::new(),
            form: None,
            rest: None,
            held,
        };
        if let Some(whole) = body.whole() {
            if let Some(form) = &mut form {
                // What is no form passes as it is.
                let _ = form.read(&whole);
            }
            (begun.bytes, begun.form) = (whole, form);
            return Ok(begun);
        }
        let mut read = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            if (read.len() + chunk.len()) as u64 > head.body_bytes {
                return Err(RelayFault::new(
                    FaultCode::BadFrame,
                    "the request's body is longer than announced",
                ));
            }
            read.extend_from_slice(&chunk);
            if let Some(form) = &mut form
                && (form.read(&chunk).is_err()
                    || rename::model_in(form).is_some()
                    || read.len() >= FORM_BEGINNING_BYTES)
                && (read.len() as u64) < head.body_bytes
            {
                begun.rest = Some(body);
                break;
            }
        }
        (begun.bytes, begun.form) = (read.freeze(), form);
        Ok(begun)
    }
}
