//! The events for a caller whose stream has begun before its backend answered: the backend's own, or what stands for another
//! kind of answer.

use super::{
    backend_error, completion, decoded,
    respond::{is_stream, log, pieces},
    sse_stream::Pieces,
};
use crate::inference::{Family, InferenceError, InferenceResponse};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use std::time::Duration;
use tokio::time::timeout;

/// How much of a backend's error is read, in bytes.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// How long that may take; then what has come is used.
const ERROR_WITHIN: Duration = Duration::from_secs(5);
/// The largest completion that is passed on in one event, in bytes.
const MAX_COMPLETION_BYTES: usize = 16 * 1024 * 1024;
/// How much of a body shows whether it is a stream of events, whatever its type says, in bytes.
const SNIFFED_BYTES: usize = 16;
/// What every stream of events begins with: a field's name or a comment.
const BEGINNINGS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];
/// The mark that may begin a text. It would be part of the first line here, since keep-alives precede it.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The rest of a stream, from its backend's response.
pub(super) async fn as_events(family: Family, answered: Result<InferenceResponse, InferenceError>) -> Pieces {
    let events = match answered {
        Ok(response) => embed(family, response).await,
        Err(error) => Err(error),
    };
    events.unwrap_or_else(|error| stream::iter([Err(error)]).boxed())
}

async fn embed(family: Family, response: InferenceResponse) -> Result<Pieces, InferenceError> {
    let is_success = response.is_success();
    let InferenceResponse {
        provider,
        wake_id,
        head,
        body,
    } = response;
    log(&provider, wake_id, head.status);
    let body = pieces(body, provider.clone(), wake_id);
    let mut body = Reader::new(decoded::decoded(&head, body, &provider, wake_id)?);
    let as_error = |body: &Reader| {
        let shown = &body.read[..body.read.len().min(MAX_ERROR_BYTES)];
        let is_cut = !body.has_ended || shown.len() < body.read.len();
        only(backend_error::event_of(
            family,
            &provider,
            head.status,
            shown,
            is_cut,
        ))
    };
    if !is_success {
        // A part says more than that it broke off.
        let _ = timeout(ERROR_WITHIN, body.read(MAX_ERROR_BYTES)).await;
        return Ok(as_error(&body));
    }
    body.read(BYTE_ORDER_MARK.len()).await?;
    if body.read.starts_with(BYTE_ORDER_MARK) {
        let _ = body.read.split_to(BYTE_ORDER_MARK.len());
    }
    if is_stream(family, &head) || body.sniffs_of(family).await? {
        return Ok(body.into_pieces());
    }
    body.read(MAX_COMPLETION_BYTES).await?;
    if matches!(family, Family::OpenAi | Family::LlamaCpp)
        && let Some(events) = completion::events(&body.read).filter(|_| body.has_ended)
    {
        return Ok(only(events));
    }
    Ok(as_error(&body))
}

fn only(events: Bytes) -> Pieces {
    stream::iter([Ok(events)]).boxed()
}

/// The part of a body that has been read, and its rest.
struct Reader {
    read: BytesMut,
    rest: Pieces,
    has_ended: bool,
}

impl Reader {
    fn new(pieces: Pieces) -> Self {
        Self {
            read: BytesMut::new(),
            rest: pieces,
            has_ended: false,
        }
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

    /// Whether it begins like a stream of events, or of lines of JSON.
    async fn sniffs_of(&mut self, family: Family) -> Result<bool, InferenceError> {
        self.read(SNIFFED_BYTES).await?;
        let text = self.read.trim_ascii_start();
        if family == Family::Ollama {
            return Ok(text.starts_with(b"{"));
        }
        Ok(BEGINNINGS.iter().any(|beginning| text.starts_with(beginning)))
    }

    fn into_pieces(self) -> Pieces {
        let read = stream::iter([Ok(self.read.freeze())]);
        if self.has_ended {
            read.boxed()
        } else {
            read.chain(self.rest).boxed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::ResponseBody;
    use reveille_bus::relay::ResponseHead;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn an_error_that_never_ends_is_told_as_far_as_it_has_come() {
        let half = stream::iter([Ok(Bytes::from_static(b"half"))]).chain(stream::pending());
        let response = InferenceResponse {
            provider: "gpu-box/vllm".parse().expect("legal"),
            wake_id: None,
            head: ResponseHead {
                status: 500,
                headers: vec![],
            },
            body: ResponseBody::Pieces(half.boxed()),
        };
        let began = Instant::now();
        let events: Vec<_> = as_events(Family::OpenAi, Ok(response)).await.collect().await;
        assert_eq!(began.elapsed(), ERROR_WITHIN);
        let [Ok(event)] = events.as_slice() else {
            panic!("one event: {events:?}")
        };
        let event = String::from_utf8_lossy(event);
        assert!(
            event.contains("half … (the first 4 bytes of the answer)"),
            "{event}"
        );
    }
}
