//! A backend's body where a stream of events belongs: the stream, whatever its type says, or the event that stands for another
//! kind of answer.

use super::{backend_error, completion, sse_stream::Pieces};
use crate::inference::{Family, InferenceError};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use reveille_domain::{ProviderId, WakeId};
use std::time::Duration;
use tokio::time::timeout;

/// How much of a backend's error is read, in bytes.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// How long that may take; then what has come is used.
pub(super) const ERROR_WITHIN: Duration = Duration::from_secs(5);
/// The largest completion that is passed on in one event, in bytes.
const MAX_COMPLETION_BYTES: usize = 16 * 1024 * 1024;
/// What every stream of events begins with: a field's name or a comment.
const BEGINNINGS: &[&[u8]] = &[b"data:", b"event:", b"id:", b"retry:", b":"];
/// What each of Ollama's lines begins with.
const LINE_BEGINNING: &[&[u8]] = &[b"{"];
/// The mark that may begin a text. It would be part of the first line where keep-alives precede it.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A body, and as much of it as was needed to tell what it is.
pub(super) struct Sniffed {
    read: BytesMut,
    rest: Pieces,
    has_ended: bool,
    provider: ProviderId,
    wake_id: Option<WakeId>,
    status: u16,
    family: Family,
}

impl Sniffed {
    /// The body of a response of `provider` with this status, for a client of this family.
    pub fn new(
        pieces: Pieces,
        provider: ProviderId,
        wake_id: Option<WakeId>,
        status: u16,
        family: Family,
    ) -> Self {
        Self {
            read: BytesMut::new(),
            rest: pieces,
            has_ended: false,
            provider,
            wake_id,
            status,
            family,
        }
    }

    /// The events of a success.
    ///
    /// # Errors
    /// When it broke off before there was one.
    pub async fn events(mut self) -> Result<Pieces, InferenceError> {
        if self.begins_like_events().await? {
            return Ok(self.into_pieces());
        }
        self.read(MAX_COMPLETION_BYTES).await?;
        let events = match self.family {
            Family::OpenAi => completion::events(&self.read),
            Family::LlamaCpp => completion::event(&self.read),
            Family::Responses | Family::Anthropic | Family::Ollama => None,
        };
        Ok(match events.filter(|_| self.has_ended) {
            Some(events) => only(events),
            None => self.as_error(),
        })
    }

    /// The event of an error.
    pub async fn error(mut self) -> Pieces {
        // A part says more than that it broke off.
        let _ = timeout(ERROR_WITHIN, self.read(MAX_ERROR_BYTES)).await;
        self.as_error()
    }

    fn as_error(&self) -> Pieces {
        let shown = &self.read[..self.read.len().min(MAX_ERROR_BYTES)];
        let is_cut = !self.has_ended || shown.len() < self.read.len();
        only(backend_error::event_of(
            self.family,
            &self.provider,
            self.status,
            shown,
            is_cut,
        ))
    }

    /// Reads pieces until there are at least this many bytes, or no more.
    async fn read(&mut self, least: usize) -> Result<(), InferenceError> {
        while !self.has_ended && self.read.len() < least {
            match self.rest.next().await {
                Some(piece) => self.read.extend_from_slice(&piece?),
                None => self.has_ended = true,
            }
        }
        Ok(())
    }

    /// Whether it begins like a stream of events. Reads no more than that takes, so that no event waits for the next one.
    async fn begins_like_events(&mut self) -> Result<bool, InferenceError> {
        let beginnings = match self.family {
            Family::Ollama => LINE_BEGINNING,
            Family::OpenAi | Family::Responses | Family::Anthropic | Family::LlamaCpp => BEGINNINGS,
        };
        loop {
            let text = match self.read.strip_prefix(BYTE_ORDER_MARK) {
                Some(_) => {
                    let _ = self.read.split_to(BYTE_ORDER_MARK.len());
                    continue;
                }
                None => self.read.trim_ascii_start(),
            };
            if beginnings.iter().any(|beginning| text.starts_with(beginning)) {
                return Ok(true);
            }
            let mut beginnings = beginnings.iter().chain([&BYTE_ORDER_MARK]);
            let is_open = beginnings.any(|beginning| beginning.starts_with(text));
            if !is_open || self.has_ended || self.read.len() > MAX_COMPLETION_BYTES {
                return Ok(false);
            }
            self.read(self.read.len() + 1).await?;
        }
    }

    fn into_pieces(self) -> Pieces {
        let read = stream::iter([Ok(self.read.freeze())]);
        let end = stream::iter([Err(InferenceError::CutShort {
            provider: self.provider,
            wake_id: self.wake_id,
        })]);
        if self.has_ended {
            read.chain(end).boxed()
        } else {
            read.chain(self.rest).chain(end).boxed()
        }
    }
}

fn only(events: Bytes) -> Pieces {
    stream::iter([Ok(events)]).boxed()
}
